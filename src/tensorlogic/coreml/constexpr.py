"""Compressed weights: the constexpr_ operations of MIL, which are computed once, in NumPy.

Definitions: the ops constexpr_ops of coremltools, in the opsets of iOS 16 and iOS 18.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.blobs import unpack
from tensorlogic.coreml.program import Argument, Operation, TensorType
from tensorlogic.coreml.values import numpy_of
from tensorlogic.errors import FormatError

MAX_VECTOR = 256
"""Values that an entry of a palette may have: what is decompressed grows by as much."""

Array = NDArray[Any]
ValueOf = Callable[[Argument], Any]


class _Arguments:
    """The arguments of one operation: attributes up to iOS 17, inputs from iOS 18 on."""

    def __init__(self, operation: Operation, value_of: ValueOf):
        self.operation = operation
        self._value_of = value_of
        kind = operation.outputs[-1][1] if operation.outputs else None
        if not isinstance(kind, TensorType) or not all(isinstance(n, int) for n in kind.shape):
            raise self.fault("gives no tensor of a known shape")
        self.shape = tuple(n for n in kind.shape if isinstance(n, int))
        self.dtype = numpy_of(kind.dtype)

    def fault(self, what: str) -> FormatError:
        return FormatError(f"{self.operation.where}: {what}")

    def has(self, name: str) -> bool:
        return name in self.operation.attributes or name in self.operation.inputs

    def get(self, name: str) -> Array:
        if name in self.operation.attributes:
            return np.asarray(self._value_of(self.operation.attributes[name]))
        if name not in self.operation.inputs:
            raise self.fault(f"has no {name}")
        (argument,) = self.operation.inputs[name]
        return np.asarray(self._value_of(argument))

    def sized(self, name: str, count: int) -> Array:
        """An argument of `count` values, flat."""
        found = self.get(name).reshape(-1)
        if found.size != count:
            raise self.fault(f"{name} has {found.size} values; {count} are needed")
        return found


def _affine_dequantize(a: _Arguments) -> Array:
    """(quantized - zero point) * scale, these two for each entry of one axis."""
    data = a.get("quantized_data")
    axis = int(a.get("axis"))
    if data.ndim and not -data.ndim <= axis < data.ndim:
        raise a.fault(f"axis {axis} is outside of {data.ndim} axes")
    scale, zero = (_along(a, data, a.get(name), axis, name) for name in ("scale", "zero_point"))
    return (data.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)


def _along(a: _Arguments, data: Array, value: Array, axis: int, name: str) -> Array:
    if value.size == 1:
        return value.reshape(())
    shape = [1] * data.ndim
    shape[axis] = data.shape[axis]
    if value.size != shape[axis]:
        raise a.fault(f"{name} has {value.size} values; axis {axis} has {shape[axis]}")
    return value.reshape(shape)


def _packed_lut_to_dense(a: _Arguments) -> Array:
    """iOS 16: indices of 1, 2, 4, 6 or 8 bits, one after another from the lowest bit of a byte."""
    table, shape = a.get("lut"), tuple(int(n) for n in a.get("shape"))
    bits = max(int(table.size - 1).bit_length(), 1)
    if table.size != 1 << bits or bits not in (1, 2, 4, 6, 8):
        raise a.fault(f"lut has {table.size} values; 2, 4, 16, 64 and 256 are allowed")
    if shape != a.shape:
        raise a.fault(f"claims the shape {list(shape)} and gives {list(a.shape)}")
    packed = a.sized("indices", -(-prod(shape) * bits // 8))
    indices = packed if bits == 8 else unpack(packed, f"uint{bits}", prod(shape))
    found: Array = table.reshape(-1)[indices]
    return found.reshape(shape)


def _lut_to_dense(a: _Arguments) -> Array:
    """iOS 18: lut [blocks of each axis..., palette, vector], each entry a vector along one axis."""
    if a.has("shape"):
        return _packed_lut_to_dense(a)
    indices, table = a.get("indices"), a.get("lut")
    axis = int(a.get("vector_axis")) if a.has("vector_axis") else None
    return _looked_up(a, indices, table, axis)


def _looked_up(a: _Arguments, indices: Array, table: Array, axis: int | None) -> Array:
    rank = indices.ndim
    if table.ndim != rank + 2:
        raise a.fault(f"lut has {table.ndim} axes; indices of {rank} axes need {rank + 2}")
    blocks, (palette, vector) = table.shape[:rank], table.shape[rank:]
    if vector > MAX_VECTOR:
        raise a.fault(f"has vectors of {vector} values; at most {MAX_VECTOR} are allowed")
    if any(b < 1 or n % b for n, b in zip(indices.shape, blocks, strict=True)):
        raise a.fault(f"lut blocks {list(blocks)} do not divide indices {list(indices.shape)}")
    if indices.size and (int(indices.max()) >= palette or int(indices.min()) < 0):
        raise a.fault(f"holds the index {int(indices.max())}; the palette has {palette} entries")
    places = [
        (np.arange(n) // (n // b)).reshape([-1 if i == k else 1 for i in range(rank)])
        for k, (n, b) in enumerate(zip(indices.shape, blocks, strict=True))
    ]
    found: Array = table[(*places, indices.astype(np.intp))]  # [..., vector]
    if vector == 1:
        return found[..., 0]
    if axis is None or not -rank <= axis < rank:
        raise a.fault(f"has vectors of {vector} values and no vector_axis for them")
    axis %= rank
    shape = list(indices.shape)
    shape[axis] *= vector
    return np.moveaxis(found, -1, axis + 1).reshape(shape)


def _mask(a: _Arguments, shape: tuple[int, ...]) -> Array:
    """Which values are not zero: bits in bytes (iOS 16), or a tensor of uint1 (iOS 18)."""
    mask = a.get("mask")
    if a.has("shape"):
        count = prod(shape)
        packed = a.sized("mask", -(-count // 8))
        mask = np.unpackbits(packed, count=count, bitorder="little").reshape(shape)
    return np.not_equal(mask, 0)


def _placed(a: _Arguments, mask: Array, values: Array, name: str) -> Array:
    """Values put where the mask says, zeros elsewhere."""
    count = int(np.count_nonzero(mask))
    if values.size != count:
        raise a.fault(f"{name} has {values.size} values; the mask has {count}")
    result = np.zeros(mask.shape, values.dtype)
    result[mask] = values.reshape(-1)
    return result


def _sparse_to_dense(a: _Arguments) -> Array:
    name = "nonzero_data"
    return _placed(a, _mask(a, a.shape), a.get(name), name)


def _blockwise_shift_scale(a: _Arguments) -> Array:
    offset = a.get("offset") if a.has("offset") else None
    return _shifted(a, a.get("data"), a.get("scale"), offset)


def _shifted(a: _Arguments, data: Array, scale: Array, offset: Array | None) -> Array:
    """scale * (data - offset), these two for each block of values."""
    wide = data.astype(np.float32)
    if offset is not None:
        wide = wide - _spread(a, offset, data.shape, "offset")
    return wide * _spread(a, scale, data.shape, "scale")


def _spread(a: _Arguments, value: Array, shape: tuple[int, ...], name: str) -> Array:
    """One value for each block, repeated to the shape of the data."""
    if value.ndim != len(shape) or any(
        b < 1 or n % b for n, b in zip(shape, value.shape, strict=True)
    ):
        raise a.fault(f"{name} {list(value.shape)} does not divide the data {list(shape)}")
    wide = value.astype(np.float32)
    for axis, (n, b) in enumerate(zip(shape, value.shape, strict=True)):
        if 1 < b < n:
            wide = np.repeat(wide, n // b, axis)
    return np.broadcast_to(wide, shape)


def _cast(a: _Arguments) -> Array:
    return a.get("source_val")


def _sparse_lut(a: _Arguments) -> tuple[Array, Array]:
    """A mask and the values where it is set; vectors put a value at each of their places."""
    mask, indices = a.get("indices_mask") != 0, a.get("indices_nonzero_data")
    table = a.get("lut")
    axis = int(a.get("vector_axis")) if a.has("vector_axis") else None
    vector = table.shape[-1]
    dense = _looked_up(a, _placed(a, mask, indices, "indices_nonzero_data"), table, axis)
    if vector > 1:
        assert axis is not None
        mask = np.repeat(mask, vector, axis)
    return mask, dense[mask]


def _sparse_shift(a: _Arguments) -> tuple[Array, Array]:
    mask = a.get("data_mask") != 0
    data = _placed(a, mask, a.get("nonzero_data"), "nonzero_data")
    offset = a.get("offset") if a.has("offset") else None
    return mask, _shifted(a, data, a.get("scale"), offset)[mask]


_DENSE: dict[str, Callable[[_Arguments], Array]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": _cast,
}
_SPARSE: dict[str, Callable[[_Arguments], tuple[Array, Array]]] = {
    "constexpr_lut_to_sparse": _sparse_lut,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift,
}
CONSTEXPR = frozenset([*_DENSE, *_SPARSE])
"""The operations that `decompress` computes."""


def decompress(operation: Operation, value_of: ValueOf) -> tuple[Array, ...]:
    """The outputs of a constexpr_ operation: one dense array, or a mask and the values under it.

    value_of: the array of an argument, which is a Constant or the name of an earlier value. Raises
    FormatError for arguments that do not fit.
    """
    a = _Arguments(operation, value_of)
    mask = None
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            if operation.op in _SPARSE:
                mask, values = _SPARSE[operation.op](a)
            else:
                values = _DENSE[operation.op](a)
            values = values.astype(a.dtype)
    except FormatError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:  # an axis that is no number
        raise a.fault(f"its arguments are not those of the operation: {error}") from None
    if values.shape != a.shape:
        raise a.fault(f"gives shape {list(values.shape)}; the program says {list(a.shape)}")
    return (values,) if mask is None else (mask, values)
