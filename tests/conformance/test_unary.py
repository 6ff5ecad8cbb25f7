"""Every elementwise row of one argument: float16 on all its values, float32 on a dense sample."""

from __future__ import annotations

import numpy as np
import pytest

from tensorlogic.ops import OPS, Op
from tests.compare import Array, assert_close
from tests.conformance.harness import ALL_HALVES, SPECIAL, compute, public

ROWS = [r for r in OPS.values() if r.kind == "elementwise" and r.arity == 1 and r.accepts != "bool"]
NEGATIVE_ZERO_AT_MINUS_INFINITY = ("silu", "gelu_erf", "gelu_tanh")


def exact(row: Op, x: Array) -> Array:
    assert row.numpy is not None
    with np.errstate(all="ignore"):
        return np.asarray(row.numpy(x.astype(np.float64)))


def dense(row: Op) -> Array:
    """Random bits of every exponent, the ordinary numbers, both ends of the domain, subnormals."""
    rng = np.random.default_rng(1)
    low, high = row.domain
    near = [min(max(v, -1e30), 1e30) for v in row.domain]
    parts = [
        rng.integers(0, 1 << 32, 60_000, dtype=np.uint64).astype(np.uint32).view(np.float32),
        np.linspace(-20, 20, 40_001),
        np.linspace(-104, 89, 20_001),
        *(np.linspace(n - 1, n + 1, 2_001) for n in near),
        np.arange(-200, 200) * 2.0**-149,
        [3.4e38, -3.4e38, 1.2e-38, -1.2e-38],
    ]
    with np.errstate(invalid="ignore"):
        x = np.concatenate(parts).astype(np.float32)
    return np.concatenate([x[(x >= low) & (x <= high)], SPECIAL.astype(np.float32)])


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_float16_on_all_values(row: Op, device: str) -> None:
    got = compute(public(row), ALL_HALVES, device=device)
    assert got.dtype == (bool if row.result == "bool" else np.float16)
    assert_close(got, exact(row, ALL_HALVES), what=row.name)


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_float32(row: Op, device: str) -> None:
    x = dense(row)
    got = compute(public(row), x, device=device)
    assert got.dtype == (bool if row.result == "bool" else np.float32)
    assert_close(got, exact(row, x), row.ulps, what=row.name)


@pytest.mark.parametrize("name", NEGATIVE_ZERO_AT_MINUS_INFINITY)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sign_of_zero(name: str, dtype: str, device: str) -> None:
    x = np.array([-np.inf, -300.0, -0.0, 0.0], dtype)
    got = compute(public(OPS[name]), x, device=device)
    assert np.signbit(got).tolist() == [True, True, True, False], got


def test_angles_beyond_the_domain_stay_in_range(device: str) -> None:
    x = np.array([2.0**31, 1e20, 3.4e38, -(2.0**40)], np.float32)
    for name in ("sin", "cos"):
        got = compute(public(OPS[name]), x, device=device)
        assert np.all(np.abs(got) <= 1), name
