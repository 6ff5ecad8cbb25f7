"""The stand-in for metalcompute has the real module's quirks, as its source says them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from tests.metal import session
from tests.metal.backend import EMULATOR

pytestmark = pytest.mark.skipif(not session.emulated(), reason="the real module is here")

TEXT = """\
#include <metal_stdlib>
using namespace metal;
[[max_total_threads_per_threadgroup(64)]] kernel void twice(
    device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]]) { y[i] = 2.0f * x[i]; }
"""


@pytest.fixture
def mc() -> ModuleType:
    import metalcompute

    return metalcompute


def floats(buffer: object) -> object:
    return np.frombuffer(buffer, np.float32)  # type: ignore[call-overload]


def test_a_launch_is_done_when_its_handle_goes(mc: ModuleType) -> None:
    device = mc.Device()
    x, y = device.buffer(np.arange(64, dtype=np.float32)), device.buffer(256)
    handle = device.kernel(TEXT).function("twice")(64, x, y)
    assert not floats(y).any()
    del handle
    np.testing.assert_array_equal(floats(y), 2 * np.arange(64))


def test_launches_run_in_order_whoever_waits(mc: ModuleType) -> None:
    device = mc.Device()
    twice = device.kernel(TEXT).function("twice")
    a, b, c = (device.buffer(np.ones(64, np.float32)) for _ in range(3))
    first = twice(64, a, b)
    twice(64, b, c)  # dropped at once: the one before it is done first
    assert floats(c)[0] == 4
    del first


def test_input_that_changes_too_early_shows(mc: ModuleType) -> None:
    device = mc.Device()
    x, y = device.buffer(np.ones(64, np.float32)), device.buffer(256)
    handle = device.kernel(TEXT).function("twice")(64, x, y)
    floats(x)[:] = 5
    del handle
    assert floats(y)[0] == 10


def test_sizes_and_contents_of_buffers(mc: ModuleType) -> None:
    device = mc.Device()
    assert len(np.frombuffer(device.buffer(12), np.uint8)) == 12
    assert len(np.frombuffer(device.buffer(np.int64(1024)), np.uint8)) == 8  # its own bytes
    assert bytes(memoryview(device.buffer(b"abc"))) == b"abc"
    view = memoryview(device.buffer(4))
    assert (view.format, view.readonly, view.ndim) == ("B", False, 1)
    for wrong, said in ((0, "Could not make buffer"), (b"", "Could not make buffer")):
        with pytest.raises(mc.error, match=said):
            device.buffer(wrong)
    with pytest.raises(mc.error, match="Unsupported input format"):
        device.buffer(np.zeros((4, 4))[:, 1])
    with pytest.raises(mc.error, match="Unsupported input format"):
        device.buffer("some")
    with pytest.raises(TypeError):
        len(device.buffer(4))
    with pytest.raises(AttributeError):
        device.buffer(4).size  # noqa: B018


def test_a_view_keeps_the_memory(mc: ModuleType) -> None:
    views = [np.frombuffer(mc.Device().buffer(4096), np.uint8) for _ in range(50)]
    for i, view in enumerate(views):
        view[:] = i
    assert all((view == i).all() for i, view in enumerate(views))


def test_an_array_as_output_is_lost(mc: ModuleType) -> None:
    device = mc.Device()
    y = np.zeros(64, np.float32)
    device.kernel(TEXT).function("twice")(64, np.ones(64, np.float32), y)
    assert not y.any()


def test_a_count_is_rounded_up_to_whole_groups(mc: ModuleType) -> None:
    device = mc.Device()
    x, y = device.buffer(np.ones(128, np.float32)), device.buffer(512)
    device.kernel(TEXT).function("twice")(65, x, y)
    assert floats(y).sum() == 256


def test_errors(mc: ModuleType) -> None:
    device = mc.Device()
    with pytest.raises(mc.error, match=r"program_source:5:\d+: error: use of undeclared .*'z'"):
        device.kernel(TEXT.replace("x[i]", "z[i]"))
    with pytest.raises(mc.error, match="Function not found"):
        device.kernel(TEXT).function("thrice")
    with pytest.raises(mc.error, match="Cannot create device"):
        mc.Device(1)
    twice = device.kernel(TEXT).function("twice")
    with pytest.raises(mc.error, match="Buffer not found"):
        twice(64)
    with pytest.raises(mc.error, match="integer kernel count"):
        twice("some", device.buffer(256))
    with pytest.raises(mc.error, match="31 buffers"):
        twice(64, *(device.buffer(4) for _ in range(32)))
    assert [d.deviceName for d in mc.get_devices()] == [EMULATOR.name]


def test_a_fault_is_silent_but_noted(mc: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EMULATOR, "count", 0)  # the order of threads in which byte 128 is the first
    device = mc.Device()
    x, y = device.buffer(np.ones(32, np.float32)), device.buffer(256)
    device.kernel(TEXT).function("twice")(64, x, y)
    (fault,) = session.take_faults()
    assert "outside of its memory: byte 128 of buffer 0, which has 128" in fault
