"""Products of matrices."""

from __future__ import annotations

from tensorlogic.coreml.mil.table import Bias, Tensors, row
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor


@row()
def linear(x: Tensor, weight: Tensor, bias: Bias = None) -> Tensor:
    if x.dtype.kind == "int":
        product = matmul(x, weight.transpose())
        return product if bias is None else product + bias
    return x.linear(weight, bias)


@row()
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    a = x.transpose() if transpose_x and x.ndim > 1 else x
    b = y.transpose() if transpose_y and y.ndim > 1 else y
    if a.dtype.kind != "int":
        return a.matmul(b)
    left, right = ("i" if t.ndim > 1 else "" for t in (a, b))
    pattern = f"...{left}j,...j{right.replace('i', 'k')}->...{left}{right.replace('i', 'k')}"
    return einsum([a, b], pattern)


@row()
def einsum(values: Tensors, equation: str) -> Tensor:
    result: Tensor = FUNCTIONS["einsum"](equation, *values)
    return result


@row()
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    return query.scaled_dot_product_attention(key, value, attn_mask)
