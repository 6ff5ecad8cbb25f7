"""softmax and normalisation."""

from __future__ import annotations

import math
from typing import Any

from tensorlogic import ops, record
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.reductions import centred, mean_square
from tensorlogic.functions.registry import floats, method
from tensorlogic.graph import Node
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


def _below_top(x: Node, axis: int) -> Node:
    """A float32 node less its largest value along an axis."""
    if not x.size:
        return x
    return record.elementwise(OPS["sub"], x, record.reduce(ops.reduce_max, x, axis, True))


@method
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, computed from the largest value down.

    >>> import tensorlogic as tl
    >>> tl.softmax(tl.tensor([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    node = floats("softmax", x)
    axis = record.normal_axis("softmax", axis, len(node.shape))
    e = record.elementwise(OPS["exp"], _below_top(record.cast(node, float32), axis))
    total = record.reduce(ops.reduce_sum, e, axis, True)
    return wrap(record.cast(record.elementwise(OPS["div"], e, total), node.dtype))


@method
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, without a softmax that may round to 0.

    >>> import tensorlogic as tl
    >>> tl.log_softmax(tl.tensor([0.0, -200.0])).tolist()
    [0.0, -200.0]
    """
    node = floats("log_softmax", x)
    axis = record.normal_axis("log_softmax", axis, len(node.shape))
    below = _below_top(record.cast(node, float32), axis)
    total = record.reduce(ops.reduce_sum, record.elementwise(OPS["exp"], below), axis, True)
    result = record.elementwise(OPS["sub"], below, record.elementwise(OPS["log"], total))
    return wrap(record.cast(result, node.dtype))


def _affine(
    x: Node, like: Node, axis: int, weight: Tensor | None, bias: Tensor | None, fn: str
) -> Tensor:
    """x * weight + bias along one axis (counted from the end), in the dtype of `like`."""
    for value, op in ((weight, "mul"), (bias, "add")):
        if value is not None:
            w = _per_channel(fn, "weight and bias have", value, like.shape[axis], axis)
            x = record.elementwise(OPS[op], x, w)
    return wrap(record.cast(x, like.dtype))


def _per_channel(fn: str, what: str, value: Any, size: int, axis: int) -> Node:
    """A vector of float32 laid along an axis, counted from the end."""
    w = floats(fn, value)
    if w.shape != (size,):
        raise ShapeError(f"{fn}: {what} shape [{size}], not {list(w.shape)}")
    return record.reshape(record.cast(w, float32), (size, *(1,) * (-1 - axis)))


def _over_deviation(x: Node, variance: Node, eps: float) -> Node:
    """x / sqrt(variance + eps)"""
    raised = record.elementwise(OPS["add"], variance, as_node(eps))
    return record.elementwise(OPS["mul"], x, record.elementwise(OPS["rsqrt"], raised))


def _normal(fn: str, x: Node, eps: float) -> Node:
    """A float32 node with mean 0 and variance 1 over its last axis."""
    distances = centred(fn, x, -1)
    return _over_deviation(distances, mean_square(fn, distances, -1), eps)


@method
def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016).

    >>> import tensorlogic as tl
    >>> tl.layer_norm(tl.tensor([1.0, 3.0]), bias=tl.ones([2]), eps=0.0).tolist()
    [0.0, 2.0]
    """
    node = floats("layer_norm", x)
    normal = _normal("layer_norm", record.cast(node, float32), eps)
    return _affine(normal, node, -1, weight, bias, "layer_norm")


@method
def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x*x) + eps) * weight over the last axis (Zhang and Sennrich 2019).

    >>> import tensorlogic as tl
    >>> tl.rms_norm(tl.tensor([3.0, 3.0]), weight=tl.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    node = floats("rms_norm", x)
    wide = record.cast(node, float32)
    normal = _over_deviation(wide, mean_square("rms_norm", wide, -1), eps)
    return _affine(normal, node, -1, weight, None, "rms_norm")


def _channels(fn: str, x: Node) -> int:
    """Where the channels of x [N, C, ...] are, counted from the end."""
    if len(x.shape) < 2:
        raise ShapeError(f"{fn}: x is [N, C, ...], not {list(x.shape)}")
    return 1 - len(x.shape)


@method
def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x [N, C, ...] with mean 0 and variance 1 in each of `groups` groups of channels, times
    weight [C] plus bias [C] (Wu and He 2018).

    >>> import tensorlogic as tl
    >>> tl.group_norm(tl.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    node = floats("group_norm", x)
    axis = _channels("group_norm", node)
    n, channels, *rest = node.shape
    if groups <= 0 or channels % groups:
        raise ShapeError(f"group_norm: {channels} channels are no {groups} equal groups")
    wide = record.cast(node, float32)
    grouped = record.reshape(wide, (n, groups, channels // groups * math.prod(rest)))
    normal = record.reshape(_normal("group_norm", grouped, eps), node.shape)
    return _affine(normal, node, axis, weight, bias, "group_norm")


@method
def batch_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias with x [N, C, ...] and one value for each
    channel of mean, var, weight and bias [C], as a trained model uses it (Ioffe and Szegedy 2015).

    >>> import tensorlogic as tl
    >>> x, mean, var = tl.tensor([[1.0, 4.0]]), tl.tensor([0.0, 2.0]), tl.tensor([1.0, 4.0])
    >>> tl.batch_norm(x, mean, var, eps=0.0).tolist()
    [[1.0, 1.0]]
    """
    node = floats("batch_norm", x)
    axis = _channels("batch_norm", node)
    wide = record.cast(node, float32)
    shift, variance = (
        _per_channel("batch_norm", "mean and var have", v, node.shape[1], axis) for v in (mean, var)
    )
    distances = record.elementwise(OPS["sub"], wide, shift)
    normal = _over_deviation(distances, variance, eps)
    return _affine(normal, node, axis, weight, bias, "batch_norm")
