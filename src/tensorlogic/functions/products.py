"""Matrix products, embedding and attention."""

from __future__ import annotations

import math
from typing import Any

from tensorlogic import indexing, ops, record
from tensorlogic.errors import ShapeError
from tensorlogic.functions.registry import function, method, node_of
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


@method
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches, accumulated in float32.

    >>> import tensorlogic as tl
    >>> (tl.ones([2, 3]) @ tl.ones([3])).tolist()
    [3.0, 3.0]
    """
    return wrap(record.matmul(node_of("matmul", a), node_of("matmul", b)))


@method
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, with weight [out, in] and bias [out] as PyTorch keeps them.

    >>> import tensorlogic as tl
    >>> tl.linear(tl.ones([1, 3]), tl.ones([2, 3]), tl.tensor([1.0, 2.0])).tolist()
    [[4.0, 5.0]]
    """
    w = node_of("linear", weight)
    if len(w.shape) != 2:
        raise ShapeError(f"linear: weight is [out, in], not {list(w.shape)}")
    node = node_of("linear", x)
    if node.shape[-1:] != w.shape[1:]:
        raise ShapeError(
            f"linear: x {list(node.shape)} does not fit weight {list(w.shape)}, which is [out, in]"
        )
    product = record.matmul(node, record.permute(w, (1, 0)), wide=True)
    dtype = record.common_dtype(ops.MATMUL, node, w)
    if bias is not None:
        b = node_of("linear", bias)
        if b.shape != w.shape[:1]:
            raise ShapeError(f"linear: bias has shape [{w.shape[0]}], not {list(b.shape)}")
        product = record.elementwise(OPS["add"], product, b)
    return wrap(record.cast(product, dtype))


@function
def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, D] picked by int32 indices [...]: [..., D].

    An index outside [-V, V) raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.embedding(tl.tensor([2, 0], dtype="int32"), tl.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    w = node_of("embedding", weight)
    if len(w.shape) != 2:
        raise ShapeError(f"embedding: weight is [V, D], not {list(w.shape)}")
    return wrap(indexing.take(w, node_of("embedding", indices), 0))


@method
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
    node = node_of(fn, q)
    factor = 1.0 / math.sqrt(node.shape[-1]) if scale is None and node.shape[-1:] > (0,) else scale
    return wrap(
        record.attention(
            node,
            node_of(fn, k),
            node_of(fn, v),
            None if mask is None else node_of(fn, mask),
            None if length is None else as_node(length),
            causal,
            as_node(1.0 if factor is None else factor),
        )
    )
