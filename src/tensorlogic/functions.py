"""The public functions: those of the op table, and those composed of it.

Within one function nothing is rounded to float16: intermediates are float32, the result is stored
in the dtype of the input. A function whose first argument is a tensor is also a method of `Tensor`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorlogic import ops, record, runtime
from tensorlogic.dtypes import float32
from tensorlogic.errors import ShapeError
from tensorlogic.graph import Node, number, shape_text
from tensorlogic.ops import OPS, Op
from tensorlogic.tensor import Tensor, as_node, wrap

METHODS: list[str] = []
"""Names of the functions that are methods too."""

__all__ = ["eval"]


def _public(fn: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """Export a function and make it a method of Tensor."""
    name = name or fn.__name__
    __all__.append(name)
    METHODS.append(name)
    setattr(Tensor, name, fn)
    return fn


def eval(*tensors: Tensor) -> None:
    """Compute tensors now, together, so that common work is done once.

    >>> import tensorlogic as tl
    >>> x = tl.ones([2]); y, z = x + 1, x * 3
    >>> tl.eval(y, z)
    """
    runtime.evaluate([t._node for t in tensors])


def _node(fn: str, value: Any) -> Node:
    if not isinstance(value, Tensor):
        raise TypeError(f"{fn}: a tensor was expected, not {type(value).__name__}")
    return value._node


def _floats(fn: str, value: Any) -> Node:
    node = _node(fn, value)
    record.check_floats(fn, node)
    return node


def _from_row(op: Op) -> Callable[..., Any]:
    """The public function of an elementwise row."""
    names = {1: ["x"], 2: ["a", "b"], 3: ["condition", "a", "b"]}[op.arity]

    def function(*args: Any) -> Tensor:
        return wrap(record.elementwise(op, *[as_node(a) for a in args]))

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{op.doc} NaN and infinities: {op.special}."
    kind = inspect.Parameter.POSITIONAL_ONLY
    parameters = [inspect.Parameter(n, kind) for n in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def add_elementwise(op: Op) -> Callable[..., Any]:
    """Make the function and method of a row of the op table and return the function."""
    fn = _from_row(op)
    globals()[op.name] = fn
    return _public(fn, op.name)


for _op in list(OPS.values()):
    if _op.kind == "elementwise" and _op not in (ops.gelu_erf, ops.gelu_tanh):
        add_elementwise(_op)


@_public
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x); approximate="tanh" takes the tanh form of Hendrycks and Gimpel (2016).

    >>> import tensorlogic as tl
    >>> tl.gelu(tl.tensor([0.0, 1.0])).tolist()
    [0.0, 0.84130859375]
    """
    forms = {"none": ops.gelu_erf, "tanh": ops.gelu_tanh}
    if approximate not in forms:
        raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    return wrap(record.elementwise(forms[approximate], _node("gelu", x)))


@_public
def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """x limited to [low, high]; None leaves a side open.

    >>> import tensorlogic as tl
    >>> tl.clip(tl.tensor([-2.0, 0.5, 3.0]), 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    node = _node("clip", x)
    if low is not None:
        node = record.elementwise(ops.maximum, node, as_node(low))
    if high is not None:
        node = record.elementwise(ops.minimum, node, as_node(high))
    return wrap(node)


# ---- reductions ------------------------------------------------------------------------------


@_public
def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (an int, several, None for all), accumulated in float32; bools are counted.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 2.0], [3.0, 4.0]]).sum(axis=0).tolist()
    [4.0, 6.0]
    """
    return wrap(record.reduce(ops.reduce_sum, _node("sum", x), axis, keepdims))


@_public
def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis`, accumulated in float32; NaN where there are no values.

    >>> import tensorlogic as tl
    >>> tl.mean(tl.tensor([[1.0, 3.0], [5.0, 7.0]]), axis=0).tolist()
    [3.0, 5.0]
    """
    node = _floats("mean", x)
    return wrap(record.cast(_mean(record.cast(node, float32), axis, keepdims), node.dtype))


def _mean(x: Node, axis: Any, keepdims: bool) -> Node:
    total = record.reduce(ops.reduce_sum, x, axis, keepdims)
    axes = record.normal_axes("mean", axis, len(x.shape))
    count = math.prod(x.shape[a] for a in axes)
    return record.elementwise(OPS["div"], total, number(float(count)))


@_public
def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest value over `axis`; NaN if one is NaN. Raises ShapeError over no values.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 5.0], [7.0, 2.0]]).max(axis=1).tolist()
    [5.0, 7.0]
    """
    return wrap(record.reduce(ops.reduce_max, _node("max", x), axis, keepdims))


@_public
def min(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest value over `axis`; NaN if one is NaN. Raises ShapeError over no values."""
    return wrap(record.reduce(ops.reduce_min, _node("min", x), axis, keepdims))


@_public
def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index (int32) of the first largest value along `axis`, or in the flattened tensor.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1.0, 5.0], [7.0, 2.0]]).argmax(axis=1).tolist()
    [1, 0]
    """
    return wrap(record.reduce(ops.argmax, _node("argmax", x), axis, keepdims))


# ---- normalisation ---------------------------------------------------------------------------


@_public
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, computed from the largest value down.

    >>> import tensorlogic as tl
    >>> tl.softmax(tl.tensor([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    node = _floats("softmax", x)
    axis = record.normal_axis("softmax", axis, len(node.shape))
    wide = record.cast(node, float32)
    top = record.reduce(ops.reduce_max, wide, axis, True) if wide.size else wide
    e = record.elementwise(OPS["exp"], record.elementwise(OPS["sub"], wide, top))
    total = record.reduce(ops.reduce_sum, e, axis, True)
    return wrap(record.cast(record.elementwise(OPS["div"], e, total), node.dtype))


def _affine(x: Node, like: Node, weight: Tensor | None, bias: Tensor | None, fn: str) -> Tensor:
    for value, op in ((weight, "mul"), (bias, "add")):
        if value is not None:
            w = _node(fn, value)
            if w.shape != like.shape[-1:]:
                raise ShapeError(
                    f"{fn}: weight and bias have shape [{like.shape[-1]}], not {list(w.shape)}"
                )
            x = record.elementwise(OPS[op], x, record.cast(w, float32))
    return wrap(record.cast(x, like.dtype))


@_public
def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016).

    >>> import tensorlogic as tl
    >>> tl.layer_norm(tl.tensor([1.0, 3.0]), bias=tl.ones([2]), eps=0.0).tolist()
    [0.0, 2.0]
    """
    node = _floats("layer_norm", x)
    record.normal_axis("layer_norm", -1, len(node.shape))
    wide = record.cast(node, float32)
    centred = record.elementwise(OPS["sub"], wide, _mean(wide, -1, True))
    variance = _mean(record.elementwise(OPS["mul"], centred, centred), -1, True)
    scale = record.elementwise(OPS["rsqrt"], record.elementwise(OPS["add"], variance, as_node(eps)))
    normal = record.elementwise(OPS["mul"], centred, scale)
    return _affine(normal, node, weight, bias, "layer_norm")


@_public
def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x*x) + eps) * weight over the last axis (Zhang and Sennrich 2019).

    >>> import tensorlogic as tl
    >>> tl.rms_norm(tl.tensor([3.0, 3.0]), weight=tl.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    node = _floats("rms_norm", x)
    record.normal_axis("rms_norm", -1, len(node.shape))
    wide = record.cast(node, float32)
    square = _mean(record.elementwise(OPS["mul"], wide, wide), -1, True)
    scale = record.elementwise(OPS["rsqrt"], record.elementwise(OPS["add"], square, as_node(eps)))
    return _affine(record.elementwise(OPS["mul"], wide, scale), node, weight, None, "rms_norm")


# ---- products --------------------------------------------------------------------------------


@_public
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches, accumulated in float32.

    >>> import tensorlogic as tl
    >>> (tl.ones([2, 3]) @ tl.ones([3])).tolist()
    [3.0, 3.0]
    """
    return wrap(record.matmul(_node("matmul", a), _node("matmul", b)))


@_public
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, with weight [out, in] and bias [out] as PyTorch keeps them.

    >>> import tensorlogic as tl
    >>> tl.linear(tl.ones([1, 3]), tl.ones([2, 3]), tl.tensor([1.0, 2.0])).tolist()
    [[4.0, 5.0]]
    """
    w = _node("linear", weight)
    if len(w.shape) != 2:
        raise ShapeError(f"linear: weight is [out, in], not {list(w.shape)}")
    node = _node("linear", x)
    if node.shape[-1:] != w.shape[1:]:
        raise ShapeError(
            f"linear: x {list(node.shape)} does not fit weight {list(w.shape)}, which is [out, in]"
        )
    product = record.matmul(node, record.permute(w, (1, 0)), wide=True)
    dtype = record.common_dtype(ops.MATMUL, node, w)
    if bias is not None:
        b = _node("linear", bias)
        if b.shape != w.shape[:1]:
            raise ShapeError(f"linear: bias has shape [{w.shape[0]}], not {list(b.shape)}")
        product = record.elementwise(OPS["add"], product, b)
    return wrap(record.cast(product, dtype))


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, D] picked by int32 indices [...]: [..., D].

    An index outside [-V, V) raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.embedding(tl.tensor([2, 0], dtype="int32"), tl.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    w = _node("embedding", weight)
    if len(w.shape) != 2:
        raise ShapeError(f"embedding: weight is [V, D], not {list(w.shape)}")
    return wrap(record.take(w, _node("embedding", indices), 0))


__all__.append("embedding")


@_public
def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    length: Any = None,
) -> Tensor:
    """softmax(q @ k.T * scale + mask) @ v over the last two axes (Vaswani et al. 2017).

    q [..., H, T, D], k [..., G, S, D], v [..., G, S, E] with H a multiple of G (grouped heads); the
    result is [..., H, T, E]. mask: bool (kept where true) or float (added), broadcast to
    [..., H, T, S]. causal: query i sees the keys up to S - T + i. scale: 1/sqrt(D) if None.
    length: an int or int32 tensor, how many of the S keys count, for a cache that fills up; it is
    read at run time. A row with nothing to see gives zeros.

    >>> import tensorlogic as tl
    >>> tl.scaled_dot_product_attention(*[tl.ones([2, 5, 4])] * 3, causal=True).shape
    (2, 5, 4)
    """
    fn = "scaled_dot_product_attention"
    node = _node(fn, q)
    factor = 1.0 / math.sqrt(node.shape[-1]) if scale is None and node.shape[-1:] > (0,) else scale
    return wrap(
        record.attention(
            node,
            _node(fn, k),
            _node(fn, v),
            None if mask is None else _node(fn, mask),
            None if length is None else as_node(length),
            causal,
            as_node(1.0 if factor is None else factor),
        )
    )


# ---- shapes ----------------------------------------------------------------------------------


def _ints(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """f(2, 3) and f([2, 3]) alike."""
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = tuple(values[0])
    return tuple(v.__index__() for v in values)


@_public
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same values, row-major, in another shape; one size may be -1.

    >>> import tensorlogic as tl
    >>> tl.arange(6).reshape(2, -1).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return wrap(record.reshape(_node("reshape", x), _ints(shape)))


@_public
def transpose(x: Tensor, a: int = -2, b: int = -1) -> Tensor:
    """Axes a and b exchanged."""
    node = _node("transpose", x)
    axes = list(range(len(node.shape)))
    i, j = (record.normal_axis("transpose", axis, len(axes)) for axis in (a, b))
    axes[i], axes[j] = axes[j], axes[i]
    return wrap(record.permute(node, axes))


@_public
def permute(x: Tensor, *axes: Any) -> Tensor:
    """Axes in another order: axis i of the result is axis axes[i] of x.

    >>> import tensorlogic as tl
    >>> tl.permute(tl.zeros([2, 3, 4]), 2, 0, 1).shape
    (4, 2, 3)
    """
    return wrap(record.permute(_node("permute", x), _ints(axes)))


@_public
def squeeze(x: Tensor, axis: Any = None) -> Tensor:
    """Axes of size 1 removed: all of them, or those named."""
    node = _node("squeeze", x)
    axes = record.normal_axes("squeeze", axis, len(node.shape))
    if axis is not None and any(node.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axis {axis} of {list(node.shape)} is not 1")
    kept = [d for i, d in enumerate(node.shape) if not (i in axes and d == 1)]
    return wrap(record.reshape(node, tuple(kept)))


@_public
def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """A new axis of size 1 at `axis`."""
    node = _node("unsqueeze", x)
    at = record.normal_axis("unsqueeze", axis, len(node.shape) + 1)
    return wrap(record.reshape(node, (*node.shape[:at], 1, *node.shape[at:])))


@_public
def expand(x: Tensor, *shape: Any) -> Tensor:
    """x broadcast to a shape, without a copy.

    >>> import tensorlogic as tl
    >>> tl.expand(tl.tensor([1.0, 2.0]), 2, 2).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    return wrap(record.expand(_node("expand", x), _ints(shape)))


@_public
def split(x: Tensor, parts: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """Equal parts (an int) or parts of the given sizes along `axis`.

    >>> import tensorlogic as tl
    >>> [p.tolist() for p in tl.split(tl.arange(4), 2)]
    [[0, 1], [2, 3]]
    """
    node = _node("split", x)
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
        ranges = [(0, d, 1) for d in node.shape]
        ranges[at] = (start, s, 1)
        out.append(wrap(record.slice_(node, ranges)))
        start += s
    return tuple(out)


@_public
def pad(x: Tensor, widths: Any, value: Any = 0) -> Tensor:
    """A border of `value`: widths is an int, (before, after), or one such pair for each axis.

    >>> import tensorlogic as tl
    >>> tl.pad(tl.ones([2]), (1, 2)).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    node = _node("pad", x)
    if isinstance(widths, int | Tensor):
        widths = (widths.__index__(), widths.__index__())
    if len(widths) == 2 and all(isinstance(w, int) for w in widths):
        widths = [tuple(widths)] * len(node.shape)
    return wrap(record.pad(node, [(int(a), int(b)) for a, b in widths], as_node(value)))


@_public
def take(x: Tensor, indices: Any, axis: int = 0) -> Tensor:
    """Entries of x along `axis`, picked by int32 indices; negative ones count from the end.

    An index outside the axis raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.take(tl.arange(0, 50, 10), [3, -1]).tolist()
    [30, 40]
    """
    from tensorlogic.creation import tensor

    if not isinstance(indices, Tensor):
        indices = tensor(indices, dtype="int32")
    return wrap(record.take(_node("take", x), _node("take", indices), axis))


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after another along `axis`; their other sizes agree.

    >>> import tensorlogic as tl
    >>> tl.concat([tl.zeros([1]), tl.ones([2])]).tolist()
    [0.0, 1.0, 1.0]
    """
    return wrap(record.concat([_node("concat", t) for t in tensors], axis))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape along a new axis.

    >>> import tensorlogic as tl
    >>> tl.stack([tl.zeros([2]), tl.ones([2])]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    nodes = [_node("stack", t) for t in tensors]
    if not nodes:
        raise ShapeError("stack of no tensors")
    if any(n.shape != nodes[0].shape for n in nodes):
        raise ShapeError(f"stack: shapes differ: {', '.join(shape_text(n.shape) for n in nodes)}")
    return concat([unsqueeze(t, axis) for t in tensors], axis)


__all__ += ["concat", "stack"]
