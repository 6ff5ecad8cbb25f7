"""Metal: kernels run on an Apple GPU through the package metalcompute.

What metalcompute 0.2.9 does, from its source, and what follows from it here:

- A call commits one command buffer and returns a handle; dropping the handle waits. All go through
  one queue, in order. So handles are kept, the oldest are let go when many are waiting, and all of
  them when the host wants to see a buffer.
- A buffer that is dropped loses its memory even if a command still reads it; handles hold theirs.
- An argument that is not a buffer is copied, and what the kernel writes there is lost: only buffers
  are passed. A size that is not a Python int would be taken for its bytes: sizes are ints.
- There are no offsets and no inline bytes: each launch has a small buffer of 64-bit words.
- Faults of the GPU are not reported: with TENSORLOGIC_DEBUG of 1 or more each launch is waited for;
  a canary behind each buffer must be whole, and of that which stood in its result nothing.
- Finished commands stay in a list of the module, which each completion searches: a process that
  has made very many launches gets slower, whatever device object it uses. Kernels are fused, so
  that there are few.
"""

from __future__ import annotations

import platform
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from tensorlogic import settings
from tensorlogic.devices.gpu import BuiltLaunch, GpuDevice
from tensorlogic.errors import DeviceError
from tensorlogic.storage import Bytes

IN_FLIGHT = 512
"""Launches that wait to be done at most; each handle holds its buffers."""
_SPARE = 64
"""Bytes behind each buffer, which a canary fills while debugging."""
_CANARY = 0xA5


class MetalBuffer:
    """A buffer of metalcompute with the host's view of it."""

    __slots__ = ("handle", "last", "size", "view")

    def __init__(self, device: Any, size: int):
        self.size = size
        self.handle = device.buffer(size + _SPARE)
        self.view: Bytes = np.frombuffer(self.handle, np.uint8)
        self.view[size:] = _CANARY
        self.last = 0
        """How many launches have to be done before the host may touch it."""

    @property
    def words(self) -> memoryview:
        """Its bytes as 64-bit words."""
        return self.view[: self.size].data.cast("B").cast("q")


class _MetalProgram:
    """Launches with their buffers and their words, which live in small buffers of their own."""

    def __init__(self, device: Metal, launches: Sequence[BuiltLaunch]):
        self._device = device
        self._launches = launches
        self._small = [device.new_buffer(8 * (b.params + b.buffers)) for b in launches]
        self._buffers: list[list[MetalBuffer]] = [[s] * (b.buffers + 1) for b, s in self._pairs()]
        self._words = [s.words for s in self._small]

    def _pairs(self) -> Iterator[tuple[BuiltLaunch, MetalBuffer]]:
        return zip(self._launches, self._small, strict=True)

    def place(self, step: int, slot: int, first: int) -> None:
        self.number(step, self._launches[step].params + slot, first)

    def slots(self, arguments: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        return arguments

    def bind(self, slots: Sequence[tuple[int, int]], buffer: MetalBuffer) -> None:
        for step, slot in slots:
            self._buffers[step][slot] = buffer

    def number(self, step: int, index: int, word: int) -> None:
        words = self._words[step]
        if words[index] != word:
            self._device.wait(self._small[step].last)
            words[index] = word

    def launch(self) -> None:
        for built, buffers in zip(self._launches, self._buffers, strict=True):
            if built.launch.groups:
                self._device.queue(built, buffers)


class Metal(GpuDevice):
    name = "metal"
    description = "Apple GPU through metalcompute"
    dialect = "metal"
    unified = True

    def __init__(self) -> None:
        super().__init__()
        self._reason: str | None = None
        self._opened: Any = None
        self._handles: deque[Any] = deque()
        self.queued = 0
        """Launches so far; `_finished` of them are known to be done."""
        self._finished = 0

    def unavailable(self) -> str | None:
        if self._opened is None and self._reason is None:
            try:
                self._opened = import_module("metalcompute").Device()
            except ImportError:
                apple = sys.platform == "darwin" and platform.machine() == "arm64"
                self._reason = (
                    "needs the package metalcompute: pip install metalcompute"
                    if apple
                    else "needs macOS on Apple silicon"
                )
            except Exception as error:
                self._reason = f"metalcompute finds no GPU: {error}"
        return self._reason

    @property
    def _device(self) -> Any:
        reason = self.unavailable()
        if reason is not None:
            raise DeviceError(f"metal: {reason}")
        return self._opened

    def enter(self) -> None:
        self._device  # noqa: B018  (raises where there is none)

    # ---- buffers ----

    def new_buffer(self, size: int) -> MetalBuffer:
        try:
            return MetalBuffer(self._device, int(size))
        except import_module("metalcompute").error:
            raise MemoryError from None

    def out_of_memory(self, size: int) -> DeviceError:
        return DeviceError(f"metal: no room for a buffer of {size:,} bytes")

    def fill(self, buffer: MetalBuffer, data: Bytes) -> None:
        self.wait(buffer.last)
        buffer.view[: data.nbytes] = data

    def host_view(self, buffer: MetalBuffer, nbytes: int, start: int = 0) -> Bytes:
        self.wait(buffer.last)
        return buffer.view[start : start + nbytes]

    # ---- kernels ----

    def build(self, source: str, name: str) -> Any:
        try:
            return self._device.kernel(source).function(name)
        except import_module("metalcompute").error as error:
            raise DeviceError(f"metal: {error}\n{numbered(source)}") from None

    def program(self, launches: Sequence[BuiltLaunch]) -> _MetalProgram:
        return _MetalProgram(self, launches)

    def queue(self, built: BuiltLaunch, buffers: Sequence[MetalBuffer]) -> None:
        """Queue one launch; the oldest is waited for where too many are queued."""
        launch = built.launch
        if settings.DEBUG:
            self._mark(built, buffers)
        handles = [b.handle for b in buffers]
        self._handles.append(built.function(launch.groups * launch.threads, *handles))
        self.queued += 1
        for b in buffers:
            b.last = self.queued
        self.wait(self.queued - IN_FLIGHT)
        if settings.DEBUG:
            self._inspect(built, buffers)

    def wait(self, count: int) -> None:
        """Wait until the first `count` launches have been done."""
        while self._finished < count:
            self._handles.popleft()
            self._finished += 1

    # ---- debugging ----

    def _results(
        self, built: BuiltLaunch, buffers: Sequence[MetalBuffer]
    ) -> Iterator[tuple[int, Bytes]]:
        """The bytes that a launch is there to write, by slot."""
        words = buffers[-1].words
        for slot, element, nbytes in built.results:
            first = words[built.params + slot] * element
            yield slot, buffers[slot].view[first : first + nbytes]

    def _mark(self, built: BuiltLaunch, buffers: Sequence[MetalBuffer]) -> None:
        self.wait(self.queued)
        for _, result in self._results(built, buffers):
            result[:] = _CANARY

    def _inspect(self, built: BuiltLaunch, buffers: Sequence[MetalBuffer]) -> None:
        """Wait for a launch; DeviceError where it wrote behind a buffer, or nothing at all."""
        self.wait(self.queued)
        wrong = [
            f"a kernel wrote behind its buffer {slot}"
            for slot, b in enumerate(buffers)
            if (b.view[b.size :] != _CANARY).any()
        ]
        wrong += [
            f"a kernel wrote nothing to its buffer {slot}"
            for slot, result in self._results(built, buffers)
            if result.size >= 16 and (result == _CANARY).all()
        ]
        if wrong:
            text = numbered(built.launch.source)
            raise DeviceError(f"metal: {'; '.join(wrong)} (did the GPU fail?)\n{text}")


def numbered(source: str) -> str:
    """A text with its line numbers, which a compiler's messages name."""
    return "\n".join(f"{i:4} {line}" for i, line in enumerate(source.splitlines(), 1))
