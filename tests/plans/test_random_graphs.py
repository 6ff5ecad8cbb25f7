"""Random graphs give on the CPU what the reference gives, however their launches are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices.base import REGISTRY
from tensorlogic.schedule import join, launches
from tensorlogic.schedule.traits import CPU
from tests.plans.random_graphs import graph

SEEDS = range(5)
GRAPHS = 6
"""Graphs of one test: many small ones cost more to set up than to compute."""


def compare(seed: int) -> None:
    found = [[t.numpy().astype(float) for t in evaluated(seed, d)] for d in ("reference", "cpu")]
    for theirs, ours in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        scale = max(1.0, np.abs(theirs).max(initial=0))
        np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.02 * scale, err_msg=str(seed))


def evaluated(seed: int, device: str) -> list[tl.Tensor]:
    roots = graph(seed, device)
    tl.eval(*roots)
    return roots


@pytest.mark.parametrize("group", SEEDS)
def test_random_graphs(group: int) -> None:
    for i in range(GRAPHS):
        compare(group * GRAPHS + i)


@pytest.mark.parametrize("group", SEEDS)
def test_random_graphs_with_everything_joined_that_can_be(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "MIN_ROWS", 1)
    monkeypatch.setattr(launches, "WORTH", 0)
    monkeypatch.setattr(join, "BLOCK", 16)
    monkeypatch.setattr(REGISTRY.get("cpu"), "traits", replace(CPU, fold_rows=4))
    joined = 0
    before = join.Joiner.before

    def counted(*args: object) -> object:
        nonlocal joined
        joined += 1
        return before(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(join.Joiner, "before", counted)
    for i in range(GRAPHS):
        compare(1000 + group * GRAPHS + i)
    assert joined


def test_another_graph_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(seed: int, device: str) -> list[tl.Tensor]:
        return [t + (0.2 if device == "cpu" else 0) for t in graph(seed, device)]

    monkeypatch.setitem(globals(), "evaluated", lambda *args: other(*args))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(0)
