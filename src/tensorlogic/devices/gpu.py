"""What the GPU devices share: memory on the device, and plans of launches of printed kernels.

A device supplies how to make, fill and read a buffer, how to build a text, and programs: the
launches of a plan with their arguments, which each run patches. Launches are queued in order and
nothing waits for them but the one who reads a result on the host.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tensorlogic.codegen.gpu import GpuLaunch, gpu_launch
from tensorlogic.devices.arguments import CheckFailed, leaf_memory
from tensorlogic.devices.layout import Layout, NumberArgument
from tensorlogic.devices.planned import PlannedDevice
from tensorlogic.graph import Node
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import BYTES, Kernel
from tensorlogic.schedule.emit import Step, step_text
from tensorlogic.schedule.fuse import Schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.storage import Bytes, Memory, serials

MAX_PRINTED = 4096
"""Texts kept by kernel and sizes."""
_SMALLEST = 256
"""Bytes of a buffer at least; buffers are multiples of it."""
_SMALL_PART = 4
"""A part this many times smaller than the whole is copied to the host alone."""


class DeviceMemory(Memory):
    """Memory of a GPU; the host sees it through `base`, once what is queued has been done."""

    __slots__ = ("_host", "buffer", "device", "size")
    owner = None
    owned = True
    stays = False

    def __init__(self, device: GpuDevice, nbytes: int, size: int = 0):
        self._host: Bytes | None = None
        self.buffer: Any = None
        self.device = device
        self.size = size or device.sized(nbytes)
        self.buffer = device.take_buffer(self.size)
        self.nbytes = nbytes
        self.shared = False
        self.copies = None
        self.serial = next(serials)

    @property
    def base(self) -> Bytes:  # type: ignore[override]
        if self._host is None:
            self._host = self.device.host_view(self.buffer, self.nbytes)
        return self._host

    @property
    def address(self) -> int:  # type: ignore[override]
        address: int = self.base.__array_interface__["data"][0]
        return address

    @property
    def constant(self) -> bool:
        return True

    def view(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> NDArray[Any]:
        """Of a buffer that the host does not see, a small part is copied alone."""
        if self._host is None and not self.device.unified and 0 not in shape:
            size, ends = dtype.itemsize, [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
            low = offset + sum(e for e in ends if e < 0)
            nbytes = (offset + sum(e for e in ends if e > 0) + 1 - low) * size
            if _SMALL_PART * nbytes <= self.nbytes:
                part = self.device.host_view(self.buffer, nbytes, low * size)
                steps = tuple(s * size for s in strides)
                return np.ndarray(shape, dtype, part.data, (offset - low) * size, steps)
        return super().view(dtype, shape, strides, offset)

    def written(self) -> DeviceMemory:
        """The same memory, of which the host knows nothing: kernels will write to it."""
        self._host = None
        return self

    def __del__(self) -> None:
        # A view that the host still has may be one of the very buffer.
        if self.buffer is not None and (self._host is None or not self.device.unified):
            self.device.give_buffer(self.size, self.buffer)


def buffer_size(nbytes: int) -> int:
    """The bytes to allocate for `nbytes`: few classes of sizes, at most an eighth more."""
    if nbytes <= 8 * _SMALLEST:
        return max(-(-nbytes // _SMALLEST), 1) * _SMALLEST
    step = 1 << (nbytes - 1).bit_length() - 4
    return -(-nbytes // step) * step


@dataclass(frozen=True)
class BuiltLaunch:
    """A launch with its compiled function."""

    function: Any
    launch: GpuLaunch
    buffers: int
    params: int
    results: tuple[tuple[int, int, int], ...]
    """Slot, bytes of an element and bytes in all of what it alone writes, from the first on."""


class Program(Protocol):
    """The launches of a plan with their arguments; one run at a time uses it."""

    def place(self, step: int, slot: int, first: int) -> None:
        """Buffer argument `slot` of a step begins at element `first` of its buffer."""

    def slots(self, arguments: Sequence[tuple[int, int]]) -> Any:
        """Arguments, given by step and slot, in the form that `bind` takes."""

    def bind(self, slots: Any, buffer: Any) -> None:
        """The one buffer of some arguments."""

    def number(self, step: int, index: int, word: int) -> None:
        """Parameter `index` of a step, as a 64-bit word."""

    def launch(self) -> None:
        """Queue all launches."""


class _Instance:
    """A program with its arena and its status words. `bound`: the buffers of its results and leaves
    as they were last bound, `slots` the arguments that each of them has."""

    __slots__ = ("arena", "bound", "program", "slots", "status")

    def __init__(self, program: Program, uses: Sequence[Sequence[tuple[int, int]]]):
        self.program = program
        self.slots = [program.slots(arguments) for arguments in uses]
        self.bound: list[Any] = [None] * len(uses)
        self.arena: DeviceMemory | None = None
        self.status: DeviceMemory | None = None

    def set(self, which: int, buffer: Any) -> None:
        self.bound[which] = buffer
        self.program.bind(self.slots[which], buffer)


class GpuPlan:
    """A schedule made ready for a GPU.

    It is `ready` whatever its size: a launch waits for nothing, so to put it off gains nothing.
    """

    def __init__(self, device: GpuDevice, schedule: Schedule, order: Sequence[Node]):
        self._device = device
        self._layout = Layout(schedule, order)
        self.ready = not self._layout.checks and not any(s.in_place for s in schedule.steps)
        writers = Counter(id(n) for s in schedule.steps for n in s.writes)
        alone = {key for key, count in writers.items() if count == 1}
        self._launches = device.launches(schedule.steps, alone)
        self._types = [[BYTES[b.dtype] for b in s.all_buffers] for s in schedule.steps]
        self._targets = [(n, device.sized(n), place) for n, place in self._layout.targets]
        # What each run binds, and the arguments (step, slot) that it is: results, then leaves.
        self._uses: list[list[tuple[int, int]]] = [[] for _ in self._targets]
        self._leaves: list[int] = []  # by place, in order: each is looked at once a run
        self._numbers: list[tuple[int, int, NumberArgument]] = []
        which_of: dict[int, int] = {}
        for i, (buffers, params) in enumerate(
            zip(self._layout.buffers, self._layout.params, strict=True)
        ):
            for slot, b in enumerate(buffers):
                if b.kind == "result":
                    self._uses[b.which].append((i, slot))
                elif b.kind == "leaf":
                    if b.which not in which_of:
                        which_of[b.which] = len(self._uses)
                        self._uses.append([])
                        self._leaves.append(b.which)
                    self._uses[which_of[b.which]].append((i, slot))
            for index, value in enumerate(params):
                if isinstance(value, NumberArgument):
                    self._numbers.append((i, index, value))
        self._free: list[_Instance] = []

    def _instance(self) -> _Instance:
        """A program whose status words are zero."""
        device = self._device
        layout = self._layout
        instance = _Instance(device.program(self._launches), self._uses)
        program = instance.program
        if layout.arena_bytes:
            instance.arena = DeviceMemory(device, layout.arena_bytes)
        if any(b.kind in ("status", "empty") for buffers in layout.buffers for b in buffers):
            status = instance.status = DeviceMemory(device, 4 * len(layout.checks))
            device.fill(status.buffer, np.zeros(status.size, np.uint8))
        own = {"arena": instance.arena, "status": instance.status, "empty": instance.status}
        for i, (buffers, params) in enumerate(zip(layout.buffers, layout.params, strict=True)):
            for slot, b in enumerate(buffers):
                program.place(i, slot, b.offset // self._types[i][slot])
                memory = own.get(b.kind)
                if memory is not None:
                    program.bind(program.slots([(i, slot)]), memory.buffer)
            for index, value in enumerate(params):
                if isinstance(value, int):
                    program.number(i, index, value)
        return instance

    def run(self, order: Sequence[Node | None]) -> list[Memory]:
        device = self._device
        device.enter()
        results: list[Memory] = []
        for nbytes, size, place in self._targets:
            if place < 0:
                results.append(DeviceMemory(device, nbytes, size))
            else:
                results.append(device.take_over(leaf_memory(order, place)))
        instance = self._free.pop() if self._free else self._instance()
        bound = instance.bound
        for which, memory in enumerate(results):
            if bound[which] is not memory.buffer:  # type: ignore[attr-defined]
                instance.set(which, memory.buffer)  # type: ignore[attr-defined]
        copied = []  # for this run: they live until it is launched
        for which, place in enumerate(self._leaves, len(results)):
            memory = order[place].data.memory  # type: ignore[union-attr]
            if type(memory) is not DeviceMemory or memory.device is not device:
                memory = device.memory_of(memory)
                copied.append(memory)
            if bound[which] is not memory.buffer:
                instance.set(which, memory.buffer)
        for step, index, number in self._numbers:
            instance.program.number(step, index, number.word(order))
        instance.program.launch()
        failed = self._failed(instance) if self._layout.checks else None
        self._free.append(instance)
        if failed is not None:
            raise CheckFailed(failed)
        return results

    def _failed(self, instance: _Instance) -> int | None:
        """The place of the first check that counted something; its words are zero again."""
        status = instance.status
        assert status is not None
        counts = self._device.host_view(status.buffer, status.nbytes).view(np.int32)
        pairs = zip(self._layout.checks, counts.tolist(), strict=True)
        failed = [place for place, n in pairs if n]
        if failed:
            self._device.fill(status.buffer, np.zeros(status.size, np.uint8))
        return failed[0] if failed else None


class GpuDevice(PlannedDevice):
    """A GPU behind the few things that its back end must do.

    `dialect` is the printed one. `unified`: whether the host sees buffers as they are. `builders`:
    how many texts are built at a time.
    """

    dialect: str
    unified: bool
    sized = staticmethod(buffer_size)
    """The bytes of the buffer for so many."""
    builders = 1
    traits = GPU

    def __init__(self) -> None:
        super().__init__()
        self._built: dict[str, Any] = {}
        self._printed: dict[Any, GpuLaunch] = {}
        self._pool: dict[int, list[Any]] = {}

    # ---- what a back end does ----

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine does not have it, or None."""

    @abstractmethod
    def enter(self) -> None:
        """Called at the head of each run, on the thread that runs."""

    @abstractmethod
    def new_buffer(self, size: int) -> Any:
        """A buffer of `size` bytes. Raises MemoryError where there is no room."""

    def drop_buffer(self, buffer: Any) -> None:
        """Give a buffer's memory back; one that frees itself needs nothing."""
        return

    @abstractmethod
    def fill(self, buffer: Any, data: Bytes) -> None:
        """Copy host bytes into a buffer, in order with what is queued."""

    @abstractmethod
    def host_view(self, buffer: Any, nbytes: int, start: int = 0) -> Bytes:
        """The bytes of a buffer from `start` on, once what is queued has been done; a view where
        `unified`."""

    @abstractmethod
    def build(self, source: str, name: str) -> Any:
        """The compiled function of a text. Raises DeviceError with the compiler's words."""

    @abstractmethod
    def program(self, launches: Sequence[BuiltLaunch]) -> Program:
        """The launches with room for their arguments."""

    @abstractmethod
    def out_of_memory(self, size: int) -> Exception:
        """The error for a buffer that there is no room for."""

    # ---- memory ----

    def take_buffer(self, size: int) -> Any:
        """A buffer of one of the sizes of `buffer_size`: one that is kept, or a new one."""
        kept = self._pool.get(size)
        if kept:
            try:
                return kept.pop()
            except IndexError:  # another thread took it
                pass
        try:
            return self.new_buffer(size)
        except MemoryError:
            self.trim()
            try:
                return self.new_buffer(size)
            except MemoryError:
                raise self.out_of_memory(size) from None

    def give_buffer(self, size: int, buffer: Any) -> None:
        """Keep a buffer for the next that needs one of its size."""
        kept = self._pool.get(size)
        if kept is None:
            kept = self._pool.setdefault(size, [])
        kept.append(buffer)

    def trim(self) -> None:
        """Give the memory of all buffers that are kept back."""
        for kept in self._pool.values():
            while kept:
                self.drop_buffer(kept.pop())

    def memory_of(self, memory: Memory) -> DeviceMemory:
        """Memory with the same bytes on this device, copied there when it is first needed.

        What others may still change (the array of `from_numpy`) is copied for each run.
        """
        copies = memory.copies
        if copies is not None and self in copies:
            return copies[self]  # type: ignore[return-value]
        if isinstance(memory, DeviceMemory) and memory.device is self:
            return memory
        copy = DeviceMemory(self, memory.nbytes)
        if memory.nbytes:
            self.fill(copy.buffer, memory.base)
        if memory.constant:
            memory.copies = {**(copies or {}), self: copy}
        return copy

    def take_over(self, memory: Memory) -> DeviceMemory:
        """The memory of a leaf that kernels will write to; nobody reads the leaf any more."""
        mine = self.memory_of(memory)
        if mine is not memory and memory.copies:
            memory.copies.pop(self, None)
        return mine.written()

    # ---- plans ----

    def plan(self, schedule: Schedule, order: Sequence[Node]) -> GpuPlan:
        self.enter()
        return GpuPlan(self, schedule, order)

    @property
    def compiled(self) -> int:
        """How many kernels this process has built."""
        return len(self._built)

    def launches(self, steps: Sequence[Step], alone: Container[int]) -> list[BuiltLaunch]:
        """The launches of steps; equal texts share one function, and those that are not there yet
        are built, several at a time. `alone`: ids of nodes that no other step writes."""
        printed = [self.printed(s) for s in steps]
        missing = {p.source: p.name for p in printed if p.source and p.source not in self._built}
        if len(missing) > 1 and self.builders > 1:
            with ThreadPoolExecutor(self.builders) as pool:
                functions = pool.map(self.build, missing.keys(), missing.values())
                self._built.update(zip(missing, functions, strict=True))
        else:
            for source, name in missing.items():
                self._built[source] = self.build(source, name)
        return [self.built(s, p, alone) for s, p in zip(steps, printed, strict=True)]

    def printed(self, step: Step) -> GpuLaunch:
        """The text of a step's kernel for its sizes, with the launch that runs it."""
        sizes = step.sizes()
        key = (step_text(step), tuple(sizes.items()))
        found = self._printed.get(key)
        if found is None:
            if isinstance(step.kernel, Kernel):
                check_kernel(step.kernel)
            if len(self._printed) >= MAX_PRINTED:
                self._printed.clear()
            found = gpu_launch(step.kernel, "compute", self.dialect, sizes)
            self._printed[key] = found
        return found

    def built(self, step: Step, launch: GpuLaunch, alone: Container[int]) -> BuiltLaunch:
        """A printed launch with its function."""
        inside = {id(n) for n, _ in step.in_place}
        results = tuple(
            (slot, BYTES[b.dtype], use[0].size * BYTES[b.dtype])
            for slot, (b, use) in enumerate(zip(step.all_buffers, step.buffers, strict=True))
            if b.written and use is not None and id(use[0]) in alone and id(use[0]) not in inside
        )
        counts = len(step.all_buffers), len(step.all_params)
        return BuiltLaunch(self.function_of(step, launch), launch, *counts, results)

    def function_of(self, step: Step, launch: GpuLaunch) -> Any:
        """What runs a launch: the built function of its text."""
        return self._built[launch.source]
