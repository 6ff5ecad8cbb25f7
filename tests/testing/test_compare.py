"""The comparators reject wrong answers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import testing
from tensorlogic.testing.compare import neighbour_distance, ulp_error
from tests.compare import assert_close, assert_same, reference_forbidden


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


def report(actual: object, expected: object, **bounds: Any) -> list[str]:
    """The lines of the report; there has to be one."""
    with pytest.raises(AssertionError) as caught:
        testing.assert_close(actual, expected, **bounds)
    return str(caught.value).split("\n")


def test_what_is_close() -> None:
    close = testing.assert_close
    close(tl.tensor([1.0, np.nan, np.inf]), [1.0, np.nan, np.inf])
    close(tl.tensor([[1, 2]], dtype="int32") == 1, [[True, False]])
    close(tl.zeros([0, 3]), np.zeros((0, 3)))
    close(2.0, 2.0)
    close(f32(1.1), [1.0], rtol=0.2)
    close(f32(1.1), [1.0], atol=0.2)
    close(f16(1.1, 3), [1.0, 3], atol=np.array([0.2, 0]))
    close(f16(1.003), [1.0], ulps=3)
    close(f32(1 + 2.0**-21), np.array([1.0]))
    close(np.array([3, 4]), [3, 5], atol=1)
    close(tl.tensor(np.array([1.0, 2.0], ml_dtypes.bfloat16), dtype="bfloat16"), [1.0, 2.0])


def test_the_report() -> None:
    assert report(tl.tensor([[1.0, 5.0], [2.0, 3.0]]), np.ones((2, 2)), what="f") == [
        "f: 3 of 4 values are not close",
        "  actual:    float16[2, 2]",
        "  expected:  float64[2, 2]",
        "  allowed:   1 ulp",
        "  the worst: 5.0 at [0, 1], expected 1.0: 2304 ulps away",
    ]
    assert report(f32(np.nan, 2), f32(0, 1), ulps=2, rtol=0.1, atol=0.5)[-2:] == [
        "  allowed:   2 ulps or rtol 0.1 or atol 0.5",
        "  the worst: nan at [0], expected 0.0",
    ]
    assert report(np.array([1, 2]), [1, 3])[-2:] == [
        "  allowed:   no difference",
        "  the worst: 2 at [1], expected 3",
    ]
    assert report(f32(1, 2), f32(1)) == [
        "the shapes differ",
        "  actual:    float32[2]",
        "  expected:  float32[1]",
    ]
    assert report(1.5, 2.5)[-1].startswith("  the worst: 1.5 at [], expected 2.5: ")
    assert report(f16(1, 3), [1.0, 2.0], ulps=0)[3] == "  allowed:   0 ulps"


@pytest.mark.parametrize(
    ("actual", "expected", "bounds"),
    [
        (f32(1.1), [1.0], {"rtol": 0.01}),
        (f32(np.nan), [1.0], {"atol": np.inf}),
        (f32(np.inf), [-np.inf], {"rtol": 1}),
        (f16(1.003), [1.0], {}),
        (f16(1.001), [1.0], {"ulps": 0}),
        (np.array([True]), [False], {}),
    ],
)
def test_what_is_not_close(actual: object, expected: object, bounds: dict[str, Any]) -> None:
    assert report(actual, expected, **bounds)
