"""Parts of tensors, padding, and windows as views."""

from __future__ import annotations

import numpy as np

from tensorlogic.coreml.mil.table import Ints, row, unsupported
from tensorlogic.coreml.mil.values import Array
from tensorlogic.creation import from_numpy
from tensorlogic.tensor import Tensor


def _key(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Ints | None,
    end_mask: Ints | None,
    squeeze_mask: Ints | None,
) -> tuple[int | slice, ...]:
    """The index that slice_by_index means: ints where an axis goes, slices elsewhere."""
    none = (0,) * x.ndim
    steps = stride or (1,) * x.ndim
    opens, ends, gone = begin_mask or none, end_mask or none, squeeze_mask or none
    return tuple(
        (0 if opens[i] else begin[i])
        if gone[i]
        else slice(None if opens[i] else begin[i], None if ends[i] else end[i], steps[i])
        for i in range(x.ndim)
    )


@row()
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    return x[_key(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


@row()
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    """x with a part replaced: along each axis, the place in `update` that an entry comes from, and
    whether it comes from there at all."""
    key = _key(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    whole = [slice(k, k + 1 or None) if isinstance(k, int) else k for k in key]
    picked = [np.arange(n)[k] for n, k in zip(x.shape, whole, strict=True)]
    new = update.reshape(*(len(p) for p in picked))
    inside: Array = np.ones((1,) * x.ndim, bool)
    for axis, (n, places) in enumerate(zip(x.shape, picked, strict=True)):
        source = np.zeros(n, np.int32)
        source[places] = np.arange(len(places))
        new = new.take(from_numpy(source), axis)
        along = np.isin(np.arange(n), places).reshape(-1, *[1] * (x.ndim - axis - 1))
        inside = inside & along
    return from_numpy(np.ascontiguousarray(inside)).where(new, x)


@row()
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    starts = [a + n if a < 0 else a for a, n in zip(begin, x.shape, strict=True)]
    stops = [n if c == -1 else a + c for a, c, n in zip(starts, size, x.shape, strict=True)]
    return x[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]


@row()
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    return x.window(axis, size, stride)


@row()
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """The last axes, by pairs (before, after)."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        value = constant_val if x.dtype.kind == "float" else int(constant_val)
        return x.pad(widths, value)
    if mode not in ("reflect", "replicate"):
        raise unsupported("pad", f"mode {mode!r} is none that is known")
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = _mirrored(x, axis, before, after, "reflect" if mode == "reflect" else "edge")
    return x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    places = np.arange(x.shape[axis], dtype=np.int32)
    if mode == "reflect":
        return x.take(from_numpy(np.pad(places, (before, after), mode="reflect")), axis)
    return x.take(from_numpy(np.pad(places, (before, after), mode="edge")), axis)


@row()
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    h, w = x.shape[-2:]
    return x[..., crop_height[0] : h - crop_height[1], crop_width[0] : w - crop_width[1]]


@row()
def tile(x: Tensor, reps: Ints) -> Tensor:
    return x.tile(list(reps))


@row()
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(axes)


@row()
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """The first `lengths` entries of each batch backwards, the others as they are."""
    along, batch = seq_axis % x.ndim, batch_axis % x.ndim
    places = from_numpy(np.arange(x.shape[along], dtype=np.int32))
    places = places.reshape(*(x.shape[along] if i == along else 1 for i in range(x.ndim)))
    counts = lengths.reshape(*(x.shape[batch] if i == batch else 1 for i in range(x.ndim)))
    return x.gather((places < counts).where(counts - 1 - places, places), along)
