"""Rows that keep what their loops share: softmax and its like, of lengths that are kept or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import CPU, GPU, Traits
from tensorlogic.settings import Settings
from tests.compare import assert_close
from tests.conformance.harness import compute, numbers

LENGTHS = (1, 15, 16, 17, 63, 64, 100, 1023, 1024)


def softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x.astype(np.float64) - x.astype(np.float64).max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("columns", LENGTHS)
def test_softmax_of_every_length(columns: int, dtype: str, device: str) -> None:
    x = numbers(np.random.default_rng(columns), (9, columns), dtype)
    assert_close(compute(lambda t: tl.softmax(t), x, device=device), softmax(x), 8)


def test_rows_of_infinities_and_nan(device: str) -> None:
    rows = [[np.inf, 1.0], [-np.inf, 1.0], [np.nan, 1.0], [-np.inf, -np.inf], [6e4, -6e4]]
    x = np.repeat(np.array(rows, np.float16), 20, 1)
    with np.errstate(invalid="ignore"):
        assert_close(compute(lambda t: tl.softmax(t), x, device=device), softmax(x), 8)


def test_a_row_that_is_too_long_is_computed_twice(device: str) -> None:
    x = numbers(np.random.default_rng(1), (2, 40_000), "float32")
    assert_close(compute(lambda t: tl.softmax(t), x, device=device), softmax(x), 16)


def test_several_values_of_a_row(device: str) -> None:
    """Two functions that a sum and what is stored share."""
    x = numbers(np.random.default_rng(2), (7, 50), "float32")

    def call(t: Any) -> Any:
        a, b = tl.exp(t), tl.tanh(t)
        return a / a.sum(-1, keepdims=True) + b / (b * b).sum(-1, keepdims=True)

    a, b = np.exp(x.astype(np.float64)), np.tanh(x.astype(np.float64))
    want = a / a.sum(-1, keepdims=True) + b / (b * b).sum(-1, keepdims=True)
    assert_close(compute(call, x, device=device), want, 8, np.abs(b).max())


def kept(y: tl.Tensor, traits: Traits = CPU) -> list[str]:
    steps = schedule(inline_calls([y._node]), Settings(), traits).steps
    return [b.name for s in steps if isinstance(s.kernel, Kernel) for b in s.kernel.locals]


def test_what_is_kept() -> None:
    x = tl.zeros([8, 100])
    assert kept(tl.softmax(x)) == ["kept0"]
    assert kept(tl.softmax(x), GPU) == []  # its threads keep rows in registers
    assert kept(tl.softmax(tl.zeros([2, 40_000]))) == []
    assert kept(tl.log_softmax(x)) == []
    assert kept(tl.rms_norm(x)) == []  # a product costs less than memory
