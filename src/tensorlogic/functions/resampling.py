"""Signals and images of another size, by PyTorch's formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import indexing, record
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import floats, method
from tensorlogic.graph import Node, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap


@method
def interpolate(
    x: Tensor,
    size: Any = None,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """x [N, C, L] or [N, C, H, W] resampled to `size`, or by `scale`, along its spatial axes.

    size, scale: a number, or one for each spatial axis. mode: "nearest", or "linear", which is
    bilinear for images. align_corners: the outer values stay in place (linear only).

    >>> import tensorlogic as tl
    >>> tl.interpolate(tl.tensor([[[0.0, 2.0]]]), size=3, mode="linear").tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    node = floats("interpolate", x)
    rank = len(node.shape) - 2
    if rank not in (1, 2):
        raise ShapeError(
            f"interpolate: x is [N, C, L] or [N, C, H, W], not {shape_text(node.shape)}"
        )
    if mode not in ("nearest", "linear"):
        raise ValueError(f'interpolate: mode is "nearest" or "linear", not {mode!r}')
    if align_corners and mode == "nearest":
        raise ValueError('interpolate: align_corners is for mode="linear"')
    if (size is None) == (scale is None):
        raise ValueError("interpolate: give size or scale, one of them")
    given = size if scale is None else scale
    values = tuple(given) if isinstance(given, list | tuple) else (given,) * rank
    wide = record.cast(node, float32)
    for axis, value in enumerate(values, 2):
        if len(values) != rank or value <= 0 or node.shape[axis] == 0:
            what = "size" if scale is None else "scale"
            raise ShapeError(f"interpolate: {what} {given} for x {shape_text(node.shape)}")
        old = node.shape[axis]
        new = value.__index__() if scale is None else math.floor(old * value)
        step = np.float32(old / new if scale is None else 1 / value) if new else np.float32(0)
        wide = _resampled(wide, axis, new, step, mode, align_corners)
    return wrap(record.cast(wide, node.dtype))


def _resampled(
    x: Node, axis: int, new: int, step: np.float32, mode: str, align_corners: bool
) -> Node:
    """One axis at `new` places, `step` apart in x."""
    old = x.shape[axis]
    at = np.arange(new, dtype=np.float32)
    if mode == "nearest":
        return _taken(x, np.floor(at * step), axis)
    if align_corners:
        place = at * np.float32((old - 1) / (new - 1) if new > 1 else 0)
    else:
        place = np.maximum((at + np.float32(0.5)) * step - np.float32(0.5), np.float32(0))
    low = np.minimum(np.floor(place), np.float32(old - 1))
    part = np.clip(place - low, 0, 1).reshape(-1, *[1] * (len(x.shape) - axis - 1))
    pairs = ((low, 1 - part), (low + 1, part))
    first, second = (
        record.elementwise(OPS["mul"], _taken(x, i, axis), from_numpy(w)._node) for i, w in pairs
    )
    return record.elementwise(OPS["add"], first, second)


def _taken(x: Node, places: NDArray[Any], axis: int) -> Node:
    indices = np.minimum(places, x.shape[axis] - 1).astype(np.int32)
    return indexing.take(x, from_numpy(indices)._node, axis)
