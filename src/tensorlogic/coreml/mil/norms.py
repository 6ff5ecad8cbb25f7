"""Normalizations."""

from __future__ import annotations

import math

from tensorlogic.coreml.mil.table import Ints, row
from tensorlogic.tensor import Tensor


@row()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return x.batch_norm(mean, variance, gamma, beta, epsilon)


@row()
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    return x.group_norm(x.shape[1], gamma, beta, epsilon)


@row()
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Over `axes`, which are moved to the end and become one there; all if there are none."""
    over = sorted(a % x.ndim for a in (range(x.ndim) if axes is None else axes))
    order = [a for a in range(x.ndim) if a not in over] + over
    moved = x.permute(order)
    size = math.prod(x.shape[a] for a in over)
    flat = moved.reshape(*moved.shape[: x.ndim - len(over)], size)
    weight, bias = (None if v is None else v.reshape(size) for v in (gamma, beta))
    normal = flat.layer_norm(weight, bias, epsilon).reshape(moved.shape)
    return normal.permute([order.index(a) for a in range(x.ndim)])


@row(wide=True)
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    return x * ((x * x).sum((-3, -2, -1), keepdims=True) + epsilon).rsqrt()


@row(wide=True)
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    around = [(0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)]
    sums = (x * x).pad(around).window(1, size).sum(2)
    return x / (sums * (alpha / size) + k) ** beta
