"""Parts of products, and products in another order: only what is wanted is computed and stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.conformance.harness import compute, numbers
from tests.kernels.family_running import run, steps_of

LANES = 8
PARTS: dict[str, Callable[[Any], Any]] = {
    "first columns": lambda y: y[..., :10],
    "first rows": lambda y: y[:, :7],
    "first batch": lambda y: y[:1],
    "a part within": lambda y: y[:, 3:9, 5:20],
    "every second row": lambda y: y[:, ::2],
    "reversed columns": lambda y: y[..., ::-1],
    "one row": lambda y: y[:, 5],
    "the last row": lambda y: y[:, -1:],
    "heads": lambda y: y.reshape(2, 40, 5, 10),
    "a part of the first heads": lambda y: y.reshape(2, 40, 5, 10)[:, 2:, :3],
    "a part of each head": lambda y: y.reshape(2, 40, 5, 10)[..., 1:4],
    "lines of another length": lambda y: (y * 2)[:, 4:].reshape(-1, 25)[1:],
}
TURNED: dict[str, tuple[int, ...]] = {"rows and columns": (0, 2, 1), "batches and rows": (1, 0, 2)}


@pytest.mark.parametrize("name", [*PARTS, *TURNED])
def test_values(name: str, device: str) -> None:
    rng = np.random.default_rng(0)
    x, w = numbers(rng, (2, 40, 24), "float16"), numbers(rng, (24, 50), "float16")
    want = x.astype(np.float32) @ w.astype(np.float32)
    if name in TURNED:
        order = TURNED[name]
        got = compute(lambda a, b: (a @ b).permute(*order), x, w, device=device)
        want = want.transpose(order)
    else:
        got = compute(lambda a, b: PARTS[name](a @ b), x, w, device=device)
        want = PARTS[name](want)
    np.testing.assert_allclose(got, want, 2**-9, 2**-8)


@pytest.mark.parametrize("name", PARTS)
def test_nothing_beyond_the_part_is_written(name: str) -> None:
    """On memory of just the due size, with a forbidden page behind it."""
    rng = np.random.default_rng(0)
    x, w = numbers(rng, (2, 40, 24), "float32"), numbers(rng, (24, 50), "float32")
    leaves = (tl.tensor(a, dtype="float32") for a in (x, w))
    part = PARTS[name](tl.matmul(*leaves))
    np.testing.assert_allclose(run(part, LANES), PARTS[name](x @ w), 1e-4, 1e-4)


@pytest.mark.parametrize(("name", "size"), [("first rows", (7, 50)), ("first columns", (40, 10))])
def test_the_rest_is_not_computed(name: str, size: tuple[int, int]) -> None:
    (step,) = steps_of(PARTS[name](tl.zeros([2, 40, 24]) @ tl.zeros([24, 50])))
    assert step.problem == (*size, 24)
