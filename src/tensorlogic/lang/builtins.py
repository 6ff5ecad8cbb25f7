"""What a text program can name and touch: functions, dtypes, devices, attributes.

They derive from the public functions of the package, so that a new op is a builtin and a method by
itself. What only the language has stands at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorlogic
from tensorlogic import random
from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import TensorLogicError
from tensorlogic.functions import FUNCTIONS
from tensorlogic.lang.values import (
    INT_LIMIT,
    Fault,
    Module,
    between,
    iterate,
    kind,
    nearest,
    show,
    to_language,
)
from tensorlogic.model import Metadata, Model
from tensorlogic.tensor import Tensor

PYTHON_ONLY = frozenset(
    {"from_numpy", "eval", "dims", "function", "numpy", "precision", "run_file"}
)
"""Public Python names that have no meaning in a text program."""


@dataclass(frozen=True, repr=False)
class Builtin:
    """A Python function that a program may call."""

    name: str
    function: Callable[..., Any]

    def __call__(self, /, *positional: Any, **named: Any) -> Any:
        """The result as a value of the language; raises Fault where the arguments do not fit."""
        try:
            return to_language(self.function(*positional, **named))
        except TypeError as error:
            if not isinstance(error, TensorLogicError):
                self._check_arguments(positional, named)
            raise

    def _check_arguments(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        signature = inspect.signature(self.function)
        try:
            signature.bind(*positional, **named)
        except TypeError as mismatch:
            raise Fault(
                f"{self.name}(): {mismatch}; its arguments are {', '.join(signature.parameters)}"
            ) from None

    def __repr__(self) -> str:
        return f"builtin {self.name}"


RANDOM = Module(
    "random",
    {
        name: Builtin(f"random.{name}", function)
        for name, function in inspect.getmembers(random, inspect.isfunction)
        if function.__module__ == random.__name__ and name[0] != "_"
    },
)


def builtins() -> dict[str, Any]:
    """The names that a program starts with, but for `print`: functions, dtypes, devices."""
    found: dict[str, Any] = {"gpu": "gpu", "cpu": "cpu", "random": RANDOM, **DTYPES}
    for name in {*FUNCTIONS, *dir(tensorlogic)} - PYTHON_ONLY:
        value = getattr(tensorlogic, name)
        if inspect.isfunction(value):
            found[name] = Builtin(name, value)
    return found | {name: Builtin(name, function) for name, function in OWN.items()}


def attributes(value: Any) -> frozenset[str]:
    """The attributes and methods of a value that a program may use."""
    if isinstance(value, Module):
        return frozenset(value.functions)
    if not isinstance(value, Tensor | Model | Metadata):
        return frozenset()
    return frozenset(name for name in dir(value) if name[0] != "_") - PYTHON_ONLY


def attribute(value: Any, name: str) -> Any:
    """`value.name`; raises Fault for a name that is not in the table."""
    known = attributes(value)
    if name not in known:
        hint = f"; there is a function `{name}(...)`" if name in OWN else nearest(name, known)
        raise Fault(f"{kind(value)} has no attribute `{name}`{hint}")
    if isinstance(value, Module):
        return value.functions[name]
    found = getattr(value, name)
    return Builtin(name, found) if inspect.ismethod(found) else to_language(found)


# ---- functions that only the language has -------------------------------------------------------


def _length(x: Any) -> int:
    if not isinstance(x, Tensor | list | range | Mapping | str):
        raise Fault(f"{kind(x)} has no length")
    return len(x)


def _range(start: Any, stop: Any = None, step: Any = 1) -> range:
    return between(0, start, step) if stop is None else between(start, stop, step)


def _append(items: Any, item: Any) -> list[Any]:
    if not isinstance(items, list):
        raise Fault(f"append() takes a list, not {kind(items)}")
    return [*items, item]


def _list(items: Any) -> list[Any]:
    return list(iterate("list()", items))


def _string(x: Any) -> str:
    return show(x)


def _int(x: Any) -> int:
    value = _number("int", x)
    if not -INT_LIMIT <= value < INT_LIMIT:  # also for NaN
        raise Fault(f"int(): {show(value)} does not fit an int of 64 bits")
    return int(value)


def _float(x: Any) -> float:
    return float(_number("float", x))


def _number(name: str, x: Any) -> Any:
    """The number that a number, a bool, a text or a tensor of one element holds."""
    if isinstance(x, str):
        try:
            return int(x) if name == "int" else float(x)
        except ValueError:
            raise Fault(f"{name}(): {show(x, quote=True)} is not a number") from None
    if not isinstance(x, int | float | Tensor):
        raise Fault(f"{name}() takes a number, a string or a tensor, not {kind(x)}")
    return x.item() if isinstance(x, Tensor) else x


OWN: dict[str, Callable[..., Any]] = {
    "len": _length,
    "range": _range,
    "append": _append,
    "list": _list,
    "int": _int,
    "float": _float,
    "string": _string,
}
