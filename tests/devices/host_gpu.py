"""A device with memory of its own whose kernels are the CPU's: all of `devices/gpu.py`, no GPU."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from tensorlogic.codegen.gpu import GpuLaunch
from tensorlogic.devices import cpu_kernels
from tensorlogic.devices.gpu import BuiltLaunch, GpuDevice
from tensorlogic.devices.library import Library
from tensorlogic.devices.native import Launch, Program, run
from tensorlogic.errors import DeviceError
from tensorlogic.kernels.ir import BYTES
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.traits import CPU
from tensorlogic.storage import Bytes


class HostGpu(GpuDevice):
    """Buffers are arrays that the host sees through copies only. `room` bytes fit in them."""

    name = "hostgpu"
    description = "the CPU as if it had memory of its own, for tests"
    dialect = "none"
    unified = False
    traits = CPU

    def __init__(self) -> None:
        super().__init__()
        self._library = Library()
        self.room = 1 << 62
        self.filled: list[int] = []
        """Bytes of each copy from the host."""
        self.copied_out: list[int] = []
        """Bytes of each copy to the host."""

    def unavailable(self) -> None:
        return None

    def enter(self) -> None:
        pass

    def new_buffer(self, size: int) -> Bytes:
        if size > self.room:
            raise MemoryError
        self.room -= size
        return np.full(size, 0xA5, np.uint8)

    def drop_buffer(self, buffer: Bytes) -> None:
        self.room += buffer.nbytes

    def out_of_memory(self, size: int) -> DeviceError:
        return DeviceError(f"hostgpu: no room for {size} bytes")

    def fill(self, buffer: Bytes, data: Bytes) -> None:
        self.filled.append(data.nbytes)
        buffer[: data.nbytes] = data

    def host_view(self, buffer: Bytes, nbytes: int, start: int = 0) -> Bytes:
        self.copied_out.append(nbytes)
        return buffer[start : start + nbytes].copy()

    def build(self, source: str, name: str) -> Any:
        raise NotImplementedError

    def printed(self, step: Step) -> GpuLaunch:
        return GpuLaunch("", "", 1, 1)

    def built(self, step: Step, launch: GpuLaunch, alone: Container[int]) -> BuiltLaunch:
        sizes = [BYTES[b.dtype] for b in step.all_buffers]
        ((name, *numbers),) = cpu_kernels.launches(self._library, [step])
        launched = Launch(self._library.kernels[name], *numbers)
        function = (launched, sizes, cpu_kernels.scratch([step]))
        return BuiltLaunch(function, launch, len(sizes), len(step.all_params), ())

    def program(self, launches: Sequence[BuiltLaunch]) -> HostProgram:
        return HostProgram(launches)


class HostProgram:
    def __init__(self, launches: Sequence[BuiltLaunch]) -> None:
        self._launches = launches
        scratch = max((b.function[2] for b in launches), default=0)
        self._program = Program([b.function[0] for b in launches], scratch)
        self._held: dict[tuple[int, int], Bytes] = {}
        self._first: dict[tuple[int, int], int] = {}

    def place(self, step: int, slot: int, first: int) -> None:
        self._first[step, slot] = first * self._launches[step].function[1][slot]

    def slots(self, arguments: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        return arguments

    def bind(self, slots: Sequence[tuple[int, int]], buffer: Bytes) -> None:
        for step, slot in slots:
            self._held[step, slot] = buffer
            address = buffer.__array_interface__["data"][0]
            self._program.args(step)[slot] = address + self._first[step, slot]

    def number(self, step: int, index: int, word: int) -> None:
        self._program.args(step)[self._launches[step].buffers + index] = word

    def launch(self) -> None:
        run(self._program)
