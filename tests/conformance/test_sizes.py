"""Every small size (lanes and their rest), and sizes that are spread over threads and tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.cases import layer_norm, softmax
from tests.conformance.harness import FLOATS, compute, numbers, wide


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_small_size(dtype: str, device: str) -> None:
    rng = np.random.default_rng(16)
    for n in range(70):
        x = numbers(rng, (2, n), dtype)
        a = wide(x)
        got = compute(
            lambda t: (t * 2 + 1, t.sum(1), t[:, ::-1] - t[0], t.T.sum(1)), x, device=device
        )
        assert_close(got[0], a * 2 + 1, 4, 3, f"chain of {n}")
        assert_close(got[1], a.sum(1), 4, np.abs(a).sum(1), f"sum of {n}")
        assert_close(got[2], a[:, ::-1] - a[0], 4, 4, f"reversed {n}")
        assert_close(got[3], a.sum(0), 4, 4, f"columns of {n}")
        if n:
            soft, top = compute(lambda t: (tl.softmax(t), t.argmax(1)), x, device=device)
            assert_close(soft, softmax(a), 8, what=f"softmax of {n}")
            np.testing.assert_array_equal(top, x.argmax(1))


LARGE: dict[str, tuple[tuple[tuple[int, ...], ...], Any, Any]] = {
    "chain": (
        ((1000, 333), (333,)),
        lambda x, y: tl.sigmoid(x) * y - x,
        lambda x, y: y / (1 + np.exp(-x)) - x,
    ),
    "transposed": (((700, 401), (401, 700)), lambda x, y: x.T + y, lambda x, y: x.T + y),
    "rows": (
        ((800, 500), (500,)),
        lambda x, y: x - x.mean(1, keepdims=True) * y,
        lambda x, y: x - x.mean(1, keepdims=True) * y,
    ),
    "columns": (((800, 500), (800, 1)), lambda x, y: (x * y).sum(0), lambda x, y: (x * y).sum(0)),
    "softmax": (((300, 1111), (1,)), lambda x, y: tl.softmax(x + y), lambda x, y: softmax(x + y)),
    "layer_norm": (
        ((300, 1111), (1111,)),
        lambda x, y: tl.layer_norm(x, y, y),
        lambda x, y: layer_norm(x, y, y),
    ),
    "product": (((257, 300), (300, 131)), lambda x, y: x @ y, np.matmul),
    "tall product": (
        ((1025, 70), (70, 9)),
        lambda x, y: tl.relu(x @ y + 1),
        lambda x, y: np.maximum(x @ y + 1, 0),
    ),
    "batched product": (
        ((6, 65, 40), (40, 33)),
        lambda x, y: (x @ y) * 0.5,
        lambda x, y: (x @ y) * 0.5,
    ),
    "transposed product": (((90, 200), (55, 200)), tl.linear, lambda x, y: x @ y.T),
}
TOLERANCE = {"float32": (2e-5, 1e-4), "float16": (2e-3, 2e-2)}
"""Relative and absolute, of values up to 100 that are rounded after each function."""


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", LARGE)
def test_large(name: str, dtype: str, device: str) -> None:
    shapes, call, oracle = LARGE[name]
    x, y = (numbers(np.random.default_rng(17), s, dtype) for s in shapes)
    got = compute(call, x, y, device=device)
    np.testing.assert_allclose(got, oracle(wide(x), wide(y)), *TOLERANCE[dtype])
