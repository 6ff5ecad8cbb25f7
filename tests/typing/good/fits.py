"""Shapes that fit: neither checker has anything to say."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import tensorlogic as tl
from tensorlogic import Tensor, float16, float32, int32

B = TypeVar("B")
H = TypeVar("H")
G = TypeVar("G")
N = TypeVar("N")
M = TypeVar("M")
D = TypeVar("D")
D_in = TypeVar("D_in")
D_out = TypeVar("D_out")


@tl.function
def forward(
    input: Tensor[float16, N, D_in],
    weights: Tensor[float16, D_in, D_out],
    bias: Tensor[float16, D_out],
) -> Tensor[float16, N, D_out]:
    output = input @ weights
    return output + bias


def batched(
    x: Tensor[float16, B, N, D_in], w: Tensor[float16, D_in, D_out], scale: float
) -> Tensor[float16, B, N, D_out]:
    return scale * tl.relu(x @ w).exp() / 2 - 1


def gram(x: Tensor[float16, B, N, D]) -> Tensor[float16, B, N, N]:
    return x @ x.T


def scores(q: Tensor[float32, B, N, D], k: Tensor[float32, B, M, D]) -> Tensor[float32, B, N, M]:
    return tl.softmax(q @ k.transpose(), axis=-1)


def vectors(x: Tensor[float16, N, D], w: Tensor[float16, D]) -> Tensor[float16, N]:
    return x * (w @ w) @ w


def trailing(b: Tensor[float16, D], x: Tensor[float16, B, N, D]) -> Tensor[float16, B, N, D]:
    return b + x * b - tl.minimum(x, b)


def matrix(m: Tensor[float16, N, D], x: Tensor[float16, B, N, D]) -> Tensor[float16, B, N, D]:
    return m + x * m


def fixed(
    x: Tensor[float16, N, Literal[3]], w: Tensor[float16, Literal[3], D]
) -> Tensor[float16, N, D]:
    return x @ w


def masked(x: Tensor[float16, N, D]) -> Tensor[float16, N, D]:
    return tl.where(x > 0, x, 0.0) * (x != 1) + -abs(x)


def mixed(x: Tensor[float16, N, D], w: Tensor[float32, D]) -> Tensor[float32, N, D]:
    return x * w + x.to(float32)


def block(
    x: Tensor[float16, N, D], w: Tensor[float16, M, D], b: Tensor[float16, M]
) -> Tensor[float16, N, M]:
    return tl.gelu(tl.linear(tl.layer_norm(x, w[0], w[1]), w, b), approximate="tanh")


def embed(i: Tensor[int32, B, N], table: Tensor[float16, M, D]) -> Tensor[float16, B, N, D]:
    return tl.embedding(i, table).rms_norm()


def attend(
    q: Tensor[float16, B, H, N, D], k: Tensor[float16, B, G, M, D], v: Tensor[float16, B, G, M, D]
) -> Tensor[float16, B, H, N, D]:
    return tl.scaled_dot_product_attention(q, k, v, causal=True)


def unknown(x: Tensor[float16, N, D]) -> Tensor[float16, N, D]:
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / tl.concat([mean, x[:, 1:]], axis=1)


def any_shape(x: Tensor, y: Tensor) -> Tensor:
    z: Tensor = tl.exp(x) + y
    return z @ y.T


@tl.function
def method_like(self: Any, x: Tensor[float16, N], *, scale: float = 1.0) -> Tensor[float16, N]:
    return x * scale


class Layer:
    def __init__(self, weight: Tensor[float16, D_in, D_out]) -> None:
        self.weight: Tensor = weight

    @tl.function
    def __call__(self, x: Tensor[float16, N, D_in]) -> Tensor[float16, N, D_out]:
        return x @ self.weight


x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
forward(x, tl.ones([2, 3]), bias=tl.zeros([3])).numpy()
forward(tl.ones([2, 3]), x, tl.arange(2).to(tl.float16))
Layer(x)(any_shape(x, x)).softmax().tolist()
method_like(None, x[0], scale=2)
device: str = tl.gpu
