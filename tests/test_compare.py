"""The comparators reject wrong answers."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import (
    assert_close,
    assert_same,
    neighbour_distance,
    reference_forbidden,
    ulp_error,
)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def f16(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def test_ulps() -> None:
    one = np.float32(1)
    assert ulp_error(f32(1 + 2.0**-23), np.array([1.0]))[0] == 1
    assert ulp_error(f32(1e-45), np.array([0.0]))[0] == 1
    assert ulp_error(np.array([np.nextafter(one, np.float32(0))]), np.array([1.0]))[0] == 0.5
    assert ulp_error(f32(np.inf), np.array([1e39]))[0] == 0
    assert ulp_error(f32(np.nan), np.array([np.nan]))[0] == 0
    for got, want in ((np.inf, 1.0), (1.0, np.inf), (np.inf, -np.inf), (np.nan, 0), (0, np.nan)):
        assert ulp_error(f32(got), np.array([want]))[0] == np.inf


def test_neighbours() -> None:
    assert neighbour_distance(f16(-0.0), np.array([0.0]))[0] == 0
    assert neighbour_distance(f16(6e-8), np.array([-6e-8]))[0] == 2
    assert neighbour_distance(f16(np.inf), np.array([65504.0]))[0] == 1
    assert neighbour_distance(f16(np.nan), np.array([1.0]))[0] > 1000


@pytest.mark.parametrize(
    ("got", "want", "scale"),
    [
        (f32(1 + 5 * 2.0**-23), [1.0], None),
        (f32(1.0, 2.0), [1.0], None),
        (f16(1.005), [1.0], None),
        (f16(np.nan), [1.0], None),
        (f32(1.0), [np.nan], None),
        (f32(0.01), [0.0], [1.0]),
        (f32(np.nan), [0.0], [1.0]),
        (f32(1.0), [0.0], [np.nan]),
        (np.array([1], np.int32), [2], None),
        (np.array([True]), [False], None),
    ],
)
def test_wrong_answers_are_rejected(got: np.ndarray, want: list[float], scale: object) -> None:
    with pytest.raises(AssertionError):
        assert_close(got, np.array(want), 4, scale)


def test_right_answers_pass() -> None:
    assert_close(f32(1 + 2.0**-22), np.array([1.0]))
    assert_close(f16(1.001), np.array([1.0]))
    assert_close(f32(1e-7), np.array([0.0]), scale=[1.0])


def test_same() -> None:
    assert_same(f32(np.nan), f32(np.nan))
    for got in (f16(1), f32(1, 2), f32(2)):
        with pytest.raises(AssertionError):
            assert_same(got, f32(1))


def test_the_reference_can_be_forbidden() -> None:
    with reference_forbidden("cpu"):
        assert (tl.ones([2], device="cpu") + 1).tolist() == [2, 2]
        with pytest.raises(AssertionError, match="the reference was asked"):
            (tl.ones([2], device="reference") + 1).numpy()
    with reference_forbidden("reference"):
        assert (tl.ones([2], device="reference") + 1).tolist() == [2, 2]
