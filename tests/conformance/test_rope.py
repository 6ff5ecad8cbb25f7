"""rope: one kernel whatever its layout, that a new position does not compile again."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.cases import rope
from tests.conformance.harness import FLOATS, compute, numbers, wide
from tests.plans.printed import steps_of


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_one_kernel(layout: str) -> None:
    x = tl.ones([2, 4, 7, 16])
    for positions in (0, tl.arange(7), tl.zeros([2, 1, 7], "int32")):
        assert len(steps_of(tl.rope(x * 2, positions, layout=layout) + 1)) == 1
    assert steps_of(tl.rope(x, 3)).keys() == steps_of(tl.rope(x, 4)).keys()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_lengths_and_widths(layout: str, dtype: str, device: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((1, 2), (0, 4), (3, 0), (2, 0, 6), (5, 34), (2, 3, 4, 64)):
        x = numbers(rng, shape, dtype)
        got = compute(lambda x: tl.rope(x, 5, 500000.0, layout), x, device=device)
        want = rope(wide(x), np.arange(5, 5 + shape[-2]), 500000.0, layout)
        assert got.dtype == dtype
        assert_close(got, want, 4, 16, f"rope of {shape}")


def test_a_turn_keeps_lengths_and_relative_positions(device: str) -> None:
    q, k = (numbers(np.random.default_rng(s), (1, 64), "float32") for s in (0, 1))
    near, far = (
        compute(lambda q, k, p=p: q.rope(p) @ k.rope(p + 7).T, q, k, device=device)
        for p in (0, 1000)
    )
    np.testing.assert_allclose(near, far, 0, 2e-3)


@tl.function
def turned(x: tl.Tensor, start: int, base: float) -> tl.Tensor:
    return tl.rope(x, start, base)


def test_the_base_is_fixed_in_a_trace() -> None:
    with pytest.raises(tl.TraceError, match="a value was asked for its number"):
        turned(tl.ones([2, 4]), 0, 500.0)
