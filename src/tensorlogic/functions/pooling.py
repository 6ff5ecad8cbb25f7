"""Pooling: windows folded to their largest value or their mean, by PyTorch's formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlogic import ops, record
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import floats, method
from tensorlogic.functions.windows import Slide, ints_of, slides_of, windows_of
from tensorlogic.graph import Node, number, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap


def _pool(
    fn: str,
    x: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    rank: int,
    fold: Callable[[Node, Sequence[Slide], tuple[int, ...]], Node],
) -> Tensor:
    """`fold` over the windows of x: from x, its windows and the axes that hold taps."""
    node = floats(fn, x)
    if len(node.shape) < rank + 1:
        raise ShapeError(f"{fn}: x has channels and {rank} more axes, not {shape_text(node.shape)}")
    taps = ints_of(fn, "kernel", kernel, rank)
    pads = ints_of(fn, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(pads, taps, strict=True)):
        raise ShapeError(f"{fn}: padding {padding} is more than half of kernel {kernel}")
    strides = ints_of(fn, "stride", taps if stride is None else stride, rank)
    dilations = ints_of(fn, "dilation", dilation, rank)
    first = len(node.shape) - rank
    sides = [(p, p) for p in pads]
    if ceil_mode:
        each = zip(node.shape[first:], taps, strides, dilations, pads, strict=True)
        sides = [(p, _after(n, d * (k - 1) + 1, s, p)) for n, k, s, d, p in each]
    slides = slides_of(fn, node, taps, strides, sides, dilations)
    axes = tuple(range(first + 1, first + 2 * rank, 2))
    return wrap(record.cast(fold(node, slides, axes), node.dtype))


def _after(size: int, span: int, stride: int, pad: int) -> int:
    """The padding for a last window that may hang over the end, if it begins before it."""
    start = -(-(size + 2 * pad - span) // stride) * stride
    if start >= size + pad:
        start -= stride
    return max(pad, start + span - size - pad)


def _max_pool(
    fn: str, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, rank: int
) -> Tensor:
    def fold(node: Node, slides: Sequence[Slide], axes: tuple[int, ...]) -> Node:
        return record.reduce(ops.reduce_max, windows_of(node, slides, -math.inf), axes)

    return _pool(fn, x, kernel, stride, padding, dilation, ceil, rank, fold)


def _avg_pool(
    fn: str, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, pads: bool, rank: int
) -> Tensor:
    def fold(node: Node, slides: Sequence[Slide], axes: tuple[int, ...]) -> Node:
        wide = record.cast(windows_of(node, slides, 0.0), float32)
        total = record.reduce(ops.reduce_sum, wide, axes)
        around = ints_of(fn, "padding", padding, rank, 0)
        counts: Any = np.float32(1)
        for s, n, p in zip(slides, node.shape[-rank:], around, strict=True):
            start = np.arange(s.positions(n)) * s.stride
            low, high = (0, n + 2 * p) if pads else (s.before, s.before + n)
            inside = np.minimum(start + s.taps, high) - np.maximum(start, low)
            counts = counts[..., None] * inside.astype(np.float32)
        even = counts.min() == counts.max()
        divisor = number(float(counts.flat[0])) if even else from_numpy(counts)._node
        return record.elementwise(OPS["div"], total, divisor)

    return _pool(fn, x, kernel, stride, padding, 1, ceil, rank, fold)


@method
def max_pool1d(
    x: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window along the last axis; NaN if one is NaN.

    stride: kernel if None. padding: at most half of kernel, never the largest. ceil_mode: also a
    last window that hangs over the end, if it begins within x or the padding before it.

    >>> import tensorlogic as tl
    >>> tl.max_pool1d(tl.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2).tolist()
    [[[3.0, 2.0]]]
    """
    return _max_pool("max_pool1d", x, kernel, stride, padding, dilation, ceil_mode, 1)


@method
def max_pool2d(
    x: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window over the last two axes, as in `max_pool1d`.

    >>> import tensorlogic as tl
    >>> tl.max_pool2d(tl.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """
    return _max_pool("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode, 2)


@method
def avg_pool1d(
    x: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window along the last axis, in float32.

    count_include_pad: whether padding counts as zeros or not at all; what hangs over the end in
    ceil_mode never counts.

    >>> import tensorlogic as tl
    >>> tl.avg_pool1d(tl.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2).tolist()
    [[[2.0, 1.0]]]
    """
    return _avg_pool("avg_pool1d", x, kernel, stride, padding, ceil_mode, count_include_pad, 1)


@method
def avg_pool2d(
    x: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window over the last two axes, as in `avg_pool1d`.

    >>> import tensorlogic as tl
    >>> tl.avg_pool2d(tl.ones([1, 1, 4, 4]), 3, stride=1).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    return _avg_pool("avg_pool2d", x, kernel, stride, padding, ceil_mode, count_include_pad, 2)
