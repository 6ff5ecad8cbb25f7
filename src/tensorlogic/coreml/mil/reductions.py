"""Reductions."""

from __future__ import annotations

from tensorlogic.coreml.mil.elementwise import as_float
from tensorlogic.coreml.mil.table import Ints, row
from tensorlogic.coreml.mil.values import like
from tensorlogic.tensor import Tensor


@row()
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.sum(axes, keep_dims)


@row()
def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.prod(axes, keep_dims)


@row()
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.max(axes, keep_dims)


@row()
def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.min(axes, keep_dims)


@row()
def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return like(as_float(x).mean(axes, keep_dims), x.dtype)


@row(wide=True)
def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.abs().sum(axes, keep_dims)


@row(wide=True)
def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return (x * x).sum(axes, keep_dims)


@row(wide=True)
def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    f = as_float(x)
    return like((f * f).sum(axes, keep_dims).sqrt(), x.dtype)


@row(wide=True)
def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return like(as_float(x).sum(axes, keep_dims).log(), x.dtype)


@row(wide=True)
def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return like(as_float(x).logsumexp(axes, keep_dims), x.dtype)


@row()
def reduce_argmax(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    return x.argmax(axis, keep_dims)


@row()
def reduce_argmin(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    return x.argmin(axis, keep_dims)
