"""Only kernels are compiled, and a plan is data: what must not lead to new kernels."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices.base import REGISTRY
from tensorlogic.devices.cpu import Cpu
from tensorlogic.graph import Node
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings
from tests.plans import decoder


def nodes(*tensors: tl.Tensor) -> list[Node]:
    return [t._node for t in tensors]


def caches_of(caches: list[dict[str, tl.Tensor]]) -> list[tl.Tensor]:
    return [t for c in caches for t in c.values()]


def tokens(count: int, seed: int = 1) -> tl.Tensor:
    return tl.tensor(np.random.default_rng(seed).standard_normal((count, decoder.DIM)))


def compiled_by(layers: int) -> int:
    """Kernels that a fresh device compiles for a decoder of so many layers: prompt and one step."""
    device = Cpu()
    weights = decoder.make_layers(layers)
    y, caches = decoder.decode(tokens(5), 0, weights, decoder.make_caches(layers))
    device.run(nodes(y, *caches_of(caches)))
    y, caches = decoder.decode(tokens(1), 5, weights, caches)
    device.run(nodes(y, *caches_of(caches)))
    return device.compiled


def test_more_layers_compile_no_more_kernels() -> None:
    two = compiled_by(2)
    assert compiled_by(22) == two
    assert compiled_by(1) <= two


def test_lengths_five_six_seven_compile_nothing_after_the_first() -> None:
    device = Cpu()
    counts = []
    for length in (5, 6, 7):
        y, _ = decoder.decode(tokens(length), 0, decoder.make_layers(2), decoder.make_caches(2))
        device.run(nodes(y))
        counts.append(device.compiled)
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


def test_a_position_that_changes_compiles_nothing_and_traces_once() -> None:
    traces = 0

    def counted(*args: Any) -> Any:
        nonlocal traces
        traces += 1
        return decoder.decode(*args)

    step = tl.function(counted)
    weights, caches = decoder.make_layers(2), decoder.make_caches(2)
    before: list[int] = []
    cpu: Any = REGISTRY.get("cpu")
    for position in range(8):
        y, caches = step(tokens(1, position), position, weights, caches)
        tl.eval(y, *caches_of(caches))
        before.append(cpu.compiled)
    assert before[0] == before[-1]
    assert traces == 1
    whole = tl.tensor(np.concatenate([tokens(1, p).numpy() for p in range(8)]))
    expected, _ = decoder.decode(whole, 0, weights, decoder.make_caches(2))
    np.testing.assert_allclose(y.numpy()[0], expected.numpy()[-1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_the_decoder_agrees_with_the_reference(device: str) -> None:
    weights = [{n: t.to(device) for n, t in w.items()} for w in decoder.make_layers(2)]
    y, _ = decoder.decode(tokens(6).to(device), 0, weights, decoder.make_caches(2))
    with tl.precision("exact"):
        exact, _ = decoder.decode(tokens(6), 0, decoder.make_layers(2), decoder.make_caches(2))
        exact.numpy()
    np.testing.assert_allclose(y.numpy(), exact.numpy(), rtol=0.02, atol=0.02)


LAUNCHES = {
    "gelu chain": (lambda x, w: tl.gelu(x * 1.5 + w) * 2, 1),
    "softmax": (lambda x, w: tl.softmax(x), 1),
    "layer_norm": (lambda x, w: tl.layer_norm(x, w, w), 1),
    "rms_norm and softmax": (lambda x, w: tl.softmax(tl.rms_norm(x, w)), 1),
    "argmax": (lambda x, w: tl.argmax(x * w, axis=1), 1),
    "views": (lambda x, w: (x.T[::-1] * 2).reshape(4, 2, 8).permute(1, 0, 2) + 1, 1),
    "linear with its epilogue": (lambda x, w: tl.silu(tl.linear(x, x, w)) + x, 1),
    "one row times weights": (lambda x, w: tl.gelu(tl.linear(x[:1], x)), 1),
    "concat of unlike bodies": (lambda x, w: tl.concat([x * 2, x[:, :1] + x[::-1]]), 1),
    "attention": (lambda x, w: tl.scaled_dot_product_attention(x, x, x, causal=True), 1),
    "two results of one reduction": (lambda x, w: x / x.sum(axis=1, keepdims=True), 1),
    "another axis in between": (lambda x, w: tl.softmax(tl.softmax(x, axis=0), axis=1), 2),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches(name: str) -> None:
    build, expected = LAUNCHES[name]
    x = tl.tensor(np.random.default_rng(0).standard_normal((8, 8)))
    w = tl.tensor(np.linspace(0.5, 1.5, 8))
    y = build(x, w)
    assert len(schedule(nodes(y), Settings()).steps) == expected


@tl.function
def work(x: tl.Tensor) -> tl.Tensor:
    """Two kernels with an intermediate in the arena."""
    return tl.softmax(tl.softmax(x, axis=0), axis=1) * x


def expected_work(x: tl.Tensor) -> np.ndarray[Any, Any]:
    return work(x.to("reference")).numpy()


def test_results_outlive_later_calls() -> None:
    rng = np.random.default_rng(3)
    a, b = (tl.tensor(rng.standard_normal((9, 33))) for _ in range(2))
    y1, y2 = work(a), work(b)
    first, second = expected_work(a), expected_work(b)
    for _ in range(2):
        np.testing.assert_allclose(y1.numpy(), first, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(y2.numpy(), second, rtol=2e-3, atol=1e-5)
        for i in range(100):
            tl.eval(work(a + i))


def test_two_threads_share_a_plan() -> None:
    rng = np.random.default_rng(4)
    inputs = [tl.tensor(rng.standard_normal((64, 512))) for _ in range(2)]
    expected = [expected_work(x) for x in inputs]
    wrong: list[str] = []

    def loop(i: int) -> None:
        for _ in range(60):
            if not np.allclose(work(inputs[i]).numpy(), expected[i], rtol=2e-3, atol=1e-5):
                wrong.append(f"thread {i}")

    threads = [threading.Thread(target=loop, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def address(t: tl.Tensor) -> int:
    tl.eval(t)
    data = t._node.data
    assert data is not None
    return data.memory.address


def test_an_update_writes_in_place_when_nobody_else_reads() -> None:
    cache = tl.zeros([8, 4]) + 0
    home = address(cache)
    for i in range(4):
        cache = cache.update(i, tl.full([1, 4], i + 1))
        assert address(cache) == home
    assert cache.numpy()[:, 0].tolist() == [1, 2, 3, 4, 0, 0, 0, 0]


def test_an_update_copies_for_a_pending_reader() -> None:
    cache = tl.zeros([4, 2]) + 0
    home = address(cache)
    reader = cache * 1
    new = cache.update(0, tl.ones([1, 2]))
    assert address(new) != home
    assert reader.sum().item() == 0
    assert new.sum().item() == 2


def test_an_update_copies_under_a_view_and_an_exported_array() -> None:
    cache = tl.zeros([4, 2]) + 0
    tl.eval(cache)
    view = cache[1:3]
    new = cache.update(1, tl.ones([1, 2]))
    assert (new.sum().item(), view.sum().item()) == (2, 0)
    array = new.numpy()
    newer = new.update(3, tl.ones([1, 2]))
    assert (newer.sum().item(), array.sum()) == (4, 2)


def test_an_update_inside_a_function_consumes_what_was_given() -> None:
    @tl.function
    def push(cache: tl.Tensor, row: tl.Tensor, at: int) -> tl.Tensor:
        return cache.update(at, row)

    cache = tl.zeros([4, 2]) + 0
    home = address(cache)
    new = push(cache, tl.ones([1, 2]), 2)
    assert address(new) == home
    with pytest.raises(tl.ConsumedError):
        cache.numpy()


def test_plans_do_not_keep_their_inputs_alive() -> None:
    import gc
    import weakref

    x = tl.tensor(np.ones((300, 7)))
    memory = x._node.data
    assert memory is not None
    alive = weakref.ref(memory.memory)
    tl.eval((x * 2).sum(axis=0), work(x))
    del x, memory
    gc.collect()
    assert alive() is None


def test_an_update_copies_for_a_reader_of_a_pending_update() -> None:
    cache = tl.zeros([4, 2]) + 0
    tl.eval(cache)
    second = cache.update(0, tl.ones([1, 2]))
    reader = second.sum()
    third = second.update(1, tl.ones([1, 2]))
    assert third.sum().item() == 4
    assert reader.item() == 2


def test_an_update_that_is_no_result_is_read_where_it_was_written() -> None:
    cache = tl.zeros([64, 33]) + 0
    tl.eval(cache)
    updated = cache.update(5, tl.ones([3, 33]))
    twice = tl.softmax(updated, axis=0).sum(axis=0) + updated.sum(axis=0)
    expected = np.full(33, 1.0 + 3.0)
    np.testing.assert_allclose(twice.numpy(), expected, rtol=2e-3)


def test_one_result_of_a_call_brings_its_others_along() -> None:
    step = tl.function(lambda state, x: (state * 2 + x, (state + x).sum()))
    state = tl.zeros([3])
    for i in range(50):
        state, total = step(state, tl.full([3], i % 3))
        total.item()
        assert state._node.op is None  # or each total would compute all steps before it again
    assert state.shape == (3,)


def test_results_that_nobody_holds_are_not_computed() -> None:
    both = tl.function(lambda x: (x + 1, x * 2))
    first, second = both(tl.ones([2]))
    call = first._node.attrs[0]
    assert len(call.results()) == 2
    del second
    assert len(call.results()) == 1
    assert first.tolist() == [2, 2]


def test_one_number_given_twice_is_not_two_numbers() -> None:
    same = tl.function(lambda n: n)
    both = tl.function(lambda x, a, b: x * a * 10 + b)
    two, three = same(2), same(3)
    assert both(tl.ones([1]), two, two).tolist() == [22]
    assert both(tl.ones([1]), two, three).tolist() == [23]
    assert both(tl.ones([1]), three, two).tolist() == [32]


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_number_beyond_float32_is_infinite(device: str) -> None:
    x = tl.ones([1], device=device)
    assert (x + 1e300).tolist() == [np.inf]
    assert (x * -1e39).tolist() == [-np.inf]
    assert (x.to("float32") * 3.4028235e38).tolist() == [np.finfo(np.float32).max]


def test_threads_ask_for_values_that_share_nodes() -> None:
    step = tl.function(lambda x, cache, row: (x + 1, cache.update(0, row), (x * 2).sum()))
    wrong: list[object] = []

    def ask(barrier: threading.Barrier, value: Any, expected: float) -> None:
        barrier.wait()
        try:
            if not np.all(value().numpy() == expected):
                wrong.append(value().numpy())
        except Exception as error:
            wrong.append(error)

    def together(*asked: tuple[Any, float]) -> None:
        barrier = threading.Barrier(len(asked))
        threads = [threading.Thread(target=ask, args=(barrier, *a)) for a in asked]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for i in range(100):
            x = tl.full([64], i, "float32")
            y = x
            for _ in range(20):
                y = y + 1
            z = y * 2
            together(
                (lambda y=y: y, i + 20), (lambda z=z: z, 2 * i + 40), (lambda y=y: y[:3], i + 20)
            )
            a, b, s = step(x, tl.zeros([2, 64], "float32"), tl.full([1, 64], 7, "float32"))
            together((lambda a=a: a, i + 1), (lambda b=b: b[0], 7), (lambda s=s: s, 128 * i))
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


FORKS = """
import os, sys, threading, time
import tensorlogic as tl

tl.tanh(tl.ones([9]) + 1).sum().item()
ended = False

def busy():
    n = 0
    while not ended:
        n = n % 500 + 1
        (tl.tanh(tl.ones([n]) + n)[::-1] * n).sum().item()

threads = [threading.Thread(target=busy) for _ in range(3)]
for t in threads:
    t.start()
codes = []
for i in range(10):
    time.sleep(0.01)
    pid = os.fork()
    if not pid:
        os._exit(0 if ((tl.ones([3, i + 2]) + 1) * 3).sum().item() == 18 * (i + 2) else 1)
    codes.append(os.waitpid(pid, 0)[1])
ended = True
sys.exit(any(codes))
"""


def test_a_child_of_a_fork_computes_while_other_threads_did() -> None:
    code = [sys.executable, "-W", "ignore", "-c", FORKS]
    assert subprocess.run(code, timeout=60, check=False).returncode == 0
