"""Values of the text language: what they are called, how they print, and the operators on them."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tensorlogic.dtypes import DType
from tensorlogic.model import Model
from tensorlogic.tensor import Tensor

INT_LIMIT = 2**63


@dataclass(frozen=True, eq=False, repr=False)
class Module:
    """Functions that a program calls by way of a name: `random.uniform(...)`."""

    name: str
    functions: Mapping[str, Callable[..., Any]]

    def __repr__(self) -> str:
        return f"module {self.name}"


class Fault(Exception):
    """A fault that the interpreter found itself; it adds the place."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean `weights`?`, or nothing."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean `{close[0]}`?" if close else ""


def to_language(value: Any) -> Any:
    """A result of a Python function as the language has it: every sequence and view is a list."""
    if isinstance(value, tuple | set | frozenset) or (
        isinstance(value, Iterable) and not isinstance(value, Tensor | str | list | range | Mapping)
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
    (range, "a range"),
    (Mapping, "a table"),
    (Tensor, "a tensor"),
    (Model, "a model"),
    (DType, "a dtype"),
    (Module, "a module"),
)


def show(value: Any, quote: bool = False) -> str:
    """A value as `print` writes it; strings inside lists are quoted."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if quote else value
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item, quote=True) for item in value) + "]"
    if isinstance(value, range) and value.step == 1:
        return f"{value.start}..{value.stop}"
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
    if symbol == "..":
        return between(left, right)
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
    result = _ARITHMETIC[symbol](left, right) if fits else INT_LIMIT
    if isinstance(result, complex):
        raise Fault(f"`{symbol}` of {show(left)} and {show(right)} is not a real number")
    if isinstance(result, int) and not -INT_LIMIT <= result < INT_LIMIT:
        raise Fault(f"`{symbol}`: the result does not fit an int of 64 bits")
    return result


def between(start: Any, stop: Any, step: Any = 1) -> range:
    """The ints from `start` up to, not including, `stop`; raises Fault for other values."""
    for bound in (start, stop, step):
        if not isinstance(bound, int) or isinstance(bound, bool):
            raise Fault(f"a range has int bounds, not {kind(bound)}")
    if step == 0:
        raise Fault("the step of a range is 0")
    return range(start, stop, step)


def iterate(what: str, value: Any) -> Iterable[Any]:
    """What a `for` goes through: items, rows of a tensor, names of a model, keys of a table."""
    if not isinstance(value, list | range | Tensor | Mapping):
        takes = "ranges, lists, tensors, models and tables"
        raise Fault(f"{what} goes through {takes}, not {kind(value)}")
    return value


def truth(word: str, value: Any) -> bool:
    """A condition: a bool, or a tensor of one element, which is computed."""
    if not isinstance(value, bool | Tensor):
        raise Fault(f"`{word}` takes a bool, not {kind(value)}")
    return bool(value)


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
    """`value[key]` of tensors, models, lists, ranges, tables and strings."""
    if not isinstance(value, Tensor | list | range | Mapping | str):
        raise Fault(f"{kind(value)} cannot be indexed")
    is_place = isinstance(key, int | slice) and not isinstance(key, bool)
    if isinstance(value, list | range | str) and not is_place:
        raise Fault(f"{kind(value)} is indexed by ints, not by {kind(key)}")
    if isinstance(value, Mapping) and not isinstance(value, Model) and key not in value:
        raise Fault(f"there is no key {show(key, quote=True)}{nearest(str(key), map(str, value))}")
    return to_language(value[key])
