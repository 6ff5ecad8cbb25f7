"""Lookups and scatter: operations whose indices are values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorlogic.coreml.mil.table import Places, row, unsupported
from tensorlogic.coreml.mil.values import Known
from tensorlogic.creation import from_numpy
from tensorlogic.tensor import Tensor


@row()
def gather(
    x: Tensor, indices: Places, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """A single place that is known is a slice."""
    at = axis % x.ndim
    if isinstance(indices, np.ndarray):
        if indices.size == 1 and not batch_dims:
            entry = x[(*[slice(None)] * at, int(indices.reshape(-1)[0]))]
            return entry.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])
        indices = Known(indices).tensor()
    if not batch_dims:
        return x.take(indices, at)
    batch = math.prod(x.shape[:batch_dims])
    between, rest = x.shape[batch_dims:at], x.shape[at + 1 :]
    seen = x.reshape(batch, math.prod(between), x.shape[at], math.prod(rest))
    picked = seen.gather(indices.reshape(batch, 1, -1, 1), 2)
    return picked.reshape(*x.shape[:at], *indices.shape[batch_dims:], *rest)


@row()
def gather_along_axis(
    x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    return x.gather(indices, axis)


def _places(indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Indices [..., K] into axes of these K sizes as one row-major index [...]."""
    parts = [indices[..., i] for i in range(len(sizes))]
    total: Tensor | None = None
    for part, size in zip(parts, sizes, strict=True):
        own = (part < 0).where(part + size, part)
        total = own if total is None else total * size + own
    assert total is not None
    return total


@row()
def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    depth = indices.shape[-1]
    inner, rest = x.shape[batch_dims : batch_dims + depth], x.shape[batch_dims + depth :]
    places = _places(indices, inner)
    flat = x.reshape(*x.shape[:batch_dims], math.prod(inner), *rest)
    picked: Tensor = gather(flat, places, batch_dims, batch_dims)
    return picked


Fold = Callable[[Tensor, Tensor], Tensor]
_FOLDS: dict[str, tuple[float, str, Fold]] = {
    "mul": (1.0, "prod", lambda a, b: a * b),
    "div": (1.0, "prod", lambda a, b: a // b if a.dtype.kind == "int" else a / b),
    "max": (-math.inf, "max", lambda a, b: a.maximum(b)),
    "min": (math.inf, "min", lambda a, b: a.minimum(b)),
}
"""Modes that fold all updates of a place: what no update is, their fold, and its use."""


def _scattered(
    op: str, data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str
) -> Tensor:
    """`indices` lie beside data: its sizes but along `axis`, or 1."""
    if mode in ("update", "add"):
        return data.scatter(indices, updates, axis, "add" if mode == "add" else None)
    if mode == "sub":
        return data.scatter(indices, -updates, axis, "add")
    if mode not in _FOLDS:
        raise unsupported(op, f"mode {mode!r} is none that is known")
    none, name, use = _FOLDS[mode]
    size = data.shape[axis]
    own = (indices < 0).where(indices + size, indices).unsqueeze(axis)
    places = from_numpy(np.arange(size, dtype=np.int32)).reshape(-1, *[1] * (data.ndim - axis))
    if data.dtype.kind == "int":
        none = max(min(none, 2**31 - 1), -(2**31 - 1))
        none = int(none)
    mine = (own == places).where(updates.unsqueeze(axis), none)
    return use(data, getattr(mine, name)(axis + 1))


@row()
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    at = axis % data.ndim
    flat = updates.reshape(*data.shape[:at], -1, *data.shape[at + 1 :])
    beside = indices.reshape(*[1] * at, -1, *[1] * (data.ndim - at - 1))
    return _scattered("scatter", data, beside, flat, at, mode)


@row()
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    return _scattered("scatter_along_axis", data, indices, updates, axis % data.ndim, mode)


@row()
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    depth = indices.shape[-1]
    inner, rest = data.shape[:depth], data.shape[depth:]
    places = _places(indices, inner)
    flat = data.reshape(math.prod(inner), math.prod(rest))
    beside = places.reshape(-1, 1)
    done = _scattered("scatter_nd", flat, beside, updates.reshape(beside.shape[0], -1), 0, mode)
    return done.reshape(data.shape)
