"""The primitive ops of the graph in MIL, one entry each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlogic import ops
from tensorlogic.coreml.export.emitter import LOWEST, Emitter, NotSaid
from tensorlogic.dtypes import DType, bool_, float16, float32, int32
from tensorlogic.graph import Node

Emit = Callable[[Emitter, Node], Any]
Elementwise = Callable[[Emitter, DType, list[Any]], Any]


def emit_node(e: Emitter, node: Node) -> Any:
    """The value of a node whose arguments have been emitted."""
    assert node.op is not None
    emitted = _KINDS.get(node.op.kind)
    if emitted is None:
        raise NotSaid(_WHY_NOT.get(node.op.kind, "it has no such operation"))
    return emitted(e, node)


_WHY_NOT = {
    "random": "it draws no numbers from a seed",
}


def _one(op: str, **more: Any) -> Elementwise:
    return lambda e, dtype, args: getattr(e.mb, op)(x=args[0], **more)


def _two(op: str) -> Elementwise:
    return lambda e, dtype, args: getattr(e.mb, op)(x=args[0], y=args[1])


def _compared(op: str) -> Elementwise:
    """Bools are compared as 0 and 1."""

    def emitted(e: Emitter, dtype: DType, args: list[Any]) -> Any:
        if dtype is bool_:
            args = [e.cast(_as_var(e, a), int32) for a in args]
        return getattr(e.mb, op)(x=args[0], y=args[1])

    return emitted


def _as_var(e: Emitter, value: Any) -> Any:
    return e.mb.const(val=value) if isinstance(value, np.generic) else value


def _with_epsilon(op: str) -> Elementwise:
    """log and rsqrt add a small number to their argument unless it is said to be 0."""
    return lambda e, dtype, args: getattr(e.mb, op)(x=args[0], epsilon=e.number(0, dtype))


def _expm1(e: Emitter, dtype: DType, args: list[Any]) -> Any:
    """tanh(x / 2) * (exp(x) + 1)"""
    (x,) = args
    half = e.mb.tanh(x=e.mb.mul(x=x, y=e.number(0.5, dtype)))
    return e.mb.mul(x=half, y=e.mb.add(x=e.mb.exp(x=x), y=e.number(1, dtype)))


def _log1p(e: Emitter, dtype: DType, args: list[Any]) -> Any:
    """2 * atanh(x / (x + 2)) near 0, log(1 + x) elsewhere."""
    (x,) = args
    one, two = e.number(1, dtype), e.number(2, dtype)
    ratio = e.mb.real_div(x=x, y=e.mb.add(x=x, y=two))
    near = e.mb.mul(x=e.mb.atanh(x=ratio), y=two)
    far = e.mb.log(x=e.mb.add(x=x, y=one), epsilon=e.number(0, dtype))
    small = e.mb.less(x=e.mb.abs(x=x), y=e.number(0.5, dtype))
    return e.mb.select(cond=small, a=near, b=far)


def _trunc(e: Emitter, dtype: DType, args: list[Any]) -> Any:
    if dtype is int32:
        return args[0]
    return e.mb.mul(x=e.mb.sign(x=args[0]), y=e.mb.floor(x=e.mb.abs(x=args[0])))


def _whole(op: str) -> Elementwise:
    def emitted(e: Emitter, dtype: DType, args: list[Any]) -> Any:
        return args[0] if dtype is int32 else getattr(e.mb, op)(x=args[0])

    return emitted


def _against_infinity(op: str) -> Elementwise:
    def emitted(e: Emitter, dtype: DType, args: list[Any]) -> Any:
        return getattr(e.mb, op)(x=e.mb.abs(x=args[0]), y=e.number(math.inf, dtype))

    return emitted


def _neg(e: Emitter, dtype: DType, args: list[Any]) -> Any:
    return e.mb.mul(x=args[0], y=e.number(-1, dtype))


def _isnan(e: Emitter, dtype: DType, args: list[Any]) -> Any:
    return e.mb.not_equal(x=args[0], y=args[0])


_ELEMENTWISE: dict[str, Elementwise] = {
    **{n: _one(n) for n in ("exp", "sqrt", "sin", "cos", "tanh", "erf", "sigmoid", "relu", "silu")},
    **{n: _one(n) for n in ("abs", "sign", "logical_not")},
    **{n: _two(n) for n in ("add", "sub", "mul", "minimum", "maximum", "pow", "mod")},
    **{n: _two(n) for n in ("logical_and", "logical_or", "logical_xor")},
    **{n: _compared(n) for n in ("equal", "not_equal", "less", "less_equal")},
    **{n: _compared(n) for n in ("greater", "greater_equal")},
    **{n: _whole(n) for n in ("floor", "ceil", "round")},
    "div": _two("real_div"),
    "floordiv": _two("floor_div"),
    "gelu_erf": _one("gelu", mode="EXACT"),
    "gelu_tanh": _one("gelu", mode="TANH_APPROXIMATION"),
    "log": _with_epsilon("log"),
    "rsqrt": _with_epsilon("rsqrt"),
    "expm1": _expm1,
    "log1p": _log1p,
    "trunc": _trunc,
    "neg": _neg,
    "isnan": _isnan,
    "isinf": _against_infinity("equal"),
    "isfinite": _against_infinity("less"),
}


def _elementwise(e: Emitter, node: Node) -> Any:
    assert node.op is not None
    (dtype,) = node.attrs
    if node.op is ops.where:
        return _select(e, node, dtype)
    args = [_argument(e, a, dtype) for a in node.args]
    if all(isinstance(a, np.generic) for a in args):
        args[0] = _as_var(e, args[0])
    emitted = _ELEMENTWISE.get(node.op.name)
    if emitted is None:
        raise NotSaid("it has no such operation")
    return emitted(e, dtype, args)


def _select(e: Emitter, node: Node, dtype: DType) -> Any:
    """All three in the shape of the result, to which coremltools does not broadcast them."""
    condition, *choices = node.args
    through = int32 if dtype is bool_ else dtype
    full = [
        np.full(node.shape, e.number(c.number, through))
        if c.number is not None
        else _spread(e, e.var(c, through), c.shape, node.shape)
        for c in choices
    ]
    cond = (
        _through_int(
            e, bool_, e.var(condition), lambda v: _spread(e, v, condition.shape, node.shape)
        )
        if condition.shape != node.shape
        else e.var(condition)
    )
    chosen = e.mb.select(cond=cond, a=full[0], b=full[1])
    return chosen if through is dtype else e.cast(chosen, dtype)


def _spread(e: Emitter, var: Any, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
    """A value broadcast to a shape."""
    aligned = (1,) * (len(wanted) - len(shape)) + shape
    reps = [n if n != m else 1 for n, m in zip(wanted, aligned, strict=True)]
    var = e.reshape(var, aligned)
    return e.mb.tile(x=var, reps=reps) if max(reps, default=1) > 1 else var


def _argument(e: Emitter, node: Node, dtype: DType) -> Any:
    """An argument in the dtype in which all meet; a number stands in the operation itself."""
    if node.number is not None:
        return e.number(node.number, dtype)
    return e.var(node, dtype)


def _reduce(e: Emitter, node: Node) -> Any:
    assert node.op is not None
    (axes,), x = node.attrs, e.var(node.args[0])
    if node.op.result == "int32":
        return getattr(e.mb, f"reduce_{node.op.name}")(x=x, axis=axes[0], keep_dims=True)
    if not axes:
        return e.mb.identity(x=x)
    return getattr(e.mb, f"reduce_{node.op.name}")(x=x, axes=list(axes), keep_dims=True)


def _scan(e: Emitter, node: Node) -> Any:
    if node.op is not ops.cumsum:
        raise NotSaid("it has sums of the first values, but no products")
    return e.mb.cumsum(x=e.var(node.args[0]), axis=node.attrs[0])


def _cast(e: Emitter, node: Node) -> Any:
    """Also of NARROW: what is beyond float16 becomes infinite in an ML program."""
    (x,) = node.args
    if node.dtype is x.dtype:
        return e.mb.identity(x=e.var(x))
    return e.cast(e.var(x), node.dtype)


def _permute(e: Emitter, node: Node) -> Any:
    return e.mb.transpose(x=e.var(node.args[0]), perm=list(node.attrs[0]))


def _reshape(e: Emitter, node: Node) -> Any:
    return e.reshape(e.var(node.args[0]), node.shape)


def _expand(e: Emitter, node: Node) -> Any:
    x = node.args[0]
    return _through_int(e, x.dtype, e.var(x), lambda v: _spread(e, v, x.shape, node.shape))


def _through_int(e: Emitter, dtype: DType, var: Any, emitted: Callable[[Any], Any]) -> Any:
    """Bools go through operations that take numbers as 0 and 1."""
    if dtype is not bool_:
        return emitted(var)
    return e.cast(emitted(e.cast(var, int32)), bool_)


def _slice(e: Emitter, node: Node) -> Any:
    x = node.args[0]
    return _through_int(e, x.dtype, e.var(x), lambda v: _walked(e, node, v))


def _walked(e: Emitter, node: Node, var: Any) -> Any:
    """Elements at affine indices: a slice, else windows along one axis, else single elements."""
    old, walks = node.args[0].shape, node.attrs
    used = [axis for _, steps in walks for axis, _ in steps]
    ordered = used == sorted(set(used))
    if ordered and all(len(steps) <= 1 for _, steps in walks):
        return _sliced(e, node, var)
    if ordered and all(
        len(steps) == 2 or (start, steps) == (0, ((axis, 1),))
        for (start, steps), axis in zip(walks, _firsts(walks), strict=True)
    ):
        for at in reversed(range(len(old))):  # from the last axis on, those before stay in place
            start, steps = walks[at]
            if len(steps) == 2:
                (a, step), (b, inner) = steps
                places = np.arange(node.shape[a]) * step
                taps = np.arange(node.shape[b]) * inner
                index = (start + places[:, None] + taps).astype(np.int32)
                var = e.mb.gather(x=var, indices=index, axis=at)
        return var
    flat = np.zeros((), np.int64)
    grid = np.indices(node.shape, sparse=True)
    for n, (start, steps) in zip(old, walks, strict=True):
        flat = flat * n + start + sum(grid[axis] * step for axis, step in steps)
    index = np.broadcast_to(flat, node.shape).astype(np.int32).reshape(-1)
    gathered = e.mb.gather(x=e.reshape(var, (math.prod(old),)), indices=index, axis=0)
    return e.reshape(gathered, node.shape)


def _firsts(walks: Any) -> list[int]:
    return [steps[0][0] if steps else -1 for _, steps in walks]


def _sliced(e: Emitter, node: Node, var: Any) -> Any:
    begin, end, stride, past = [], [], [], []
    for start, steps in node.attrs:
        count, step = (node.shape[steps[0][0]], steps[0][1]) if steps else (1, 1)
        last = start + (count - 1) * step
        begin.append(start)
        stride.append(step or 1)
        end.append(last + (1 if step >= 0 else -1))
        past.append(end[-1] < 0)
    cut = e.mb.slice_by_index(
        x=var, begin=begin, end=[max(n, 0) for n in end], stride=stride, end_mask=past
    )
    return e.reshape(cut, node.shape)


def _pad(e: Emitter, node: Node) -> Any:
    x, value = node.args
    if value.number is None:
        raise NotSaid("the border is a value that is known at the call only")
    through = node.dtype if node.dtype in (float16, float32) else float32
    widths = list(itertools.chain.from_iterable(node.attrs))
    border = e.number(value.number, through)
    padded = e.mb.pad(x=e.var(x, through), pad=widths, mode="constant", constant_val=border)
    return padded if through is node.dtype else e.cast(padded, node.dtype)


def _concat(e: Emitter, node: Node) -> Any:
    return e.mb.concat(values=[e.var(a) for a in node.args], axis=node.attrs[0])


def _indices(e: Emitter, node: Node, size: int) -> Any:
    """Indices counted from the front."""
    if not node.traced:
        return e.var(node)
    index = e.var(node)
    below = e.mb.less(x=index, y=np.int32(0))
    return e.mb.select(cond=below, a=e.mb.add(x=index, y=np.int32(size)), b=index)


def _take(e: Emitter, node: Node) -> Any:
    x, indices = node.args
    axis, wraps = node.attrs
    index = _indices(e, indices, x.shape[axis]) if wraps else e.var(indices)
    return _through_int(e, x.dtype, e.var(x), lambda v: e.mb.gather(x=v, indices=index, axis=axis))


def _beside(e: Emitter, x: Node, indices: Node, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """x and indices, of one shape but along the axis that is picked from."""
    found = [
        _spread(
            e,
            e.var(n),
            n.shape,
            tuple(s if m == 1 else m for s, m in zip(shape, n.shape, strict=True)),
        )
        for n in (x, indices)
    ]
    return found[0], found[1]


def _gather(e: Emitter, node: Node) -> Any:
    x, indices = node.args
    (axis,) = node.attrs
    if x.shape[axis] == 1 and node.shape[axis] != 1:
        raise NotSaid("it is picked from an axis of size 1")
    values, index = _beside(e, x, indices, node.shape)
    return e.mb.gather_along_axis(x=values, indices=index, axis=axis)


def _scatter(e: Emitter, node: Node) -> Any:
    x, indices, values = node.args
    axis, add = node.attrs
    _, index = _beside(e, values, indices, values.shape)
    mode = "add" if add else "update"
    return e.mb.scatter_along_axis(
        data=e.var(x), indices=index, updates=e.var(values), axis=axis, mode=mode
    )


def _argsort(e: Emitter, node: Node) -> Any:
    (descending,) = node.attrs
    return e.mb.argsort(x=e.var(node.args[0]), axis=-1, ascending=not descending)


def _matmul(e: Emitter, node: Node) -> Any:
    a, b = (e.var(x, node.dtype) for x in node.args)
    return e.mb.matmul(x=a, y=b)


def _attention(e: Emitter, node: Node) -> Any:
    """softmax(q @ k.T * scale + mask) @ v, keys and values repeated for groups of heads."""
    causal, has_length, has_mask = node.attrs
    q, k, v, scale, *more = node.args
    length = more[0] if has_length else None
    mask = node.args[-1] if has_mask else None
    repeat = q.shape[-3] // k.shape[-3]
    dtype = node.dtype
    keys, values = (_repeated(e, x, repeat, dtype) for x in (k, v))
    query = e.mb.mul(x=e.var(q, dtype), y=_argument(e, scale, dtype))
    scores = e.mb.matmul(x=query, y=keys, transpose_y=True)
    low = e.number(LOWEST, dtype)
    t, s = scores.shape[-2:]
    seen = None
    if length is not None:
        seen = _within(e, length, t, s, causal)
        scores = e.mb.select(cond=seen, a=scores, b=low)
    elif causal:
        allowed = np.arange(s)[None, :] <= np.arange(t)[:, None] + (s - t)
        scores = e.mb.select(cond=allowed, a=scores, b=low)
    if mask is not None and mask.dtype is bool_:
        kept = e.var(mask)
        scores = e.mb.select(cond=kept, a=scores, b=low)
        seen = kept if seen is None else e.mb.logical_and(x=kept, y=seen)
    elif mask is not None:
        scores = e.mb.maximum(x=e.mb.add(x=scores, y=e.var(mask, dtype)), y=low)
    weights = e.mb.softmax(x=scores, axis=-1)
    if seen is not None:  # a row with nothing to see gives zeros
        weights = e.mb.select(cond=seen, a=weights, b=e.number(0, dtype))
    return e.mb.matmul(x=weights, y=values)


def _within(e: Emitter, length: Node, t: int, s: int, causal: bool) -> Any:
    """Which of the first `length` keys each query sees."""
    until = _as_var(e, _argument(e, length, int32))
    keys = np.arange(s, dtype=np.int32)[None, :]
    if not causal:
        return e.mb.less(x=e.mb.const(val=np.repeat(keys, t, 0)), y=until)
    before = keys - np.arange(t, dtype=np.int32)[:, None]
    return e.mb.less_equal(x=e.mb.const(val=before), y=e.mb.sub(x=until, y=np.int32(t)))


def _update(e: Emitter, node: Node) -> Any:
    """A copy in which entries of one axis come from `new`, where their index is within it."""
    x, at, new = node.args
    (axis,) = node.attrs
    count, size = new.shape[axis], x.shape[axis]
    places = e.mb.const(val=np.arange(size, dtype=np.int32))
    index = e.mb.sub(x=places, y=_argument(e, at, int32))
    inside = e.mb.logical_and(
        x=e.mb.greater_equal(x=index, y=np.int32(0)), y=e.mb.less(x=index, y=np.int32(count))
    )
    nearest = e.mb.minimum(x=e.mb.maximum(x=index, y=np.int32(0)), y=np.int32(count - 1))
    shape = [size if a == axis else 1 for a in range(len(x.shape))]
    given = e.mb.gather(x=e.var(new), indices=nearest, axis=axis)
    return e.mb.select(cond=e.reshape(inside, tuple(shape)), a=given, b=e.var(x))


def _repeated(e: Emitter, node: Node, repeat: int, dtype: DType) -> Any:
    var = e.var(node, dtype)
    if repeat == 1:
        return var
    *batch, groups, rows, width = node.shape
    apart = e.mb.expand_dims(x=var, axes=[len(batch) + 1])
    reps = [1] * len(batch) + [1, repeat, 1, 1]
    return e.reshape(e.mb.tile(x=apart, reps=reps), (*batch, groups * repeat, rows, width))


_KINDS: dict[str, Emit] = {
    "elementwise": _elementwise,
    "reduce": _reduce,
    "scan": _scan,
    "cast": _cast,
    "narrow": _cast,
    "convert": _cast,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "take": _take,
    "gather": _gather,
    "scatter": _scatter,
    "argsort": _argsort,
    "matmul": _matmul,
    "attention": _attention,
    "update": _update,
}
