"""Tensors made of shapes and numbers, and what masks and labels pick."""

from __future__ import annotations

import numpy as np

from tensorlogic.coreml.mil.table import Ints, row
from tensorlogic.coreml.mil.values import Array, Known
from tensorlogic.creation import from_numpy
from tensorlogic.tensor import Tensor


def _one(value: Array | None, default: float) -> Tensor:
    """A number as a tensor of one axis, in its own dtype."""
    array = np.float32(default) if value is None else np.asarray(value)
    return Known(array.reshape(1)).tensor()


@row()
def fill(shape: Ints, value: Array | None = None) -> Tensor:
    return _one(value, 0).expand(*shape) if shape else _one(value, 0).reshape()


@row()
def fill_like(ref_tensor: Tensor, value: Array | None = None) -> Tensor:
    filled: Tensor = fill(ref_tensor.shape, value)
    return filled


@row()
def range_1d(end: Array, start: Array, step: Array) -> Array:
    bounds = [v.reshape(-1)[0] for v in (start, end, step)]
    return np.arange(*(v.item() for v in bounds)).astype(bounds[0].dtype)


@row()
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Array | None = None,
    off_value: Array | None = None,
) -> Tensor:
    """An index outside of the labels leaves its vector at `off_value`."""
    at = axis + indices.ndim + 1 if axis < 0 else axis
    labels = from_numpy(np.arange(one_hot_vector_size, dtype=np.int32))
    labels = labels.reshape(-1, *[1] * (indices.ndim - at))
    own = indices.unsqueeze(at) == labels
    on, off = _one(on_value, 1), _one(off_value, 0)
    if on_value is None and off_value is None:
        on, off = (Known(np.array([v], np.int32)).tensor() for v in (1, 0))
    return own.where(on, off)


@row()
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    inside = np.ones(x.shape[-2:], bool)
    if lower >= 0:
        inside &= rows - columns <= lower
    if upper >= 0:
        inside &= columns - rows <= upper
    zero = x.dtype.kind == "bool" and x ^ x
    return from_numpy(inside).where(x, zero or 0)


@row()
def non_zero(x: Array) -> Array:
    """Its size depends on values, so that x is computed first."""
    return np.argwhere(x).astype(np.int32)
