"""Scans: float32 accumulation, int32 that wraps, what is fused into them, long and strided axes."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.harness import compute
from tests.plans.printed import steps_of


def test_floats_accumulate_in_float32(device: str) -> None:
    got = compute(lambda t: t.cumsum(), np.ones(5000, np.float16), device=device)
    assert got[-1] == 5000  # float16 would stop at 2048
    assert compute(lambda t: t.cumsum(), np.full(3, 60000, np.float16), device=device).tolist() == [
        60000,
        np.inf,
        np.inf,
    ]


def test_ints_are_exact_and_wrap(device: str) -> None:
    x = np.random.default_rng(1).integers(-(2**31), 2**31, (3, 1000)).astype(np.int32)
    for axis in (0, 1, None):
        got = compute(lambda t, a=axis: t.cumsum(a), x, device=device)
        np.testing.assert_array_equal(got, np.cumsum(x, axis, dtype=np.int32))
    assert compute(lambda t: t.cumsum(), np.ones(3, bool), device=device).tolist() == [1, 2, 3]


def test_nan_stays(device: str) -> None:
    x = np.array([1, np.inf, 2, -np.inf, 3], np.float32)
    for call in (lambda t: t.cumsum(), lambda t: (t * 0).cumprod()):
        got = compute(call, x, device=device)
        assert np.isnan(got[3:]).all()


@pytest.mark.parametrize("shape", [(70, 33), (3, 5000), (4000, 1), (2, 30, 17)], ids=str)
def test_computed_values_and_views(shape: tuple[int, ...], device: str) -> None:
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    wide = x.astype(np.float64)
    for axis in range(len(shape)):
        size = np.cumsum(np.abs(wide) + 1, axis)
        got = compute(lambda t, a=axis: (t * 2 + 1).cumsum(a) - 1, x, device=device)
        assert_close(got, np.cumsum(wide * 2 + 1, axis) - 1, 64, 3 * size)
        got = compute(lambda t, a=axis: t[::-1].T.cumsum(a), x, device=device)
        assert_close(got, np.cumsum(wide[::-1].swapaxes(-1, -2), axis), 64, np.abs(wide).sum())
        got = compute(lambda t, a=axis: t.softmax(a).cumsum(a), x, device=device)
        assert_close(got.max(axis), np.ones_like(got.max(axis)), 64, 1)
    flat = compute(lambda t: t.reshape(-1).cumsum().reshape(shape), x, device=device)
    assert_close(flat, np.cumsum(wide).reshape(shape), 64, np.abs(wide).sum())


def test_a_reshape_under_a_scan(device: str) -> None:
    """The axis is two loops where a computed value is reshaped into it."""
    x = np.random.default_rng(3).standard_normal((6, 4, 5)).astype(np.float32)
    got = compute(lambda t: t.transpose(0, 2).reshape(5, 24).exp().cumsum(1), x, device=device)
    want = np.cumsum(np.exp(x.astype(np.float64).swapaxes(0, 2).reshape(5, 24)), 1)
    assert_close(got, want, 16)


def test_what_a_scan_reads_is_fused_and_what_reads_it_is_not() -> None:
    x = tl.ones([8, 16])
    assert len(steps_of((x * 2 + 1).exp().cumsum(1))) == 1
    assert len(steps_of(x.cumsum(1).reshape(4, 32))) == 1
    assert len(steps_of(x.cumsum(1) * 2)) == 2


def test_looked_up_values_are_checked(device: str) -> None:
    x, i = tl.ones([4], device=device), tl.tensor([0, 5, 9], "int32", device)
    with pytest.raises(tl.IndexRangeError, match=r"index 5 is outside an axis of size 4 \(2 such"):
        x.take(i).cumsum().tolist()
