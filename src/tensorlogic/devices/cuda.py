"""CUDA: kernels run on an NVIDIA GPU through NVIDIA's own bindings, cuda-bindings.

A plan becomes a CUDA graph when it first runs. A later run changes the arguments of those nodes
whose buffers or numbers are others now and launches the graph: results are new memory each time,
so nothing overwrites them. Large plain products go through the vendor's library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlogic.devices import diskcache
from tensorlogic.devices.cuda_driver import Driver, DriverError
from tensorlogic.devices.gpu import BuiltLaunch, GpuDevice
from tensorlogic.errors import DeviceError
from tensorlogic.storage import Bytes

OLDEST = (8, 0)
"""Compute capability at least: the 16 x 8 x 16 matrix instructions came with it."""
STAGE = 8 << 20
"""Bytes of each of the two pinned buffers through which file data goes to the card."""
_NVRTC_OPTIONS = ("--std=c++17", "--ftz=false")


class Cuda(GpuDevice):
    name: str
    description = "NVIDIA GPU through cuda-bindings"
    dialect = "cuda"
    unified = False

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.name = f"cuda:{index}" if index else "cuda"
        self._index = index
        self._reason: str | None = None
        self._driver: Driver | None = None
        self._process = os.getpid()
        self._stage: list[tuple[int, Bytes, Any]] = []

    def unavailable(self) -> str | None:
        if self._driver is None and self._reason is None:
            try:
                driver = Driver(self._index)
                if driver.capability < OLDEST:
                    have, need = (".".join(map(str, v)) for v in (driver.capability, OLDEST))
                    self._reason = f"{driver.name} has compute capability {have}, {need} is needed"
                else:
                    self._driver = driver
                    self.description = f"{driver.name} through cuda-bindings"
            except ImportError:
                self._reason = "needs the package cuda-bindings: pip install 'tensorlogic[cuda]'"
            except DriverError as error:
                self._reason = str(error)
        return self._reason

    @property
    def count(self) -> int:
        """How many GPUs there are."""
        return self.driver.count

    @property
    def driver(self) -> Driver:
        reason = self.unavailable()
        if reason is not None:
            raise DeviceError(f"{self.name}: {reason}")
        if os.getpid() != self._process:
            raise DeviceError(
                f"{self.name}: this process was forked from one that used the GPU, which CUDA does "
                'not allow; start it with the "spawn" method'
            )
        assert self._driver is not None
        return self._driver

    def enter(self) -> None:
        self.driver.make_current()

    # ---- buffers: addresses on the card ----

    def new_buffer(self, size: int) -> int:
        return self.driver.allocate(size)

    def drop_buffer(self, buffer: int) -> None:
        self.driver.free(buffer)

    def out_of_memory(self, size: int) -> DeviceError:
        free, total = self.driver.memory()
        return DeviceError(
            f"{self.name}: out of memory: a buffer of {size:,} bytes was asked for, {free:,} of "
            f"{total:,} are free; smaller batches or a quantized model need less"
        )

    def fill(self, buffer: int, data: Bytes) -> None:
        driver = self.driver
        driver.make_current()
        if data.nbytes <= STAGE:
            driver.copy_in(buffer, data.__array_interface__["data"][0], data.nbytes)
            return
        # Reading the next part (of a file, say) overlaps with the copy of this one.
        if not self._stage:
            for _ in range(2):
                address = driver.allocate_pinned(STAGE)
                span = (ctypes.c_uint8 * STAGE).from_address(address)
                view = np.frombuffer(memoryview(span), np.uint8)
                self._stage.append((address, view, driver.new_event()))
        for i, start in enumerate(range(0, data.nbytes, STAGE)):
            address, view, event = self._stage[i % 2]
            part = data[start : start + STAGE]
            driver.wait_event(event)
            view[: part.nbytes] = part
            driver.copy_in(buffer + start, address, part.nbytes)
            driver.record_event(event)

    def host_view(self, buffer: int, nbytes: int) -> Bytes:
        result = np.empty(nbytes, np.uint8)
        self.driver.make_current()
        self.driver.copy_out(result.__array_interface__["data"][0], buffer, nbytes)
        return result

    # ---- kernels ----

    def build(self, source: str, name: str) -> Any:
        driver = self.driver
        options = (*_NVRTC_OPTIONS, f"--gpu-architecture=sm_{driver.architecture}")
        key = diskcache.key_of("cubin", source, *options, driver.compiler)
        image = diskcache.read(key)
        if image is None:
            try:
                image = driver.compile(source, options)
            except DriverError as error:
                raise DeviceError(f"{self.name}: {error}") from None
            diskcache.write(key, image)
        return driver.load(image, name)

    def program(self, launches: Sequence[BuiltLaunch]) -> CudaProgram:
        return CudaProgram(self.driver, launches)


class CudaProgram:
    """Launches with their arguments in one block of words, and the graph made of them."""

    def __init__(self, driver: Driver, launches: Sequence[BuiltLaunch]):
        self._driver = driver
        self._launches = launches
        self._starts = [0]
        for b in launches:
            # For each launch its buffers' addresses, its parameters, where each buffer begins.
            self._starts.append(self._starts[-1] + 2 * b.buffers + b.params)
        self._block = (ctypes.c_int64 * max(self._starts[-1], 1))()
        self._words = memoryview(self._block).cast("B").cast("q")
        block = ctypes.addressof(self._block)
        self._pointers = []
        for b, start in zip(launches, self._starts, strict=False):
            places = [block + 8 * (start + i) for i in range(b.buffers + 1)]
            self._pointers.append((ctypes.c_void_p * len(places))(*places))
        self._kernels = [
            driver.kernel_node(b.function, b.launch.groups, b.launch.threads, ctypes.addressof(p))
            if b.launch.groups
            else None
            for b, p in zip(launches, self._pointers, strict=True)
        ]
        self._graph: Any = None
        self._changed: set[int] = set()

    def _set(self, step: int, word: int, value: int) -> None:
        if self._words[word] != value:
            self._words[word] = value
            self._changed.add(step)

    def bind(self, step: int, slot: int, buffer: int, first: int) -> None:
        start, built = self._starts[step], self._launches[step]
        self._set(step, start + slot, buffer)
        self._set(step, start + built.buffers + built.params + slot, first)

    def number(self, step: int, index: int, word: int) -> None:
        self._set(step, self._starts[step] + self._launches[step].buffers + index, word)

    def launch(self) -> None:
        if self._graph is None:
            self._graph = self._driver.graph(self._kernels)
        else:
            for step in self._changed:
                self._graph.change(step)
        self._changed.clear()
        self._graph.launch()
