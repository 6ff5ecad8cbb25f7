"""Convolutions and pooling: what slides along spatial axes, with MIL's kinds of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorlogic import ops, record
from tensorlogic.coreml.mil.table import Bias, Ints, row, unsupported
from tensorlogic.coreml.mil.values import Array, like, wide
from tensorlogic.creation import from_numpy
from tensorlogic.functions.windows import Slide, windows_of
from tensorlogic.tensor import Tensor, wrap

Sides = list[tuple[int, int]]
"""(before, after) for each spatial axis."""


def sides_of(
    op: str, pad_type: str, pad: Ints | None, sizes: Ints, spans: Ints, strides: Ints
) -> Sides:
    """The padding of each axis; `spans` are the lengths of the windows, dilated.

    "same" gives ceil(size / stride) windows, with the odd one of the padding at the end,
    "same_lower" at the start.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = pad or (0,) * 2 * len(sizes)
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise unsupported(op, f"pad_type {pad_type!r} is none that is known")
    totals = [
        max((-(-n // s) - 1) * s + span - n, 0)
        for n, span, s in zip(sizes, spans, strides, strict=True)
    ]
    lower = [(t + 1) // 2 if pad_type == "same_lower" else t // 2 for t in totals]
    return [(a, t - a) for a, t in zip(lower, totals, strict=True)]


# ---- convolutions ------------------------------------------------------------------------------


@row()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Bias = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    steps, spread = strides or (1,) * rank, dilations or (1,) * rank
    spans = tuple(d * (k - 1) + 1 for k, d in zip(weight.shape[2:], spread, strict=True))
    sides = sides_of("conv", pad_type, pad, x.shape[2:], spans, steps)
    if rank == 1:
        return x.conv1d(weight, bias, steps, sides, spread, groups)
    if rank == 2:
        return x.conv2d(weight, bias, steps, sides, spread, groups)
    x = x.pad([(0, 0), (0, 0), sides[0], (0, 0), (0, 0)])
    slices, batch = _slices(x, weight.shape[2], steps[0], spread[0])
    taps = weight.reshape(weight.shape[0], -1, *weight.shape[3:])
    flat = slices.conv2d(taps, bias, steps[1:], sides[1:], spread[1:], groups)
    return _deep(flat, batch)


def _slices(x: Tensor, taps: int, stride: int, dilation: int) -> tuple[Tensor, int]:
    """Windows along the depth of x [N, C, D, H, W] as [N * positions, C * taps, H, W], and N."""
    seen = x.window(2, taps, stride, dilation).permute(0, 2, 1, 3, 4, 5)
    n, positions, channels, _, *plane = seen.shape
    return seen.reshape(n * positions, channels * taps, *plane), n


def _deep(flat: Tensor, batch: int) -> Tensor:
    """[N * D, C, H, W] as [N, C, D, H, W]."""
    return flat.reshape(batch, -1, *flat.shape[1:]).permute(0, 2, 1, 3, 4)


@row()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Bias = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """The whole of it, without padding, of which a part is cut: from the padding before on, as much
    as the output has. Where that goes beyond its end there are zeros, plus bias."""
    rank = x.ndim - 2
    steps, spread = strides or (1,) * rank, dilations or (1,) * rank
    spans = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], steps, spans, strict=True)]
    given = pad if pad_type == "custom" and pad else (0,) * 2 * rank
    if output_shape is not None:
        sizes = list(output_shape[2:])
    elif pad_type == "same":
        sizes = [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
    else:
        sizes = [n - a - b for n, a, b in zip(full, given[::2], given[1::2], strict=True)]
    starts = list(given[::2])
    if pad_type in ("same", "same_lower"):
        totals = [max(n - size, 0) for n, size in zip(full, sizes, strict=True)]
        starts = [(t + (pad_type == "same_lower")) // 2 for t in totals]
    whole = _transposed(wide(x), wide(weight), steps, spread, groups)
    more = [max(a + n - size, 0) for a, n, size in zip(starts, sizes, full, strict=True)]
    whole = whole.pad([(0, 0), (0, 0), *((0, m) for m in more)])
    cut = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    part = whole[(slice(None), slice(None), *cut)]
    if bias is not None:
        part = part + bias.reshape(-1, *[1] * rank)
    return like(part, x.dtype)


def _transposed(x: Tensor, weight: Tensor, steps: Ints, spread: Ints, groups: int) -> Tensor:
    rank = x.ndim - 2
    if rank == 1:
        return x.conv_transpose1d(weight, None, steps, 0, 0, spread, groups)
    if rank == 2:
        return x.conv_transpose2d(weight, None, steps, 0, 0, spread, groups)
    n, channels, depth, *plane = x.shape
    gaps = x.reshape(n, channels, depth, 1, *plane)
    gaps = gaps.pad([(0, 0)] * 3 + [(0, steps[0] - 1), (0, 0), (0, 0)])
    gaps = gaps.reshape(n, channels, depth * steps[0], *plane)[:, :, : (depth - 1) * steps[0] + 1]
    taps, reach = weight.shape[2], spread[0] * (weight.shape[2] - 1)
    slices, batch = _slices(
        gaps.pad([(0, 0), (0, 0), (reach, reach), (0, 0), (0, 0)]), taps, 1, spread[0]
    )
    turned = weight.flip(2).permute(0, 2, 1, 3, 4)
    turned = turned.reshape(channels * taps, *turned.shape[2:])
    flat = slices.conv_transpose2d(turned, None, steps[1:], 0, 0, spread[1:], groups)
    return _deep(flat, batch)


# ---- pooling -----------------------------------------------------------------------------------


def _slides(
    op: str,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None,
    pad_type: str,
    pad: Ints | None,
    ceil_mode: bool,
) -> tuple[list[Slide], Sides]:
    """How the windows slide, hanging over the end in ceil mode, and the padding without that."""
    sizes = x.shape[2:]
    steps = strides or (1,) * len(sizes)
    sides = sides_of(op, pad_type, pad, sizes, kernel_sizes, steps)
    slides = []
    for n, k, s, (before, after) in zip(sizes, kernel_sizes, steps, sides, strict=True):
        end = after
        if ceil_mode:
            last = -(-(n + before + after - k) // s) * s
            if last >= n + before and before + after > 0:
                last -= s
            end = max(after, last + k - n - before)
        slides.append(Slide(k, s, 1, before, end))
    return slides, sides


def _pooled(x: Tensor, slides: Sequence[Slide], fill: float, fold: ops.Op) -> Tensor:
    axes = tuple(range(3, 3 + 2 * len(slides), 2))
    return wrap(record.reduce(fold, windows_of(x._node, slides, fill), axes))


@row()
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    slides, _ = _slides("max_pool", x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _pooled(x, slides, -math.inf, ops.reduce_max)


@row(wide=True)
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Padding counts as zeros unless it is excluded; what hangs over the end never counts."""
    slides, sides = _slides("avg_pool", x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    total = _pooled(x, slides, 0.0, ops.reduce_sum)
    counts: Array = np.float32(1)  # type: ignore[assignment]
    for s, n, (before, after) in zip(slides, x.shape[2:], sides, strict=True):
        start = np.arange(s.positions(n)) * s.stride
        low, high = (
            (before, before + n) if exclude_padding_from_average else (0, n + before + after)
        )
        inside = np.minimum(start + s.taps, high) - np.maximum(start, low)
        counts = counts[..., None] * inside.astype(np.float32)
    if counts.min() == counts.max():
        return total / float(counts.flat[0])
    return total / from_numpy(counts)


@row(wide=True)
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    slides, _ = _slides("l2_pool", x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _pooled(x * x, slides, 0.0, ops.reduce_sum).sqrt()
