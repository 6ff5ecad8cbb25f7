"""What is launched as a graph, and what as it is, with a driver that notes its calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tensorlogic.devices.cuda_driver import Driver, DriverError, Graph, Single


class Calls:
    """CUDA's driver: `codes` are what the next launches return."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self.codes: list[int] = []
        self.CUresult = int

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> tuple[Any, ...]:
            self.made.append((name, args))
            if name == "cuLaunchKernel":
                return (self.codes.pop(0) if self.codes else 0,)
            return 0, f"{name} {len(self.made)}"

        return call


def driver_of(calls: Calls, count: int = 1) -> Driver:
    driver = object.__new__(Driver)
    driver._cu, driver._nvrtc, driver._context = calls, None, "context"
    driver.count, driver.stream = count, 7
    driver._error = lambda code: DriverError(f"code {code}")  # type: ignore[method-assign]
    return driver


def kernel(arguments: int = 64) -> Any:
    sizes = {f"{kind}Dim{axis}": 1 for kind in ("grid", "block") for axis in "XYZ"}
    sizes |= {"gridDimX": 5, "blockDimX": 256, "sharedMemBytes": 0}
    return SimpleNamespace(func="f", kernelParams=arguments, extra=0, **sizes)


def test_one_kernel_is_launched_as_it_is() -> None:
    calls = Calls()
    stage = driver_of(calls).stage({3: kernel()})
    assert isinstance(stage, Single)
    stage.change(3)
    stage.launch()
    assert calls.made == [("cuLaunchKernel", ("f", 5, 1, 1, 256, 1, 1, 0, 7, 64, 0))]


def test_several_kernels_and_those_of_several_cards_are_graphs() -> None:
    calls = Calls()
    assert isinstance(driver_of(calls).stage({0: kernel(), 1: kernel()}), Graph)
    assert isinstance(driver_of(calls, count=2).stage({0: kernel()}), Graph)


def test_a_launch_in_another_context_is_tried_once_more() -> None:
    calls = Calls()
    stage = driver_of(calls).stage({0: kernel()})
    calls.codes = [201]
    stage.launch()
    assert [name for name, _ in calls.made] == [
        "cuLaunchKernel",
        "cuCtxSetCurrent",
        "cuLaunchKernel",
    ]
    calls.codes = [201, 201]
    with pytest.raises(DriverError, match="201"):
        stage.launch()
