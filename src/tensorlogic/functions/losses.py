"""Losses."""

from __future__ import annotations

from tensorlogic import indexing, ops, record
from tensorlogic.creation import arange
from tensorlogic.dtypes import float32
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.functions.reductions import exponentials, mean_of
from tensorlogic.functions.registry import floats, function, node_of
from tensorlogic.graph import Node
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap


def _reduced(fn: str, losses: Node, like: Node, reduction: str) -> Tensor:
    if reduction == "mean":
        losses = mean_of(fn, losses, None, False)
    elif reduction == "sum":
        losses = record.reduce(ops.reduce_sum, losses)
    elif reduction != "none":
        raise ValueError(f'{fn}: reduction is "mean", "sum" or "none", not {reduction!r}')
    return wrap(record.cast(losses, like.dtype))


@function
def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """-log(softmax(logits)) at the target class: logits [N, C], targets int32 [N] in [0, C).

    reduction: "mean" or "sum" over N, or "none" for all [N]. A target outside [0, C) raises
    IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.cross_entropy(tl.zeros([3, 4]), tl.tensor([0, 1, 3], "int32")).item()
    1.38671875
    """
    node, classes = floats("cross_entropy", logits), node_of("cross_entropy", targets)
    if len(node.shape) != 2 or classes.shape != node.shape[:1]:
        raise ShapeError(
            f"cross_entropy: logits are [N, C] and targets [N], "
            f"not {list(node.shape)} and {list(classes.shape)}"
        )
    if classes.dtype.kind != "int":
        raise DTypeError(f"cross_entropy: targets are int32, not {classes.dtype}")
    rows, count = node.shape
    # Looking each target up in 0, 1, 2, ... checks it.
    target = indexing.take(arange(count)._node, classes, 0, wraps=False)
    starts = arange(0, rows * count, max(count, 1))._node
    place = record.elementwise(OPS["add"], target, starts)
    chosen = indexing.take(record.reshape(node, (rows * count,)), place, 0)
    both = exponentials("cross_entropy", record.cast(node, float32), 1)
    top, total = (record.reshape(x, (rows,)) for x in both)
    below = record.elementwise(OPS["sub"], record.cast(chosen, float32), top)
    losses = record.elementwise(OPS["sub"], record.elementwise(OPS["log"], total), below)
    return _reduced("cross_entropy", losses, node, reduction)


@function
def mse(a: Tensor, b: Tensor, reduction: str = "mean") -> Tensor:
    """(a - b)**2, elementwise; its "mean", its "sum", or all of it ("none").

    >>> import tensorlogic as tl
    >>> tl.mse(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0])).item()
    2.0
    """
    left, right = floats("mse", a), floats("mse", b)
    if left.shape != right.shape:
        raise ShapeError(f"mse: shapes differ: {list(left.shape)}, {list(right.shape)}")
    like = record.elementwise(OPS["sub"], left, right)
    wide = record.elementwise(OPS["sub"], record.cast(left, float32), record.cast(right, float32))
    return _reduced("mse", record.elementwise(OPS["mul"], wide, wide), like, reduction)
