"""CUDA: kernels run on an NVIDIA GPU through NVIDIA's own bindings, cuda-bindings.

A plan becomes a CUDA graph when it first runs, also that of one small kernel, which costs the host
a microsecond less than a launch. A later run changes the arguments of those nodes whose buffers or
numbers are others now and launches the graph: results are new memory each time, so nothing
overwrites them. A large kernel that is alone is launched as such, since it can then start while the
launch before it ends. Large plain products go through the vendor's library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from threading import get_ident
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from tensorlogic.codegen.gpu import GpuLaunch
from tensorlogic.devices import diskcache
from tensorlogic.devices.cuda_driver import Driver, DriverError
from tensorlogic.devices.cuda_vendor import Product, Vendor, plain_product, wanted
from tensorlogic.devices.gpu import BuiltLaunch, GpuDevice
from tensorlogic.errors import DeviceError
from tensorlogic.kernels.ir import BYTES
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.traits import CUDA
from tensorlogic.storage import Bytes

OLDEST = (8, 0)
"""Compute capability at least: the 16 x 8 x 16 matrix instructions came with it."""
STAGE = 8 << 20
"""Bytes of each of the two pinned buffers through which file data goes to the card."""
LASTING = 1 << 18
"""Threads of a launch that fills a card more than once."""
_VENDORS = GpuLaunch("", "", 0, 0)
"""The launch of a step that the vendor's library does."""
_NVRTC_OPTIONS = ("--std=c++17", "--ftz=false")


_opened: WeakSet[Cuda] = WeakSet()


def _forget_threads() -> None:
    """In a forked process: each device looks again where it is."""
    for device in _opened:
        device._thread = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Cuda(GpuDevice):
    name: str
    description = "NVIDIA GPU through cuda-bindings"
    dialect = "cuda"
    unified = False
    builders = 8
    traits = CUDA

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.name = f"cuda:{index}" if index else "cuda"
        self._index = index
        self._reason: str | None = None
        self._driver: Driver | None = None
        self._process = os.getpid()
        self._thread = 0
        _opened.add(self)
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
        # Graphs know their context; what needs a current one makes it so itself.
        if self._driver is None or self._thread != get_ident():
            self.driver.make_current()
            self._thread = get_ident()

    # ---- buffers: addresses on the card ----

    def new_buffer(self, size: int) -> int:
        self.driver.make_current()
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

    def host_view(self, buffer: int, nbytes: int, start: int = 0) -> Bytes:
        result = np.empty(nbytes, np.uint8)
        self.driver.make_current()
        self.driver.copy_out(result.__array_interface__["data"][0], buffer + start, nbytes)
        return result

    # ---- kernels ----

    def build(self, source: str, name: str) -> Any:
        driver = self.driver
        driver.make_current()
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

    def printed(self, step: Step) -> GpuLaunch:
        return super().printed(step) if self._product(step) is None else _VENDORS

    def function_of(self, step: Step, launch: GpuLaunch) -> Any:
        if launch is not _VENDORS:
            return super().function_of(step, launch)
        return self._vendor, self._product(step), [BYTES[b.dtype] for b in step.all_buffers]

    def _product(self, step: Step) -> Product | None:
        """The step as one for the vendor's library, if it is that."""
        if not isinstance(step.kernel, Matmul) or self._vendor is None:
            return None
        return plain_product(step.kernel, step.sizes())

    @cached_property
    def _vendor(self) -> Vendor | None:
        """NVIDIA's library, if it is there and wanted."""
        try:
            return Vendor(self.driver.stream) if wanted() else None
        except OSError:
            return None

    def program(self, launches: Sequence[BuiltLaunch]) -> CudaProgram:
        return CudaProgram(self.driver, launches)


class Stage(Protocol):
    """What is launched at once."""

    def change(self, step: int) -> None:
        """Take the arguments of a step anew."""

    def launch(self) -> None: ...


class CudaProgram:
    """Launches with their arguments in one block of words, and the graphs made of them.

    Products of the vendor's library stand between graphs.
    """

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
        self._changed: set[int] = set()
        self._stages: list[Stage] | None = None
        """Once it has run: graphs, and products of the vendor's library."""
        self._stage_of: dict[int, Stage] = {}

    def _set(self, step: int, word: int, value: int) -> None:
        if self._words[word] != value:
            self._words[word] = value
            self._changed.add(step)

    def place(self, step: int, slot: int, first: int) -> None:
        built = self._launches[step]
        self._set(step, self._starts[step] + built.buffers + built.params + slot, first)

    def slots(self, arguments: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        return [(step, self._starts[step] + slot) for step, slot in arguments]

    def bind(self, slots: Sequence[tuple[int, int]], buffer: int) -> None:
        for step, word in slots:
            self._words[word] = buffer
            self._changed.add(step)

    def number(self, step: int, index: int, word: int) -> None:
        self._set(step, self._starts[step] + self._launches[step].buffers + index, word)

    def launch(self) -> None:
        if self._stages is None:
            self._stages = self._build()
        elif self._changed:
            for step in self._changed:
                stage = self._stage_of.get(step)
                if stage is not None:
                    stage.change(step)
        self._changed.clear()
        for stage in self._stages:
            stage.launch()

    def _build(self) -> list[Stage]:
        """Graphs of the launches in between the vendor's products, and these."""
        stages: list[Stage] = []
        run: dict[int, Any] = {}

        def close() -> None:
            if len(run) == 1 and self._lasts(*run):
                add(self._driver.single(*run.values()), run)
            elif run:
                add(self._driver.graph(dict(run)), run)
            run.clear()

        def add(stage: Stage, steps: Iterable[int]) -> None:
            self._stage_of.update(dict.fromkeys(steps, stage))
            stages.append(stage)

        for step, (b, pointers) in enumerate(zip(self._launches, self._pointers, strict=True)):
            if b.launch is _VENDORS:
                close()
                add(_VendorStage(self._addresses(step), b.function), [step])
            elif b.launch.groups:
                run[step] = self._driver.kernel_node(
                    b.function, b.launch.groups, b.launch.threads, ctypes.addressof(pointers)
                )
        close()
        return stages

    def _lasts(self, step: int) -> bool:
        """Whether a launch takes the card longer than it takes the host to queue the next."""
        launch = self._launches[step].launch
        return launch.groups * launch.threads >= LASTING

    def _addresses(self, step: int) -> Callable[[int], int]:
        """Where the data of a step's buffers begin, by slot, whenever it is asked."""
        built, start = self._launches[step], self._starts[step]
        firsts = start + built.buffers + built.params
        _, _, sizes = built.function

        def address(slot: int) -> int:
            words = self._words
            return words[start + slot] + words[firsts + slot] * sizes[slot]  # type: ignore[no-any-return]

        return address


class _VendorStage:
    """A product of the vendor's library with its arguments."""

    def __init__(self, address: Callable[[int], int], function: tuple[Vendor, Product, list[int]]):
        vendor, product, sizes = function
        self._address = address
        self._product = vendor.call(product)
        first, _, _, which = product.c
        self._result, self._offset = which, first * sizes[which]
        self.change(0)

    def change(self, step: int) -> None:
        """Take the addresses anew."""
        address = self._address
        self._product.place(address(0), address(1), address(self._result) + self._offset)

    def launch(self) -> None:
        self._product.launch()
