"""The composed functions: inputs, a NumPy oracle in float64 and a tolerance for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorlogic as tl
from tests.compare import Array
from tests.conformance import windows

F, I, B = ("float16", "float32"), ("int32",), ("bool",)
ANY = (*F, *I, *B)
Shapes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Case:
    """A call and its oracle. `shapes` of the tensor inputs; `ints` are (input, bound) of those that
    are indices; `scale` is the size of the sums behind the result, `ulps` its error in float32;
    `out` is the dtype of the results, "same" as that of the inputs, one for all or one for each."""

    function: str
    call: Callable[..., Any]
    oracle: Callable[..., Any]
    shapes: Shapes
    dtypes: tuple[str, ...] = F
    ulps: float = 4
    scale: Callable[..., Any] | None = None
    ints: tuple[tuple[int, int], ...] = ()
    out: str = "same"

    @property
    def exact(self) -> bool:
        """Whether it only moves values, of whatever dtype."""
        return "bool" in self.dtypes


def erf(x: Any) -> Array:
    return np.asarray(tl.ops.erf_reference(x))


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    return np.asarray(np.log(np.exp(x).sum(axis, keepdims=keepdims)))


def log_softmax(x: Array, axis: int = -1) -> Array:
    return x - logsumexp(x, axis, True)


def group_norm(x: Array, groups: int, w: Any = 1, b: Any = 0, eps: float = 1e-5) -> Array:
    grouped = x.reshape(len(x), groups, int(np.prod(x.shape[1:])) // groups)
    return channels(layer_norm(grouped, eps=eps).reshape(x.shape), w, b)


def batch_norm(x: Array, m: Any, v: Any, w: Any = 1, b: Any = 0, eps: float = 1e-5) -> Array:
    scale = w / np.sqrt(v + eps)
    return channels(x, scale, b - m * scale)


def channels(x: Array, w: Any, b: Any) -> Array:
    """x * w + b along axis 1."""
    w, b = (np.reshape(v, (-1, *(1,) * (x.ndim - 2))) for v in (w, b))
    return np.asarray(x * w + b)


def reduced(losses: Array, how: str) -> Array:
    return np.asarray({"mean": np.mean, "sum": np.sum, "none": np.asarray}[how](losses))


def layer_norm(x: Array, w: Any = None, b: Any = None, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return np.asarray(normal * (1 if w is None else w) + (0 if b is None else b))


def rms_norm(x: Array, w: Any = None, eps: float = 1e-6) -> Array:
    normal = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return np.asarray(normal * (1 if w is None else w))


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
    length: int | None = None,
) -> Array:
    """Row by row, as the formula says; a row that sees nothing is zero."""
    if q.ndim == 2:
        return attention(q[None], k[None], v[None], mask, causal, scale, length)[0]
    heads, queries, depth = q.shape[-3:]
    groups, keys = k.shape[-3], k.shape[-2]
    length = keys if length is None else length
    scale = depth**-0.5 if scale is None else scale
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    shown = None if mask is None else np.broadcast_to(mask, (*q.shape[:-1], keys))
    for at in np.ndindex(*q.shape[:-1]):
        *batch, head, query = at
        there = (*batch, head * groups // heads)
        seen = np.arange(keys) < (min(length, length - queries + query + 1) if causal else length)
        scores = k[there] @ q[at] * scale
        if shown is not None and shown.dtype == bool:
            seen &= shown[at]
        elif shown is not None:
            scores = scores + shown[at]
            seen &= ~np.isneginf(scores)
        if seen.any():
            e = np.where(seen, np.exp(scores - scores[seen].max()), 0)
            out[at] = e[seen] @ v[there][seen] / e.sum()
    return out


def _product(a: Array, b: Array) -> Array:
    return np.asarray(np.abs(a) @ np.abs(b))


def _attention_scale(q: Array, k: Array, v: Array, *rest: Any) -> Any:
    """Errors of the scores are magnified by exp; the scores here are below 20."""
    return 30 * np.abs(v).max()


def _conv_scale(x: Array, w: Array, b: Any = None, *more: Any) -> Any:
    return windows.conv(np.abs(x), np.abs(w), None if b is None else np.abs(b), *more)


def _transposed_scale(x: Array, w: Array, b: Any = None, *more: Any) -> Any:
    return windows.conv_transpose(np.abs(x), np.abs(w), None if b is None else np.abs(b), *more)


def _slid(function: str, oracle: Any, scale: Any, shapes: Shapes, *more: Any) -> Case:
    """A convolution of x and weight, and bias if there is a third shape, with settings after it."""
    settings = more if len(shapes) == 3 else (None, *more)
    return Case(
        function,
        lambda *x: getattr(tl, function)(*x, *settings),
        lambda *x: oracle(*x, *settings),
        shapes,
        scale=lambda *x: scale(*x, *settings),
    )


def _pooled(function: str, shape: tuple[int, ...], *more: Any) -> Case:
    mean = ("kernel", "stride", "padding", "ceil", "count_pad")
    names = mean if function[0] == "a" else (*mean[:3], "dilation", "ceil")
    settings = dict(zip(names, more, strict=False))
    return Case(
        function,
        lambda x: getattr(tl, function)(x, *more),
        lambda x: windows.pool(x, function[0] == "a", rank=int(function[-2]), **settings),
        (shape,),
        scale=lambda x: 8,
    )


def _resized(shape: tuple[int, ...], sizes: Any, mode: str, *more: Any) -> Case:
    return Case(
        "interpolate",
        lambda x: x.interpolate(sizes, None, mode, *more),
        lambda x: windows.interpolate(x, sizes, mode, *more),
        (shape,),
        scale=lambda x: 4 * max(sizes),
    )


def scatter(x: Array, i: Array, v: Array, axis: int, add: bool = False) -> Array:
    """One value after another, as the formula says."""
    out = x.copy()
    v = np.broadcast_to(v, i.shape)
    for at in np.ndindex(*i.shape):
        to = (*at[:axis], i[at], *at[axis + 1 :])
        out[to] = out[to] + v[at] if add else v[at]
    return out


def sorted_order(x: Array, axis: int = -1, descending: bool = False) -> Array:
    """For values without NaN, floats or ints."""
    return np.argsort(-x if descending else x, axis=axis, kind="stable")


def topk(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    order = np.take(sorted_order(x, axis, True), np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order


def rope(x: Array, positions: Array, base: float = 10000.0, layout: str = "halves") -> Array:
    width = x.shape[-1]
    angle = positions[..., None] * base ** (-2 * np.arange(width // 2) / width)
    a, b = np.split(x, 2, -1) if layout == "halves" else (x[..., ::2], x[..., 1::2])
    turned = (a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle))
    stacked = np.stack(turned, -2 if layout == "halves" else -1)
    return np.asarray(stacked.reshape(x.shape))


def _rope_scale(x: Array, positions: Array) -> Any:
    """Angles are float32: their error grows with the position."""
    return (1 + np.abs(positions).max()) * np.abs(x).max()


SDPA = tl.scaled_dot_product_attention
Q3: Shapes = ((4, 5, 8), (2, 7, 8), (2, 7, 6))

CASES: list[Case] = [
    Case("gelu", lambda x: tl.gelu(x), tl.ops.gelu_erf.numpy, ((9, 4),)),
    Case("gelu", lambda x: tl.gelu(x, approximate="tanh"), tl.ops.gelu_tanh.numpy, ((9, 4),)),
    Case("clip", lambda x: tl.clip(x, -1, 1), lambda x: np.clip(x, -1, 1), ((5, 3),), (*F, *I)),
    Case("clip", lambda x: tl.clip(x, low=0), lambda x: np.maximum(x, 0), ((5,),), (*F, *I)),
    Case("clip", lambda x, h: tl.clip(x, None, h), np.minimum, ((5, 3), (3,)), (*F, *I)),
    Case("mean", lambda x: tl.mean(x), np.mean, ((7, 6),), scale=lambda x: np.abs(x).mean()),
    Case(
        "mean",
        lambda x: x.mean(axis=(0, -1), keepdims=True),
        lambda x: x.mean((0, -1), keepdims=True),
        ((3, 4, 5),),
        scale=lambda x: np.abs(x).mean((0, -1), keepdims=True),
    ),
    Case("var", lambda x: tl.var(x), np.var, ((7, 6),), ulps=8),
    Case(
        "var",
        lambda x: x.var(axis=(0, -1), keepdims=True, correction=1),
        lambda x: x.var((0, -1), keepdims=True, ddof=1),
        ((3, 4, 5),),
        ulps=8,
    ),
    Case("var", lambda x: x.var(1, correction=2), lambda x: x.var(1) + np.nan, ((3, 1),)),
    Case("std", lambda x: tl.std(x, 1), lambda x: x.std(1), ((7, 60),), ulps=8),
    Case("std", lambda x: x.std(correction=1), lambda x: x.std(ddof=1), ((0,),)),
    *(
        Case(
            name, lambda x, f=name, a=axis: getattr(tl, f)(x > 0, a), oracle, shape, ANY, out="bool"
        )
        for name, compare in (("any", np.any), ("all", np.all))
        for shape in (((2, 3),), ((3, 0),), ((3, 1, 2),))
        for axis in (None, 0, -1)
        for oracle in [lambda x, f=compare, a=axis: f(x > 0, a)]
    ),
    Case(
        "any",
        lambda x: tl.any(x, (0, 1), True),
        lambda x: np.any(x, (0, 1), keepdims=True),
        ((2, 3),),
        ANY,
        out="bool",
    ),
    Case(
        "all",
        lambda x: x.all(keepdims=True),
        lambda x: np.all(x, keepdims=True),
        ((2, 3),),
        ANY,
        out="bool",
    ),
    Case("logsumexp", lambda x: tl.logsumexp(x), logsumexp, ((6, 33),), scale=lambda x: 8),
    Case(
        "logsumexp",
        lambda x: x.logsumexp((0, -1), keepdims=True),
        lambda x: logsumexp(x, (0, -1), True),
        ((2, 5, 3),),
        scale=lambda x: 8,
    ),
    Case("logsumexp", lambda x: x.logsumexp(0), lambda x: np.full(3, -np.inf), ((0, 3),)),
    Case("log_softmax", lambda x: tl.log_softmax(x), log_softmax, ((6, 33),), scale=lambda x: 8),
    Case(
        "log_softmax",
        lambda x: x.log_softmax(0),
        lambda x: log_softmax(x, 0),
        ((6, 3),),
        scale=lambda x: 8,
    ),
    Case("softmax", lambda x: tl.softmax(x), softmax, ((6, 33),), ulps=8),
    Case("softmax", lambda x: x.softmax(axis=0), lambda x: softmax(x, 0), ((6, 33),), ulps=8),
    Case("softmax", lambda x: x.softmax(1), lambda x: softmax(x, 1), ((2, 5, 3),), ulps=8),
    Case("layer_norm", lambda x: tl.layer_norm(x), layer_norm, ((4, 40),), scale=lambda x: 4),
    Case(
        "layer_norm",
        lambda x, w, b: tl.layer_norm(x, w, b, eps=1e-3),
        lambda x, w, b: layer_norm(x, w, b, 1e-3),
        ((2, 3, 16), (16,), (16,)),
        scale=lambda x, w, b: 8 * np.abs(w) + np.abs(b),
    ),
    Case("rms_norm", lambda x: tl.rms_norm(x), rms_norm, ((4, 40),), ulps=8),
    Case(
        "rms_norm",
        lambda x, w: x.rms_norm(w, 0.1),
        lambda x, w: rms_norm(x, w, 0.1),
        ((5, 16), (16,)),
        ulps=8,
    ),
    Case(
        "group_norm",
        lambda x: tl.group_norm(x, 3),
        lambda x: group_norm(x, 3),
        ((2, 6, 4, 5),),
        scale=lambda x: 4,
    ),
    *(
        Case(
            "group_norm",
            lambda x, w, b: x.group_norm(2, w, b, eps=1e-3),
            lambda x, w, b: group_norm(x, 2, w, b, 1e-3),
            (shape, (4,), (4,)),
            scale=lambda x, w, b: 8 * (np.abs(w).max() + np.abs(b).max()),
        )
        for shape in ((3, 4), (2, 4, 7), (0, 4, 3), (2, 4, 0))
    ),
    Case(
        "batch_norm",
        lambda x, m, v: tl.batch_norm(x, m, v * v),
        lambda x, m, v: batch_norm(x, m, v * v),
        ((3, 5), (5,), (5,)),
        scale=lambda x, m, v: 8 * (np.abs(x) + np.abs(m)) / np.sqrt(v * v + 1e-5),
    ),
    *(
        Case(
            "batch_norm",
            lambda x, m, v, w, b: x.batch_norm(m, tl.exp(v), w, b, eps=0.5),
            lambda x, m, v, w, b: batch_norm(x, m, np.exp(v), w, b, 0.5),
            (shape, (4,), (4,), (4,), (4,)),
            ("float32",),
            scale=lambda x, m, v, w, b: 8 + 40 * np.abs(w).max(),
        )
        for shape in ((3, 4), (2, 4, 7), (2, 4, 3, 3), (0, 4))
    ),
    *(
        Case(
            "cross_entropy",
            lambda x, i, r=how: tl.cross_entropy(x, abs(i) % 7, r),
            lambda x, i, r=how: reduced(-log_softmax(x)[np.arange(len(i)), np.abs(i) % 7], r),
            ((rows, 7), (rows,)),
            ints=((1, 7),),
            scale=lambda x, i: 8 * len(i),
        )
        for how, rows in (("mean", 5), ("sum", 5), ("none", 5), ("none", 1), ("mean", 0))
    ),
    *(
        Case(
            "mse",
            lambda a, b, r=how: tl.mse(a, b, r),
            lambda a, b, r=how: reduced((a - b) ** 2, r),
            (shape, shape),
            scale=lambda a, b, r=how: reduced(2 * a**2 + 2 * b**2, r),
        )
        for how, shape in (("mean", (3, 4)), ("sum", (3, 4)), ("none", (2, 5)), ("mean", (0,)))
    ),
    *(
        Case("matmul", lambda a, b: a @ b, np.matmul, shapes, scale=_product)
        for shapes in (
            ((5,), (5,)),
            ((5,), (5, 3)),
            ((4, 5), (5,)),
            ((1, 64), (64, 33)),
            ((2, 17), (17, 5)),
            ((3, 8), (8, 16)),
            ((4, 40), (40, 8)),
            ((5, 40), (40, 8)),
            ((6, 7), (7, 1)),
            ((7, 33), (33, 19)),
            ((33, 65), (65, 47)),
            ((3, 4, 5), (5, 2)),
            ((4, 5), (3, 5, 2)),
            ((2, 1, 9, 8), (3, 8, 4)),
            ((3, 1, 6), (3, 6, 5)),
            ((5,), (3, 5, 2)),
            ((3, 7, 5), (5,)),
            ((3, 0), (0, 4)),
            ((9, 0), (0, 4)),
            ((0, 3), (3, 2)),
            ((3, 4), (4, 0)),
            ((0,), (0,)),
        )
    ),
    Case(
        "linear",
        lambda x, w: tl.linear(x, w),
        lambda x, w: x @ w.T,
        ((3, 8), (5, 8)),
        scale=lambda x, w: _product(x, w.T),
    ),
    *(
        Case(
            "linear",
            lambda x, w, b: tl.linear(x, w, b),
            lambda x, w, b: x @ w.T + b,
            (x, (5, 8), (5,)),
            scale=lambda x, w, b: _product(x, w.T) + np.abs(b),
        )
        for x in ((8,), (1, 8), (17, 8), (2, 3, 8), (2, 9, 8), (0, 8))
    ),
    Case(
        "embedding",
        lambda w, i: tl.embedding(i, w),
        lambda w, i: w[i],
        ((7, 5), (2, 3)),
        F,
        ints=((1, 7),),
    ),
    Case(
        "scaled_dot_product_attention",
        lambda q, k, v: SDPA(q, k, v),
        attention,
        Q3,
        scale=_attention_scale,
    ),
    Case(
        "scaled_dot_product_attention",
        lambda q, k, v: q.scaled_dot_product_attention(k, v, causal=True, scale=0.3),
        lambda q, k, v: attention(q, k, v, None, True, 0.3),
        Q3,
        scale=_attention_scale,
    ),
    *(
        _slid(f"conv{len(shapes[0]) - 2}d", windows.conv, _conv_scale, shapes, *more)
        for shapes, *more in (
            (((1, 2, 9), (3, 2, 3), (3,)),),
            (((2, 4, 9), (6, 2, 3), (6,)), 2, 1, 2, 2),
            (((1, 1, 5), (1, 1, 5)),),
            (((1, 3, 6), (2, 3, 2), (2,)), 1, [(2, 0)]),
            (((0, 2, 9), (3, 2, 3), (3,)),),
            (((2, 0, 9), (3, 0, 3), (3,)),),
            (((1, 2, 0), (3, 2, 2), (3,)), 1, 1),
            (((1, 3, 8, 7), (4, 3, 3, 3), (4,)), 1, 1),
            (((2, 3, 9, 11), (5, 3, 3, 2)), (2, 3), (1, 0), (1, 2)),
            (((1, 6, 7, 7), (6, 1, 3, 3), (6,)), 1, 1, 1, 6),
            (((1, 4, 6, 6), (6, 4, 1, 1), (6,)), 2),
            (((1, 3, 4, 4), (2, 3, 4, 4), (2,)),),
            (((1, 2, 5, 5), (2, 2, 3, 3)), 1, [(0, 2), (1, 0)]),
            (((1, 16, 33, 31), (24, 16, 3, 3), (24,)), 1, 1),
            (((2, 32, 17, 16), (32, 16, 3, 3), (32,)), 1, 1, 1, 2),
        )
    ),
    Case(
        "conv2d",
        lambda x, w: tl.relu(tl.conv2d(x, w, padding="same") + x),
        lambda x, w: np.maximum(windows.conv(x, w, None, 1, 1) + x, 0),
        ((1, 24, 33, 30), (24, 24, 3, 3)),
        F[1:],
        scale=lambda x, w: _conv_scale(x, w, None, 1, 1) + np.abs(x),
    ),
    *(
        _slid(
            f"conv_transpose{len(shapes[0]) - 2}d",
            windows.conv_transpose,
            _transposed_scale,
            shapes,
            *more,
        )
        for shapes, *more in (
            (((1, 2, 5), (2, 3, 3), (3,)),),
            (((2, 4, 5), (4, 3, 3), (6,)), 3, 1, 2, 2, 2),
            (((1, 2, 6), (2, 2, 2)), 1, 3),
            (((2, 4, 6, 5), (4, 3, 4, 3), (6,)), (2, 3), (1, 0), (1, 2), 1, 2),
            (((1, 24, 20, 24), (24, 32, 2, 2), (32,)), 2),
            (((1, 3, 1), (3, 2, 4), (2,)), 2, 1),
            (((1, 3, 4, 5), (3, 2, 3, 2), (2,)), (2, 3), (1, 0), (1, 2), (1, 2)),
            (((2, 16, 8, 9), (16, 32, 3, 3), (32,)), 2, 1, 1),
        )
    ),
    *(
        _pooled(*case)
        for case in (
            ("max_pool1d", (2, 3, 9), 2),
            ("max_pool1d", (3, 9), 3, 2, 1, 2, True),
            ("max_pool2d", (2, 3, 9, 8), 2),
            ("max_pool2d", (3, 9, 8), (3, 2), (2, 1), (1, 0), (1, 2), True),
            ("max_pool2d", (0, 3, 9, 8), 2),
            ("max_pool2d", (1, 2, 30, 30), 9, 1, 4),
            ("avg_pool1d", (2, 3, 9), 2),
            ("avg_pool1d", (3, 10), 3, 2, 1, True, False),
            ("avg_pool2d", (2, 3, 9, 8), 2),
            ("avg_pool2d", (2, 10, 8), (3, 2), (2, 3), (1, 1), True, True),
            ("avg_pool2d", (2, 10, 8), (3, 2), (2, 3), (1, 1), True, False),
            ("avg_pool2d", (1, 5, 7, 7), 7),
        )
    ),
    *(
        _resized(*case)
        for case in (
            ((2, 3, 5), (8,), "nearest"),
            ((2, 3, 8), (3,), "nearest"),
            ((2, 3, 5), (9,), "linear"),
            ((2, 3, 5), (9,), "linear", True),
            ((1, 2, 5), (1,), "linear", True),
            ((1, 2, 4, 5), (7, 3), "nearest"),
            ((1, 2, 4, 5), (8, 10), "linear"),
            ((1, 2, 1, 5), (3, 4), "linear", True),
            ((0, 2, 4, 5), (8, 10), "linear"),
        )
    ),
    Case(
        "interpolate",
        lambda x: tl.interpolate(x, scale=1.75, mode="linear"),
        lambda x: windows.interpolate(x, (8, 12), "linear", False, 1.75),
        ((1, 2, 5, 7),),
        scale=lambda x: 40,
    ),
    Case(
        "window",
        lambda x: x.window(1, 3, stride=2, dilation=2),
        lambda x: np.stack([x[:, 0:5:2], x[:, 2:7:2]], 1),
        ((2, 8, 3),),
        ANY,
    ),
    Case(
        "window",
        lambda x: (~x if x.dtype is tl.bool else -x).window(-1, 2),
        lambda x: np.lib.stride_tricks.sliding_window_view(~x if x.dtype == bool else -x, 2, -1),
        ((3, 6),),
        ANY,
    ),
    Case("reshape", lambda x: x.reshape(3, -1), lambda x: x.reshape(3, -1), ((2, 6),), ANY),
    Case("transpose", lambda x: x.transpose(), lambda x: x.swapaxes(-1, -2), ((2, 3, 4),), ANY),
    Case(
        "transpose", lambda x: tl.transpose(x, 0, 2), lambda x: x.swapaxes(0, 2), ((2, 3, 4),), ANY
    ),
    Case(
        "permute", lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1), ((2, 3, 4),), ANY
    ),
    Case("squeeze", lambda x: x.squeeze(), lambda x: x.squeeze(), ((1, 3, 1),), ANY),
    Case("squeeze", lambda x: x.squeeze(-1), lambda x: x.squeeze(-1), ((1, 3, 1),), ANY),
    Case("unsqueeze", lambda x: x.unsqueeze(-1), lambda x: x[..., None], ((2, 3),), ANY),
    Case(
        "expand",
        lambda x: x.expand(4, 2, 3),
        lambda x: np.broadcast_to(x, (4, 2, 3)),
        ((2, 1),),
        ANY,
    ),
    Case(
        "concat",
        lambda a, b, c: tl.concat([a, b, c], axis=1),
        lambda *x: np.concatenate(x, 1),
        ((2, 1), (2, 0), (2, 4)),
        ANY,
    ),
    Case(
        "stack", lambda a, b: tl.stack([a, b], -1), lambda *x: np.stack(x, -1), ((2, 3),) * 2, ANY
    ),
    Case(
        "split",
        lambda x: tl.split(x, 3, axis=-1),
        lambda x: tuple(np.split(x, 3, -1)),
        ((2, 6),),
        ANY,
    ),
    Case("split", lambda x: x.split([1, 0, 3]), lambda x: (x[:1], x[1:1], x[1:]), ((4, 2),), ANY),
    Case(
        "pad",
        lambda x: x.pad([(1, 0), (0, 2)]),
        lambda x: np.pad(x, [(1, 0), (0, 2)]),
        ((2, 3),),
        ANY,
    ),
    Case(
        "pad",
        lambda x: tl.pad(x, (1, 2), value=1),
        lambda x: np.pad(x, [(1, 2)] * 2, constant_values=1),
        ((2, 3),),
        ANY,
    ),
    Case(
        "take",
        lambda x, i: tl.take(x, i, axis=1),
        lambda x, i: np.take(x, i, 1),
        ((2, 5, 3), (2, 2)),
        ANY,
        ints=((1, 5),),
    ),
    Case("flatten", lambda x: tl.flatten(x), np.ravel, ((2, 3, 4),), ANY),
    Case("flatten", lambda x: x.T.flatten(1), lambda x: x.T.reshape(4, -1), ((2, 4),), ANY),
    Case("flatten", lambda x: x.flatten(), np.ravel, ((),), ANY),
    Case(
        "broadcast_to",
        lambda x: x.broadcast_to((2, 3, 4)),
        lambda x: np.broadcast_to(x, (2, 3, 4)),
        ((3, 1),),
        ANY,
    ),
    Case("flip", lambda x: tl.flip(x), np.flip, ((2, 3),), ANY),
    Case("flip", lambda x: (x | x).flip([0, -1]), lambda x: np.flip(x, (0, 2)), ((2, 3, 4),), B),
    Case("flip", lambda x: x.flip(1), lambda x: np.flip(x, 1), ((2, 0),), ANY),
    Case("roll", lambda x: tl.roll(x, -1, 1), lambda x: np.roll(x, -1, 1), ((2, 5),), ANY),
    Case(
        "roll",
        lambda x: x.roll([7, 1], [0, -1]),
        lambda x: np.roll(x, (7, 1), (0, -1)),
        ((3, 2, 4),),
        ANY,
    ),
    Case("roll", lambda x: x.roll(1, 0), lambda x: x, ((0, 2),), ANY),
    Case("repeat", lambda x: tl.repeat(x, 3, 1), lambda x: np.repeat(x, 3, 1), ((2, 3, 2),), ANY),
    Case("repeat", lambda x: x.repeat(0, -1), lambda x: np.repeat(x, 0, -1), ((2, 3),), ANY),
    Case("tile", lambda x: tl.tile(x, [2, 3]), lambda x: np.tile(x, (2, 3)), ((2, 3),), ANY),
    Case("tile", lambda x: x.tile([2, 1, 2]), lambda x: np.tile(x, (2, 1, 2)), ((3,),), ANY),
    Case("tile", lambda x: x.tile(2), lambda x: np.tile(x, 2), ((3, 1, 2),), ANY),
    Case("tril", lambda x: tl.tril(x), np.tril, ((2, 4, 5),), ANY),
    Case("tril", lambda x: x.tril(-2), lambda x: np.tril(x, -2), ((4, 3),), ANY),
    Case("triu", lambda x: tl.triu(x, 1), lambda x: np.triu(x, 1), ((2, 4, 5),), ANY),
    Case("triu", lambda x: x.triu(-1), lambda x: np.triu(x, -1), ((4, 3),), ANY),
    Case("diagonal", lambda x: tl.diagonal(x), np.diagonal, ((4, 5),), ANY),
    *(
        Case(
            "diagonal",
            lambda x, k=k: tl.where(x == x, x, x).diagonal(k, 2, 0),
            lambda x, k=k: np.diagonal(x, k, 2, 0),
            ((4, 3, 5),),
            ANY,
        )
        for k in (-2, 3, 9)
    ),
    Case(
        "one_hot",
        lambda i: tl.one_hot(i, 5),
        lambda i: np.eye(5)[i],
        ((3, 4),),
        I,
        ints=((0, 5),),
        out="float16",
    ),
    Case(
        "one_hot",
        lambda i: tl.one_hot(i, 3, bool),
        lambda i: np.eye(3, dtype=bool)[i],
        ((),),
        I,
        ints=((0, 3),),
        out="bool",
    ),
    Case(
        "gather",
        lambda x, i: tl.gather(x, i, 1),
        lambda x, i: np.take_along_axis(x, i, 1),
        ((2, 5, 3), (2, 7, 3)),
        ANY,
        ints=((1, 5),),
    ),
    Case(
        "gather",
        lambda x, i: (x == x).gather(i, -1),
        lambda x, i: np.take_along_axis(x == x, i, -1),
        ((1, 5), (4, 2)),
        I,
        ints=((1, 5),),
        out="bool",
    ),
    *(
        Case(
            "scatter",
            lambda x, i, v, a=axis: tl.scatter(x, i, v, a),
            lambda x, i, v, a=axis: scatter(x, i, v, a),
            ((3, 4, 5), tuple(9 if k == axis else n for k, n in enumerate((3, 4, 5))), (1, 5)),
            ANY,
            ints=((1, (3, 4, 5)[axis]),),
        )
        for axis in (0, 1)
    ),
    *(
        Case(
            "scatter",
            lambda x, i, v, a=axis: (x * 1).scatter(i, v, a, reduce="add"),
            lambda x, i, v, a=axis: scatter(x, i, v, a, True),
            ((3, 4), shape, shape),
            (*F, *I),
            scale=lambda x, i, v, a=axis: scatter(np.abs(x), i, np.abs(v), a, True),
            ints=((1, (3, 4)[axis]),),
        )
        for axis, shape in ((0, (50, 4)), (1, (3, 20)))
    ),
    *(
        Case("argsort", lambda x: tl.argsort(x), sorted_order, shape, (*F, *I), out="int32")
        for shape in (((9,),), ((3, 64),), ((2, 65),), ((2, 3, 1),), ((1, 1000),), ((2, 0),))
    ),
    Case(
        "argsort",
        lambda x: (x * 1).argsort(0, descending=True),
        lambda x: sorted_order(x, 0, True),
        ((200, 3),),
        (*F, *I),
        out="int32",
    ),
    Case("sort", lambda x: tl.sort(x), np.sort, ((3, 300),), ANY),
    Case(
        "sort", lambda x: x.sort(1, True), lambda x: np.sort(x, 1)[:, ::-1], ((2, 20, 3),), (*F, *I)
    ),
    Case(
        "topk",
        lambda x: tl.topk(x, 3, axis=0),
        lambda x: topk(x, 3, 0),
        ((90, 2),),
        (*F, *I),
        out="same int32",
    ),
    Case(
        "topk",
        lambda x: x.topk(1),
        lambda x: topk(x, 1, -1),
        ((4, 7),),
        (*F, *I),
        out="same int32",
    ),
    Case(
        "unique_consecutive",
        lambda x: tl.unique_consecutive(x),
        lambda x: x[np.append(True, x[1:] != x[:-1])],
        ((40,),),
        (*I, *B),
    ),
    Case(
        "einsum",
        lambda a, b: tl.einsum("bhqd, bhkd -> bhqk", a, b),
        lambda a, b: np.einsum("bhqd,bhkd->bhqk", a, b),
        ((2, 3, 9, 5), (2, 3, 6, 5)),
        scale=lambda a, b: np.einsum("bhqd,bhkd->bhqk", np.abs(a), np.abs(b)),
    ),
    Case(
        "einsum",
        lambda a, b: tl.einsum("ij,jk", a, b),
        np.matmul,
        ((3, 4), (4, 5)),
        I,
    ),
    *(
        Case(
            "rope",
            lambda x, p, layout=layout: tl.rope(x, p, layout=layout),
            lambda x, p, layout=layout: rope(x, p, layout=layout),
            ((2, 3, 5, 8), shape),
            scale=_rope_scale,
            ints=((1, 3000),),
        )
        for layout in ("halves", "pairs")
        for shape in ((5,), (2, 1, 5))
    ),
    Case(
        "rope",
        lambda x: x.rope(7, base=500.0),
        lambda x: rope(x, np.arange(7, 11), 500.0),
        ((4, 6),),
        scale=lambda x: 11 * np.abs(x).max(),
    ),
]
