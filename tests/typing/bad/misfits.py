"""Shapes that do not fit: both checkers find each marked line, and no other."""

from __future__ import annotations

from typing import Literal, TypeVar

import tensorlogic as tl
from tensorlogic import Tensor, float16, float32, int32

B = TypeVar("B")
N = TypeVar("N")
M = TypeVar("M")
D = TypeVar("D")
D_in = TypeVar("D_in")
D_out = TypeVar("D_out")


def swapped(
    input: Tensor[float16, N, D_in], weights: Tensor[float16, D_in, D_out]
) -> Tensor[float16, N, D_out]:
    return weights @ input  # error expected


def wrong_bias(
    input: Tensor[float16, N, D_in],
    weights: Tensor[float16, D_in, D_out],
    bias: Tensor[float16, D_in],
) -> Tensor[float16, N, D_out]:
    return input @ weights + bias  # error expected


def wrong_result(
    input: Tensor[float16, N, D_in], weights: Tensor[float16, D_in, D_out]
) -> Tensor[float16, D_out, N]:
    return input @ weights  # error expected


def not_transposed(
    x: Tensor[float16, B, N, D_in], w: Tensor[float16, D_out, D_in]
) -> Tensor[float16, B, N, D_out]:
    return x @ w  # error expected


def lost_axis(x: Tensor[float16, B, N, D]) -> Tensor[float16, B, N]:
    return tl.relu(x).exp()  # error expected


def leading(b: Tensor[float16, N], x: Tensor[float16, B, N, D]) -> Tensor[float16, B, N, D]:
    return b + x  # error expected


def wrong_dtype(x: Tensor[float16, N], y: Tensor[float32, N]) -> Tensor[float16, N]:
    return x + y  # error expected


def unconverted(x: Tensor[float16, N], i: Tensor[int32, N]) -> Tensor[float16, N]:
    return x * i  # error expected


def fixed(
    x: Tensor[float16, N, Literal[4]], w: Tensor[float16, Literal[3], D]
) -> Tensor[float16, N, D]:
    return x @ w  # error expected


def float_ids(x: Tensor[float16, N], table: Tensor[float16, M, D]) -> Tensor[float16, N, D]:
    return tl.embedding(x, table)  # error expected


def no_transpose_needed(
    x: Tensor[float16, N, D_in], w: Tensor[float16, D_in, D_out]
) -> Tensor[float16, N, D_out]:
    return tl.linear(x, w)  # error expected


def of_two(x: Tensor[float16, N], y: Tensor[float16, M]) -> Tensor[float16, N]:
    return tl.maximum(x, y)  # error expected


@tl.function
def forward(x: Tensor[float16, N, D], w: Tensor[float16, D], scale: float) -> Tensor[float16, N]:
    return x @ w * scale


def caller(x: Tensor[float16, N, D], w: Tensor[float16, N]) -> Tensor[float16, N]:
    return forward(x, w, 1.0)  # error expected


def no_number(x: Tensor[float16, N, D], w: Tensor[float16, D]) -> Tensor[float16, N]:
    return forward(x, w, "1.0")  # error expected


tl.relux(tl.ones([2]))  # error expected
tl.ones([2]).softmaxx()  # error expected
