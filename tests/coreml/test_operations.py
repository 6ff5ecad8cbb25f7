"""Every operation that runs, against coremltools' value inference, PyTorch or NumPy."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorlogic.coreml.constexpr import CONSTEXPR
from tensorlogic.coreml.interpret import OWN
from tensorlogic.coreml.mil import ROWS
from tests.coreml import (  # noqa: F401
    box_cases,
    built_cases,
    elementwise_cases,
    image_cases,
    recurrent_cases,
    tensor_cases,
    weight_cases,
    window_cases,
)
from tests.coreml.cases import CASES, Array, Case
from tests.coreml.programs import inferred, mb, run

EPS = {np.dtype(np.float16): 2.0**-10, np.dtype(np.float32): 2.0**-23}


def narrowed(arguments: dict[str, Any], half: bool) -> dict[str, Any]:
    """Floats as float16, where that is asked for."""

    def one(value: Any) -> Any:
        if isinstance(value, float):
            return np.float16(value)
        if isinstance(value, np.ndarray | np.generic) and value.dtype == np.float32:
            return value.astype(np.float16)
        return [one(v) for v in value] if isinstance(value, list) else value

    return {n: one(v) for n, v in arguments.items()} if half else arguments


def expectation(case: Case, opset: int, inputs: dict[str, Array]) -> list[Array]:
    wide = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in inputs.items()}
    if case.expected is None:
        return inferred(case.op, {**wide, **case.arguments}, opset)
    results = case.expected(*wide.values())
    return [np.asarray(r) for r in (results if isinstance(results, tuple | list) else [results])]


def compare(found: list[Array], wanted: list[Array], ulps: float) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        assert f.shape == w.shape
        if f.dtype not in EPS or w.dtype.kind not in "f":
            np.testing.assert_array_equal(f, w)
            continue
        finite = np.abs(w[np.isfinite(w)].astype(np.float64))
        bound = ulps * EPS[f.dtype] * max(float(finite.max(initial=0)), 1e-3)
        np.testing.assert_allclose(f.astype(np.float64), w, rtol=ulps * EPS[f.dtype], atol=bound)


def variants() -> list[Any]:
    out = []
    for case in CASES:
        out.append(pytest.param(case, False, id=case.label))
        if case.half and any(a.dtype == np.float32 for a in case.inputs.values()):
            out.append(pytest.param(case, True, id=case.label + "-half"))
    return out


@pytest.mark.parametrize(("case", "half"), variants())
def test_operation(case: Case, half: bool, tmp_path: Path) -> None:
    opset = max(case.opset, 16) if half else case.opset
    inputs = {
        n: a.astype(np.float16) if half and a.dtype == np.float32 else a
        for n, a in case.inputs.items()
    }
    arguments = narrowed(case.arguments, half)
    build = case.build or partial(getattr(mb, case.op), **arguments)
    found = run(build, inputs, opset, tmp_path)
    compare(found, expectation(case, opset, inputs), 2.0 if half else case.ulps)


def test_every_operation_has_a_case() -> None:
    """But for random numbers, which are in test_random.py, and lists, in test_runner.py."""
    others = {n for n, row in ROWS.items() if row.fresh or "list" in n.split("_")}
    assert (set(ROWS) | CONSTEXPR) - {c.op for c in CASES} == others


def test_the_document_lists_what_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "design" / "coreml.md").read_text()
    table = text[text.index("## Operations") : text.index("Missing:")]
    listed = set()
    for line in table.splitlines():
        prefix = "constexpr_" if line.startswith("| weights") else ""
        cells = line.split("|")
        listed |= {prefix + name for name in re.findall(r"`(\w+)`", cells[2] if cells[2:] else "")}
    assert listed == set(ROWS) | set(OWN) | CONSTEXPR


def test_the_comparison_rejects_what_is_wrong() -> None:
    right = [np.array([1.0, 2.0], np.float32)]
    compare(right, right, 1)
    for wrong in ([1.0, 2.001], [1.0], [np.nan, 2.0]):
        with pytest.raises(AssertionError):
            compare([np.array(wrong, np.float32)], right, 1)
