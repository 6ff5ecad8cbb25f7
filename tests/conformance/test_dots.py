"""Many rows of quantized blocks times a vector, which a GPU may multiply on its matrix units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen import dot_text
from tensorlogic.creation import from_storage
from tensorlogic.quants import QUANTS
from tests.blocks import decoded, ordinary_blocks, random_blocks
from tests.compare import Array, assert_close

ROWS, COLUMNS = 37, 6144  # neither a multiple of 16 rows, nor of the turns of four simdgroups


@pytest.fixture(params=list(QUANTS))
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form for many rows is taken for these."""
    monkeypatch.setattr(dot_text, "FEW_GROUPS", 1)


def weight(storage: str, seed: int = 0, blocks: Any = ordinary_blocks) -> tuple[Any, Array]:
    found = np.roll(blocks(storage, ROWS * COLUMNS // QUANTS[storage].block), seed, axis=0)
    exact = decoded(storage, found).reshape(ROWS, COLUMNS)
    return from_storage(found.reshape(-1), (ROWS, COLUMNS), storage), exact.astype(np.float64)


def vector(count: int = COLUMNS) -> Array:
    return np.random.default_rng(3).standard_normal(count).astype(np.float16)


def check(got: Any, wanted: Array, scale: Array) -> None:
    ulps = 512 if got.device == "cpu" else 4  # a CPU rounds the vector to 16 bits
    assert_close(np.asarray(got.numpy()).reshape(-1), wanted, ulps, scale)


def test_rows(storage: str, device: str) -> None:
    (w, exact), x = weight(storage), vector()
    got = tl.linear(tl.tensor(x[None], device=device), w.to(device))
    check(got, exact @ x.astype(np.float64), np.abs(exact) @ np.abs(x.astype(np.float64)))


def test_a_vector_at_an_odd_address(storage: str, device: str) -> None:
    (w, exact), x = weight(storage), vector(COLUMNS + 1)
    long = tl.tensor(x, device=device)
    got = tl.linear(long[1:].reshape(1, COLUMNS), w.to(device))
    x = x[1:].astype(np.float64)
    check(got, exact @ x, np.abs(exact) @ np.abs(x))


def test_scales_that_are_not_finite(storage: str, device: str) -> None:
    (w, exact), x = weight(storage, 40, random_blocks), vector()
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, scale = exact @ x.astype(np.float64), np.abs(exact) @ np.abs(x.astype(np.float64))
    assert not np.isfinite(wanted).all()
    got = tl.linear(tl.tensor(x[None], device=device), w.to(device))
    check(got, wanted, scale)


def test_unlike_rows_in_one_launch(device: str) -> None:
    """A gate of two products of unlike types, a third product and a residual."""
    (a, b, c), x = [weight(s, i) for i, s in enumerate(("q4_0", "q6_K", "q4_K"))], vector()
    vector_, halfs = tl.tensor(x[None], device=device), vector(ROWS)
    residual = tl.tensor(halfs[None], device=device)
    up = tl.linear(vector_, b[0].to(device)) * 0.01
    gated = tl.sigmoid(tl.linear(vector_, a[0].to(device))) * up
    third = tl.linear(vector_, c[0].to(device)) + residual
    tl.eval(gated, third)
    x64 = x.astype(np.float64)
    first, second, last = (w @ x64 for _, w in (a, b, c))
    wanted = second.astype(np.float16) * 0.01 / (1 + np.exp(-first))
    check(gated, wanted, 64 * np.abs(b[1]) @ np.abs(x64) * 0.01)
    check(third, last + halfs, 64 * np.abs(c[1]) @ np.abs(x64))
