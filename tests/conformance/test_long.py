"""Long recordings: neither recursion nor unbounded memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.graph import topological
from tensorlogic.tensor import MAX_PENDING

STEPS = 100_000


@pytest.fixture
def shallow() -> object:
    """A stack that allows no recursion over the graph."""
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(len_of_stack() + 120)
    yield None
    sys.setrecursionlimit(old)


def len_of_stack() -> int:
    frame, n = sys._getframe(), 0
    while frame is not None:
        frame, n = frame.f_back, n + 1  # type: ignore[assignment]
    return n


def test_a_loop_of_100_000_ops(shallow: object) -> None:
    x = tl.zeros([4], "float32", "cpu")
    longest = blocks = 0
    warm = x
    for _ in range(300):
        warm = warm + 1
    tl.eval(warm)  # what is imported on the way is no graph
    before = sys.getallocatedblocks()
    for step in range(STEPS):
        x = x + 1
        longest = max(longest, x._node.pending)
        if step % 1000 == 0:
            blocks = max(blocks, sys.getallocatedblocks() - before)
    assert x.tolist() == [STEPS] * 4
    assert longest <= MAX_PENDING
    assert blocks < 20 * MAX_PENDING


@pytest.mark.parametrize("crossed", [False, True])
def test_launches_one_after_another(device: str, crossed: bool) -> None:
    """Each reads what the one before has stored, in memory that is used again and again. On CUDA
    they are large enough to be started early (devices/cuda.py)."""
    n, times = (1 << 22, 300) if device == "cuda" else (1 << 10, 5)
    step = tl.function(lambda x: (tl.flip(x, 0) if crossed else x) + 1)
    start = np.arange(n, dtype=np.float32) % 1024
    x = tl.tensor(start, "float32", device)
    for _ in range(times):
        x = step(x)
        tl.eval(x)
    assert np.array_equal(x.numpy(), (start[::-1] if crossed and times % 2 else start) + times)


def test_wide_graphs_are_cut_too(shallow: object, device: str) -> None:
    leaves = [tl.full([3], i, "float32", device) for i in range(300)]
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total + leaf
    assert total.tolist() == [sum(range(300))] * 3
    assert tl.concat(leaves).shape == (900,)
    assert tl.stack(leaves).sum(axis=0).tolist() == [sum(range(300))] * 3


def test_a_shared_chain_is_walked_once(shallow: object) -> None:
    x = tl.ones([2], "float32", "cpu")
    for _ in range(200):
        x = (x + x) * 0.5  # 2**200 paths
    assert len(topological([x._node])) < 1000
    assert x.tolist() == [1, 1]


def test_evaluation_drops_the_graph() -> None:
    x = tl.ones([2]) + 1
    y = x * 2
    y.numpy()
    assert y._node.args == ()
    assert y._node.op is None
