"""Names for the sizes of axes, tensor types made of them, and their binding at a call.

`Tensor[float16, N, D]` names the axes of a parameter. At a call each name binds to the size that it
meets, in every argument and in the result to the same one; what does not fit is a `ShapeError` that
shows the arguments with the sizes of their dims.
"""

from __future__ import annotations

import ast
import operator
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from tensorlogic.dtypes import DTYPES, DType, as_dtype
from tensorlogic.errors import DTypeError, ShapeError

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}
_SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
}


class DimExpression:
    """A size made of dims: `N`, `N * 2`, `N // 2 + 1`; a number once its names are bound."""

    __slots__ = ()

    def evaluate(self, sizes: Mapping[str, int]) -> int | None:
        """The size under these sizes of the names, or None while one of them is missing."""
        raise NotImplementedError

    def names(self) -> tuple[str, ...]:
        """The names of the dims in it, in the order of their appearance."""
        raise NotImplementedError

    def __add__(self, other: DimExpression | int) -> DimExpression:
        return _arithmetic("+", self, other)

    def __radd__(self, other: int) -> DimExpression:
        return _arithmetic("+", other, self)

    def __sub__(self, other: DimExpression | int) -> DimExpression:
        return _arithmetic("-", self, other)

    def __rsub__(self, other: int) -> DimExpression:
        return _arithmetic("-", other, self)

    def __mul__(self, other: DimExpression | int) -> DimExpression:
        return _arithmetic("*", self, other)

    def __rmul__(self, other: int) -> DimExpression:
        return _arithmetic("*", other, self)

    def __floordiv__(self, other: DimExpression | int) -> DimExpression:
        return _arithmetic("//", self, other)

    def __rfloordiv__(self, other: int) -> DimExpression:
        return _arithmetic("//", other, self)


@dataclass(frozen=True, slots=True, repr=False)
class Dim(DimExpression):
    """The named size of an axis.

    >>> N = Dim("N")
    >>> N, N * 2, (N + 1) // 2
    (N, N*2, (N+1)//2)
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a dim needs an identifier for a name, not {self.name!r}")

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, sizes: Mapping[str, int]) -> int | None:
        return sizes.get(self.name)

    def names(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True, repr=False)
class DimArithmetic(DimExpression):
    """Two sizes and what is done with them; `symbol` is one of + - * //."""

    symbol: str
    left: DimExpression | int
    right: DimExpression | int

    def __repr__(self) -> str:
        additive = self.symbol in "+-"

        def shown(side: DimExpression | int, *, right: bool) -> str:
            loose = isinstance(side, DimArithmetic) and (
                right or (side.symbol in "+-" and not additive)
            )
            return f"({side})" if loose else f"{side}"

        return f"{shown(self.left, right=False)}{self.symbol}{shown(self.right, right=True)}"

    def evaluate(self, sizes: Mapping[str, int]) -> int | None:
        left, right = (
            side if isinstance(side, int) else side.evaluate(sizes)
            for side in (self.left, self.right)
        )
        if left is None or right is None or (right == 0 and self.symbol == "//"):
            return None
        return _OPERATORS[self.symbol](left, right)

    def names(self) -> tuple[str, ...]:
        sides = (s.names() for s in (self.left, self.right) if isinstance(s, DimExpression))
        return tuple(dict.fromkeys(name for side in sides for name in side))


def _arithmetic(symbol: str, left: Size, right: Size) -> DimExpression:
    if not isinstance(left, DimExpression | int) or not isinstance(right, DimExpression | int):
        raise TypeError(
            f"a dim does arithmetic with dims and ints, not {left!r} {symbol} {right!r}"
        )
    return DimArithmetic(symbol, left, right)


def dims(names: str) -> Any:
    """Dims of these names, separated by blanks or commas: one name gives a `Dim`, several a tuple.

    As with `sympy.symbols`, a comma after a single name asks for a tuple of one.

    >>> N, D = dims("N D")
    >>> N * 2 + D
    N*2+D
    >>> dims("N"), dims("N,")
    (N, (N,))
    """
    found = tuple(Dim(name) for name in names.replace(",", " ").split())
    if not found:
        raise ValueError("dims() needs at least one name, for example dims('N D')")
    return found[0] if len(found) == 1 and "," not in names else found


@dataclass(frozen=True, slots=True)
class DTypeVar:
    """A dtype that is the same wherever its name stands; `allowed`, if given, are the choices."""

    name: str
    allowed: tuple[DType, ...] = ()

    def __repr__(self) -> str:
        return self.name


ANY_SIZE = Dim("_")
Size = DimExpression | int | EllipsisType


@dataclass(frozen=True, slots=True, repr=False)
class TensorType:
    """What an annotation says of a tensor: its dtype and its dims.

    dtype: a dtype, a `DTypeVar`, or None for any. dims: an int is a fixed size, `...` stands for
    any number of axes (once), and the dim `_` for any size.

    >>> TensorType.of("float16", ("N", "N*2", 3, ...))
    Tensor[float16, N, N*2, 3, ...]
    """

    dtype: DType | DTypeVar | None
    dims: tuple[Size, ...]

    @staticmethod
    def of(dtype: Any, dims: tuple[Any, ...]) -> TensorType:
        """The type of what stands between the brackets of an annotation.

        dtype: a dtype or what names one, a TypeVar, Any. dims: Dim or arithmetic of them, int, str
        ("N", "N*2", "..."), TypeVar, `Literal[3]`, Any, and for `...` also TypeVarTuple or Unpack.
        Raises TypeError for anything else.
        """
        sizes = tuple(as_size(d) for d in dims)
        if sizes.count(...) > 1:
            raise TypeError(f"a tensor type has `...` at most once, not as in {list(sizes)}")
        return TensorType(_as_element(dtype), sizes)

    def __repr__(self) -> str:
        shown = ["Any" if self.dtype is None else repr(self.dtype)]
        shown += ["..." if d is ... else str(d) for d in self.dims]
        return f"Tensor[{', '.join(shown)}]"

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other]  # noqa: UP007 - this is what `|` is made of

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007

    def fits(self, rank: int) -> bool:
        """Whether a tensor of this rank can be of this type."""
        return rank >= len(self.dims) - 1 if ... in self.dims else rank == len(self.dims)

    def axes(self, rank: int) -> Iterator[tuple[int, DimExpression | int | None]]:
        """Each axis of a tensor of this rank with its dim; None where it falls under `...`."""
        if ... not in self.dims:
            yield from enumerate(typing.cast("tuple[DimExpression | int, ...]", self.dims))
            return
        at = self.dims.index(...)
        tail = len(self.dims) - at - 1
        for axis in range(rank):
            if at <= axis < rank - tail:
                yield axis, None
            else:
                dim = self.dims[axis if axis < at else axis - rank]
                yield axis, typing.cast("DimExpression | int", dim)


def as_size(value: Any) -> Size:
    """The dim that `value` stands for in a tensor type; raises TypeError for what is none."""
    if isinstance(value, DimExpression) or value is ...:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise TypeError(f"a fixed dim is at least 0, not {value}")
        return value
    if isinstance(value, str):
        return _parse(value)
    if value is Any:
        return ANY_SIZE
    if isinstance(value, typing.TypeVar):
        return Dim(value.__name__)
    if isinstance(value, typing.TypeVarTuple) or getattr(value, "__unpacked__", False):
        return ...
    if isinstance(value, typing.ForwardRef):
        return _parse(value.__forward_arg__)
    origin = typing.get_origin(value)
    if getattr(origin, "_name", "") == "Unpack":
        return ...
    if origin is typing.Literal:
        choices = typing.get_args(value)
        if len(choices) == 1:
            return as_size(choices[0])
    raise TypeError(f"{value!r} is no dim: a dim is a name, an int, arithmetic of them or `...`")


def read_size(node: ast.expr, resolve: Callable[[ast.expr], Any]) -> Size:
    """The dim that a Python expression stands for; `resolve` knows all but arithmetic and `...`."""
    match node:
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _SYMBOLS:
            sides = (as_size(read_size(side, resolve)) for side in (left, right))
            return _arithmetic(_SYMBOLS[type(op)], *sides)
        case ast.Starred():
            return ...
        case ast.Constant(value=int() | str() | EllipsisType() as value):
            return as_size(value)
    return as_size(resolve(node))


def _parse(text: str) -> Size:
    def resolve(node: ast.expr) -> Dim:
        if isinstance(node, ast.Name):
            return Dim(node.id)
        raise TypeError(f"{text!r} is no dim: write a name, a number, or arithmetic like 'N*2'")

    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        parsed = ast.Constant(value=None)
    return read_size(parsed, resolve)


def _as_element(value: Any) -> DType | DTypeVar | None:
    if value is None or value is Any:
        return None
    if isinstance(value, DTypeVar):
        return value
    if isinstance(value, typing.TypeVar):
        return DTypeVar(value.__name__, tuple(as_dtype(c) for c in value.__constraints__))
    if isinstance(value, typing.ForwardRef):
        name = value.__forward_arg__
        return DTYPES.get(name) or DTypeVar(name)
    return as_dtype(value)


Where = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of a call: what the messages call it, its declared type and the value."""

    label: str
    type: TensorType
    value: Any
    is_result: bool

    @property
    def place(self) -> str:
        return "the result" if self.is_result and self.label == "result" else f"`{self.label}`"


class Binding:
    """The dims of one call of `function`: its sizes so far, and the tensors that they came from.

    sizes: name to size. dtypes: name of a `DTypeVar` to dtype.
    """

    def __init__(self, function: str, where: Where = ""):
        self.function = function
        self.where = where
        self.sizes: dict[str, int] = {}
        self.dtypes: dict[str, DType] = {}
        self._entries: list[_Entry] = []
        self._origin: dict[str, _Entry] = {}

    def add(self, tensors: Mapping[str, tuple[TensorType, Any]]) -> None:
        """Bind the dims of these tensors, `label: (type, value)`, then check their arithmetic.

        A value has `shape` and `dtype`. Raises ShapeError, or DTypeError for what is no tensor or
        has another dtype.
        """
        self._add([_Entry(label, *typed, False) for label, typed in tensors.items()])

    def result(self, kind: TensorType, value: Any, label: str = "result") -> None:
        """Check a result against the sizes that the arguments bound; new names bind freely."""
        self._add([_Entry(label, kind, value, True)])

    def _add(self, added: list[_Entry]) -> None:
        self._entries += added
        for entry in added:
            self._check_kind(entry)
            for axis, dim in entry.type.axes(len(entry.value.shape)):
                self._bind_axis(entry, axis, dim)
        for entry in added:
            for axis, dim in entry.type.axes(len(entry.value.shape)):
                if isinstance(dim, DimArithmetic):
                    self._check_arithmetic(entry, axis, dim)

    def _check_kind(self, entry: _Entry) -> None:
        kind, value = entry.type, entry.value
        if not (hasattr(value, "shape") and isinstance(getattr(value, "dtype", None), DType)):
            raise DTypeError(
                f"{self.function}(): {entry.place} is of type {type(value).__name__}, "
                f"not {kind}{self._at()}"
            )
        rank = len(value.shape)
        if not kind.fits(rank):
            least = "at least " if ... in kind.dims else ""
            raise ShapeError(
                f"{self.function}(): {entry.place} has {rank} {'dim' if rank == 1 else 'dims'} "
                f"but {kind} has {least}{len(kind.dims) - bool(least)}" + self._lines(entry)
            )
        if isinstance(kind.dtype, DTypeVar):
            self._bind_dtype(entry, kind.dtype)
        elif kind.dtype is not None and value.dtype is not kind.dtype:
            raise DTypeError(
                f"{self.function}(): {entry.place} is {value.dtype} but must be {kind.dtype}"
                + self._lines(entry)
            )

    def _bind_dtype(self, entry: _Entry, variable: DTypeVar) -> None:
        name, found = variable.name, entry.value.dtype
        if variable.allowed and found not in variable.allowed:
            allowed = " or ".join(str(d) for d in variable.allowed)
            raise DTypeError(
                f"{self.function}(): dtype {name} is {found} in {entry.place} "
                f"but must be {allowed}" + self._lines(entry)
            )
        bound = self.dtypes.setdefault(name, found)
        origin = self._origin.setdefault(f"dtype {name}", entry)
        if bound is not found:
            raise DTypeError(
                f"{self.function}(): dtype {name} is {bound} in {origin.place} "
                f"but {found} in {entry.place}" + self._lines(origin, entry)
            )

    def _bind_axis(self, entry: _Entry, axis: int, dim: DimExpression | int | None) -> None:
        found = entry.value.shape[axis]
        if isinstance(dim, int) and dim != found:
            raise ShapeError(
                f"{self.function}(): dim {axis} of {entry.place} is {found} "
                f"but must be {dim}" + self._lines(entry)
            )
        if not isinstance(dim, Dim) or dim == ANY_SIZE:
            return
        bound = self.sizes.setdefault(dim.name, found)
        origin = self._origin.setdefault(dim.name, entry)
        if bound == found:
            return
        if origin is entry:
            message = f"dim {dim} is both {bound} and {found} in {entry.place}"
        else:
            message = f"dim {dim} is {bound} in {origin.place} but {found} in {entry.place}"
        raise ShapeError(f"{self.function}(): {message}" + self._lines(origin, entry))

    def _check_arithmetic(self, entry: _Entry, axis: int, dim: DimArithmetic) -> None:
        expected, found = dim.evaluate(self.sizes), entry.value.shape[axis]
        if expected == found:
            return
        if expected is None:
            free = [n for n in dim.names() if n not in self.sizes]
            reason = f"nothing binds {free[0]}" if free else "it divides by zero"
            raise ShapeError(
                f"{self.function}(): dim {dim} of {entry.place} has no size: {reason}"
                + self._lines(entry)
            )
        raise ShapeError(
            f"{self.function}(): dim {dim} is {expected} but {found} in {entry.place}"
            + self._lines(*(self._origin[n] for n in dim.names()), entry)
        )

    def _lines(self, *entries: _Entry) -> str:
        """The tensors that do not fit, in the order of the call, and where that was."""
        shown = [e for e in self._entries if any(e is x for x in entries)]
        width = max(len(e.label) for e in shown) + 1
        lines = [f"\n  {e.label + ':':<{width}} {_typed_value(e)}" for e in shown]
        return "".join(lines) + self._at()

    def _at(self) -> str:
        where = self.where() if callable(self.where) else self.where
        return f"     {where}" if where else ""


def bind(
    function: str,
    types: Mapping[str, TensorType],
    values: Mapping[str, Any],
    where: Where = "",
) -> Binding:
    """Bind the dims of all arguments of a call; `Binding.result` then checks what it returns.

    types: parameter to declared type; values: parameter to value (others are ignored); where: what
    stands at the end of a message, "model.py:12, called from run.py:40", or what returns it. Raises
    ShapeError, or DTypeError for what is no tensor or has another dtype.

    >>> import tensorlogic as tl
    >>> types = {"x": tl.float16["N", 2], "y": tl.float16["N"]}
    >>> bind("f", types, {"x": tl.zeros((3, 2)), "y": tl.zeros(3)}).sizes
    {'N': 3}
    """
    binding = Binding(function, where)
    binding.add({name: (kind, values[name]) for name, kind in types.items()})
    return binding


def _typed_value(entry: _Entry) -> str:
    shape = entry.value.shape
    named = dict(entry.type.axes(len(shape))) if entry.type.fits(len(shape)) else {}
    shown = [str(entry.value.dtype)]
    for axis, size in enumerate(shape):
        dim = named.get(axis)
        is_named = isinstance(dim, DimExpression) and dim != ANY_SIZE
        shown.append(f"{dim}={size}" if is_named else str(size))
    return f"Tensor[{', '.join(shown)}]"
