"""Functions that change shapes, and put tensors together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorlogic import indexing, record
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import function, indices_of, method, node_of
from tensorlogic.graph import Node, shape_text
from tensorlogic.tensor import Tensor, as_node, wrap


def _ints(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """f(2, 3) and f([2, 3]) alike."""
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = tuple(values[0])
    return tuple(v.__index__() for v in values)


@method
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same values, row-major, in another shape; one size may be -1.

    >>> import tensorlogic as tl
    >>> tl.arange(6).reshape(2, -1).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return wrap(record.reshape(node_of("reshape", x), _ints(shape)))


@method
def transpose(x: Tensor, a: int = -2, b: int = -1) -> Tensor:
    """Axes a and b exchanged."""
    node = node_of("transpose", x)
    axes = list(range(len(node.shape)))
    i, j = (record.normal_axis("transpose", axis, len(axes)) for axis in (a, b))
    axes[i], axes[j] = axes[j], axes[i]
    return wrap(record.permute(node, axes))


@method
def permute(x: Tensor, *axes: Any) -> Tensor:
    """Axes in another order: axis i of the result is axis axes[i] of x.

    >>> import tensorlogic as tl
    >>> tl.permute(tl.zeros([2, 3, 4]), 2, 0, 1).shape
    (4, 2, 3)
    """
    return wrap(record.permute(node_of("permute", x), _ints(axes)))


@method
def squeeze(x: Tensor, axis: Any = None) -> Tensor:
    """Axes of size 1 removed: all of them, or those named."""
    node = node_of("squeeze", x)
    axes = record.normal_axes("squeeze", axis, len(node.shape))
    if axis is not None and any(node.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axis {axis} of {list(node.shape)} is not 1")
    kept = [d for i, d in enumerate(node.shape) if not (i in axes and d == 1)]
    return wrap(record.reshape(node, tuple(kept)))


@method
def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """A new axis of size 1 at `axis`."""
    node = node_of("unsqueeze", x)
    at = record.normal_axis("unsqueeze", axis, len(node.shape) + 1)
    return wrap(record.reshape(node, (*node.shape[:at], 1, *node.shape[at:])))


@method
def expand(x: Tensor, *shape: Any) -> Tensor:
    """x broadcast to a shape, without a copy.

    >>> import tensorlogic as tl
    >>> tl.expand(tl.tensor([1.0, 2.0]), 2, 2).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    return wrap(record.expand(node_of("expand", x), _ints(shape)))


@method
def split(x: Tensor, parts: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """Equal parts (an int) or parts of the given sizes along `axis`.

    >>> import tensorlogic as tl
    >>> [p.tolist() for p in tl.split(tl.arange(4), 2)]
    [[0, 1], [2, 3]]
    """
    node = node_of("split", x)
    at = record.normal_axis("split", axis, len(node.shape))
    size = node.shape[at]
    if isinstance(parts, int | Tensor):
        parts = parts.__index__()
        if parts <= 0 or size % parts:
            raise ShapeError(f"split: axis {axis} of size {size} has no {parts} equal parts")
        sizes: Sequence[int] = [size // parts] * parts
    else:
        sizes = list(parts)
        if any(s < 0 for s in sizes) or math.fsum(sizes) != size:
            raise ShapeError(f"split: sizes {sizes} do not add up to {size}")
    out, start = [], 0
    for s in sizes:
        out.append(wrap(record.part(node, at, start, s)))
        start += s
    return tuple(out)


@method
def pad(x: Tensor, widths: Any, value: Any = 0) -> Tensor:
    """A border of `value`: widths is an int, (before, after), or one such pair for each axis.

    >>> import tensorlogic as tl
    >>> tl.pad(tl.ones([2]), (1, 2)).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    node = node_of("pad", x)
    if isinstance(widths, int | Tensor):
        widths = (widths.__index__(), widths.__index__())
    if len(widths) == 2 and all(isinstance(w, int) for w in widths):
        widths = [tuple(widths)] * len(node.shape)
    return wrap(record.pad(node, [(int(a), int(b)) for a, b in widths], as_node(value)))


@method
def window(x: Tensor, axis: int, size: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """An axis seen as [positions, size]: entry position * stride + tap * dilation; no copy.

    >>> import tensorlogic as tl
    >>> tl.window(tl.arange(5), 0, 3, stride=2).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    node = node_of("window", x)
    at = record.normal_axis("window", axis, len(node.shape))
    return wrap(record.window(node, at, size, stride, dilation))


@method
def take(x: Tensor, indices: Any, axis: int = 0) -> Tensor:
    """Entries of x along `axis`, picked by int32 indices; negative ones count from the end.

    An index outside the axis raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.take(tl.arange(0, 50, 10), [3, -1]).tolist()
    [30, 40]
    """
    return wrap(indexing.take(node_of("take", x), indices_of("take", indices), axis))


@function
def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after another along `axis`; their other sizes agree.

    >>> import tensorlogic as tl
    >>> tl.concat([tl.zeros([1]), tl.ones([2])]).tolist()
    [0.0, 1.0, 1.0]
    """
    return wrap(record.concat(_nodes("concat", tensors), axis))


def _nodes(fn: str, tensors: Sequence[Tensor]) -> list[Node]:
    if isinstance(tensors, Tensor):
        raise TypeError(f"{fn} takes a list of tensors: `tl.{fn}([a, b])`")
    return [node_of(fn, t) for t in tensors]


@function
def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape along a new axis.

    >>> import tensorlogic as tl
    >>> tl.stack([tl.zeros([2]), tl.ones([2])]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    nodes = _nodes("stack", tensors)
    if not nodes:
        raise ShapeError("stack of no tensors")
    if any(n.shape != nodes[0].shape for n in nodes):
        raise ShapeError(f"stack: shapes differ: {', '.join(shape_text(n.shape) for n in nodes)}")
    return concat([unsqueeze(t, axis) for t in tensors], axis)
