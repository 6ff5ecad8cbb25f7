"""What a text program can name and touch: builtins, attributes, operators, and how values print.

Everything that a program reaches stands in the tables here. They derive from the public functions
of the package, so that a new op is a builtin and a method by itself.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorlogic
from tensorlogic.dtypes import DTYPES, DType
from tensorlogic.errors import TensorLogicError
from tensorlogic.functions import FUNCTIONS
from tensorlogic.model import Metadata, Model
from tensorlogic.tensor import Tensor

# Public Python names that have no meaning in a text program.
PYTHON_ONLY = frozenset(
    {"from_numpy", "eval", "dims", "function", "numpy", "precision", "run_file"}
)
_INT_LIMIT = 2**63


class Fault(Exception):
    """A fault that the interpreter found itself; it adds the place."""


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


def builtins() -> dict[str, Any]:
    """All names that a program starts with: functions, dtypes, devices."""
    found: dict[str, Any] = {"gpu": "gpu", "cpu": "cpu", **DTYPES}
    for name in {*FUNCTIONS, *dir(tensorlogic)} - PYTHON_ONLY:
        value = getattr(tensorlogic, name)
        if inspect.isfunction(value):
            found[name] = Builtin(name, value)
    return found


def attributes(value: Any) -> frozenset[str]:
    """The attributes and methods of a value that a program may use."""
    if not isinstance(value, Tensor | Model | Metadata):
        return frozenset()
    return frozenset(name for name in dir(value) if name[0] != "_") - PYTHON_ONLY


def attribute(value: Any, name: str) -> Any:
    """`value.name`; raises Fault for a name that is not in the table."""
    known = attributes(value)
    if name not in known:
        raise Fault(f"{kind(value)} has no attribute `{name}`{nearest(name, known)}")
    found = getattr(value, name)
    return Builtin(name, found) if inspect.ismethod(found) else to_language(found)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean `weights`?`, or nothing."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean `{close[0]}`?" if close else ""


def to_language(value: Any) -> Any:
    """A result of a Python function as the language has it: every sequence and view is a list."""
    if isinstance(value, tuple | set | frozenset) or (
        isinstance(value, Iterable) and not isinstance(value, Tensor | Model | str | list | Mapping)
    ):
        return list(value)
    return value


def kind(value: Any) -> str:
    """What errors call a value: "a tensor", "an int"."""
    if value is None:
        return "none"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return "a function" if callable(value) else f"a {type(value).__name__}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a bool"),
    (int, "an int"),
    (float, "a float"),
    (str, "a string"),
    (list, "a list"),
    (Mapping, "a table"),
    (Tensor, "a tensor"),
    (Model, "a model"),
    (DType, "a dtype"),
)


def show(value: Any, quote: bool = False) -> str:
    """A value as `print` writes it; strings inside lists are quoted."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if quote else value
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item, quote=True) for item in value) + "]"
    if isinstance(value, Mapping) and not isinstance(value, Model):
        entries = (f"{show(key, True)}: {show(item, True)}" for key, item in value.items())
        return "{" + ", ".join(entries) + "}"
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
    "**": operator.pow,
    "@": operator.matmul,
}
_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def binary(symbol: str, left: Any, right: Any) -> Any:
    """Arithmetic and comparison of numbers and tensors; raises Fault for other operands."""
    if symbol in ("==", "!="):
        return _equality(symbol, left, right)
    has_tensor = isinstance(left, Tensor) or isinstance(right, Tensor)
    numbers = all(_is_number(side) or isinstance(side, Tensor) for side in (left, right))
    if symbol in _ORDER:
        if numbers or (isinstance(left, str) and isinstance(right, str)):
            return _ORDER[symbol](left, right)
        raise Fault(f"`{symbol}` does not compare {kind(left)} with {kind(right)}")
    if symbol == "+" and type(left) is type(right) and isinstance(left, str | list):
        return left + right
    if has_tensor and all(isinstance(side, Tensor | bool | int | float) for side in (left, right)):
        return _ARITHMETIC[symbol](left, right)
    if not numbers or symbol == "@":
        takes = "tensors" if symbol == "@" else "numbers and tensors"
        raise Fault(f"`{symbol}` takes {takes}, not {kind(left)} and {kind(right)}")
    # An int ** int is worked out only where it can fit, since it could be of any length.
    fits = symbol != "**" or isinstance(left, float) or left.bit_length() * right <= 128
    result = _ARITHMETIC[symbol](left, right) if fits else _INT_LIMIT
    if isinstance(result, complex):
        raise Fault(f"`{symbol}` of {show(left)} and {show(right)} is not a real number")
    if isinstance(result, int) and not -_INT_LIMIT <= result < _INT_LIMIT:
        raise Fault(f"`{symbol}`: the result does not fit an int of 64 bits")
    return result


def _equality(symbol: str, left: Any, right: Any) -> Any:
    if left is None or right is None:
        return (left is right) == (symbol == "==")
    for side, other in ((left, right), (right, left)):
        if isinstance(side, Tensor) and not isinstance(other, Tensor | bool | int | float):
            raise Fault(f"`{symbol}` does not compare {kind(left)} with {kind(right)}")
    return left == right if symbol == "==" else left != right


def logic(symbol: str, left: Any, right: Any) -> Any:
    """`and`, `or`: of bools, elementwise where one is a tensor."""
    for side in (left, right):
        if not isinstance(side, bool | Tensor):
            raise Fault(f"`{symbol}` takes bools, not {kind(side)}")
    return left & right if symbol == "and" else left | right


_UNARY: dict[str, Callable[[Any], Any]] = {"-": operator.neg, "not": operator.invert}


def unary(symbol: str, value: Any) -> Any:
    """`-x` of numbers and tensors, `not x` of bools and bool tensors."""
    if symbol == "not" and isinstance(value, bool):
        return not value
    if isinstance(value, Tensor) or (symbol == "-" and _is_number(value)):
        return _UNARY[symbol](value)
    takes = "numbers and tensors" if symbol == "-" else "bools"
    raise Fault(f"`{symbol}` takes {takes}, not {kind(value)}")


def index(value: Any, key: Any) -> Any:
    """`value[key]` of tensors, models, lists, tables and strings."""
    if not isinstance(value, Tensor | Model | list | Mapping | str):
        raise Fault(f"{kind(value)} cannot be indexed")
    if isinstance(value, list | str) and not isinstance(key, int | slice):
        raise Fault(f"{kind(value)} is indexed by ints, not by {kind(key)}")
    if isinstance(value, Mapping) and not isinstance(value, Model) and key not in value:
        raise Fault(f"there is no key {show(key, quote=True)}{nearest(str(key), map(str, value))}")
    return to_language(value[key])
