"""Memory and plans of devices with memory of their own, on one that needs no GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices.base import REGISTRY
from tensorlogic.devices.gpu import DeviceMemory, buffer_size
from tests.devices.host_gpu import HostGpu

NAME = "hostgpu"


@pytest.fixture
def gpu() -> Iterator[HostGpu]:
    device = HostGpu()
    REGISTRY.register(NAME, lambda: device)
    yield device
    REGISTRY._factories.pop(NAME)
    REGISTRY._open.pop(NAME, None)


def memory(t: tl.Tensor) -> DeviceMemory:
    data = t._node.data
    assert data is not None
    assert isinstance(data.memory, DeviceMemory)
    return data.memory


def test_results_stay_there_and_come_back(gpu: HostGpu) -> None:
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]], device=NAME)
    y = x @ x + 1
    tl.eval(y)
    assert memory(y).device is gpu
    copies = len(gpu.filled)
    z = y * 2
    assert z.tolist() == [[16, 22], [32, 46]]
    assert len(gpu.filled) == copies  # y was there
    assert z.to("cpu").sum().item() == 116
    assert z.to("reference").sum().item() == 116


def test_a_small_part_is_copied_alone(gpu: HostGpu) -> None:
    values = np.arange(4000, dtype=np.float32).reshape(40, 100)
    doubled = tl.tensor(values, dtype=tl.float32, device=gpu.name) * 2
    tl.eval(doubled)
    assert doubled[7, 3].item() == 2 * values[7, 3]
    np.testing.assert_array_equal(doubled[5:7, 90:10:-3].numpy(), 2 * values[5:7, 90:10:-3])
    np.testing.assert_array_equal(doubled.T[1:3].numpy(), 2 * values.T[1:3])
    assert gpu.copied_out == [4, 179 * 4, 16_000]  # the last is spread over all of it


def test_a_leaf_is_copied_once(gpu: HostGpu) -> None:
    x = tl.tensor(np.ones(3000), device=NAME)
    for _ in range(3):
        assert (x + 1).sum().item() == 6000
    assert sum(n == 6000 for n in gpu.filled) == 1


def test_an_array_that_may_change_is_copied_each_time(gpu: HostGpu) -> None:
    array = np.ones(8, np.float32)
    x = tl.from_numpy(array, device=NAME)
    assert (x * 2).tolist() == [2] * 8
    array[:] = 5
    assert (x * 2).tolist() == [10] * 8
    array.flags.writeable = False
    y = tl.from_numpy(array, device=NAME)
    for _ in range(2):
        assert (y * 2).tolist() == [10] * 8
    assert sum(n == 32 for n in gpu.filled) == 3


def test_it_is_copied_once_for_all_kernels_of_a_run(gpu: HostGpu) -> None:
    x = tl.from_numpy(np.ones((8, 8), np.float32), device=NAME)
    y = x @ x
    tl.eval(tl.softmax(x @ y), y, x.sum())
    assert sum(n == 256 for n in gpu.filled) == 1


def test_calls_are_ready_whatever_their_size(gpu: HostGpu) -> None:
    f = tl.function(lambda x, w: tl.relu(x @ w))
    x, w = tl.ones([256, 256], device=NAME), tl.ones([256, 256], device=NAME)
    made = [f(x, w) for _ in range(4)]
    assert [y._node.op is None for y in made] == [False, False, True, True]
    assert len({id(memory(y).buffer) for y in made if y._node.op is None}) == 2
    assert all((y.numpy() == 256).all() for y in made)


def test_a_plan_binds_what_is_elsewhere_than_before(gpu: HostGpu) -> None:
    f = tl.function(lambda x, y: x * 2 + y)
    kept = []
    for i in range(6):
        x, y = (tl.full([8], float(i + k), device=NAME) for k in (0, i % 2))
        kept.append((f(x, y), 3 * i + i % 2))
    assert all(z.tolist() == [value] * 8 for z, value in kept)


def test_updates_in_place(gpu: HostGpu) -> None:
    cache = tl.zeros([4, 2], device=NAME)
    tl.eval(cache)
    buffers = set()
    for i in range(4):
        cache = cache.update(i, tl.full([1, 2], float(i), device=NAME))
        tl.eval(cache)
        buffers.add(id(memory(cache).buffer))
    assert len(buffers) == 1
    assert cache.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_what_the_host_saw_is_not_written_in_place(gpu: HostGpu) -> None:
    cache = tl.zeros([4], device=NAME) + 0
    seen = cache.numpy()
    new = cache.update(0, tl.ones([1], device=NAME))
    assert new.tolist() == [1, 0, 0, 0]
    assert seen.tolist() == [0, 0, 0, 0]


def test_an_update_is_seen_after_a_look(gpu: HostGpu) -> None:
    cache = tl.zeros([4], device=NAME) + 0
    tl.eval(cache)
    _ = memory(cache).base
    new = cache.update(1, tl.ones([1], device=NAME))
    assert new.tolist() == [0, 1, 0, 0]


def test_an_updated_leaf_of_the_host_keeps_its_bytes(gpu: HostGpu) -> None:
    x = tl.tensor([1.0, 2.0, 3.0], device=NAME)
    assert (x + 0).tolist() == [1, 2, 3]  # the copy is there and kept
    host = x._node.data
    assert host is not None
    y = x.update(0, tl.full([1], 9.0, device=NAME))
    assert y.tolist() == [9, 2, 3]
    assert host.memory.base.view(np.float16)[:3].tolist() == [1, 2, 3]


def test_checks_name_their_values_and_plans_run_again(gpu: HostGpu) -> None:
    x = tl.arange(4, device=NAME)
    for _ in range(2):
        with pytest.raises(tl.IndexRangeError, match="7"):
            x[tl.tensor([7], "int32", NAME)].numpy()
        assert x[tl.tensor([2], "int32", NAME)].tolist() == [2]


def test_numbers_and_functions(gpu: HostGpu) -> None:
    @tl.function
    def f(x: tl.Tensor, scale: float, at: int) -> tl.Tensor:
        return tl.softmax(x * scale) + at

    x = tl.tensor([[0.0, 1.0]], device=NAME)
    for i in range(5):
        expected = np.exp([0.0, i]) / np.exp([0.0, i]).sum() + i
        np.testing.assert_allclose(f(x, float(i), i).numpy()[0], expected, rtol=2e-3)


def test_results_outlive_later_runs(gpu: HostGpu) -> None:
    f = tl.function(lambda x: x * 2)
    results = [f(tl.full([100], float(i), device=NAME)) for i in range(10)]
    tl.eval(*results)
    gc.collect()
    for i, r in enumerate(results):
        assert r.numpy()[0] == 2 * i


def test_buffers_are_used_again(gpu: HostGpu) -> None:
    x = tl.ones([1000], device=NAME)
    for _ in range(3):
        (x + 1).numpy()
    room = gpu.room
    for _ in range(20):
        (x + 1).numpy()
    assert gpu.room == room


def test_what_is_kept_makes_room(gpu: HostGpu) -> None:
    x = tl.ones([1000], device=NAME)
    (x + 1).numpy()
    gpu.room = 0
    y = tl.ones([1000], device=NAME)
    del x
    gc.collect()
    assert (y + 1).tolist() == [2] * 1000  # y's copy is where x's was
    z = tl.ones([5000], device=NAME)
    with pytest.raises(tl.DeviceError, match="no room"):
        (z + 1).numpy()
    assert (y + 2).tolist() == [3] * 1000


def test_two_devices_do_not_mix(gpu: HostGpu) -> None:
    with pytest.raises(tl.DeviceError, match="hostgpu"):
        tl.ones([2], device=NAME) + tl.ones([2], device="cpu")


def test_empty_tensors(gpu: HostGpu) -> None:
    x = tl.zeros([0, 3], device=NAME)
    assert (x + 1).shape == (0, 3)
    assert (x + 1).numpy().shape == (0, 3)
    assert tl.concat([x, tl.ones([2, 3], device=NAME)]).tolist() == [[1, 1, 1]] * 2
    assert x.sum().item() == 0


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 257, 2048, 2049, 4097, 10**6, 3 * 2**30 + 1])
def test_sizes_of_buffers(nbytes: int) -> None:
    size = buffer_size(nbytes)
    assert size >= max(nbytes, 1)
    assert size % 256 == 0
    assert size <= max(256, nbytes * 1.125 + 256)
    assert buffer_size(size) == size
