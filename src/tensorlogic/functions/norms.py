"""softmax and normalisation."""

from __future__ import annotations

from tensorlogic import ops, record
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.functions.reductions import mean_of
from tensorlogic.functions.registry import floats, method, node_of
from tensorlogic.graph import Node
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


@method
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, computed from the largest value down.

    >>> import tensorlogic as tl
    >>> tl.softmax(tl.tensor([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    node = floats("softmax", x)
    axis = record.normal_axis("softmax", axis, len(node.shape))
    wide = record.cast(node, float32)
    top = record.reduce(ops.reduce_max, wide, axis, True) if wide.size else wide
    e = record.elementwise(OPS["exp"], record.elementwise(OPS["sub"], wide, top))
    total = record.reduce(ops.reduce_sum, e, axis, True)
    return wrap(record.cast(record.elementwise(OPS["div"], e, total), node.dtype))


def _affine(x: Node, like: Node, weight: Tensor | None, bias: Tensor | None, fn: str) -> Tensor:
    for value, op in ((weight, "mul"), (bias, "add")):
        if value is not None:
            w = node_of(fn, value)
            if w.shape != like.shape[-1:]:
                raise ShapeError(
                    f"{fn}: weight and bias have shape [{like.shape[-1]}], not {list(w.shape)}"
                )
            x = record.elementwise(OPS[op], x, record.cast(w, float32))
    return wrap(record.cast(x, like.dtype))


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
    record.normal_axis("layer_norm", -1, len(node.shape))
    wide = record.cast(node, float32)
    centred = record.elementwise(OPS["sub"], wide, mean_of(wide, -1, True))
    variance = mean_of(record.elementwise(OPS["mul"], centred, centred), -1, True)
    scale = record.elementwise(OPS["rsqrt"], record.elementwise(OPS["add"], variance, as_node(eps)))
    normal = record.elementwise(OPS["mul"], centred, scale)
    return _affine(normal, node, weight, bias, "layer_norm")


@method
def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x*x) + eps) * weight over the last axis (Zhang and Sennrich 2019).

    >>> import tensorlogic as tl
    >>> tl.rms_norm(tl.tensor([3.0, 3.0]), weight=tl.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    node = floats("rms_norm", x)
    record.normal_axis("rms_norm", -1, len(node.shape))
    wide = record.cast(node, float32)
    square = mean_of(record.elementwise(OPS["mul"], wide, wide), -1, True)
    scale = record.elementwise(OPS["rsqrt"], record.elementwise(OPS["add"], square, as_node(eps)))
    return _affine(record.elementwise(OPS["mul"], wide, scale), node, weight, None, "rms_norm")
