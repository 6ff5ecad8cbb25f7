"""Launches are kept in a file and made again by run_on_nvidia.py, here on the emulator."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.compare import Array
from tests.metal.backend import Emulator
from tests.metal.emulator.library import Library
from tests.metal.recording import Recorder, add_code
from tests.metal.traced import content, memory_of

TEXT = """\
#include <metal_stdlib>
using namespace metal;
[[max_total_threads_per_threadgroup(64)]] kernel void twice(
    device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]]) { y[i] = 2.0f * x[i]; }
"""


class OnCard:
    """An array as CuPy has it."""

    def __init__(self, array: Array) -> None:
        self.array = array.copy()

    def get(self) -> Array:
        return self.array


def card(factor: float) -> ModuleType:
    """A CuPy whose card multiplies what kernels write."""
    module = ModuleType("cupy")

    class Module:
        def load(self, code: bytes) -> None:
            assert code

        def get_function(self, name: str) -> Any:
            assert name == "run_twice"

            def function(grid: tuple[int], block: tuple[int], arguments: tuple[OnCard]) -> None:
                slots = {i: memory_of(a.array) for i, a in enumerate(arguments)}
                Library(TEXT).run("twice", grid[0], slots)
                result = content(slots[1]).view(np.float32) * np.float32(factor)
                arguments[1].array[:] = result.view(np.uint8)

            return function

    properties = {"name": b"a card"}
    module.__dict__.update(
        asarray=OnCard,
        __version__="0",
        cuda=SimpleNamespace(
            function=SimpleNamespace(Module=Module),
            Device=lambda: SimpleNamespace(synchronize=lambda: None),
            runtime=SimpleNamespace(
                getDeviceProperties=lambda index: properties, runtimeGetVersion=lambda: 0
            ),
        ),
    )
    return module


@pytest.fixture
def launches(tmp_path: Path) -> Path:
    emulator = Emulator(recorder=Recorder())
    for n in (128, 64, 192):
        slots = {i: memory_of(np.arange(n, dtype=np.float32) + i) for i in range(2)}
        emulator.run(TEXT, "twice", n // 64, slots)
    assert not emulator.faults
    path = tmp_path / "launches.zip"
    assert emulator.recorder is not None
    emulator.recorder.save(path)
    assert add_code(path) == 1
    assert add_code(path) == 1  # what is there is not made again
    return path


def test_the_smallest_launch_is_kept(launches: Path) -> None:
    with zipfile.ZipFile(launches) as file:
        endings = sorted(name.split(".")[1] for name in file.namelist())
        assert endings[-4:] == ["json", "metal", "npz", "ptx"] or "cubin" in endings
        (npz,) = [name for name in file.namelist() if name.endswith(".npz")]
        with file.open(npz) as content:
            arrays = np.load(content)
            assert arrays["before1"].nbytes == 256
            np.testing.assert_array_equal(arrays["after1"].view("f4"), 2 * np.arange(64))


@pytest.mark.parametrize(
    ("factor", "row"), [(1, "1 | 1 | 0 | 0"), (1 + 4e-6, "1 | 0 | 1 | 0"), (1.01, "1 | 0 | 0 | 1")]
)
def test_results_are_compared(
    launches: Path,
    factor: float,
    row: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", card(factor))
    monkeypatch.delitem(sys.modules, "tests.metal.run_on_nvidia", raising=False)
    from tests.metal.run_on_nvidia import main

    assert main(str(launches)) == (factor > 1.001)
    monkeypatch.delitem(sys.modules, "tests.metal.run_on_nvidia")
    shown = capsys.readouterr().out
    assert f"| all | {row} |" in shown
    assert ("times what is allowed" in shown) == (factor > 1.001)
