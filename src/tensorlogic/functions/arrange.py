"""Functions that arrange values anew: flips, repeats, triangles, diagonals."""

from __future__ import annotations

import math
from typing import Any

from tensorlogic import ops, record
from tensorlogic.creation import arange
from tensorlogic.dtypes import bool_
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import method, node_of
from tensorlogic.graph import Node, number
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


@method
def flatten(x: Tensor, start: int = 0, end: int = -1) -> Tensor:
    """Axes `start` to `end` (inclusive) as one.

    >>> import tensorlogic as tl
    >>> tl.flatten(tl.zeros([2, 3, 4]), 1).shape
    (2, 12)
    """
    node = node_of("flatten", x)
    shape = node.shape or (1,)
    first, last = (record.normal_axis("flatten", a, len(shape)) for a in (start, end))
    if first > last:
        raise ShapeError(f"flatten: axis {start} lies behind axis {end}")
    merged = math.prod(shape[first : last + 1])
    return wrap(record.reshape(node, (*shape[:first], merged, *shape[last + 1 :])))


@method
def broadcast_to(x: Tensor, shape: Any) -> Tensor:
    """x broadcast to a shape by NumPy's rule, without a copy.

    >>> import tensorlogic as tl
    >>> tl.broadcast_to(tl.tensor([1.0, 2.0]), [2, 2]).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    return wrap(record.expand(node_of("broadcast_to", x), tuple(d.__index__() for d in shape)))


@method
def flip(x: Tensor, axis: Any = None) -> Tensor:
    """x backwards along `axis` (an int, several, None for all).

    >>> import tensorlogic as tl
    >>> tl.flip(tl.arange(3)).tolist()
    [2, 1, 0]
    """
    node = node_of("flip", x)
    axes = record.normal_axes("flip", axis, len(node.shape))
    return wrap(
        record.slice_(
            node, [(d - 1, d, -1) if i in axes else (0, d, 1) for i, d in enumerate(node.shape)]
        )
    )


@method
def roll(x: Tensor, shift: Any, axis: Any) -> Tensor:
    """x shifted along `axis`; what leaves at the end comes back at the start.

    Of several axes, `shift` is one int for all or as many ints.

    >>> import tensorlogic as tl
    >>> tl.roll(tl.arange(5), 2, 0).tolist()
    [3, 4, 0, 1, 2]
    """
    node = node_of("roll", x)
    axes = axis if isinstance(axis, list | tuple) else [axis]
    shifts = shift if isinstance(shift, list | tuple) else [shift] * len(axes)
    if len(shifts) != len(axes):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for s, a in zip(shifts, axes, strict=True):
        at = record.normal_axis("roll", a, len(node.shape))
        size = node.shape[at]
        cut = size - s.__index__() % size if size else 0
        node = record.concat(
            [record.part(node, at, cut, size - cut), record.part(node, at, 0, cut)], at
        )
    return wrap(node)


@method
def repeat(x: Tensor, count: int, axis: int) -> Tensor:
    """Each entry along `axis`, `count` times.

    >>> import tensorlogic as tl
    >>> tl.repeat(tl.arange(3), 2, 0).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    node, count = node_of("repeat", x), count.__index__()
    at = record.normal_axis("repeat", axis, len(node.shape))
    if count < 0:
        raise ShapeError(f"repeat: the count {count} is negative")
    before, size, after = node.shape[:at], node.shape[at], node.shape[at + 1 :]
    spread = record.reshape(node, (*before, size, 1, *after))
    spread = record.expand(spread, (*before, size, count, *after))
    return wrap(record.reshape(spread, (*before, size * count, *after)))


@method
def tile(x: Tensor, counts: Any) -> Tensor:
    """x as a whole, so many times along each of the last axes; more counts than axes add axes.

    >>> import tensorlogic as tl
    >>> tl.tile(tl.arange(2), [2, 2]).tolist()
    [[0, 1, 0, 1], [0, 1, 0, 1]]
    """
    node = node_of("tile", x)
    times = [c.__index__() for c in (counts if isinstance(counts, list | tuple) else [counts])]
    if any(c < 0 for c in times):
        raise ShapeError(f"tile: a count is negative in {times}")
    rank = max(len(times), len(node.shape))
    times = [1] * (rank - len(times)) + times
    shape = (1,) * (rank - len(node.shape)) + node.shape
    spread = record.reshape(node, tuple(d for n in shape for d in (1, n)))
    wide = tuple(d for c, n in zip(times, shape, strict=True) for d in (c, n))
    spread = record.expand(spread, wide)
    return wrap(record.reshape(spread, tuple(c * n for c, n in zip(times, shape, strict=True))))


def _triangle(fn: str, x: Tensor, k: int, lower: bool) -> Tensor:
    """What lies on one side of the k-th diagonal of the last two axes, zeros elsewhere."""
    node = node_of(fn, x)
    if len(node.shape) < 2:
        raise ShapeError(f"{fn} takes matrices [..., N, M], not {list(node.shape)}")
    rows, columns = (arange(n)._node for n in node.shape[-2:])
    edge = record.elementwise(OPS["add"], record.reshape(rows, (node.shape[-2], 1)), as_node(k))
    compare = OPS["less_equal" if lower else "greater_equal"]
    zero = number(False) if node.dtype is bool_ else number(0)
    return wrap(
        record.elementwise(ops.where, record.elementwise(compare, columns, edge), node, zero)
    )


@method
def tril(x: Tensor, k: int = 0) -> Tensor:
    """The lower triangle of matrices [..., N, M] up to the k-th diagonal, zeros above it.

    >>> import tensorlogic as tl
    >>> tl.tril(tl.ones([2, 3])).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    return _triangle("tril", x, k, True)


@method
def triu(x: Tensor, k: int = 0) -> Tensor:
    """The upper triangle of matrices [..., N, M] from the k-th diagonal on, zeros below it.

    >>> import tensorlogic as tl
    >>> tl.triu(tl.ones([2, 3]), 1).tolist()
    [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """
    return _triangle("triu", x, k, False)


@method
def diagonal(x: Tensor, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """The diagonal x[..., i, ..., i + offset, ...] of two axes, as the last axis; without a copy.

    >>> import tensorlogic as tl
    >>> tl.diagonal(tl.eye(3)).tolist(), tl.diagonal(tl.eye(3), 1).tolist()
    ([1.0, 1.0, 1.0], [0.0, 0.0])
    """
    node, offset = node_of("diagonal", x), offset.__index__()
    a, b = (record.normal_axis("diagonal", axis, len(node.shape)) for axis in (axis1, axis2))
    if a == b:
        raise ShapeError(f"diagonal of one axis with itself: {axis1} and {axis2}")
    return wrap(diagonal_of(node, offset, a, b))


def diagonal_of(x: Node, offset: int, a: int, b: int) -> Node:
    """The diagonal of axes a and b, as the last axis."""
    starts = {a: max(-offset, 0), b: max(offset, 0)}
    size = max(min(x.shape[axis] - start for axis, start in starts.items()), 0)
    others = [i for i in range(len(x.shape)) if i not in starts]
    indices = [
        (starts[i], ((len(others), 1),)) if i in starts else (0, ((others.index(i), 1),))
        for i in range(len(x.shape))
    ]
    return record.walk(x, (*(x.shape[i] for i in others), size), indices)
