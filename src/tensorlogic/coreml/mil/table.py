"""The table of operations: a row is a function whose parameters say how its inputs are read.

The parameters of a row have the names and defaults of the operation's inputs; their annotations
choose how an input is read, see `READERS`. Where every tensor that an operation takes is known
before the call (the shape of an input, a constant), it is computed at once, on the reference
device, and its results are known, too: chains of operations over sizes become Python's numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tensorlogic.coreml.mil.values import Array, Known, Value, like, wide
from tensorlogic.coreml.program import ValueType
from tensorlogic.dtypes import bool_
from tensorlogic.errors import FormatError
from tensorlogic.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])
Ints = tuple[int, ...]
Tensors = list[Tensor]
Sizes = list[int]
Operand = Tensor | float
"""A tensor, or the number that a known value of no axes is."""
Bias = Tensor | None
"""What is added, None for zeros: coremltools writes them where a layer has no bias."""
Places = Tensor | Array
"""Indices: an array where they are known."""


def _array(value: Value) -> Array:
    """The values of an input that has to be known when the operation is recorded."""
    if isinstance(value, Known):
        return value.array
    if isinstance(value, Tensor):
        return value.numpy()
    raise FormatError(f"numbers were expected, not {type(value).__name__.lower()}")


def _number(value: Value) -> Any:
    array = _array(value)
    if array.size != 1:
        raise FormatError(f"one number was expected, not {array.size}")
    return array.item()


def _ints(value: Value) -> Ints:
    return tuple(int(v) for v in _array(value).reshape(-1))


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise FormatError(f"a string was expected, not {type(value).__name__.lower()}")
    return value


def _tensor(value: Value) -> Tensor:
    if isinstance(value, Known):
        return value.tensor()
    if not isinstance(value, Tensor):
        raise FormatError(f"a tensor was expected, not {type(value).__name__.lower()}")
    return value


def _places(value: Value) -> Places:
    return value.array if isinstance(value, Known) else _tensor(value)


def _bias(value: Value) -> Bias:
    zero = isinstance(value, Known) and not value.array.any()
    return None if zero else _tensor(value)


def _operand(value: Value) -> Operand:
    if isinstance(value, Known) and not value.array.ndim:
        number: float = value.array.item()
        return number
    return _tensor(value)


_ONE: dict[str, Callable[[Value], Any]] = {
    "Tensor": _tensor,
    "Operand": _operand,
    "Bias": _bias,
    "Places": _places,
    "Ints": _ints,
    "int": lambda value: int(_number(value)),
    "float": lambda value: float(_number(value)),
    "bool": lambda value: bool(_number(value)),
    "str": _text,
    "Array": _array,
}
"""Readers of inputs with one argument."""
READERS: dict[str, Callable[[tuple[Value, ...]], Any]] = {
    name: (lambda one: lambda values: one(values[0]))(reader) for name, reader in _ONE.items()
} | {
    "Tensors": lambda values: [_tensor(v) for v in values],
    "Sizes": lambda values: [_ints(v)[0] for v in values],
    "Any": lambda values: values[0],
}
"""How an input is read, by the annotation of its parameter; Tensors and Sizes take
several, Any is what is kept as it is."""
_COMPUTED = ("Tensor", "Tensors", "Operand", "Bias", "Places")
"""Annotations of inputs that may depend on the inputs of a call."""


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Row:
    """An operation. `wide`: its float16 inputs come as float32 and its results, which have the
    dtype of the first, are rounded once. `fresh`: what it gives is another thing at each call."""

    name: str
    fn: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    wide: bool
    fresh: bool
    typed: bool

    def fault(self, given: Mapping[str, Any]) -> str | None:
        """What is wrong with the names of an operation's inputs."""
        for name in given:
            if name not in self.parameters:
                return f"has an input {name!r} that is not known"
        for p in self.parameters.values():
            if p.required and p.name not in given:
                return f"lacks its input {p.name!r}"
        return None

    def run(
        self, given: Mapping[str, tuple[Value, ...]], outputs: tuple[ValueType, ...]
    ) -> tuple[Value, ...]:
        """The results for the inputs of a call; `outputs` are the types that the program claims."""
        computed = [
            v for n, values in given.items() if self._computes(n) for v in values if v is not None
        ]
        known = bool(computed) and all(isinstance(v, Known) for v in computed)
        arguments = {n: self._read(n, values, known) for n, values in given.items()}
        dtype = None
        if self.wide:
            tensors = [n for n, v in arguments.items() if isinstance(v, Tensor)]
            dtype = arguments[tensors[0]].dtype
            arguments |= {n: wide(arguments[n]) for n in tensors}
        if self.typed:
            arguments["outputs"] = outputs
        results = self.fn(**arguments)
        results = results if isinstance(results, tuple | list) else (results,)
        if dtype is not None:
            results = [like(r, dtype) if r.dtype.kind == "float" else r for r in results]
        return tuple(_result(r, known) for r in results)

    def _computes(self, name: str) -> bool:
        return self.parameters[name].kind in _COMPUTED

    def _read(self, name: str, values: tuple[Value, ...], known: bool) -> Any:
        kind = self.parameters[name].kind
        if known and kind in _COMPUTED:
            tensors = [_on_reference(v) for v in values]
            return tensors if kind == "Tensors" else tensors[0]
        return READERS[kind](values)


def _on_reference(value: Value) -> Tensor:
    assert isinstance(value, Known)
    return value.tensor().to("reference")


def _result(result: Any, known: bool) -> Value:
    """Arrays are known, and tensors that come from known values only."""
    if known and isinstance(result, Tensor):
        return Known(result.numpy())
    return Known(result) if isinstance(result, np.ndarray) else result


ROWS: dict[str, Row] = {}
"""Every operation that runs, by MIL's name."""


def row(*names: str, wide: bool = False, fresh: bool = False) -> Callable[[F], F]:
    """Add the operations that a function computes; without names, that of the function's own."""

    def add(fn: F) -> F:
        found = {}
        for p in inspect.signature(fn).parameters.values():
            kind = str(p.annotation).removesuffix(" | None")
            found[p.name] = Parameter(p.name, kind, p.default)
        typed = found.pop("outputs", None) is not None
        wrong = [p.kind for p in found.values() if p.kind not in READERS]
        if wrong:
            raise TypeError(f"{fn.__name__}: nothing reads an input as {wrong[0]}")
        for name in names or (fn.__name__.rstrip("_"),):
            ROWS[name] = Row(name, fn, found, wide, fresh, typed)
        return fn

    return add


def unsupported(op: str, what: str) -> FormatError:
    """The error for a form of an operation that does not run."""
    return FormatError(f"{op}: {what}")


def as_bool(x: Tensor) -> Tensor:
    return x if x.dtype is bool_ else x != 0
