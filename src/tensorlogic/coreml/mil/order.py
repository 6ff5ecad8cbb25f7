"""Sorting, and sums along an axis."""

from __future__ import annotations

from tensorlogic.coreml.mil.table import row
from tensorlogic.tensor import Tensor


@row()
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return x.argsort(axis, descending=not ascending)


@row()
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The k largest (ascending: smallest) values, sorted also where that is not asked for."""
    at = axis % x.ndim
    count = x.shape[at] if k == -1 else k
    order = x.argsort(at, descending=not ascending)
    picked = order[(*[slice(None)] * at, slice(0, count))]
    values = x.gather(picked, at)
    return (values, picked) if return_indices else (values,)


@row()
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    at = axis % x.ndim
    ahead = x.flip(at) if reverse else x
    if exclusive:
        before = [(1, 0) if i == at else (0, 0) for i in range(x.ndim)]
        ahead = ahead.pad(before)[(*[slice(None)] * at, slice(0, x.shape[at]))]
    sums = ahead.cumsum(at)
    return sums.flip(at) if reverse else sums
