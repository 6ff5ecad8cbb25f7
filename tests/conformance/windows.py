"""Oracles for windows: convolutions, pooling and resampling, element by element in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tests.compare import Array


def _spread(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * rank


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """padding: an int or (before, after) for each spatial axis."""
    rank, (n, _, *_), (o, c, *taps) = x.ndim - 2, x.shape, w.shape
    strides, dilations = _spread(stride, rank), _spread(dilation, rank)
    pads = [p if isinstance(p, tuple) else (p, p) for p in _spread(padding, rank)]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    sizes = [
        (d - dl * (k - 1) - 1) // s + 1
        for d, k, s, dl in zip(padded.shape[2:], taps, strides, dilations, strict=True)
    ]
    out = np.zeros((n, o, *sizes))
    for at in np.ndindex(*sizes):
        starts = [a * s for a, s in zip(at, strides, strict=True)]
        cut = tuple(
            slice(a, a + dl * (k - 1) + 1, dl)
            for a, k, dl in zip(starts, taps, dilations, strict=True)
        )
        for i, j in itertools.product(range(n), range(o)):
            first = j * groups // o * c
            seen = padded[i, first : first + c][(slice(None), *cut)]
            out[(i, j, *at)] = (seen * w[j]).sum() + (0 if b is None else b[j])
    return out


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    extra: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Each value of x adds the weights, times itself, to the result."""
    rank, (n, c, *sizes), (_, each, *taps) = x.ndim - 2, x.shape, w.shape
    strides, pads, extras, dilations = (
        _spread(v, rank) for v in (stride, padding, extra, dilation)
    )
    reach = [dl * (k - 1) + 1 for k, dl in zip(taps, dilations, strict=True)]
    whole = [(d - 1) * s + r for d, s, r in zip(sizes, strides, reach, strict=True)]
    out = np.zeros((n, each * groups, *(d + e for d, e in zip(whole, extras, strict=True))))
    for i, channel, *at in np.ndindex(*x.shape):
        cut = tuple(
            slice(a * s, a * s + r, dl)
            for a, s, r, dl in zip(at, strides, reach, dilations, strict=True)
        )
        first = channel * groups // c * each
        out[(i, slice(first, first + each), *cut)] += x[(i, channel, *at)] * w[channel]
    ends = [d + e - p for d, e, p in zip(whole, extras, pads, strict=True)]
    out = out[(..., *(slice(p, e) for p, e in zip(pads, ends, strict=True)))]
    return out if b is None else out + b.reshape(-1, *[1] * rank)


def pool(
    x: Array,
    mean: bool,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil: bool = False,
    count_pad: bool = True,
    rank: int = 2,
) -> Array:
    taps, pads, dilations = (_spread(v, rank) for v in (kernel, padding, dilation))
    strides = taps if stride is None else _spread(stride, rank)
    places = []
    for n, k, s, p, d in zip(x.shape[-rank:], taps, strides, pads, dilations, strict=True):
        starts = [a for a in range(-p, n + p, s) if a + d * (k - 1) < n + p]
        if ceil and len(starts) * s - p < n and starts[-1] + d * (k - 1) < n + p - 1:
            starts.append(len(starts) * s - p)
        places.append(starts)
    out = np.zeros((*x.shape[:-rank], *map(len, places)))
    for at in np.ndindex(*map(len, places)):
        inside, count = [], 1
        for i, a in enumerate(at):
            n, p, d = x.shape[i - rank], pads[i], dilations[i]
            steps = [places[i][a] + d * t for t in range(taps[i])]
            inside.append([s for s in steps if 0 <= s < n])
            count *= len([s for s in steps if s < n + p]) if count_pad else len(inside[-1])
        seen = x[(..., *np.ix_(*inside))]
        axes = tuple(range(-rank, 0))
        out[(..., *at)] = seen.sum(axes) / count if mean else seen.max(axes)
    return out


def interpolate(x: Array, sizes: Any, mode: str, corners: bool = False, scale: Any = None) -> Array:
    """scale: what the positions are computed with, if not the sizes."""
    for axis, new in enumerate(sizes, 2):
        old = x.shape[axis]
        step = old / new if scale is None else 1 / scale
        parts = []
        for i in range(new):
            if mode == "nearest":
                parts.append(np.take(x, min(int(i * step), old - 1), axis))
                continue
            at = i * (old - 1) / max(new - 1, 1) if corners else max((i + 0.5) * step - 0.5, 0)
            low = min(int(at), old - 1)
            a, b = (np.take(x, min(j, old - 1), axis) for j in (low, low + 1))
            parts.append(a + (b - a) * (at - low))
        x = np.stack(parts, axis)
    return x
