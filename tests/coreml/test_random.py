"""Random operations: what is drawn has the distribution, and a seed makes it the same again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.coreml.programs import Array, mb, package, program, runner

SHAPE = [50, 40]
ROWS = np.log(np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], np.float32))


def drawn(build: Callable[..., Any], folder: Path, times: int = 2) -> list[Array]:
    """What a program draws at each of several calls."""
    built = program(lambda x: build(x), {"x": ROWS}, 16)
    model = runner(package(built, 16, folder))
    (name,) = [v.name for v in built.functions["main"].outputs]
    return [model.predict({"x": ROWS})[name].numpy() for _ in range(times)]


@pytest.mark.parametrize(
    ("op", "arguments", "mean", "deviation"),
    [
        ("random_normal", {"mean": 2.0, "stddev": 3.0}, 2.0, 3.0),
        ("random_uniform", {"low": -1.0, "high": 5.0}, 2.0, 6 / 12**0.5),
        ("random_bernoulli", {"prob": 0.3}, 0.3, (0.3 * 0.7) ** 0.5),
    ],
)
def test_distributions(
    op: str, arguments: dict[str, float], mean: float, deviation: float, tmp_path: Path
) -> None:
    first, second = drawn(lambda x: getattr(mb, op)(shape=SHAPE, **arguments), tmp_path)
    assert first.shape == tuple(SHAPE)
    assert abs(first.mean() - mean) < 5 * deviation / first.size**0.5
    assert abs(first.std() - deviation) < 0.1 * deviation
    assert (first != second).any()


@pytest.mark.parametrize("mode", ["logits", "probs"])
def test_categorical(mode: str, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        rows = x if mode == "logits" else mb.exp(x=x)
        return mb.random_categorical(x=rows, mode=mode, size=2000)

    (found,) = drawn(build, tmp_path, 1)
    assert found.shape == (2, 2000)
    for row, wanted in zip(found, np.exp(ROWS), strict=True):
        shares = [(row == label).mean() for label in range(3)]
        np.testing.assert_allclose(shares, wanted, atol=0.06)


def test_a_seed_makes_it_the_same_at_each_call(tmp_path: Path) -> None:
    first, second = drawn(lambda x: mb.random_normal(shape=SHAPE, seed=5), tmp_path)
    np.testing.assert_array_equal(first, second)
