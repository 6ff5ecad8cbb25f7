"""The CUDA device without a card: what it asks of the driver, and why it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices import cuda as module
from tensorlogic.devices.base import REGISTRY, resolve
from tensorlogic.devices.cuda import STAGE, Cuda
from tensorlogic.devices.cuda_driver import DriverError
from tests.cuda.fake_driver import FakeDriver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDriver]:
    """The device `cuda`, opened on a driver that only notes what it is asked."""
    monkeypatch.setenv("TENSORLOGIC_CACHE", str(tmp_path))
    device, fake = Cuda(), FakeDriver()
    device._driver = fake  # type: ignore[assignment]
    device.__dict__["_vendor"] = None
    monkeypatch.setitem(REGISTRY._open, "cuda", device)
    yield fake
    device._driver = None


def on_card(*shape: int) -> tl.Tensor:
    return tl.tensor(np.ones(shape), device="cuda")


def test_a_plan_becomes_a_graph_whose_changed_nodes_alone_change(driver: FakeDriver) -> None:
    x, w = on_card(64, 64), on_card(64, 64)

    @tl.function
    def f(x: tl.Tensor) -> tl.Tensor:
        return tl.softmax(x @ w) @ w + 1

    keep = [f(x) for _ in range(3)]
    for y in keep:
        tl.eval(y)
    (graph,) = driver.graphs
    assert len(graph.nodes) == 3
    assert graph.launches == 3
    assert graph.changed == [2, 2]  # the last kernel writes to other memory each time
    results = {y._node.data.memory.buffer for y in keep}  # type: ignore[union-attr]
    assert len(results) == 3


def test_arguments_are_addresses_then_words(driver: FakeDriver) -> None:
    x = on_card(8)
    y = x * 3 + 4
    tl.eval(y)
    (graph,) = driver.graphs
    (node,) = graph.nodes.values()
    out, given, word = node.words(3)
    assert out == y._node.data.memory.buffer  # type: ignore[union-attr]
    assert driver.memory_of[given][:16].view(np.float16).tolist() == [1] * 8
    assert (node.function, node.groups) == ("compute", 1)
    assert word == 3


def test_numbers_are_words_of_the_run(driver: FakeDriver) -> None:
    x = on_card(8)
    f = tl.function(lambda x, n: x * n)
    words = []
    for n in (5, 7, 9, 9):
        y = f(x, n)
        tl.eval(y)
        (graph,) = driver.graphs
        words.append(next(iter(graph.nodes.values())).words(3)[2])
    assert words == [5, 7, 9, 9]


def test_a_large_kernel_that_is_alone_needs_no_graph(driver: FakeDriver) -> None:
    x, w = on_card(1 << 22), on_card(64, 64)
    f = tl.function(lambda x: x + 1)
    results = [f(x) for _ in range(3)]
    for y in results:
        tl.eval(y)
    (single,) = driver.singles
    assert not driver.graphs
    buffers = {y._node.data.memory.buffer for y in results}  # type: ignore[union-attr]
    assert {out for out, _ in single.given} == buffers
    assert len(buffers) == len(single.given) == 3
    tl.eval(x + 2, w + 2)  # not alone
    tl.eval(w + 3)  # not large
    assert len(driver.singles) == 1
    assert [len(g.nodes) for g in driver.graphs] == [2, 1]


class FakeVendor:
    """Notes where the matrices of each product are."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, ...]] = []
        self.placed: tuple[int, ...] = ()

    def call(self, product: Any) -> FakeVendor:
        return self

    def place(self, *addresses: int) -> None:
        self.placed = addresses

    def launch(self) -> None:
        self.launched.append(self.placed)


def test_products_of_the_vendor_follow_their_matrices(driver: FakeDriver) -> None:
    vendor = REGISTRY.get("cuda").__dict__["_vendor"] = FakeVendor()
    a, b = on_card(256, 512), on_card(512, 512)
    f = tl.function(lambda a, b: tl.relu((a + 1) @ b) + 1)
    tl.eval(f(a, b))
    assert not vendor.launched  # what is stored is more than the product
    product = tl.function(tl.matmul)
    results = [product(a, b) for _ in range(3)]
    tl.eval(*results)
    assert len({places[:2] for places in vendor.launched}) == 1
    buffers = [y._node.data.memory.buffer for y in results]  # type: ignore[union-attr]
    assert sorted(places[2] for places in vendor.launched) == sorted(buffers)


def test_kernels_are_compiled_once_and_kept_on_disk(driver: FakeDriver, tmp_path: Path) -> None:
    for _ in range(2):
        tl.eval(on_card(8) + 1)
        tl.eval(on_card(16) + 2)
    (compiled,) = driver.compiled
    assert "--ftz=false" in compiled[1]
    assert "--gpu-architecture=sm_90" in compiled[1]
    again = Cuda()
    again._driver = driver  # type: ignore[assignment]
    again.build(compiled[0], "compute")
    assert len(driver.compiled) == 1


def test_large_data_goes_through_two_pinned_buffers(driver: FakeDriver) -> None:
    data = np.arange(2 * STAGE + STAGE // 2, dtype=np.uint8)
    device = REGISTRY.get("cuda")
    assert isinstance(device, Cuda)
    buffer = device.new_buffer(data.nbytes)
    device.fill(buffer, data)
    assert (driver.memory_of[buffer] == data).all()
    assert driver.events == ["wait", f"copy {STAGE}", "record"] * 2 + [
        "wait",
        f"copy {STAGE // 2}",
        "record",
    ]


def test_no_room_says_how_much(driver: FakeDriver) -> None:
    driver.room = 1000
    x = on_card(100)
    with pytest.raises(tl.DeviceError, match=r"out of memory: a buffer of 2,048 bytes .* 1,000 of"):
        tl.eval(x.expand(10, 100) + 1)


class _Absent(FakeDriver):
    def __init__(self, error: Exception | None = None, capability: Any = (9, 0)):
        super().__init__()
        if error is not None:
            raise error
        self.capability = capability


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: _Absent(ImportError()), r"pip install 'tensorlogic\[cuda\]'"),
        (lambda _: _Absent(DriverError("no NVIDIA driver: none")), "no NVIDIA driver"),
        (lambda _: _Absent(capability=(7, 5)), r"compute capability 7.5, 8.0 is needed"),
    ],
)
def test_why_it_is_not_there(make: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Driver", make)
    device = Cuda()
    monkeypatch.setitem(REGISTRY._open, "cuda", device)
    assert device.unavailable() is not None
    with pytest.raises(tl.DeviceError, match=reason):
        tl.ones([2], device="cuda")


def test_several_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(FakeDriver):
        count = 2

    monkeypatch.setattr(module, "Driver", lambda index: Second())
    for name in ("cuda", "cuda:1"):
        monkeypatch.delitem(REGISTRY._open, name, raising=False)
    assert resolve("cuda:0") == "cuda"
    assert resolve("cuda:1") == "cuda:1"
    assert REGISTRY.get("cuda:1").name == "cuda:1"
    assert [d.name for d in tl.devices() if d.available][-2:] == ["cuda", "cuda:1"]
    with pytest.raises(tl.DeviceError, match="unknown device 'cuda:x'"):
        resolve("cuda:x")
    for name in ("cuda", "cuda:1"):
        REGISTRY._open.pop(name, None)


FORKED = """
import os, sys
from tensorlogic.devices.cuda import Cuda
from tests.cuda.fake_driver import FakeDriver
import tensorlogic as tl
device = Cuda()
device._driver = FakeDriver()
device.enter()
child = os.fork()
if not child:
    try:
        device.enter()
    except tl.DeviceError as error:
        os._exit(0 if "forked" in str(error) else 2)
    os._exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told() -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(Path(tl.__file__).parents[1])])
    subprocess.run(
        [sys.executable, "-c", FORKED], check=True, env={**os.environ, "PYTHONPATH": path}
    )
