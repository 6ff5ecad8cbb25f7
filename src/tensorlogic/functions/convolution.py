"""Convolutions and their transposes, by PyTorch's formulas.

A convolution is the matrix product of the weights and the windows of x, which are a view.
"""

from __future__ import annotations

import math
from typing import Any

from tensorlogic import ops, record
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import floats, method
from tensorlogic.functions.windows import Slide, ints_of, slides_of, windows_of
from tensorlogic.graph import Node, number, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap

SMALL = 1 << 19
"""Products of numbers up to which a convolution is one fold: laying out the windows for a matrix
product would take longer."""


def _product(x: Node, w: Node, slides: list[Slide], groups: int) -> Node:
    """Of x [N, C, spatial] and w [O, C / groups, taps]: [N, O, positions], float32."""
    n = x.shape[0]
    out, each, *taps = w.shape
    rank = len(taps)
    seen = windows_of(x, slides, 0.0)
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
    return record.reshape(total, (n, out, *places))


def _result(fn: str, total: Node, bias: Tensor | None, x: Node, w: Node) -> Tensor:
    """With bias [O], in the dtype of x and w."""
    out, *places = total.shape[1:]
    if bias is not None:
        b = floats(fn, bias)
        if b.shape != (out,):
            raise ShapeError(f"{fn}: bias has shape [{out}], not {shape_text(b.shape)}")
        b = record.reshape(b, (out, *[1] * len(places)))
        total = record.elementwise(OPS["add"], total, b)
    return wrap(record.cast(total, record.common_dtype(ops.MATMUL, x, w)))


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
    slides = slides_of(fn, node, w.shape[2:], stride, padding, dilation)
    return _result(fn, _product(node, w, slides, groups), bias, node, w)


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
    """A convolution of x with the weights reversed. Where stride divides the taps of an axis, each
    of stride parts of them gives the results of one remainder, as channels that are then laid out
    in turn; else x has zeros put between its values."""
    node, w = _operands(fn, x, weight, groups, rank, 0)
    strides = ints_of(fn, "stride", stride, rank)
    dilations = ints_of(fn, "dilation", dilation, rank)
    paddings = ints_of(fn, "padding", padding, rank, 0)
    extras = ints_of(fn, "output_padding", output_padding, rank, 0)
    channels, each, *taps = w.shape
    slides, turns, ranges, spread = [], [], [(0, node.shape[0], 1), (0, each * groups, 1)], node
    for axis, k, s, d, p, e in zip(
        range(2, 2 + rank), taps, strides, dilations, paddings, extras, strict=True
    ):
        if e >= max(s, d):
            raise ShapeError(f"{fn}: output_padding is below stride {s} or dilation {d}, not {e}")
        size = (node.shape[axis] - 1) * s - 2 * p + d * (k - 1) + 1 + e
        if size < 1 or not node.shape[axis]:
            raise ShapeError(
                f"{fn}: padding {p} leaves nothing of axis {axis} of {shape_text(node.shape)}"
            )
        turn = s if d == 1 and k % s == 0 else 1
        reach = d * (k // turn - 1)
        if turn == 1:
            spread = _spread(spread, axis, s, max(p - reach, 0), max(p - e - reach, 0))
            sides = (max(reach - p, 0), max(reach - p + e, 0))
        else:
            sides = (reach, reach + -(-max(e - p, 0) // turn))
        slides.append(Slide(k // turn, 1, d, *sides))
        turns.append(turn)
        ranges.append((0 if turn == 1 else p, size, 1))
    parts = [n for k, turn in zip(taps, turns, strict=True) for n in (k // turn, turn)]
    apart = record.reshape(w, (groups, channels // groups, each, *parts))
    back = [(0, n, 1) if i < 3 or i % 2 == 0 else (n - 1, n, -1) for i, n in enumerate(apart.shape)]
    turned = record.permute(
        record.slice_(apart, back),
        [0, 2, *range(4, 4 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)],
    )
    many = (groups * each * math.prod(turns), channels // groups, *parts[::2])
    total = _product(spread, record.reshape(turned, many), slides, groups)
    places = total.shape[2:]
    total = record.reshape(total, (node.shape[0], groups * each, *turns, *places))
    order = [0, 1, *(a for i in range(rank) for a in (2 + rank + i, 2 + i))]
    whole = [n * turn for n, turn in zip(places, turns, strict=True)]
    total = record.reshape(record.permute(total, order), (*total.shape[:2], *whole))
    return _result(fn, record.slice_(total, ranges), bias, node, w)


def _spread(x: Node, axis: int, stride: int, low: int, high: int) -> Node:
    """x with stride - 1 zeros between neighbours along an axis, without some at both its ends."""
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    lone = record.reshape(x, (*before, size, 1, *after))
    widths = [(0, stride - 1 if i == axis + 1 else 0) for i in range(len(lone.shape))]
    wide = record.reshape(record.pad(lone, widths, number(0.0)), (*before, size * stride, *after))
    return record.part(wide, axis, low, (size - 1) * stride + 1 - low - high)


@method
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

    padding: zeros on both sides, (before, after), "same" (as long as x, for stride 1) or "valid"
    (none). Sums are in float32. Raises ShapeError where shapes do not fit.

    >>> import tensorlogic as tl
    >>> x = tl.tensor([[[1.0, 2.0, 3.0]]])
    >>> tl.conv1d(x, tl.ones([1, 1, 2])).tolist()
    [[[3.0, 5.0]]]
    """
    return _conv("conv1d", x, weight, bias, stride, padding, dilation, groups, 1)


@method
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

    stride, padding and dilation: as in `conv1d`, once, or once for each of H and W.

    >>> import tensorlogic as tl
    >>> tl.conv2d(tl.ones([1, 2, 4, 4]), tl.ones([3, 2, 3, 3]), padding="same").shape
    (1, 3, 4, 4)
    """
    return _conv("conv2d", x, weight, bias, stride, padding, dilation, groups, 2)


@method
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


@method
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
