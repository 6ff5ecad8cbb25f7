"""Random programs: the CPU against the reference and NumPy in float64."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tensorlogic as tl
from tests.compare import Array, reference_forbidden
from tests.conformance.programs import Pair, program, strided

TOLERANCE = {"float32": 2e-4, "float16": 0.1}
"""Absolute, of values of order one; float16 is rounded after each op, or after a few."""
quick = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def leaves(seed: int, random: Random, dtype: str, device: str) -> list[Pair]:
    """Three leaves, two of which share memory."""
    rng = np.random.default_rng(seed)
    arrays = [strided(random, rng, dtype) for _ in range(2)]
    pairs = [(tl.from_numpy(a, device=device), a.astype(np.float64)) for a in arrays]
    return [*pairs, (tl.from_numpy(arrays[0].T, device=device), arrays[0].T.astype(np.float64))]


def check(seed: int, length: int, dtype: str, results: int) -> None:
    random = Random(seed)
    outputs: dict[str, list[Array]] = {}
    wanted: list[Array] = []
    for device in ("cpu", "reference"):
        random.seed(seed)
        made = program(random, leaves(seed, random, dtype, device), length)[-results:]
        tensors = [x for x, _ in made]
        with reference_forbidden(device):
            tl.eval(*tensors)
            outputs[device] = [t.numpy() for t in tensors]
        wanted = [a for _, a in made]
    for device, got in outputs.items():
        for g, w in zip(got, wanted, strict=True):
            assert g.dtype == dtype
            assert g.shape == w.shape, device
            np.testing.assert_allclose(g, w, 0, TOLERANCE[dtype], err_msg=f"{device}, seed {seed}")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@quick
@given(st.integers(0, 1 << 30))
def test_views_and_chains(dtype: str, seed: int) -> None:
    check(seed, 5, dtype, 1)


@quick
@given(st.integers(0, 1 << 30))
@example(0)
def test_long_programs(seed: int) -> None:
    check(seed, 10 + seed % 21, "float32", 1 + seed % 3)
