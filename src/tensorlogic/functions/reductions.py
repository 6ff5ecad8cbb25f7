"""Functions that fold axes."""

from __future__ import annotations

import math
from typing import Any

from tensorlogic import ops, record
from tensorlogic.dtypes import float32
from tensorlogic.functions.registry import floats, method, node_of
from tensorlogic.graph import Node, number
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap


@method
def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (an int, several, None for all), accumulated in float32; bools are counted.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 2.0], [3.0, 4.0]]).sum(axis=0).tolist()
    [4.0, 6.0]
    """
    return wrap(record.reduce(ops.reduce_sum, node_of("sum", x), axis, keepdims))


@method
def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis`, accumulated in float32; NaN where there are no values.

    >>> import tensorlogic as tl
    >>> tl.mean(tl.tensor([[1.0, 3.0], [5.0, 7.0]]), axis=0).tolist()
    [3.0, 5.0]
    """
    node = floats("mean", x)
    return wrap(record.cast(mean_of(record.cast(node, float32), axis, keepdims), node.dtype))


def mean_of(x: Node, axis: Any, keepdims: bool) -> Node:
    """The mean of a float32 node over axes."""
    total = record.reduce(ops.reduce_sum, x, axis, keepdims)
    axes = record.normal_axes("mean", axis, len(x.shape))
    count = math.prod(x.shape[a] for a in axes)
    return record.elementwise(OPS["div"], total, number(float(count)))


@method
def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest value over `axis`; NaN if one is NaN. Raises ShapeError over no values.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 5.0], [7.0, 2.0]]).max(axis=1).tolist()
    [5.0, 7.0]
    """
    return wrap(record.reduce(ops.reduce_max, node_of("max", x), axis, keepdims))


@method
def min(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest value over `axis`; NaN if one is NaN. Raises ShapeError over no values."""
    return wrap(record.reduce(ops.reduce_min, node_of("min", x), axis, keepdims))


@method
def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index (int32) of the first largest value along `axis`, or in the flattened tensor.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 5.0], [7.0, 2.0]]).argmax(axis=1).tolist()
    [1, 0]
    """
    return wrap(record.reduce(ops.argmax, node_of("argmax", x), axis, keepdims))
