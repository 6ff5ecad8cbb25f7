"""Recording of ops whose indices are values: lookups, `x[...]`, scatter, argsort."""

from __future__ import annotations

from typing import Any

from tensorlogic import ops
from tensorlogic.dtypes import bool_, float16, float32, int32
from tensorlogic.errors import DTypeError, IndexRangeError, ShapeError
from tensorlogic.graph import Node, Shape, apply, broadcast, shape_text, user_site
from tensorlogic.record import (
    cast,
    common_dtype,
    expand,
    integer_index,
    normal_axis,
    permute,
    reshape,
    slice_,
)


def take(x: Node, indices: Node, axis: int, wraps: bool = True) -> Node:
    """Entries of x along axis; negative indices count from the end, unless `wraps` is false."""
    axis = normal_axis("take", axis, len(x.shape))
    indices = integer_index("take", indices)
    _not_empty("take from", x, axis, indices)
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    node = apply(ops.TAKE, (x, indices), (axis, wraps), shape, x.dtype)
    node.site = user_site()
    return node


def _not_empty(what: str, x: Node, axis: int, indices: Node) -> None:
    if x.shape[axis] == 0 and indices.size:
        raise ShapeError(f"{what} axis {axis} of {shape_text(x.shape)}, which is empty")


def _beside(op: str, x: Node, indices: Node, axis: int) -> Shape:
    """The shape of the result of indices beside x: they broadcast to each other but along axis."""
    if len(x.shape) != len(indices.shape):
        raise ShapeError(
            f"{op}: indices {shape_text(indices.shape)} have as many axes as {shape_text(x.shape)}"
        )
    common = broadcast(op, *((*s.shape[:axis], 1, *s.shape[axis + 1 :]) for s in (x, indices)))
    return (*common[:axis], indices.shape[axis], *common[axis + 1 :])


def gather(x: Node, indices: Node, axis: int) -> Node:
    """result[..., i, ...] = x[..., indices[..., i, ...], ...]."""
    axis = normal_axis("gather", axis, len(x.shape))
    indices = integer_index("gather", indices)
    _not_empty("gather from", x, axis, indices)
    shape = _beside("gather", x, indices, axis)
    node = apply(ops.GATHER, (x, indices), (axis,), shape, x.dtype)
    node.site = user_site()
    return node


def scatter(x: Node, indices: Node, values: Node, axis: int, add: bool) -> Node:
    """A copy of x in which result[..., indices[..., i, ...], ...] is values[..., i, ...], or has
    them added: one after another in the order of i."""
    axis = normal_axis("scatter", axis, len(x.shape))
    indices = integer_index("scatter", indices)
    _not_empty("scatter into", x, axis, indices)
    shape = _beside("scatter", x, indices, axis)
    inside = (*x.shape[:axis], shape[axis], *x.shape[axis + 1 :]) == shape
    if not inside or broadcast("scatter", values.shape, shape) != shape:
        raise ShapeError(
            f"scatter: indices {shape_text(indices.shape)} and values {shape_text(values.shape)} "
            f"do not fit {shape_text(x.shape)} along axis {axis}"
        )
    if common_dtype(ops.SCATTER, x, values) is not x.dtype:
        raise DTypeError(f"scatter: the tensor is {x.dtype}, the values are {values.dtype}")
    if add and x.dtype.kind not in ("float", "int"):
        raise DTypeError(f"scatter: {x.dtype} values are not added")
    if 0 in shape:
        return x
    wide = float32 if add and x.dtype is float16 else x.dtype
    # A copy of its own, so that the kernel has memory to write into.
    copy = apply(ops.CAST, (x,), (wide,), x.shape, wide)
    args = (copy, indices, expand(cast(values, wide), shape))
    node = apply(ops.SCATTER, args, (axis, add), x.shape, wide)
    node.site = user_site()
    return cast(node, x.dtype)


def argsort(op: str, x: Node, axis: int, descending: bool) -> Node:
    """The int32 indices that sort x along an axis; equal values stay in order."""
    if not x.dtype.computes:
        raise DTypeError(f"{op}: {x.dtype} is a storage dtype; convert first with `.to(...)`")
    axis = normal_axis(op, axis, len(x.shape))
    order = [a for a in range(len(x.shape)) if a != axis] + [axis]
    moved = permute(x, order)
    node = apply(ops.ARGSORT, (moved,), (descending,), moved.shape, int32)
    return permute(node, [order.index(a) for a in range(len(order))])


def index(x: Node, key: Any) -> Node:
    """x[key] with ints, slices, `...`, None and int32 tensors.

    Several tensors are broadcast to each other; their axes stand where the first did, or in front
    if a slice or None lies between them. Raises IndexRangeError for an int outside its axis and
    TypeError for other keys.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    used = sum(1 for k in items if k is not None and k is not Ellipsis)
    if sum(1 for k in items if k is Ellipsis) > 1:
        raise IndexRangeError("an index holds `...` at most once")
    if used > len(x.shape):
        raise IndexRangeError(f"{used} indices for a tensor of {len(x.shape)} dims")
    if Ellipsis not in [k for k in items if not isinstance(k, Node)]:
        items.append(Ellipsis)
    spot = next(i for i, k in enumerate(items) if k is Ellipsis)
    items[spot : spot + 1] = [slice(None)] * (len(x.shape) - used)
    ranges: list[tuple[int, int, int]] = []
    shape: list[int] = []
    gathers: list[tuple[int, Node]] = []
    axis = 0
    for k in items:
        if k is None:
            shape.append(1)
            continue
        size = x.shape[axis]
        axis += 1
        if isinstance(k, slice):
            start, stop, step = k.indices(size)
            count = len(range(start, stop, step))
            ranges.append((start, count, step))
            shape.append(count)
        elif isinstance(k, Node):
            if k.dtype is bool_:
                raise DTypeError(
                    "x[mask] would have a shape that depends on values; select with "
                    "`tl.where(mask, x, 0)`, or outside of the program by `x.numpy()[mask.numpy()]`"
                )
            ranges.append((0, size, 1))
            gathers.append((len(shape), k))
            shape.append(size)
        elif isinstance(k, int) and not isinstance(k, bool):
            if not -size <= k < size:
                raise IndexRangeError(
                    f"index {k} is outside axis {axis - 1} of {shape_text(x.shape)}"
                )
            ranges.append((k % size, 1, 1))
        else:
            raise TypeError(
                f"a tensor is indexed with ints, slices, ..., None and int32 tensors, "
                f"not {type(k).__name__}"
            )
    out = reshape(slice_(x, ranges), tuple(shape))
    return _at_tensors(out, gathers) if gathers else out


def _at_tensors(x: Node, gathers: list[tuple[int, Node]]) -> Node:
    """x at tensors that index some of its axes together: the first takes, the others gather."""
    rank = max(len(k.shape) for _, k in gathers)
    broadcast("index", *(k.shape for _, k in gathers))
    first, k = gathers[0]
    out = take(x, reshape(k, (*(1,) * (rank - len(k.shape)), *k.shape)), first)
    for done, (axis, k) in enumerate(gathers[1:]):
        at = axis - done - 1 + rank  # one axis has become `rank`, and `done` are gone
        lead = first + rank - len(k.shape)
        shape = (*(1,) * lead, *k.shape, *(1,) * (len(out.shape) - first - rank))
        picked = gather(out, reshape(k, shape), at)
        out = reshape(picked, picked.shape[:at] + picked.shape[at + 1 :])
    if gathers[-1][0] - first == len(gathers) - 1:
        return out
    front = range(first, first + rank)
    return permute(out, [*front, *(a for a in range(len(out.shape)) if a not in front)])
