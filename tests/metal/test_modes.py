"""The conformance tests on small shapes with each access traced, and as fast math has them.

The tests of the other modules are called with another device, or with the emulator in another mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.ops import OPS, Op
from tests.compare import Array, assert_close
from tests.conformance import test_functions, test_quantized, test_rows
from tests.conformance.cases import Case
from tests.conformance.harness import compute, numbers, public
from tests.metal import session, traced
from tests.metal.backend import emulated
from tests.metal.emulator.library import FAST_MATH

TINY = float(np.finfo(np.float32).tiny)
LARGE = 1e38
needs_emulator = pytest.mark.skipif(not session.emulated(), reason="the real GPU is here")


@pytest.fixture(autouse=True, scope="module")
def traced_device() -> Iterator[None]:
    with traced.registered():
        yield


@pytest.fixture
def fast_math() -> Iterator[None]:
    with emulated(FAST_MATH):
        yield


# -- each access traced


@pytest.mark.parametrize(("row", "dtype"), test_rows.ELEMENTWISE)
def test_traced_rows(row: Op, dtype: str) -> None:
    rng = np.random.default_rng(5)
    arrays = [numbers(rng, (6, 5), dtype) for _ in range(row.arity)]
    if row.name == "where":
        arrays[0] = numbers(rng, (6, 5), "bool")
    got = compute(public(row), *arrays, device="traced")
    assert_close(got, test_rows.expected(row, dtype, arrays), row.ulps, what=row.name)


@pytest.mark.parametrize(("row", "dtype"), test_rows.REDUCTIONS)
def test_traced_reductions(row: Op, dtype: str) -> None:
    test_rows.test_reduction(row, dtype, (2, 3, 65), "traced")


@pytest.mark.parametrize(("row", "dtype"), test_rows.SCANS)
def test_traced_scans(row: Op, dtype: str) -> None:
    test_rows.test_scan(row, dtype, (4, 1, 6), "traced")


def small(case: Case) -> bool:
    """Tracing takes long: convolutions of thousands of numbers are left to the mutation tests."""
    return sum(prod(s) for s in case.shapes if s is not None) <= 1500


@pytest.mark.parametrize(("case", "dtype"), [p for p in test_functions.TABLE if small(p.values[0])])
def test_traced_functions(case: Case, dtype: str) -> None:
    test_functions.test_function(case, dtype, "traced")


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("storage", list(test_quantized.QUANTS))
def test_traced_quantized_products(storage: str, rows: int) -> None:
    w, exact = test_quantized.weight(storage)
    x = np.random.default_rng(6).standard_normal((rows, w.shape[1])).astype(np.float16)
    got = tl.linear(tl.tensor(x, device="traced"), w).numpy()
    want = x.astype(np.float64) @ exact.T
    size = np.abs(x.astype(np.float64)) @ np.abs(exact.T)
    if rows > 1:  # decoded weights are rounded to halfs for the matrix units
        size *= 2**8
    assert_close(got, want, 16, size, storage)


# -- fast math


def ordinary(arrays: list[Array], want: Array) -> Array:
    """Where neither the inputs nor the result are NaN, infinite or subnormal as float32."""
    keep = np.ones(want.shape, bool)
    for a in [*arrays, want]:
        if a.dtype.kind == "f":
            size = np.abs(a.astype(np.float64))
            keep &= np.isfinite(size) & ((size >= TINY) | (size == 0)) & (size < LARGE)
    return keep


LOSES = {
    # (row, dtype): how many ulps, or up to which size results are wrong, and why
    ("pow", "float32"): (256.0, 0.0, "sums of two floats are added up in another order"),
    ("log1p", "float32"): (8.0, 1e-7, "1 + x - 1 is taken for x"),
    ("gelu_erf", "float32"): (64.0, 0.0, "intermediates far out are flushed to zero"),
    ("gelu_tanh", "float32"): (64.0, 0.0, "intermediates far out are flushed to zero"),
}


@needs_emulator
@pytest.mark.parametrize(("row", "dtype"), test_rows.ELEMENTWISE)
def test_fast_math_rows(row: Op, dtype: str, fast_math: None) -> None:
    arrays = test_rows.inputs(row, dtype)
    want = test_rows.expected(row, dtype, arrays)
    keep = ordinary(arrays, want)
    ulps, below, _ = LOSES.get((row.name, dtype), (row.ulps, 0.0, ""))
    if dtype == "float32":
        keep &= ~(np.abs(want) < below)
    got = compute(public(row), *arrays, device="metal")
    assert_close(got[keep], want[keep], ulps, what=row.name)


@needs_emulator
@pytest.mark.parametrize(("row", "dtype"), test_rows.REDUCTIONS)
def test_fast_math_reductions(row: Op, dtype: str, fast_math: None) -> None:
    test_rows.test_reduction(row, dtype, (2, 3, 65), "metal")


@needs_emulator
@pytest.mark.parametrize(("case", "dtype"), test_functions.TABLE)
def test_fast_math_functions(case: Case, dtype: str, fast_math: None) -> None:
    wanted, _ = test_functions.oracle(case, test_functions.arguments(case, dtype))
    if any(np.isnan(w).any() for w in wanted):
        return  # 0 / 0 may be anything
    test_functions.test_function(case, dtype, "metal")


def test_rows_that_lose_exist() -> None:
    assert {name for name, _ in LOSES} <= set(OPS)
