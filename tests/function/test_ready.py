"""Light calls that come again run at once, with the results of recorded ones."""

from __future__ import annotations

import gc
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import storage
from tensorlogic.computed import Computed
from tensorlogic.storage import Memory
from tensorlogic.testing import assert_close
from tensorlogic.testing.fixtures import tl_device


def linear(x: tl.Tensor, w: tl.Tensor, scale: float) -> tl.Tensor:
    return tl.relu(x @ w * scale)


device = tl_device


def computed(t: tl.Tensor) -> bool:
    return t._node.op is None


def test_the_third_call_runs_at_once() -> None:
    f = tl.function(linear)
    x, w = tl.ones([4, 3]), tl.ones([3, 2])
    assert [computed(f(x, w, 1.5)) for _ in range(4)] == [False, False, True, True]
    assert f(x, w, 2.0).tolist() == [[6.0, 6.0]] * 4
    assert f(x + 1, w, 2.0).tolist() == [[12.0, 12.0]] * 4  # recorded: x + 1 has no values yet


@pytest.mark.parametrize(("rows", "ready"), [(4, True), (300, True), (600, False)])
def test_light_calls_alone_run_at_once(rows: int, ready: bool) -> None:
    f = tl.function(lambda x: x * 2 + 1)
    x = tl.full([rows, 1000], 3.0)
    tl.eval(x)
    made = [f(x) for _ in range(4)]
    assert [computed(y) for y in made] == [False, False, ready, ready]
    assert all((y.numpy() == 7).all() for y in made)


def test_tensors_in_lists_and_of_varying_number() -> None:
    each = tl.function(lambda x, *ws, scale=1.0: [x @ w * scale for w in ws])
    sums = tl.function(lambda d: d["a"] + d["b"][0])
    x, w = tl.ones([2, 3]), tl.ones([3, 1])
    made = [each(x, w, w, scale=2.0) for _ in range(4)]
    assert [computed(y) for y, _ in made] == [False, False, True, True]
    assert [z.tolist() for _, z in made] == [[[6.0]] * 2] * 4
    assert len(each(x, w)) == 1
    for _ in range(4):
        assert sums({"a": x, "b": [x * 2]}).tolist() == [[3.0] * 3] * 2
        assert sums({"b": [x], "a": x}).tolist() == [[2.0] * 3] * 2
        assert sums({"a": x, "b": (x,)}).tolist() == [[2.0] * 3] * 2


def test_other_layouts_dtypes_and_kinds_of_numbers_are_other_calls() -> None:
    f = tl.function(lambda x, n: x * n)
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    for _ in range(4):
        assert f(x, 2).tolist() == [[2, 4], [6, 8]]
        assert f(x, 2.5).tolist() == [[2.5, 5], [7.5, 10]]
        assert f(x.T, 2).tolist() == [[2, 6], [4, 8]]
        assert f(x[1:], 2).tolist() == [[6, 8]]
        assert f(x.to("float32"), 3).dtype is tl.float32
        assert f(tl.tensor([1], "int32"), 3).dtype is tl.int32
        assert f(x, True).tolist() == [[1, 2], [3, 4]]


def test_results_are_memory_of_their_own() -> None:
    f = tl.function(lambda x: x + 1)
    kept = [f(tl.full([8], float(i))) for i in range(20)]
    views = [k.numpy() for k in kept]
    for i in range(20, 40):
        f(tl.full([8], float(i))).numpy()
    del kept
    gc.collect()
    for _ in range(20):
        f(tl.full([8], 99.0)).numpy()
    assert [v[0] for v in views] == [i + 1 for i in range(20)]


def test_a_result_is_described_once_and_when_it_is_asked_for() -> None:
    f = tl.function(lambda x: x + 1)
    x = tl.ones([8])
    y = [f(x) for _ in range(3)][-1]
    assert isinstance(y._node, Computed)
    assert f(y).tolist() == [3.0] * 8  # passed on without a description
    assert y._node._data is None
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: id(y._node.data), range(64)))
    assert len(found) == 1
    assert y._node.data.memory.address % storage.ALIGNMENT == 0
    assert (y.shape, y.dtype, y.device, y.name) == ((8,), tl.float16, "cpu", "")


def test_memory_of_a_result_outlives_it() -> None:
    f = tl.function(lambda x: x + 1)
    y = [f(tl.ones([8])) for _ in range(3)][-1]
    view, base = y.numpy(), y._node.data.memory.base
    address = y._node.data.memory.address
    del y
    gc.collect()
    assert [f(tl.full([8], 5.0)).tolist() for _ in range(3)] == [[6.0] * 8] * 3
    assert view.tolist() == [2.0] * 8
    assert base.view(np.float16)[:8].tolist() == [2.0] * 8
    assert view.__array_interface__["data"][0] == address


def test_a_result_is_consumed_in_place() -> None:
    f = tl.function(lambda x: x + 1)
    y = [f(tl.ones([8])) for _ in range(3)][-1]
    address = y._node.data.memory.address
    z = y.update(2, tl.zeros([2]))
    assert z.tolist() == [2, 2, 0, 0, 2, 2, 2, 2]
    assert z._node.data.memory.address == address
    with pytest.raises(tl.ConsumedError):
        f(y)


def test_unused_arguments_and_arguments_in_another_order() -> None:
    unused = tl.function(lambda x, y, n: x * 2)
    twice = tl.function(lambda x, y: x + y)
    turned = tl.function(lambda x, y, n: (y - n) * 10 + x)
    x, y = tl.ones([2]), tl.full([2], 3.0)
    for _ in range(4):
        assert unused(x, y, 1.0).tolist() == [2, 2]
        assert twice(x, x).tolist() == [2, 2]
        assert turned(x, y, 1).tolist() == [21, 21]


def test_numbers_of_a_ready_call() -> None:
    f = tl.function(lambda x, n: x * n)
    x = tl.ones([1], "float32")
    for n in (0.0, -1.0, -1, 0, 2**31 - 1, -(2**31), 1e30, 1e-42, math.inf, -math.inf):
        for _ in range(3):
            assert f(x, n).item() == np.float32(n)
    assert [f(x, n).item() for n in (1e300, -1e300, 10**300)] == [math.inf, -math.inf, math.inf]
    assert all(math.isnan(f(x, math.nan).item()) for _ in range(3))


def test_large_memory_is_used_again_unless_a_view_is_left() -> None:
    storage._large.clear()
    size = 3 << 20
    memory = Memory.allocate(size)
    address, view = memory.address, memory.view(np.dtype("f2"), (4,), (1,), 0)
    del memory
    assert Memory.allocate(size).address != address
    assert view.__array_interface__["data"][0] == address
    storage._large.clear()
    memory = Memory.allocate(size)
    address = memory.address
    del memory
    about = Memory.allocate(size - 1000)  # a little smaller: the same piece
    assert (about.address, about.nbytes) == (address, size - 960)
    assert about.base.nbytes == about.nbytes


def test_large_memory_that_is_kept_is_bounded() -> None:
    storage._large.clear()
    piece = storage.LARGE_KEPT // 4
    pieces = [Memory.allocate(piece) for _ in range(6)]
    pieces.append(Memory.allocate(2 * storage.LARGE_KEPT))
    del pieces
    assert kept_bytes() == storage.LARGE_KEPT
    other = Memory.allocate(2 << 20)
    del other  # lets go of the other sizes
    assert kept_bytes() == 2 << 20
    storage._large.clear()


def kept_bytes() -> int:
    return sum(size * len(raws) for size, raws in storage._large.items())


def test_settings_count() -> None:
    f = tl.function(lambda x: (x @ x) @ x)
    x = tl.tensor(np.full((2, 2), 1.001, np.float32)).to("float16")
    plain = [f(x).tolist() for _ in range(4)]
    with tl.precision("exact"):
        exact = [f(x).tolist() for _ in range(4)]
    assert plain == [f(x).tolist()] * 4
    assert len({str(e) for e in exact}) == 1


def test_several_results_numbers_and_constants() -> None:
    f = tl.function(lambda x, n: {"double": x * 2, "number": n * 2, "plain": [x.sum(), None, "s"]})
    for _ in range(4):
        got = f(tl.ones([3]), 4)
        assert got["double"].tolist() == [2, 2, 2]
        assert got["number"].item() == 8
        assert (tl.ones([1]) * got["number"]).dtype is tl.float16
        assert got["plain"][0].item() == 3
        assert got["plain"][1:] == [None, "s"]


def test_an_argument_that_comes_back_is_itself() -> None:
    f = tl.function(lambda x: (x, x + 1))
    x = tl.ones([2])
    for _ in range(4):
        assert f(x)[0] is x or f(x)[0]._node is x._node


def test_a_rebound_capture_is_noticed() -> None:
    bias = [tl.ones([2])]
    f = tl.function(lambda x: x + bias[0])
    for _ in range(4):
        assert f(tl.ones([2])).tolist() == [2, 2]
    bias[0] = tl.zeros([2])
    for _ in range(4):
        assert f(tl.ones([2])).tolist() == [1, 1]


def test_what_checks_values_or_writes_in_place_is_recorded() -> None:
    take = tl.function(lambda x, i: x[i])
    update = tl.function(lambda cache, x: cache.update(0, x))
    x = tl.ones([4])
    for _ in range(4):
        assert not computed(take(x, tl.tensor([1], "int32")))
        cache = tl.zeros([4])
        assert not computed(update(cache, x[:2]))
    with pytest.raises(tl.IndexRangeError):
        take(x, tl.tensor([7], "int32")).numpy()


def test_explain_shows_the_function(device: str) -> None:
    f = tl.function(lambda x: tl.relu(x) + 1)
    x = tl.ones([4], device=device)
    texts = [f(x).explain("graph") for _ in range(4)]
    assert all("relu" in t for t in texts)


def test_threads() -> None:
    f = tl.function(linear)
    wrong: list[float] = []

    def loop(start: float) -> None:
        w = tl.ones([3, 2])
        for i in range(200):
            x = tl.full([4, 3], start + i % 7)
            if not (f(x, w, 1.0).numpy() == 3 * (start + i % 7)).all():
                wrong.append(start + i)

    threads = [threading.Thread(target=loop, args=(100.0 * k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_on_every_device(device: str) -> None:
    f = tl.function(lambda x, w: tl.softmax(x @ w))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    expected = np.exp(a @ b) / np.exp(a @ b).sum(-1, keepdims=True)
    for _ in range(4):
        y = f(tl.tensor(a, "float32", device), tl.tensor(b, "float32", device))
        assert y.device == device
        assert_close(y, expected, rtol=1e-5)
