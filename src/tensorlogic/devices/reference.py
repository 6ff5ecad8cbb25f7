"""The reference device: NumPy, op by op. It is the definition of right, not of fast.

Arithmetic is float32; each op's result is rounded to its dtype, and since public functions keep
their intermediates in float32, that is once for each public function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate, ops, settings
from tensorlogic.dtypes import DType, float16, int32
from tensorlogic.graph import Node, topological
from tensorlogic.philox import philox_words
from tensorlogic.quants import QUANTS, dequantize
from tensorlogic.storage import Memory, Strided, contiguous_strides

Array = NDArray[Any]


def leaf_array(node: Node) -> Array:
    """The values of a leaf: a view of its memory, decoded if it is quantized (float32)."""
    if node.number is not None:
        return np.asarray(node.number, node.dtype.numpy)
    data = node.data
    assert data is not None, "a placeholder has no values"
    if data.strides is None:
        quant = QUANTS[data.storage]
        blocks = data.memory.base.reshape(-1, quant.nbytes)
        return dequantize(quant, blocks).reshape(node.shape)
    return data.memory.view(node.dtype.numpy, node.shape, data.strides, data.offset)


def array_data(array: Array, dtype: DType) -> Strided:
    """A fresh array as the data of a node."""
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype.numpy).reshape(array.shape)
    if array.base is not None or not array.flags.owndata:
        array = array.copy()
    memory, _ = Memory.of_array(array)
    memory.owned = True
    return Strided(memory, dtype.name, 0, contiguous_strides(array.shape))


def _wide(x: Array, dtype: DType) -> Array:
    """An operand in the type in which arithmetic on `dtype` is done."""
    return x.astype(np.float32 if dtype.kind == "float" else dtype.numpy)


def _elementwise(node: Node, *args: Array) -> Array:
    assert node.op is not None
    assert node.op.numpy is not None
    (meet,) = node.attrs
    wide = [a if node.op is ops.where and i == 0 else _wide(a, meet) for i, a in enumerate(args)]
    result: Array = np.asarray(node.op.numpy(*wide))
    return result


def _reduce(node: Node, x: Array) -> Array:
    assert node.op is not None
    assert node.op.numpy is not None
    (axes,) = node.attrs
    wide = _wide(x, node.args[0].dtype)
    axis = axes[0] if node.op.result == "int32" else axes
    result: Array = np.asarray(node.op.numpy(wide, axis=axis, keepdims=True))
    return result


def _scan(node: Node, x: Array) -> Array:
    assert node.op is not None
    assert node.op.numpy is not None
    result: Array = node.op.numpy(_wide(x, node.dtype), axis=node.attrs[0])
    return result


def _take(node: Node, x: Array, indices: Array) -> Array:
    axis, wraps = node.attrs
    size = x.shape[axis]
    gate.check_index(indices, -size if wraps else 0, size, node.site, "take")
    return np.take(x, indices, axis=axis)


def _gather(node: Node, x: Array, indices: Array) -> Array:
    (axis,) = node.attrs
    gate.check_index(indices, -x.shape[axis], x.shape[axis], node.site, "gather")
    result: Array = np.take_along_axis(x, indices.astype(np.int64), axis)
    return result


def _scatter(node: Node, x: Array, indices: Array, values: Array) -> Array:
    axis, add = node.attrs
    gate.check_index(indices, -x.shape[axis], x.shape[axis], node.site, "scatter")
    result = x.copy()
    rows, picked, given = (
        np.moveaxis(a, axis, 0) for a in (result, np.broadcast_to(indices, values.shape), values)
    )
    others = np.indices(picked.shape[1:], sparse=True)
    for at, value in zip(picked, given, strict=True):
        rows[(at, *others)] = rows[(at, *others)] + value if add else value
    return result


def _argsort(node: Node, x: Array) -> Array:
    """NaN counts as the largest value; equal values stay in order in both directions."""
    (descending,) = node.attrs
    order: Array = np.argsort(x[..., ::-1] if descending else x, axis=-1, kind="stable")
    return x.shape[-1] - 1 - order[..., ::-1] if descending else order


def _attention(node: Node, q: Array, k: Array, v: Array, scale: Array, *more: Array) -> Array:
    causal, has_length, has_mask = node.attrs
    rest = list(more)
    length = int(rest.pop(0)) if has_length else k.shape[-2]
    mask = rest.pop(0) if has_mask else None
    gate.check_length(length, k.shape[-2], node.site)
    repeat = q.shape[-3] // max(k.shape[-3], 1)
    k32, v32 = (np.repeat(x.astype(np.float32), repeat, axis=-3)[..., :length, :] for x in (k, v))
    scores = (q.astype(np.float32) @ np.swapaxes(k32, -1, -2)) * np.float32(scale)
    t = q.shape[-2]
    seen = np.ones(scores.shape, bool)
    if causal:
        seen &= np.arange(length)[None, :] <= np.arange(t)[:, None] + (length - t)
    if mask is not None:
        mask = mask[..., :length]
        if mask.dtype == bool:
            seen &= mask
        else:
            scores = scores + mask.astype(np.float32)
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    result: Array = (weights @ v32) / np.where(total == 0, 1, total)
    return result


def _update(node: Node, x: Array, at: Array, new: Array) -> Array:
    (axis,) = node.attrs
    start = int(at)
    gate.check_update(start, new.shape[axis], x.shape[axis], node.site)
    result = x.copy()
    result[(slice(None),) * axis + (slice(start, start + new.shape[axis]),)] = new
    return result


def _random(node: Node, *args: Array) -> Array:
    word, digits = node.attrs
    words, (scale, shift) = [int(a) % 2**32 for a in args[:4]], args[4:]
    flat = np.arange(node.size, dtype=np.uint64).reshape(node.shape)
    bits = philox_words([flat, 0, *words[2:]], words[:2])[word] >> np.uint32(32 - digits)
    result: Array = bits * np.float64(np.float32(scale)) + np.float32(shift)
    return result


def _cast(node: Node, x: Array) -> Array:
    """Floats to int32 are cut to whole numbers and to its range; NaN is 0."""
    if node.dtype is not int32 or x.dtype.kind != "f":
        return x
    whole: Array = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
    return whole.clip(-(2.0**31), 2.0**31 - 1)


def _narrow(node: Node, x: Array) -> Array:
    return gate.to_float16(x.astype(np.float32), node.attrs[0], node.name)


def _pad(node: Node, x: Array, value: Array) -> Array:
    return np.pad(x, node.attrs, constant_values=_wide(value, node.dtype).item())


def _slice(node: Node, x: Array) -> Array:
    places = np.indices(node.shape, sparse=True)
    rows = [start + sum(step * places[axis] for axis, step in steps) for start, steps in node.attrs]
    result: Array = x[tuple(rows)]
    return result


_RULES: dict[str, Callable[..., Array]] = {
    "elementwise": _elementwise,
    "reduce": _reduce,
    "scan": _scan,
    "cast": _cast,
    "narrow": _narrow,
    "reshape": lambda node, x: x.reshape(node.shape),
    "permute": lambda node, x: np.transpose(x, node.attrs[0]),
    "expand": lambda node, x: np.broadcast_to(x, node.shape),
    "slice": _slice,
    "pad": _pad,
    "concat": lambda node, *parts: np.concatenate(parts, axis=node.attrs[0]),
    "take": _take,
    "gather": _gather,
    "scatter": _scatter,
    "argsort": _argsort,
    "matmul": lambda node, a, b: a.astype(np.float32) @ b.astype(np.float32),
    "attention": _attention,
    "update": _update,
    "random": _random,
}


class Reference:
    name = "reference"
    description = "NumPy, op by op: the definition of right"

    def unavailable(self) -> None:
        return None

    def run(self, roots: Sequence[Node], order: Sequence[Node] | None = None) -> None:
        values: dict[int, Array] = {}
        exact = settings.current().precision == "exact"
        for node in order or topological(roots):
            values[id(node)] = (
                leaf_array(node) if node.op is None else self.compute(node, values, exact)
            )
        for root in roots:
            if root.op is not None:
                root.realise(array_data(values[id(root)], root.dtype))

    def run_call(self, results: Sequence[Node]) -> bool:
        return False

    def plan_of_call(self, results: Sequence[Node]) -> None:
        return None

    @staticmethod
    def compute(node: Node, values: dict[int, Array], exact: bool = False) -> Array:
        """The value of a node from those of its arguments; `exact` rounds nothing to float16."""
        assert node.op is not None
        with np.errstate(all="ignore"):
            args = [values[id(a)] for a in node.args]
            result = _RULES[node.op.kind](node, *args)
            if node.dtype is float16 and result.dtype != np.float16:
                # Through float32, as on every device: the stored value is rounded from float32.
                result = result.astype(np.float32)
                if exact or node.op.kind in ops.VIEWS:
                    return result  # a view of a quantized leaf rounds nothing either
            return np.asarray(result).astype(node.dtype.numpy, copy=False)
