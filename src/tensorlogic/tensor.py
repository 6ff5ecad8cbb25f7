"""`Tensor`: a typed value that records what is done with it and is computed when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Never, TypeVar, TypeVarTuple, overload

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate, indexing, record, runtime
from tensorlogic.devices.base import resolve
from tensorlogic.devices.reference import array_data
from tensorlogic.dtypes import DType, as_dtype, bool_, float16, float32, int32
from tensorlogic.errors import DTypeError, ShapeError, TensorLogicError, TraceError
from tensorlogic.graph import GONE, Node, Shape, leaf, number, shape_text, user_site
from tensorlogic.ops import OPS, Op
from tensorlogic.othernames import OF_TENSORS
from tensorlogic.typed import DT, Dims, TypedTensor

_T = TypeVar("_T", float16, float32, int32, bool_)
_B = TypeVarTuple("_B")
_N = TypeVar("_N")
_M = TypeVar("_M")

_NUMBERS = (float, int)
_new: Any = object.__new__

MAX_PENDING = 8192
"""Ops on the longest pending path after which a recording loop is evaluated in between."""


def as_node(value: Any) -> Node:
    """The node of a tensor, a Python number or a NumPy scalar."""
    if isinstance(value, Tensor):
        return value._node
    if isinstance(value, _NUMBERS):
        return number(value)
    if isinstance(value, np.generic) and value.ndim == 0 and value.dtype.kind in "fiub":
        return number(value.item())
    if isinstance(value, np.ndarray):
        raise DTypeError(
            "an ndarray does not mix with tensors by itself: say `tl.tensor(array)` (a copy, "
            "float16 unless dtype says otherwise) or `tl.from_numpy(array)` (no copy)"
        )
    raise TypeError(f"a tensor or a number was expected, not {kind_of(value)}")


def kind_of(value: Any) -> str:
    """The type of what stands in the place of a tensor, and how one is made of it."""
    data = isinstance(value, list | tuple | np.ndarray | np.generic | int | float)
    return f"{type(value).__name__}{'; make one of it with `tl.tensor(...)`' if data else ''}"


def wrap(node: Node) -> Tensor:
    """The tensor of a node; a path of pending ops that has grown long is evaluated."""
    if node.pending > MAX_PENDING and not node.traced:
        runtime.evaluate([node])
    t: Tensor = _new(Tensor)
    t._hold = node
    return t


class Tensor(TypedTensor[DT, *Dims]):
    """A typed tensor. Made by `tl.tensor`, `tl.zeros`, ..., `model.get_tensor` and by ops.

    In annotations, `Tensor[float16, N, D]` gives dtype and dims.

    >>> import tensorlogic as tl
    >>> x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> (x @ x + 1).tolist()
    [[8.0, 11.0], [16.0, 23.0]]
    """

    __slots__ = ("__weakref__", "_hold")

    _hold: Node

    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, *data: Never) -> None:
        raise TypeError("make tensors with tl.tensor(...), tl.zeros(...), tl.from_numpy(...), ...")

    if not TYPE_CHECKING:  # what it lacks stays an error for type checkers

        def __getattr__(self, name: str) -> Any:
            hint = f": {OF_TENSORS[name]}" if name in OF_TENSORS else ""
            text = f"a tensor has no attribute {name!r}{hint}"
            raise AttributeError(text, name=name, obj=self)

    @property
    def _node(self) -> Node:
        node = self._hold
        if node.consumed:
            raise record.consumed(node.name)
        return node

    # ---- what it is ----

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self._node.shape

    @property
    def dtype(self) -> DType:
        """Element type, for quantized tensors float16."""
        return self._node.dtype

    @property
    def storage(self) -> str:
        """How the values are kept: the dtype's name, or a quantized type such as "q4_0"."""
        node = self._node
        return node.data.storage if node.data is not None else node.dtype.name

    @property
    def device(self) -> str:
        """The device it is committed to; tensors made without one show "cpu", where they lie."""
        return self._node.device or "cpu"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._node.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._node.size

    @property
    def nbytes(self) -> int:
        """Bytes that the values take in their storage."""
        node = self._node
        if node.data is not None and node.data.strides is None:
            return node.data.memory.nbytes
        return node.size * node.dtype.itemsize

    @property
    def name(self) -> str:
        """The name in the file that it came from, or ""."""
        return self._node.name

    # ---- its values ----

    def numpy(self) -> NDArray[Any]:
        """The values as a NumPy array; read-only, and without a copy where that is possible."""
        array = self._values()
        runtime.share(self._node)
        return array

    def _values(self) -> NDArray[Any]:
        """The values for a use inside this package, which does not keep them."""
        node = self._node
        _not_traced(node, "its values")
        runtime.evaluate([node])
        return runtime.array_of(node)

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self._values().tolist()

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item() is for one element; this tensor is {shape_text(self.shape)}")
        return self._values().reshape(()).item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        a = self.numpy()
        if dtype is not None and a.dtype != dtype:
            if copy is False:
                raise ValueError("a conversion needs a copy")
            return a.astype(dtype)
        return a.copy() if copy else a

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any:
        """DLPack capsule on the CPU. Consumers may write, so that they get a copy."""
        if copy is False:
            raise BufferError("a tensor is immutable; DLPack exports a copy")
        return self._values().copy().__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __bool__(self) -> bool:
        if self.size != 1:
            raise TensorLogicError(
                f"the truth of a tensor of {self.size} elements is not one bool: compare with "
                f"`.item()`, or select with `tl.where`"
            )
        return bool(self._scalar("its truth"))

    def __float__(self) -> float:
        return float(self._scalar("its number"))

    def __int__(self) -> int:
        return int(self._scalar("its number"))

    def __index__(self) -> int:
        if self.dtype.kind != "int":
            raise TypeError(f"only an int32 tensor is an index, not {self.dtype}")
        return int(self._scalar("its number"))

    def _scalar(self, what: str) -> Any:
        _not_traced(self._node, what)
        return self.item()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        node = self._hold
        if node.consumed:
            return "Tensor(consumed by update)"
        facts = f"shape={shape_text(node.shape)}, dtype={node.dtype}, device={self.device}"
        if node.traced:
            return f"Tensor(traced, {facts})"
        return f"Tensor({self.format()}, {facts})"

    def __str__(self) -> str:
        return self.format()

    def __format__(self, spec: str) -> str:
        if not spec:
            return self.format()
        if self.size != 1:
            raise TypeError(
                f"{spec!r} formats one element; this tensor is {shape_text(self.shape)}: "
                f"format its elements, or print it as it is"
            )
        return format(self._scalar("its text"), spec)

    def format(self) -> str:
        """The values as text, long tensors shortened: [[2.21, 2.82], [4.91, 6.42]]."""
        values = self._values()
        shown: str = np.array2string(values, separator=", ", threshold=200, edgeitems=3)
        return shown

    # ---- conversions ----

    @overload
    def to(self, target: type[_T], on_overflow: str = "raise") -> Tensor[_T, *Dims]: ...
    @overload
    def to(self, target: Any, on_overflow: str = "raise") -> Tensor[Any, *Dims]: ...
    def to(self, target: Any, on_overflow: str = "raise") -> Tensor:
        """This tensor in another dtype or on another device.

        A conversion to float16 passes the overflow gate: a value beyond ±65504 is a RangeError when
        it is computed, unless on_overflow is "saturate", "inf" or "float32" (then the values are
        scanned at once, and the tensor stays float32 if it has to).

        >>> import tensorlogic as tl
        >>> tl.tensor([1.0, 2.0]).to(tl.float32).dtype
        float32
        """
        gate.check_on_overflow(on_overflow)
        node = self._node
        if isinstance(target, str) and resolve(target, missing_ok=True) is not None:
            return self._to_device(target)
        dtype = as_dtype(target)
        if dtype is float16 and on_overflow == "float32" and node.dtype is not float16:
            wide = self if node.dtype is float32 else wrap(record.convert(node, float32, "inf"))
            count, _ = gate.count_overflow(self._values())
            return wide if count else wrap(record.convert(node, dtype, "inf"))
        return wrap(record.convert(node, dtype, on_overflow))

    def _to_device(self, target: str) -> Tensor:
        label = resolve(target)
        node = self._node
        if node.device == label:
            return self
        _not_traced(node, "another device")
        runtime.evaluate([node])
        if node.data is None:
            raise TraceError("a placeholder has no device to leave")
        node.data.memory.shared = True  # two tensors name it now
        return wrap(leaf(node.data, node.shape, node.dtype, label, node.name))

    def dequantize(self) -> Tensor[DT, *Dims]:
        """A quantized tensor as plain float16 values; any other tensor as it is."""
        if self._node.data is None or self._node.data.strides is not None:
            return self
        return wrap(record.cast(record.cast(self._node, float32), float16))

    def explain(self, stage: str = "kernels", device: str | None = None) -> str:
        """How this tensor would be computed: "graph", "schedule", "kernels" or "source".

        `device` may name one that this machine does not have: its source is printed all the same.
        """
        from tensorlogic.explain import explain

        return explain([self._node], stage, device)

    # ---- views ----

    @property
    def T(self: Tensor[DT, *_B, _N, _M]) -> Tensor[DT, *_B, _M, _N]:
        """The last two axes exchanged."""
        if self.ndim < 2:
            return wrap(self._node)
        axes = [*range(self.ndim - 2), self.ndim - 1, self.ndim - 2]
        return wrap(record.permute(self._node, axes))

    def __getitem__(self, key: Any) -> Tensor[DT, *tuple[Any, ...]]:
        return wrap(indexing.index(self._node, _index_nodes(key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "a tensor is immutable: instead of `x[i] = v` write `x = x.update(i, v)` for a range "
            "of one axis, or `x = tl.where(mask, v, x)`"
        )

    def update(self, at: Any, new: Tensor, axis: int = 0) -> Tensor[DT, *Dims]:
        """This tensor with `self[at : at + len(new)]` along `axis` replaced by `new`.

        `at` is an int or an int32 tensor of one element. Consumes this tensor: using it afterwards
        raises ConsumedError, so that its memory can be written in place.

        >>> import tensorlogic as tl
        >>> tl.zeros([3, 1]).update(1, tl.ones([1, 1])).tolist()
        [[0.0], [1.0], [0.0]]
        """
        node = self._node
        result = wrap(record.update(node, as_node(at), as_node(new), axis))
        node.consume()  # the node, for other tensors may name it too
        self._hold = GONE
        return result


def _index_nodes(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_index_nodes(k) for k in key)
    if isinstance(key, Tensor):
        return key._node
    if isinstance(key, np.integer):
        return int(key)
    if isinstance(key, list | np.ndarray):
        array = np.asarray(key)
        dtype = bool_ if array.dtype == bool else int32
        array = gate.convert_array(array, dtype)
        return leaf(array_data(array, dtype), array.shape, dtype)
    if isinstance(key, slice):
        return slice(*(_bound(b) for b in (key.start, key.stop, key.step)))
    return key


def _bound(value: Any) -> Any:
    return value.__index__() if isinstance(value, Tensor) else value


def _not_traced(node: Node, what: str) -> None:
    if node.traced:
        raise TraceError(
            f"{user_site()}: a value was asked for {what} while a tl.function was being traced; "
            f"there it has none yet. Keep to tensor ops (tl.where, ...); a trace may depend on "
            f"shapes, on bools and strings, and on numbers that are no arguments"
        )


# ---- operators, made from the rows -------------------------------------------------------------

_PYTHON = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "&": "and",
    "|": "or",
    "^": "xor",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "neg": "neg",
    "abs": "abs",
    "~": "invert",
}


_DATA = (np.ndarray, list, tuple)
"""What tensors are made of but no operator takes; `as_node` says what to write."""
_OPERANDS = (Tensor, bool, int, float, np.generic, *_DATA)


def _operator(op: Op, swap: bool) -> Any:
    def binary(self: Tensor, other: Any) -> Any:
        kind = type(other)
        if kind is float or kind is int:
            b = number(other)
        elif isinstance(other, _OPERANDS):
            b = as_node(other)
        else:
            return NotImplemented
        a = self._node
        return wrap(record.elementwise(op, b, a) if swap else record.elementwise(op, a, b))

    def unary(self: Tensor) -> Tensor:
        return wrap(record.elementwise(op, self._node))

    return unary if op.arity == 1 else binary


def _install_operators() -> None:
    for op in OPS.values():
        if op.symbol:
            name = _PYTHON[op.symbol]
            setattr(Tensor, f"__{name}__", _operator(op, False))
            if op.arity == 2 and op.result != "bool":
                setattr(Tensor, f"__r{name}__", _operator(op, True))


_install_operators()


def _matmul(self: Tensor, other: Any) -> Any:
    if not isinstance(other, Tensor):
        return as_node(other) if isinstance(other, _DATA) else NotImplemented
    return wrap(record.matmul(self._node, other._node))


def _rmatmul(self: Tensor, other: Any) -> Any:
    """Reached by data on the left, which is an error that says what to write."""
    return as_node(other) if isinstance(other, _DATA) else NotImplemented


Tensor.__matmul__ = _matmul  # type: ignore[method-assign, assignment]
Tensor.__rmatmul__ = _rmatmul  # type: ignore[attr-defined]
