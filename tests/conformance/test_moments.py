"""Rows whose mean and variance take one pass: large means, outliers, lengths around the limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import Fold, Kernel, walk
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.moments import LENGTHS
from tensorlogic.schedule.traits import CPU, CUDA, GPU, Traits
from tensorlogic.settings import Settings
from tests.compare import assert_close
from tests.conformance.harness import compute

FIRST = CPU.pivot
LONG = LENGTHS[-1]


def layer_norm(x: Any, eps: float = 1e-5) -> Any:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def rows(columns: int) -> Any:
    """Rows of float16 that sums of squares get wrong, and rows whose first elements mislead."""
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((10, columns))
    x[1] += 1000
    x[2] = x[2] * 0.25 - 300
    x[3, 0] = 60000
    x[4, :FIRST] += 2000
    x[5, FIRST:] = 5 + 0.01 * x[5, FIRST:]
    x[6] = 7
    x[7, -1] = -60000
    x[8] = np.where(x[8] > 0, 60000, -60000)
    x[9, : FIRST // 2] = 30000
    return x.astype(np.float16)


@pytest.mark.parametrize("columns", [8 * FIRST - 1, 8 * FIRST, 1023, 4096, LONG, LONG + 1])
def test_rows_of_any_mean(columns: int, device: str) -> None:
    x = rows(columns)
    deviations = np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + 1e-5)
    scale = np.abs(x).max(-1, keepdims=True) / deviations  # a mean is rounded to float32
    assert_close(compute(lambda t: tl.layer_norm(t), x, device=device), layer_norm(x), 4, scale)
    got = compute(lambda t: (t * 0.125).var(1, correction=0), x, device=device)
    want = (x.astype(np.float64) * 0.125).var(1)
    keep = want < 60000
    np.testing.assert_allclose(got[keep], want[keep], 1e-3)


def test_rows_of_infinities_and_nan(device: str) -> None:
    x = rows(1024)[:4]
    x[0, 0], x[1, 1000], x[2, 500], x[3, 1] = np.inf, -np.inf, np.nan, np.nan
    got = compute(lambda t: tl.layer_norm(t), x, device=device)
    assert np.isnan(got).all()


def folds(columns: int, dtype: Any, traits: Traits) -> list[int]:
    """How many sums each fold of a layer norm has."""
    x = tl.zeros([4, columns], dtype)
    node = tl.layer_norm(x)._node
    (step,) = schedule(inline_calls([node]), Settings(), traits).steps
    assert isinstance(step.kernel, Kernel)
    return [len(s.acc) for s in walk(step.kernel.body) if isinstance(s, Fold)]


def test_which_rows_take_one_pass() -> None:
    assert folds(1024, tl.float16, CPU) == [1, 2]
    assert folds(1024, tl.float16, GPU) == [1, 1]
    assert folds(1024, tl.float16, CUDA) == [2]
    assert folds(1024, tl.float32, CPU) == [1, 1]
    assert folds(LENGTHS[0] - 1, tl.float16, CPU) == folds(LONG + 1, tl.float16, CPU) == [1, 1]
