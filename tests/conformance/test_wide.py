"""Sums over the lines of a matrix: vectors and few rows times a matrix with contiguous rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings
from tests.compare import assert_close
from tests.conformance.harness import compute, numbers, wide

SHAPES = {
    "a vector": ((300,), (300, 1000)),
    "one row": ((1, 517), (517, 130)),
    "four rows": ((4, 100), (100, 600)),
    "lines that are no multiple": ((3, 33), (33, 4099)),
    "a batch": ((2, 3, 64), (2, 64, 300)),
    "one matrix for a batch": ((5, 2, 64), (64, 300)),
}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", SHAPES)
def test_products(name: str, dtype: str, device: str) -> None:
    rng = np.random.default_rng(4)
    a, b = (numbers(rng, s, dtype) for s in SHAPES[name])
    got = compute(lambda a, b: a @ b, a, b, device=device)
    assert_close(got, wide(a) @ wide(b), 4, np.abs(wide(a)) @ np.abs(wide(b)))


def test_what_follows_is_part_of_the_kernel(device: str) -> None:
    rng = np.random.default_rng(5)
    x, w, bias, rest = (
        numbers(rng, s, "float32") for s in ((3, 200), (200, 300), (300,), (3, 300))
    )

    def call(x: Any, w: Any, bias: Any, rest: Any) -> Any:
        return tl.relu(x @ w + bias) * 0.5 + rest

    got = compute(call, x, w, bias, rest, device=device)
    want = np.maximum(wide(x) @ wide(w) + bias, 0) * 0.5 + rest
    np.testing.assert_allclose(got, want, 1e-5, 1e-4)


def test_sums_along_the_first_axis(device: str) -> None:
    x = numbers(np.random.default_rng(6), (600, 700), "float32")
    got = compute(lambda x: (x * x).sum(0), x, device=device)
    np.testing.assert_allclose(got, (wide(x) ** 2).sum(0), 1e-5)


def test_blocks_are_used_where_they_pay() -> None:
    def local(x: tl.Tensor) -> list[bool]:
        steps = schedule(inline_calls([x._node]), Settings()).steps
        return [isinstance(s.kernel, Kernel) and bool(s.kernel.locals) for s in steps]

    x, w = tl.zeros([2, 300]) + 0, tl.zeros([300, 300]) + 0
    tl.eval(x, w)
    assert local(x @ w) == local(tl.silu(x @ w)) == [True]
    assert local(x @ w.T) == local(x[:, :5] @ w[:5]) == [False]
