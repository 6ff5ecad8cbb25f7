"""Every composed function by dtype and device against its oracle in float64."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tensorlogic import functions
from tensorlogic.ops import OPS
from tests.compare import assert_close
from tests.conformance.cases import CASES, Case
from tests.conformance.harness import compute, numbers, wide

BY_ROWS = {r.name for r in OPS.values()} | {"eval"}
TABLE = [
    pytest.param(c, d, id=f"{c.function}{i}-{d}") for i, c in enumerate(CASES) for d in c.dtypes
]


def test_every_function_has_a_case() -> None:
    assert {c.function for c in CASES} == set(functions.FUNCTIONS) - BY_ROWS


def arguments(case: Case, dtype: str) -> list[Any]:
    rng = np.random.default_rng(4)
    bounds = dict(case.ints)
    return [
        rng.integers(-bounds[i], bounds[i], s).astype(np.int32)
        if i in bounds
        else numbers(rng, s, dtype)
        for i, s in enumerate(case.shapes)
    ]


def oracle(case: Case, arrays: list[Any]) -> tuple[tuple[Any, ...], Any]:
    """The exact results, and the size of the sums behind them."""
    exact = [wide(a) for a in arrays]
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        want = case.oracle(*exact)
        scale = None if case.scale is None else case.scale(*exact)
    return want if isinstance(want, tuple) else (want,), scale


@pytest.mark.parametrize(("case", "dtype"), TABLE)
def test_function(case: Case, dtype: str, device: str) -> None:
    arrays = arguments(case, dtype)
    got = compute(case.call, *arrays, device=device)
    wanted, scale = oracle(case, arrays)
    results = got if isinstance(got, tuple) else (got,)
    assert len(results) == len(wanted)
    outs = case.out.split() * (len(results) if " " not in case.out else 1)
    for g, w, out in zip(results, wanted, outs, strict=True):
        assert g.dtype == (dtype if out == "same" else out)
        assert_close(g, w, 0 if case.exact else case.ulps, scale, case.function)
