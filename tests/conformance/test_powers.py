"""Powers beyond their row: a wide range, special values, whole results, squares."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.kernels import interpret
from tensorlogic.kernels.ir import var
from tensorlogic.ops import OPS
from tests.compare import assert_close
from tests.conformance.harness import compute


def test_powers(device: str) -> None:
    rng = np.random.default_rng(9)
    x = np.exp(rng.uniform(-80, 80, 100_000)).astype(np.float32)
    y = rng.uniform(-20, 20, 100_000).astype(np.float32)
    x[:50_000] = rng.uniform(0.7, 1.4, 50_000)
    y[:50_000] = rng.uniform(-87, 88, 50_000) / np.log(x[:50_000].astype(np.float64))
    got = compute(lambda a, b: a**b, x, y, device=device)
    with np.errstate(over="ignore", under="ignore"):
        assert_close(got, x.astype(np.float64) ** y, 1.5, what="pow")
    assert (tl.tensor([300, 9]) ** 2).tolist() == [np.inf, 81]
    whole = [(a, n) for a in range(-13, 14) for n in range(24) if abs(a) ** n < 2**24]
    a, n = (tl.tensor(v, "float32", device) for v in zip(*whole, strict=True))
    assert (a**n).tolist() == [float(v) ** e for v, e in whole]
    assert (tl.arange(-2, 3) ** 3).tolist() == [-8, -1, 0, 1, 8]
    assert (tl.arange(-2, 3) ** -1).tolist() == [0, -1, 0, 1, 0]
    assert (2 ** tl.tensor([1.5, -1.0], "float32")).tolist() == [np.float32(2**1.5), 0.5]
    assert "mul(%0, %0)" in (a**2.0).explain("graph")
    with pytest.raises(TypeError):
        tl.ones([2]) ** "2"
    with pytest.raises(tl.DTypeError):
        tl.arange(3) ** 0.5


def test_powers_of_special_values(device: str) -> None:
    """C's pow, signs of zeros and infinities too."""
    special = [0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, 2.5, 1e-40, 1e38, 2**23 + 1, 2**24 + 2]
    a, b = np.meshgrid(*[np.array([*special, np.inf, -np.inf, np.nan], np.float32)] * 2)
    got = compute(lambda x, y: x**y, a, b, device=device)
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) ** b
    assert_close(got, want, what="pow")
    signed = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[signed], np.signbit(want)[signed])


@pytest.mark.parametrize("name", ["pow", "log1p", "expm1"])
def test_the_expressions_themselves(name: str) -> None:
    """As NumPy evaluates them, which fuses no product with a sum unless the expression says so."""
    rng, row = np.random.default_rng(10), OPS[name]
    assert row.expr is not None
    assert row.numpy is not None
    arrays = rng.uniform(-0.9, 30, (row.arity, 50_000)).astype(np.float32)
    arrays[0] = np.abs(arrays[0]) if name == "pow" else arrays[0]
    names = [f"x{i}" for i in range(row.arity)]
    got = interpret.evaluate(
        row.expr(*(var(n, "f32") for n in names)), dict(zip(names, arrays, strict=True))
    )
    assert_close(got, row.numpy(*arrays.astype(np.float64)), 1.5, what=name)
