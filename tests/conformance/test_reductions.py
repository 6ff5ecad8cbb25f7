"""Reductions and what is made of them: NaN, infinities, ties, empty axes, float32 accumulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.harness import FLOATS, compute

NAN, INF = np.nan, np.inf


def rows(dtype: str, *values: list[float]) -> np.ndarray:
    return np.array(values, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "argmax", "argmin"])
def test_nan_and_infinities(name: str, dtype: str, device: str) -> None:
    x = rows(dtype, [1, NAN, 3], [INF, 1, NAN], [INF, -INF, 0], [-INF, -INF, -INF], [1, INF, INF])
    with np.errstate(invalid="ignore"):
        want = getattr(np, name)(x.astype(np.float64), axis=1)
    assert_close(compute(lambda t: getattr(tl, name)(t, axis=1), x, device=device), want, what=name)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
@pytest.mark.parametrize("width", [1, 2, 7, 64, 1000, 5000])
def test_argmax_takes_the_first_of_ties(dtype: str, width: int, device: str) -> None:
    x = np.random.default_rng(5).integers(0, 3, (3, width)).astype(dtype)
    for axis in (1, 0, None):
        got = compute(lambda t, a=axis: t.argmax(a), x, device=device)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, x.argmax(axis))


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_argmin_is_argmax_of_the_negative(dtype: str, device: str) -> None:
    x = np.random.default_rng(5).integers(-3, 3, (3, 1000)).astype(dtype)
    if dtype != "int32":
        x[1, 7], x[2] = NAN, INF
    for axis in (1, 0, None):
        got = compute(lambda t, a=axis: t.argmin(a), x, device=device)
        np.testing.assert_array_equal(got, x.argmin(axis))


def test_variance_does_not_cancel(device: str) -> None:
    x = (10_000 + np.random.default_rng(8).standard_normal((3, 4000))).astype(np.float32)
    wide = x.astype(np.float64)
    for axis in (1, 0, None):
        got = compute(lambda t, a=axis: (t.var(a), t.std(a)), x, device=device)
        assert_close(got[0], wide.var(axis), 64, 3)
        assert_close(got[1], wide.std(axis), 64, 3)
    assert np.isinf(compute(lambda t: t.var(correction=1), np.float16([0, 600]), device=device))
    assert compute(lambda t: t.std(), np.float16([0, 600]), device=device) == 300
    assert np.isnan(compute(lambda t: t.var(correction=1), np.float32([5]), device=device))


@pytest.mark.parametrize("dtype", FLOATS)
def test_logsumexp_and_log_softmax_rows(dtype: str, device: str) -> None:
    x = rows(dtype, [-INF, -INF], [-INF, 0], [60000, 60000], [INF, 0], [NAN, 0], [-60000, -60000])
    got = compute(lambda t: t.logsumexp(1), x, device=device)
    top = np.float64(60000) + np.log(2)
    assert_close(got, np.array([-INF, 0, top, INF, NAN, np.log(2) - 60000]), what="logsumexp")
    got = compute(tl.log_softmax, x, device=device)
    half = -np.log(2)
    want = [[NAN, NAN], [-INF, 0], [half, half], [NAN, NAN], [NAN, NAN], [half, half]]
    assert_close(got, np.array(want), what="log_softmax")


def test_truth_of_values(device: str) -> None:
    x = np.array([[0, NAN], [0, -0.0], [2, -INF]], np.float32)
    assert compute(lambda t: t.any(1), x, device=device).tolist() == [True, False, True]
    assert compute(lambda t: t.all(1), x, device=device).tolist() == [False, False, True]
    many = np.zeros(300_000, bool)
    assert not compute(lambda t: t.any(), many, device=device)
    many[-1] = True
    assert compute(lambda t: t.any(), many, device=device)


def test_cross_entropy_of_sure_and_wrong_rows(device: str) -> None:
    x, targets = rows("float32", [100, 0], [0, 100], [-INF, 0], [NAN, 0]), np.int32([0, 0, 1, 0])
    got = compute(lambda t, i: tl.cross_entropy(t, i, "none"), x, targets, device=device)
    assert_close(got, np.array([np.exp(-100), 100, 0, NAN]), 4, 1)
    for wrong in (-1, 2):
        logits, i = (tl.from_numpy(v, device=device) for v in (x[:2], np.int32([0, wrong])))
        with pytest.raises(tl.IndexRangeError, match=f"index {wrong} is outside an axis of size 2"):
            tl.cross_entropy(logits, i).item()


@pytest.mark.parametrize("width", [3, 64, 5000])
def test_argmax_of_nan_takes_the_first_nan(width: int, device: str) -> None:
    x = np.random.default_rng(6).standard_normal((4, width)).astype(np.float32)
    x[1, width // 2 :] = NAN
    x[2] = NAN
    x[3] = -INF
    got = compute(lambda t: t.argmax(1), x, device=device)
    np.testing.assert_array_equal(got, x.argmax(1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_rows(dtype: str, device: str) -> None:
    x = rows(dtype, [-INF, -INF], [-INF, 0], [60000, 60000], [INF, 0], [NAN, 0], [-60000, 60000])
    got = compute(tl.softmax, x, device=device)
    want = rows(dtype, [NAN, NAN], [0, 1], [0.5, 0.5], [NAN, NAN], [NAN, NAN], [0, 1])
    np.testing.assert_array_equal(got, want)


def test_mean_square_of_300s_is_finite(device: str) -> None:
    x = np.full((2, 1000), 300, np.float16)
    assert np.all(compute(lambda t: tl.rms_norm(t), x, device=device) == 1)
    assert np.all(compute(lambda t: tl.layer_norm(t), x, device=device) == 0)
    assert np.all(np.isinf(compute(lambda t: t * t, x, device=device)))
    assert np.all(compute(lambda t: t.mean(axis=1), x, device=device) == 300)


def test_sums_accumulate_in_float32(device: str) -> None:
    ones = np.ones(5000, np.float16)
    assert compute(lambda t: t.sum(), ones, device=device) == 5000  # float16 would stop at 2048
    assert np.isinf(compute(lambda t: (t * 20).sum(), ones, device=device))
    assert compute(lambda t: t @ t, ones, device=device) == 5000


def test_bools_are_counted(device: str) -> None:
    x = np.ones((3, 70000), bool)
    got = compute(lambda t: t.sum(axis=-1), x, device=device)
    assert got.dtype == np.int32
    assert got.tolist() == [70000] * 3
    assert compute(lambda t: (t > 0.5).sum(), np.arange(3.0, dtype=np.float32), device=device) == 2


def test_int_sums_wrap(device: str) -> None:
    x = np.array([2**31 - 1, 1], np.int32)
    assert compute(lambda t: t.sum(), x, device=device) == -(2**31)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_empty_axes(dtype: str, device: str) -> None:
    x = np.empty((3, 0), dtype)
    assert compute(lambda t: t.sum(axis=1), x, device=device).tolist() == [0, 0, 0]
    assert compute(lambda t: t.sum(), x, device=device) == 0
    assert compute(lambda t: t.max(axis=0), x, device=device).shape == (0,)
    both = compute(lambda t: (t.reshape(0, 1) + t[0] * 2).sum() + 1, x, device=device)
    assert both == 1  # nothing of either axis is read
    joined = compute(lambda t: tl.concat([t, t * 2], axis=1).sum(), x, device=device)
    assert joined == 0
    if dtype != "int32":
        assert np.isnan(compute(lambda t: t.mean(), x, device=device))
        assert compute(tl.softmax, x, device=device).shape == (3, 0)
        assert compute(lambda t: tl.rms_norm(t), x, device=device).shape == (3, 0)
        assert compute(lambda t: tl.layer_norm(t), x, device=device).shape == (3, 0)


@pytest.mark.parametrize(
    "shape", [(1,), (100_003,), (3, 40_000), (40_000, 3), (2, 300, 70)], ids=str
)
def test_long_reductions(shape: tuple[int, ...], device: str) -> None:
    x = np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)
    wide = x.astype(np.float64)
    axes: list[Any] = [None, *range(x.ndim)]
    for axis in axes:
        got = compute(lambda t, a=axis: t.sum(a), x, device=device)
        assert_close(got, wide.sum(axis), 16, np.abs(wide).sum(axis), f"sum over {axis}")
        got = compute(lambda t, a=axis: t.max(a) - t.min(a), x, device=device)
        assert_close(got, wide.max(axis) - wide.min(axis), 4, 4)
