"""Functions that slide a window: convolutions and pooling, by PyTorch's formulas.

An axis is padded and then seen as [positions, taps], which is a view. A convolution is a matrix
product of the weights and those taps; pooling folds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlogic import ops, record
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import floats, function, method
from tensorlogic.graph import Node, number, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap


SMALL = 1 << 19
"""Products of numbers up to which a convolution is one fold: laying out the windows for a matrix
product would take longer."""


@dataclass(frozen=True)
class Slide:
    """How a window of `taps` slides along an axis that is padded by (before, after)."""

    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def span(self) -> int:
        return self.dilation * (self.taps - 1) + 1

    def positions(self, size: int) -> int:
        return (size + self.before + self.after - self.span) // self.stride + 1


def _tuple(fn: str, name: str, value: Any, rank: int, low: int = 1) -> tuple[int, ...]:
    """An int for each spatial axis, from one int or several."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * rank
    if len(values) != rank or any(v.__index__() < low for v in values):
        raise ShapeError(f"{fn}: {name} is {rank} ints of at least {low}, or one, not {value!r}")
    return tuple(v.__index__() for v in values)


def _slides(
    fn: str, node: Node, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> list[Slide]:
    """The windows over the last axes; raises ShapeError where one does not fit."""
    rank = len(kernel)
    strides = _tuple(fn, "stride", stride, rank)
    dilations = _tuple(fn, "dilation", dilation, rank)
    spans = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if padding == "same":
        if any(s != 1 for s in strides):
            raise ShapeError(f'{fn}: padding="same" takes stride 1, not {stride}')
        pads = [(s // 2, s - s // 2) for s in spans]
    elif isinstance(padding, str) and padding != "valid":
        raise ValueError(f'{fn}: padding is ints, "same" or "valid", not {padding!r}')
    else:
        around = _tuple(fn, "padding", 0 if padding == "valid" else padding, rank, 0)
        pads = [(p, p) for p in around]
    found = [
        Slide(k, s, d, *p) for k, s, d, p in zip(kernel, strides, dilations, pads, strict=True)
    ]
    for axis, s in enumerate(found, len(node.shape) - rank):
        if s.span > node.shape[axis] + s.before + s.after:
            raise ShapeError(
                f"{fn}: a window of {s.span} does not fit axis {axis} of "
                f"{shape_text(node.shape)}, padded by ({s.before}, {s.after})"
            )
    return found


def _windows(x: Node, slides: Sequence[Slide], fill: float) -> Node:
    """[..., spatial] as [..., position, tap, position, tap, ...]."""
    first = len(x.shape) - len(slides)
    x = record.pad(x, [(0, 0)] * first + [(s.before, s.after) for s in slides], number(fill))
    for i, s in enumerate(slides):
        x = record.window(x, first + 2 * i, s.taps, s.stride, s.dilation)
    return x


def _product(
    fn: str, x: Node, w: Node, bias: Tensor | None, slides: list[Slide], groups: int
) -> Node:
    """Of x [N, C, spatial] and w [O, C / groups, taps], and bias [O]: [N, O, positions]."""
    n = x.shape[0]
    out, each, *taps = w.shape
    rank = len(taps)
    seen = _windows(x, slides, 0.0)
    places = seen.shape[2::2]
    seen = record.reshape(seen, (n, groups, each, *seen.shape[2:]))
    order = [0, 1, 2, *range(4, 4 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    seen = record.permute(seen, order)  # [N, G, C / G, taps, positions]
    depth, width = each * math.prod(taps), math.prod(places)
    if n * width == 1 or n * out * depth * width <= SMALL:
        seen = record.reshape(seen, (n, groups, 1, *seen.shape[2:]))
        rows = record.reshape(w, (groups, out // groups, each, *taps, *[1] * rank))
        both = (record.cast(a, float32) for a in (rows, seen))
        product = record.elementwise(OPS["mul"], *both)
        total = record.reduce(ops.reduce_sum, product, tuple(range(3, 4 + rank)))
    else:
        seen = record.reshape(seen, (n, groups, depth, width))
        rows = record.reshape(w, (1, groups, out // groups, depth))
        total = record.matmul(rows, seen, wide=True)
    if bias is not None:
        b = floats(fn, bias)
        if b.shape != (out,):
            raise ShapeError(f"{fn}: bias has shape [{out}], not {shape_text(b.shape)}")
        ones = [1] * (len(total.shape) - 3)
        b = record.reshape(b, (groups, out // groups, *ones))
        total = record.elementwise(OPS["add"], total, b)
    total = record.cast(total, record.common_dtype(ops.MATMUL, x, w))
    return record.reshape(total, (n, out, *places))


def _operands(
    fn: str, x: Tensor, weight: Tensor, groups: int, rank: int, along: int
) -> tuple[Node, Node]:
    """The nodes of x and weight, whose axis `along` belongs to the channels of x (one group of them
    if it is 1)."""
    node, w = floats(fn, x), floats(fn, weight)
    names = ("[N, C, L]", "[N, C, H, W]")[rank - 1]
    shapes = f"x {shape_text(node.shape)}, weight {shape_text(w.shape)}, groups {groups}"
    if len(node.shape) != rank + 2 or len(w.shape) != rank + 2:
        raise ShapeError(f"{fn}: x is {names}, weight has as many axes: {shapes}")
    share = groups if along else 1
    if groups < 1 or w.shape[0] % groups or w.shape[along] * share != node.shape[1]:
        form = "[O, C / groups, ...]" if along else "[C, O / groups, ...]"
        raise ShapeError(f"{fn}: weight is {form} with groups that divide C and O: {shapes}")
    return node, w


def _conv(
    fn: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    rank: int,
) -> Tensor:
    node, w = _operands(fn, x, weight, groups, rank, 1)
    slides = _slides(fn, node, w.shape[2:], stride, padding, dilation)
    return wrap(_product(fn, node, w, bias, slides, groups))


def _conv_transpose(
    fn: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
    rank: int,
) -> Tensor:
    """A convolution of x, with zeros between its values, and the weights reversed."""
    node, w = _operands(fn, x, weight, groups, rank, 0)
    strides = _tuple(fn, "stride", stride, rank)
    dilations = _tuple(fn, "dilation", dilation, rank)
    paddings = _tuple(fn, "padding", padding, rank, 0)
    extras = _tuple(fn, "output_padding", output_padding, rank, 0)
    slides = []
    for i in range(rank):
        axis, s = 2 + i, strides[i]
        if extras[i] >= max(s, dilations[i]):
            raise ShapeError(
                f"{fn}: output_padding {extras[i]} is not below stride {s} or dilation {dilations[i]}"
            )
        node = _spread(node, axis, s)
        reach = dilations[i] * (w.shape[axis] - 1) - paddings[i]
        sides = (reach, reach + extras[i])
        size = node.shape[axis] + sum(sides) - dilations[i] * (w.shape[axis] - 1)
        if size < 1:
            raise ShapeError(
                f"{fn}: padding {paddings[i]} leaves nothing of axis {axis} of "
                f"{shape_text(floats(fn, x).shape)}"
            )
        low, high = (max(-side, 0) for side in sides)  # what padding takes away
        ranges = [(0, d, 1) for d in node.shape]
        ranges[axis] = (low, node.shape[axis] - low - high, 1)
        node = record.slice_(node, ranges)
        slides.append(Slide(w.shape[axis], 1, dilations[i], *(max(side, 0) for side in sides)))
    ranges = [(0, d, 1) if i < 2 else (d - 1, d, -1) for i, d in enumerate(w.shape)]
    channels, each, *taps = w.shape
    parted = record.reshape(record.slice_(w, ranges), (groups, channels // groups, each, *taps))
    order = (0, 2, 1, *range(3, 3 + rank))
    turned = record.reshape(
        record.permute(parted, order), (groups * each, channels // groups, *taps)
    )
    return wrap(_product(fn, node, turned, bias, slides, groups))


def _spread(x: Node, axis: int, stride: int) -> Node:
    """x with stride - 1 zeros between neighbours along an axis."""
    if stride == 1:
        return x
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    lone = record.reshape(x, (*before, size, 1, *after))
    widths = [(0, stride - 1 if i == axis + 1 else 0) for i in range(len(lone.shape))]
    wide = record.reshape(record.pad(lone, widths, number(0.0)), (*before, size * stride, *after))
    ranges = [(0, d, 1) for d in wide.shape]
    ranges[axis] = (0, max(size * stride - stride + 1, 0), 1)
    return record.slice_(wide, ranges)


@function
def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x [N, C, L] with weight [O, C / groups, K], plus bias [O].

    padding: zeros on both sides, "same" (stride 1: as long as x) or "valid" (none). Sums are in
    float32. Raises ShapeError where shapes do not fit.

    >>> import tensorlogic as tl
    >>> x = tl.tensor([[[1.0, 2.0, 3.0]]])
    >>> tl.conv1d(x, tl.ones([1, 1, 2])).tolist()
    [[[3.0, 5.0]]]
    """
    return _conv("conv1d", x, weight, bias, stride, padding, dilation, groups, 1)


@function
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x [N, C, H, W] with weight [O, C / groups, KH, KW], plus bias [O].

    stride, padding and dilation: an int or one for each of H and W; else as in `conv1d`.

    >>> import tensorlogic as tl
    >>> tl.conv2d(tl.ones([1, 2, 4, 4]), tl.ones([3, 2, 3, 3]), padding="same").shape
    (1, 3, 4, 4)
    """
    return _conv("conv2d", x, weight, bias, stride, padding, dilation, groups, 2)


@function
def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv1d` as a linear map: x [N, C, L], weight [C, O / groups, K].

    The result is [N, O, (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1].

    >>> import tensorlogic as tl
    >>> tl.conv_transpose1d(tl.tensor([[[1.0, 2.0]]]), tl.ones([1, 1, 2]), stride=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    more = (stride, padding, output_padding, dilation, groups)
    return _conv_transpose("conv_transpose1d", x, weight, bias, *more, 1)


@function
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv2d` as a linear map: x [N, C, H, W], weight [C, O / groups, KH, KW].

    >>> import tensorlogic as tl
    >>> tl.conv_transpose2d(tl.ones([1, 2, 3, 3]), tl.ones([2, 1, 2, 2]), stride=2).shape
    (1, 1, 6, 6)
    """
    more = (stride, padding, output_padding, dilation, groups)
    return _conv_transpose("conv_transpose2d", x, weight, bias, *more, 2)


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
    taps = _tuple(fn, "kernel", kernel, rank)
    pads = _tuple(fn, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(pads, taps, strict=True)):
        raise ShapeError(f"{fn}: padding {padding} is more than half of kernel {kernel}")
    slides = _slides(fn, node, taps, taps if stride is None else stride, pads, dilation)
    if ceil_mode:
        slides = [_ceil(s, n) for s, n in zip(slides, node.shape[-rank:], strict=True)]
    first = len(node.shape) - rank
    axes = tuple(range(first + 1, first + 2 * rank, 2))
    return wrap(record.cast(fold(node, slides, axes), node.dtype))


def _ceil(s: Slide, size: int) -> Slide:
    """With a last window that may hang over the end, if it begins before the padding there."""
    more = -(-(size + s.before + s.after - s.span) // s.stride)
    if more * s.stride >= size + s.before:
        more -= 1
    after = max(s.after, more * s.stride + s.span - size - s.before)
    return Slide(s.taps, s.stride, s.dilation, s.before, after)


def _max_pool(
    fn: str, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, rank: int
) -> Tensor:
    def fold(node: Node, slides: Sequence[Slide], axes: tuple[int, ...]) -> Node:
        return record.reduce(ops.reduce_max, _windows(node, slides, -math.inf), axes)

    return _pool(fn, x, kernel, stride, padding, dilation, ceil, rank, fold)


def _avg_pool(
    fn: str, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, pads: bool, rank: int
) -> Tensor:
    def fold(node: Node, slides: Sequence[Slide], axes: tuple[int, ...]) -> Node:
        wide = record.cast(_windows(node, slides, 0.0), float32)
        total = record.reduce(ops.reduce_sum, wide, axes)
        around = _tuple(fn, "padding", padding, rank, 0)
        counts: Any = np.float32(1)
        for s, n, p in zip(slides, node.shape[-rank:], around, strict=True):
            start = np.arange(s.positions(n)) * s.stride
            low, high = (0, n + 2 * p) if pads else (s.before, s.before + n)
            inside = np.minimum(start + s.taps, high) - np.maximum(start, low)
            counts = counts[..., None] * inside.astype(np.float32)
        even = counts.min() == counts.max() if counts.size else True
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
