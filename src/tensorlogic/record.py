"""Recording: each function checks shapes and dtypes and returns a new node.

Views of a leaf are leaves again (NumPy's strides); everything else waits for an evaluation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from tensorlogic import ops
from tensorlogic.dtypes import DType, bool_, float16, float32, int32, promote
from tensorlogic.errors import ConsumedError, DTypeError, ShapeError
from tensorlogic.forms import Recent, Recipe, recipe_of
from tensorlogic.graph import (
    Node,
    Shape,
    apply,
    broadcast,
    kind_of_node,
    leaf,
    record,
    shape_text,
    user_site,
)
from tensorlogic.ops import OPS, Op
from tensorlogic.storage import Strided, reshape_strides

_KINDS = {"float": ("float",), "number": ("float", "int"), "bool": ("bool",)}
_RANK = {"bool": 0, "int": 1, "float": 2}


def common_dtype(op: Op, a: Node, b: Node) -> DType:
    """The dtype in which two operands meet; a Python number takes its partner's where it can."""
    if a.weak is b.weak:
        return promote(op.name, a.dtype, b.dtype)
    weak, strong = (a, b) if a.weak else (b, a)
    if strong.dtype.computes and _RANK[weak.dtype.kind] <= _RANK[strong.dtype.kind]:
        return strong.dtype
    if weak.dtype is float32 and strong.dtype is bool_:
        return float16
    if weak.dtype is float32 and strong.dtype is int32:
        raise DTypeError(
            f"{op.name}: int32 and a float number do not mix; convert with `.to(tl.float16)`"
        )
    return promote(op.name, a.dtype, b.dtype)


def _computes(name: str, node: Node) -> None:
    if not node.dtype.computes:
        target = "float16" if node.dtype.kind == "float" else "int32"
        raise DTypeError(
            f"{name}: {node.dtype} is a storage dtype; convert first with `.to(tl.{target})`"
        )


def _accept(name: str, accepts: str, dtype: DType) -> None:
    if accepts != "any" and dtype.kind not in _KINDS[accepts]:
        takes = " or ".join(_KINDS[accepts])
        hint = "; convert with `.to(tl.float16)`" if "float" in _KINDS[accepts] else ""
        raise DTypeError(f"{name} takes {takes} values, not {dtype}{hint}")


def check_floats(name: str, *nodes: Node) -> None:
    """Raises DTypeError unless all are float16 or float32."""
    for x in nodes:
        _computes(name, x)
        _accept(name, "float", x.dtype)


def elementwise(op: Op, *args: Node) -> Node:
    """op over broadcast arguments."""
    if len(args) == 2:
        a, b = args
        key = (op, a.kind or kind_of_node(a), b.kind or kind_of_node(b))
        if op is ops.power and b.number == 2:
            key = (ops.power, *key[1:], 2)  # type: ignore[assignment]
            return record(_recipes.get(key) or _recipes.add(key, _square(a, b)), (a, a))
    else:
        key = (op, *[a.kind or kind_of_node(a) for a in args])  # type: ignore[assignment]
    return record(_recipes.get(key) or _recipes.add(key, _elementwise_recipe(op, args)), args)


_recipes: Recent[Recipe] = Recent()
"""By op and by kind of its arguments: how they are put together."""


def _elementwise_recipe(op: Op, args: Sequence[Node]) -> Recipe:
    # attrs hold the dtype in which the arguments meet: a comparison's own dtype is bool.
    meet, result, weak = _elementwise_rule(op, args)
    return recipe_of(op, (meet,), broadcast(op.name, *[a.shape for a in args]), result, weak)


def _square(x: Node, two: Node) -> Recipe:
    """x * x, of the dtype of a power."""
    power = _elementwise_recipe(ops.power, (x, two))
    return recipe_of(OPS["mul"], *power.facts[1:])


def _elementwise_rule(op: Op, args: Sequence[Node]) -> tuple[DType, DType, bool]:
    """In which dtype the arguments meet, that of the result, and whether it is a number."""
    for a in args:
        _computes(op.name, a)
    if op is ops.where and args[0].dtype is not bool_:
        raise DTypeError(f"where: the condition is bool, not {args[0].dtype}")
    first, *rest = args[1:] if op is ops.where else args
    dtype = first.dtype
    weak = first.weak
    for other in rest:
        dtype = common_dtype(op, first, other)
        weak = weak and other.weak
    if weak and op.accepts == "float":
        dtype = float32
    _accept(op.name, op.accepts, dtype)  # bools meet numbers as 0 and 1
    return dtype, bool_ if op.result == "bool" else dtype, weak and all(a.weak for a in args)


def normal_axis(op: str, axis: int, rank: int) -> int:
    """`axis` counted from the front; raises ShapeError outside [-rank, rank)."""
    if not hasattr(axis, "__index__"):
        raise TypeError(f"{op}: an axis is an int, not {type(axis).__name__}")
    axis = axis.__index__()
    if not -rank <= axis < rank:
        raise ShapeError(f"{op}: axis {axis} is outside a tensor of {rank} dims")
    return axis % rank


def normal_axes(op: str, axis: Any, rank: int) -> tuple[int, ...]:
    """None (all), an int or a sequence of ints as sorted axes counted from the front."""
    if axis is None:
        return tuple(range(rank))
    axes = axis if isinstance(axis, list | tuple) else (axis,)
    found = sorted(normal_axis(op, a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ShapeError(f"{op}: an axis is named twice in {axis}")
    return tuple(found)


def reduce(op: Op, x: Node, axis: Any = None, keepdims: bool = False) -> Node:
    """op folded over axes."""
    _computes(op.name, x)
    _accept(op.name, op.accepts, x.dtype)
    finds = op.result == "int32"  # an index along one axis
    if finds and axis is None:
        flat = reduce(op, reshape(x, (x.size,)), 0)
        return reshape(flat, (1,) * len(x.shape)) if keepdims else flat
    axes = normal_axes(op.name, axis, len(x.shape))
    if finds and len(axes) > 1:
        raise ShapeError(f"{op.name}: one axis, or None for the flattened tensor")
    assert op.fold is not None
    if not op.fold.empty and any(x.shape[a] == 0 for a in axes):
        along = ", ".join(map(str, axes))
        raise ShapeError(f"{op.name} of no values: shape {shape_text(x.shape)}, axis {along}")
    if op is ops.reduce_sum and x.dtype is bool_:
        x = cast(x, int32)
    kept = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    node = apply(op, (x,), (axes,), kept, int32 if finds else x.dtype)
    if keepdims:
        return node
    return reshape(node, tuple(d for i, d in enumerate(x.shape) if i not in axes))


def scan(op: Op, x: Node, axis: Any = None) -> Node:
    """Each partial result of op folded along one axis, or through the flattened tensor."""
    _computes(op.name, x)
    _accept(op.name, op.accepts, x.dtype)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis = normal_axis(op.name, axis, len(x.shape))
    x = cast(x, int32) if x.dtype is bool_ else x
    return apply(op, (x,), (axis,), x.shape, x.dtype)


def cast(x: Node, dtype: DType) -> Node:
    """Conversion between computing dtypes, without the gate."""
    if x.dtype is dtype and not x.weak:
        return x
    return apply(ops.CAST, (x,), (dtype,), x.shape, dtype)


def convert(x: Node, dtype: DType, on_overflow: str) -> Node:
    """`.to(dtype)` as users see it: float16 passes the gate, storage dtypes the host."""
    if x.dtype is dtype and not x.weak:
        return x
    device = x.dtype.computes and dtype.computes
    if dtype is float16 and x.dtype.name in ("float32", "bfloat16", "int32"):
        node = apply(ops.NARROW, (x,), (on_overflow,), x.shape, dtype)
    elif device or (x.dtype.name == "bfloat16" and dtype is float32):
        node = apply(ops.CAST, (x,), (dtype,), x.shape, dtype)
    else:
        node = apply(ops.CONVERT, (x,), (dtype, on_overflow), x.shape, dtype)
    node.name, node.site = x.name, user_site()
    return node


def _strides(x: Node) -> tuple[int, ...] | None:
    """How a leaf that can be seen in other ways lies in memory; None for what else there is."""
    return None if x.data is None else x.data.strides


def _view(x: Node, shape: Shape, strides: tuple[int, ...], shift: int = 0) -> Node:
    """The memory of a leaf seen otherwise, from `shift` elements on."""
    assert x.data is not None
    x.data.memory.shared = True
    data = Strided(x.data.memory, x.data.storage, x.data.offset + shift, strides)
    return leaf(data, shape, x.dtype, x.device, x.name)


def reshape(x: Node, shape: Shape) -> Node:
    """The same values, row-major, in another shape; one size may be -1."""
    shape = tuple(shape)
    if any(isinstance(d, bool) or not isinstance(d, int) for d in shape):
        raise TypeError(f"reshape: sizes are ints, not {shape}")
    if shape.count(-1) == 1:
        rest = math.prod(d for d in shape if d != -1)
        if rest == 0 or x.size % rest:
            raise ShapeError(f"reshape: {shape_text(x.shape)} does not fit {shape_text(shape)}")
        shape = tuple(x.size // rest if d == -1 else d for d in shape)
    if any(d < 0 for d in shape):
        raise ShapeError(f"reshape: a size is negative in {shape_text(shape)}")
    total = math.prod(shape)
    if total != x.size:
        raise ShapeError(
            f"reshape: {shape_text(x.shape)} has {x.size} values, {shape_text(shape)} has {total}"
        )
    if shape == x.shape:
        return x
    old = _strides(x)
    strides = None if old is None else reshape_strides(x.shape, old, shape)
    if strides is not None:
        return _view(x, shape, strides)
    return apply(ops.RESHAPE, (x,), (), shape, x.dtype)


def permute(x: Node, axes: Sequence[int]) -> Node:
    """Axis i of the result is axis axes[i] of x."""
    rank = len(x.shape)
    order = tuple(normal_axis("permute", a, rank) for a in axes)
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"permute: {tuple(axes)} does not name each of {rank} axes once")
    if order == tuple(range(rank)):
        return x
    shape = tuple(x.shape[a] for a in order)
    strides = _strides(x)
    if strides is not None:
        return _view(x, shape, tuple(strides[a] for a in order))
    return apply(ops.PERMUTE, (x,), (order,), shape, x.dtype)


def expand(x: Node, shape: Shape) -> Node:
    """x broadcast to `shape`."""
    if broadcast("expand", x.shape, shape) != tuple(shape):
        raise ShapeError(f"expand: {shape_text(x.shape)} does not expand to {shape_text(shape)}")
    if x.shape == tuple(shape):
        return x
    x = reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    strides = _strides(x)
    if strides is not None:
        spread = zip(x.shape, shape, strides, strict=True)
        return _view(x, tuple(shape), tuple(0 if a != b else s for a, b, s in spread))
    return apply(ops.EXPAND, (x,), (), tuple(shape), x.dtype)


def slice_(x: Node, ranges: Sequence[tuple[int, int, int]]) -> Node:
    """(start, count, step) for each axis."""
    shape = tuple(n for _, n, _ in ranges)
    if shape == x.shape and all(a == 0 and s == 1 for a, _, s in ranges):
        return x
    return walk(x, shape, [(a, ((i, s),)) for i, (a, _, s) in enumerate(ranges)])


def part(x: Node, axis: int, start: int, count: int, step: int = 1) -> Node:
    """`count` entries of one axis, from `start` on."""
    ranges = [(0, d, 1) for d in x.shape]
    ranges[axis] = (start, count, step)
    return slice_(x, ranges)


Steps = tuple[tuple[int, int], ...]
"""By how much an index grows with which axes of a result: (axis, step)."""


def walk(x: Node, shape: Shape, indices: Sequence[tuple[int, Steps]]) -> Node:
    """The elements of x at affine indices: for each axis of x a start, and by how much its index
    grows with which axes of the result."""
    old = _strides(x)
    if old is not None:
        shift, strides = 0, [0] * len(shape)
        for (start, steps), stride in zip(indices, old, strict=True):
            shift += start * stride if 0 not in shape else 0
            for axis, step in steps:
                strides[axis] += step * stride
        return _view(x, shape, tuple(strides), shift)
    return apply(ops.SLICE, (x,), tuple(indices), shape, x.dtype)


def window(x: Node, axis: int, size: int, stride: int = 1, dilation: int = 1) -> Node:
    """An axis as [positions, taps]: entry position * stride + tap * dilation of it."""
    span = dilation * (size - 1) + 1
    if min(size, stride, dilation) < 1 or span > x.shape[axis]:
        raise ShapeError(
            f"window: {size} taps (stride {stride}, dilation {dilation}) do not fit "
            f"axis {axis} of {shape_text(x.shape)}"
        )
    there = ((x.shape[axis] - span) // stride + 1, size)
    shape = (*x.shape[:axis], *there, *x.shape[axis + 1 :])
    indices: list[tuple[int, Steps]] = [
        (0, ((i if i < axis else i + 1, 1),)) for i in range(len(x.shape))
    ]
    indices[axis] = (0, ((axis, stride), (axis + 1, dilation)))
    return walk(x, shape, indices)


def pad(x: Node, widths: Sequence[tuple[int, int]], value: Node) -> Node:
    """(before, after) for each axis, filled with a 0-d value."""
    if len(widths) != len(x.shape) or any(a < 0 or b < 0 for a, b in widths):
        raise ShapeError(
            f"pad: {list(widths)} does not give (before, after), not negative, "
            f"for each axis of {shape_text(x.shape)}"
        )
    if all(a == 0 and b == 0 for a, b in widths):
        return x
    shape = tuple(d + a + b for d, (a, b) in zip(x.shape, widths, strict=True))
    # A mask stays a mask, though the border is the number 0 or 1.
    mask = x.dtype is bool_ and value.weak and value.dtype is int32
    dtype = bool_ if mask else common_dtype(ops.PAD, x, value)
    return apply(ops.PAD, (cast(x, dtype), value), tuple(widths), shape, dtype)


def concat(parts: Sequence[Node], axis: int) -> Node:
    """Tensors one after another along an axis."""
    if not parts:
        raise ShapeError("concat of no tensors")
    axis = normal_axis("concat", axis, len(parts[0].shape))
    rest = [p.shape[:axis] + p.shape[axis + 1 :] for p in parts]
    if any(r != rest[0] for r in rest) or any(len(p.shape) <= axis for p in parts):
        shown = ", ".join(shape_text(p.shape) for p in parts)
        raise ShapeError(f"concat: shapes {shown} differ outside axis {axis}")
    dtype = parts[0].dtype
    for p in parts:
        if p.dtype is not dtype:
            dtype = promote("concat", dtype, p.dtype)
    if len(parts) == 1:
        return parts[0]
    args = tuple(p if p.dtype is dtype else cast(p, dtype) for p in parts)
    total = sum(p.shape[axis] for p in parts)
    shape = (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :])
    return apply(ops.CONCAT, args, (axis,), shape, dtype)


def integer_index(op: str, i: Node) -> Node:
    """int32 indices, from those of a storage dtype too."""
    if i.dtype.kind != "int":
        raise DTypeError(f"{op}: indices are int32, not {i.dtype}; convert with `.to(tl.int32)`")
    return i if i.dtype is int32 else convert(i, int32, "raise")


def _one_batch_stride(x: Node, batch: Shape) -> Node:
    """x, as a node that can be copied where its batch axes do not walk memory with one stride."""
    own = x.shape[:-2]
    if math.prod(own) == 1 or (own == batch and x.op is not None):
        return x
    if own != batch:
        x = expand(x, (*batch, *x.shape[-2:]))
    else:
        axes = [(n, s) for n, s in zip(own, _strides(x) or (), strict=False) if n != 1]
        if all(s == n2 * s2 for (_, s), (n2, s2) in itertools.pairwise(axes)):
            return x
    return apply(ops.CAST, (x,), (x.dtype,), x.shape, x.dtype)


def matmul(a: Node, b: Node, wide: bool = False) -> Node:
    """NumPy's matmul: vectors, matrices, and batches that broadcast. `wide` gives float32."""
    key = (ops.MATMUL, a.kind or kind_of_node(a), b.kind or kind_of_node(b), wide)
    known = _recipes.get(key)
    if known is not None:
        return record(known, (a, b))
    if a.dtype is not float16 or b.dtype is not float16:
        check_floats("matmul", a, b)
    if not a.shape or not b.shape:
        raise ShapeError("matmul takes vectors and matrices; multiply numbers with `*`")
    dtype = float32 if wide else promote("matmul", a.dtype, b.dtype)
    a2 = reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    b2 = reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    if a2.shape[-1] != b2.shape[-2]:
        raise ShapeError(
            f"matmul: {shape_text(a.shape)} @ {shape_text(b.shape)}: "
            f"the inner sizes {a2.shape[-1]} and {b2.shape[-2]} differ"
        )
    if len(a.shape) == len(b.shape) == 2:
        recipe = recipe_of(ops.MATMUL, (), (a.shape[0], b.shape[1]), dtype, False)
        return record(_recipes.add(key, recipe), (a, b))
    batch = broadcast("matmul", a2.shape[:-2], b2.shape[:-2])
    shape = (*batch, a2.shape[-2], b2.shape[-1])
    operands = (_one_batch_stride(a2, batch), _one_batch_stride(b2, batch))
    node = apply(ops.MATMUL, operands, (), shape, dtype)
    if len(a.shape) == 1:
        shape = (*shape[:-2], shape[-1])
    if len(b.shape) == 1:
        shape = shape[:-1]
    return reshape(node, shape)


def attention(
    q: Node, k: Node, v: Node, mask: Node | None, length: Node | None, causal: bool, scale: Node
) -> Node:
    """q [..., H, T, D], k [..., G, S, D], v [..., G, S, E], H a multiple of G; [..., H, T, E]."""
    shapes = f"q {shape_text(q.shape)}, k {shape_text(k.shape)}, v {shape_text(v.shape)}"
    check_floats("scaled_dot_product_attention", q, k, v)
    is_matrix = len(q.shape) == 2
    if not len(q.shape) == len(k.shape) == len(v.shape) or len(q.shape) < 2:
        raise ShapeError(f"scaled_dot_product_attention: ranks differ: {shapes}")
    if is_matrix:
        q, k, v = (reshape(x, (1, *x.shape)) for x in (q, k, v))
    batch = q.shape[:-3]
    heads, groups = q.shape[-3], k.shape[-3]
    fits = (
        k.shape[:-3] == v.shape[:-3] == batch
        and v.shape[-3] == groups
        and q.shape[-1] == k.shape[-1]
        and k.shape[-2] == v.shape[-2]
        and (heads == groups or (groups > 0 and heads % groups == 0))
    )
    if not fits:
        raise ShapeError(
            f"scaled_dot_product_attention: {shapes}; it takes q [..., H, T, D], "
            f"k [..., G, S, D], v [..., G, S, E] with H a multiple of G"
        )
    out = (*q.shape[:-1], v.shape[-1])
    args: list[Node] = [q, k, v, scale]
    if length is not None:
        if length.shape != () or length.dtype.kind != "int":
            raise ShapeError("scaled_dot_product_attention: length is one int32")
        args.append(integer_index("length", length))
    if mask is not None:
        if mask.dtype.kind not in ("bool", "float") or not mask.dtype.computes:
            raise DTypeError(f"a mask is bool (kept where true) or float (added), not {mask.dtype}")
        args.append(expand(mask, (*q.shape[:-1], k.shape[-2])))
    dtype = promote("attention", promote("attention", q.dtype, k.dtype), v.dtype)
    attrs = (causal, length is not None, mask is not None)
    node = apply(ops.ATTENTION, tuple(args), attrs, out, dtype)
    node.site = user_site()
    return reshape(node, out[1:]) if is_matrix else node


def update(x: Node, at: Node, new: Node, axis: int) -> Node:
    """x with x[at : at + n] along axis replaced by new; consumes x."""
    axis = normal_axis("update", axis, len(x.shape))
    count = new.shape[axis] if axis < len(new.shape) else -1
    expected = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if new.shape != expected or new.shape[axis] > x.shape[axis]:
        raise ShapeError(
            f"update: {shape_text(new.shape)} does not fit {shape_text(x.shape)} along axis {axis}"
        )
    if new.dtype is not x.dtype:
        raise DTypeError(f"update: the tensor is {x.dtype}, the new values are {new.dtype}")
    if at.shape != () or at.dtype.kind != "int":
        raise DTypeError("update: the position is one int32")
    node = apply(ops.UPDATE, (x, integer_index("update", at), new), (axis,), x.shape, x.dtype)
    node.site = user_site()
    return node


def consumed(name: str) -> ConsumedError:
    return ConsumedError(
        f"{name or 'this tensor'} was consumed by `update`; use the tensor that it returned"
    )
