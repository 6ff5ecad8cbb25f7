"""The four pilots: each runs on the CPU against NumPy and is printed for both GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType

import tensorlogic as tl
from tensorlogic.creation import from_storage
from tests.cuda.checker import check_cuda
from tests.metal.checker import check_metal
from tests.plans.printed import sources

Array = np.ndarray[Any, Any]
Pilot = tuple[tl.Tensor, Array, float]
"""The result, the same in float64, and the tolerance."""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def product() -> Pilot:
    """A tiled float16 product with bias, activation and residual in its epilogue."""
    a, b, bias, rest = normal(70, 130), normal(130, 90), normal(90), normal(70, 90)
    y = tl.silu(tl.tensor(a) @ tl.tensor(b) + tl.tensor(bias)) + tl.tensor(rest)
    z = a.astype(float) @ b.astype(float) + bias
    return y, z / (1 + np.exp(-z)) + rest, 0.02


def quantized() -> Pilot:
    """A Q4_0 matrix-vector product straight from the blocks."""
    kind = GGMLQuantizationType.Q4_0
    blocks = gguf.quants.quantize(normal(300, 256).astype(np.float32), kind)
    weights = from_storage(blocks.reshape(-1).view(np.uint8), (300, 256), "q4_0")
    x = normal(1, 256, seed=1)
    exact = gguf.quants.dequantize(blocks, kind).reshape(300, 256).astype(float)
    return tl.linear(tl.tensor(x), weights), x.astype(float) @ exact.T, 0.02


def attention() -> Pilot:
    """Grouped heads over a cache that is written in place and read up to a run-time length."""
    cache_k, cache_v = tl.zeros([2, 16, 8]) + 0, tl.zeros([2, 16, 8]) + 0
    tl.eval(cache_k, cache_v)
    k, v, q = normal(2, 5, 8), normal(2, 5, 8, seed=1), normal(6, 5, 8, seed=2)
    at = tl.tensor(3, dtype=tl.int32)
    cache_k = cache_k.update(at, tl.tensor(k), axis=1)
    cache_v = cache_v.update(at, tl.tensor(v), axis=1)
    length = at + 5
    y = tl.scaled_dot_product_attention(tl.tensor(q), cache_k, cache_v, causal=True, length=length)
    keys, values = (np.zeros((2, 8, 8)) for _ in range(2))
    keys[:, 3:], values[:, 3:] = k, v
    out = np.zeros((6, 5, 8))
    for head in range(6):
        scores = q[head].astype(float) @ keys[head // 3].T / np.sqrt(8)
        scores = np.where(np.arange(8) <= np.arange(5)[:, None] + 3, scores, -np.inf)
        e = np.exp(scores - scores.max(1, keepdims=True))
        out[head] = e / e.sum(1, keepdims=True) @ values[head // 3]
    return y, out, 2e-3


def argmax() -> Pilot:
    """argmax over rows: ties go to the first, NaN counts as largest."""
    x = normal(40, 333)
    x[3, [5, 300]] = 60
    x[4, 200] = np.nan
    return tl.argmax(tl.tensor(x), axis=1), np.argmax(x, axis=1).astype(float), 0


PILOTS: list[Callable[[], Pilot]] = [product, quantized, attention, argmax]


@pytest.mark.parametrize("pilot", PILOTS)
def test_pilot_runs_on_the_cpu(pilot: Callable[[], Pilot]) -> None:
    y, expected, tolerance = pilot()
    np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pilot", PILOTS)
def test_pilot_is_printed_for_metal_and_cuda(pilot: Callable[[], Pilot]) -> None:
    y, _, _ = pilot()
    for text in sources(y, "metal"):
        check_metal(text)
    for text in sources(y, "cuda"):
        check_cuda(text)


def test_the_pilots_are_the_kernels_that_they_are_meant_to_be() -> None:
    kernels = {p.__name__: p()[0].explain("kernels") for p in PILOTS}
    assert kernels["product"].startswith("product of a along k")
    assert "u8[]" in kernels["quantized"]
    assert "causal attention of rows over contiguous keys of 8" in kernels["attention"]
    assert kernels["argmax"].count("fold") == 1
