"""Functions that fold axes."""

from __future__ import annotations

import builtins
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
def prod(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Product over `axis`, accumulated in float32; 1 where there are no values.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 2.0], [3.0, 4.0]]).prod(axis=1).tolist()
    [2.0, 12.0]
    """
    return wrap(record.reduce(ops.reduce_prod, node_of("prod", x), axis, keepdims))


@method
def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis`, accumulated in float32; NaN where there are no values.

    >>> import tensorlogic as tl
    >>> tl.mean(tl.tensor([[1.0, 3.0], [5.0, 7.0]]), axis=0).tolist()
    [3.0, 5.0]
    """
    node = floats("mean", x)
    return wrap(
        record.cast(mean_of("mean", record.cast(node, float32), axis, keepdims), node.dtype)
    )


@method
def var(x: Tensor, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Tensor:
    """Mean square of the distances from the mean over `axis`, from a second pass over the values.

    Of n values the sum is divided by n - correction; NaN where that leaves nothing.

    >>> import tensorlogic as tl
    >>> tl.var(tl.tensor([1.0, 3.0])).item(), tl.var(tl.tensor([1.0, 3.0]), correction=1).item()
    (1.0, 2.0)
    """
    node = floats("var", x)
    return wrap(record.cast(_variance("var", node, axis, keepdims, correction), node.dtype))


@method
def std(x: Tensor, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Tensor:
    """Square root of the variance over `axis`; see `var`.

    >>> import tensorlogic as tl
    >>> tl.std(tl.tensor([1.0, 5.0])).item()
    2.0
    """
    node = floats("std", x)
    variance = _variance("std", node, axis, keepdims, correction)
    return wrap(record.cast(record.elementwise(OPS["sqrt"], variance), node.dtype))


def mean_of(fn: str, x: Node, axis: Any, keepdims: bool, correction: int = 0) -> Node:
    """The sum of a float32 node over axes, divided by how many values it has less `correction`."""
    axes = record.normal_axes(fn, axis, len(x.shape))
    total = record.reduce(ops.reduce_sum, x, axes, keepdims)
    count = builtins.max(math.prod(x.shape[a] for a in axes) - correction, 0)
    return record.elementwise(OPS["div"], total, number(float(count)))


def centred(fn: str, x: Node, axis: Any) -> Node:
    """The distances of a float32 node from its mean over axes."""
    return record.elementwise(OPS["sub"], x, mean_of(fn, x, axis, True))


def mean_square(fn: str, x: Node, axis: Any, keepdims: bool = True, correction: int = 0) -> Node:
    """The mean of the squares of a float32 node over axes."""
    return mean_of(fn, record.elementwise(OPS["mul"], x, x), axis, keepdims, correction)


def _variance(fn: str, x: Node, axis: Any, keepdims: bool, correction: int) -> Node:
    distances = centred(fn, record.cast(x, float32), axis)
    return mean_square(fn, distances, axis, keepdims, correction)


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


@method
def argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index (int32) of the first smallest value along `axis`, or in the flattened tensor.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 5.0], [7.0, 2.0]]).argmin(axis=0).tolist()
    [0, 1]
    """
    return wrap(record.reduce(ops.argmin, node_of("argmin", x), axis, keepdims))


def _count(x: Node, test: str, axis: Any, keepdims: bool) -> Node:
    """How many values are equal or not equal to 0."""
    found = record.elementwise(OPS[test], x, number(0))
    return record.reduce(ops.reduce_sum, found, axis, keepdims)


@method
def any(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether a value over `axis` is true, which is not 0; false where there are none.

    >>> import tensorlogic as tl
    >>> tl.any(tl.tensor([[0.0, 1.0], [0.0, 0.0]]), axis=1).tolist()
    [True, False]
    """
    count = _count(node_of("any", x), "not_equal", axis, keepdims)
    return wrap(record.elementwise(OPS["greater"], count, number(0)))


@method
def all(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether every value over `axis` is true, which is not 0; true where there are none.

    >>> import tensorlogic as tl
    >>> tl.all(tl.tensor([[1.0, 2.0], [0.0, 3.0]]), axis=1).tolist()
    [True, False]
    """
    count = _count(node_of("all", x), "equal", axis, keepdims)
    return wrap(record.elementwise(OPS["equal"], count, number(0)))


@method
def logsumexp(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, computed from the largest value down; -inf of no values.

    >>> import tensorlogic as tl
    >>> tl.logsumexp(tl.tensor([1000.0, 1000.0])).item()
    1000.5
    """
    node = floats("logsumexp", x)
    wide = record.cast(node, float32)
    top, total = exponentials("logsumexp", wide, axis)
    result = record.elementwise(OPS["add"], top, record.elementwise(OPS["log"], total))
    if not keepdims:
        axes = record.normal_axes("logsumexp", axis, len(node.shape))
        result = record.reshape(result, tuple(d for i, d in enumerate(node.shape) if i not in axes))
    return wrap(record.cast(result, node.dtype))


def exponentials(fn: str, x: Node, axis: Any) -> tuple[Node, Node]:
    """Of a float32 node over axes, which are kept: the largest value, or 0 where that is not
    finite, and the sum of exp(x - largest)."""
    axes = record.normal_axes(fn, axis, len(x.shape))
    if not builtins.any(x.shape[a] == 0 for a in axes):
        top = record.reduce(ops.reduce_max, x, axes, True)
        finite = record.elementwise(OPS["isfinite"], top)
        top = record.elementwise(ops.where, finite, top, number(0.0))
        x = record.elementwise(OPS["sub"], x, top)
    else:
        top = number(0.0)
    return top, record.reduce(ops.reduce_sum, record.elementwise(OPS["exp"], x), axes, True)


@method
def cumsum(x: Tensor, axis: int | None = None) -> Tensor:
    """Sums of the first 1, 2, 3, ... values along `axis`, or of the flattened tensor.

    Floats are accumulated in float32, int32 wraps around, bools are counted.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 2.0], [3.0, 4.0]]).cumsum(axis=1).tolist()
    [[1.0, 3.0], [3.0, 7.0]]
    """
    return wrap(record.scan(ops.cumsum, node_of("cumsum", x), axis))


@method
def cumprod(x: Tensor, axis: int | None = None) -> Tensor:
    """Products of the first 1, 2, 3, ... values along `axis`, or of the flattened tensor.

    >>> import tensorlogic as tl
    >>> tl.arange(1, 6).cumprod().tolist()
    [1, 2, 6, 24, 120]
    """
    return wrap(record.scan(ops.cumprod, node_of("cumprod", x), axis))
