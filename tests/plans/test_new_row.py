"""Adding an elementwise op touches one place: its row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import functions
from tensorlogic.functions import registry
from tensorlogic.kernels.ir import binary
from tensorlogic.ops import Op, table
from tests.compare import assert_close
from tests.conformance.harness import compute
from tests.cuda.checker import check_cuda
from tests.metal.checker import check_metal
from tests.plans.printed import sources


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[Op]:
    """A row that is there for one test."""
    monkeypatch.setattr(table, "OPS", dict(table.OPS))
    monkeypatch.setattr(registry, "FUNCTIONS", dict(registry.FUNCTIONS))
    monkeypatch.setattr(registry, "METHODS", list(registry.METHODS))
    monkeypatch.setattr(tl.Tensor, "hinge", None, raising=False)
    return table.elementwise(
        "hinge",
        "max(1 - a * b, 0).",
        lambda a, b: binary("max", 1.0 - a * b, 0.0),
        lambda a, b: np.maximum(1 - a * b, 0),
        arity=2,
    )


def test_a_row_is_all_that_an_op_takes(row: Op) -> None:
    hinge = functions.add_elementwise(row)
    assert hinge.__doc__ == "max(1 - a * b, 0). NaN and infinities: as NumPy."
    a, b = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    for device in ("cpu", "reference"):
        got = compute(hinge, a, b, device=device)
        assert_close(got, np.maximum(1 - a.astype(np.float64) * b, 0), 4, 2)
    lazy = tl.tensor(a).hinge(tl.tensor(b)).sum()  # type: ignore[attr-defined]
    for dialect, check in (("metal", check_metal), ("cuda", check_cuda)):
        (text,) = sources(lazy, dialect)
        check(text)
    with pytest.raises(tl.DTypeError, match="hinge takes float values, not int32"):
        hinge(tl.arange(3), 1)
    with pytest.raises(ValueError, match="op 'hinge' stands in the table already"):
        table.register(row)
