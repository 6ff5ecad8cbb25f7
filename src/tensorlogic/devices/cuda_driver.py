"""The part of CUDA's driver and compiler that the device uses, with errors as exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from tensorlogic.errors import DeviceError

STARTS_EARLY = (9, 0)
"""The compute capability from which on kernels wait for the launch before (codegen/dialects.py)."""


class DriverError(DeviceError):
    """CUDA's own words for what went wrong."""


class Driver:
    """One GPU: its primary context, one stream, and what is done with them.

    Buffers are addresses. Raises ImportError without cuda-bindings, DriverError without a driver or
    a GPU of that index.
    """

    def __init__(self, index: int):
        driver = import_module("cuda.bindings.driver")
        self._cu: Any = driver
        self._nvrtc: Any = import_module("cuda.bindings.nvrtc")
        try:
            self._do(driver.cuInit(0))
            self.count = int(self._do(driver.cuDeviceGetCount()))
        except RuntimeError as error:  # cuda-bindings finds no libcuda
            raise DriverError(f"no NVIDIA driver: {error}") from None
        if index >= self.count:
            raise DriverError(f"there is no GPU {index}; this machine has {self.count}")
        device = self._do(driver.cuDeviceGet(index))
        self.name = self._do(driver.cuDeviceGetName(256, device)).split(b"\0")[0].decode()
        attribute = driver.CUdevice_attribute
        self.capability = (
            self._do(
                driver.cuDeviceGetAttribute(
                    attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device
                )
            ),
            self._do(
                driver.cuDeviceGetAttribute(
                    attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device
                )
            ),
        )
        self._context = self._do(driver.cuDevicePrimaryCtxRetain(device))
        self.make_current()
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self.stream = int(self._do(driver.cuStreamCreate(flags)))
        self._compiler: str | None = None

    def _do(self, result: Any) -> Any:
        """The values of a call; raises DriverError for its error code."""
        code, *values = result
        if int(code):
            raise self._error(code)
        return values[0] if len(values) == 1 else values

    def _error(self, code: Any) -> Exception:
        if isinstance(code, self._cu.CUresult):
            if code == self._cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                return MemoryError()
            _, text = self._cu.cuGetErrorString(code)
            return DriverError(f"CUDA: {text.decode() if text else 'unknown error'} ({code.name})")
        _, text = self._nvrtc.nvrtcGetErrorString(code)
        return DriverError(text.decode())

    def make_current(self) -> None:
        """Work on this GPU from this thread."""
        self._cu.cuCtxSetCurrent(self._context)

    # ---- memory ----

    def allocate(self, size: int) -> int:
        """Raises MemoryError where there is no room."""
        return int(self._do(self._cu.cuMemAlloc(size)))

    def free(self, buffer: int) -> None:
        self._cu.cuMemFree(buffer)

    def memory(self) -> tuple[int, int]:
        """Free bytes and all bytes of the card."""
        free, total = self._do(self._cu.cuMemGetInfo())
        return int(free), int(total)

    def allocate_pinned(self, size: int) -> int:
        return int(self._do(self._cu.cuMemHostAlloc(size, 0)))

    def copy_in(self, to: int, source: int, nbytes: int) -> None:
        """Host memory to the card, in order with what is queued. Pinned memory must stay as it is
        until the copy is done; other memory may change at once."""
        self._do(self._cu.cuMemcpyHtoDAsync(to, source, nbytes, self.stream))

    def copy_out(self, to: int, source: int, nbytes: int) -> None:
        """The card's memory to the host, once what is queued has been done."""
        if nbytes:
            self._do(self._cu.cuMemcpyDtoHAsync(to, source, nbytes, self.stream))
        self._do(self._cu.cuStreamSynchronize(self.stream))

    def new_event(self) -> Any:
        return self._do(self._cu.cuEventCreate(self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))

    def record_event(self, event: Any) -> None:
        self._do(self._cu.cuEventRecord(event, self.stream))

    def wait_event(self, event: Any) -> None:
        self._do(self._cu.cuEventSynchronize(event))

    # ---- kernels ----

    @property
    def architecture(self) -> str:
        """As the compiler names it; Hopper with the matrix units that it alone has."""
        return "90a" if self.capability == (9, 0) else "{}{}".format(*self.capability)

    @property
    def compiler(self) -> str:
        """The version of the compiler."""
        if self._compiler is None:
            version = self._do(self._nvrtc.nvrtcVersion())
            self._compiler = ".".join(map(str, version))
        return self._compiler

    def compile(self, source: str, options: Sequence[str]) -> bytes:
        """The machine code of a text. Raises DriverError with the compiler's messages."""
        nvrtc = self._nvrtc
        program = self._do(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
        try:
            code, *_ = nvrtc.nvrtcCompileProgram(
                program, len(options), [o.encode() for o in options]
            )
            if int(code):
                log = b" " * self._do(nvrtc.nvrtcGetProgramLogSize(program))
                self._do(nvrtc.nvrtcGetProgramLog(program, log))
                raise DriverError(f"the compiler refused a kernel:\n{log.decode()}\n{source}")
            image = b" " * int(self._do(nvrtc.nvrtcGetCUBINSize(program)))
            self._do(nvrtc.nvrtcGetCUBIN(program, image))
        finally:
            nvrtc.nvrtcDestroyProgram(program)
        return image

    def load(self, image: bytes, name: str) -> Any:
        module = self._do(self._cu.cuModuleLoadData(image))
        return self._do(self._cu.cuModuleGetFunction(module, name.encode()))

    def kernel_node(self, function: Any, groups: int, threads: int, arguments: int) -> Any:
        """A launch as graphs take it; `arguments` is the address of its arguments' addresses."""
        node = self._cu.CUDA_KERNEL_NODE_PARAMS()
        node.func = function
        node.gridDimX, node.gridDimY, node.gridDimZ = groups, 1, 1
        node.blockDimX, node.blockDimY, node.blockDimZ = threads, 1, 1
        node.sharedMemBytes = 0
        node.kernelParams = arguments
        node.extra = 0
        return node

    def graph(self, kernels: Mapping[int, Any]) -> Graph:
        return Graph(self, kernels)

    def single(self, kernel: Any) -> Single:
        return Single(self, kernel)


class Single:
    """A kernel launched by itself. Where the card can do that, from Hopper on, it is started while
    the launch before it ends, and waits in its first line (`EARLIER_DONE`), so that the card is not
    idle in between."""

    def __init__(self, driver: Driver, kernel: Any):
        cu = driver._cu
        self._driver = driver
        self._kernel = kernel  # what is read off it is a part of it
        attribute = cu.CUlaunchAttribute()
        attribute.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early = driver.capability >= STARTS_EARLY
        attribute.value.programmaticStreamSerializationAllowed = int(early)
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = kernel.gridDimX, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = kernel.blockDimX, 1, 1
        config.sharedMemBytes = 0
        config.hStream = driver.stream
        config.attrs, config.numAttrs = [attribute], 1
        self._queue = partial(cu.cuLaunchKernelEx, config, kernel.func, kernel.kernelParams, 0)

    def change(self, step: int) -> None:
        """Arguments are taken at each launch."""

    def launch(self) -> None:
        self._driver.make_current()
        (code,) = self._queue()
        if code:
            raise self._driver._error(code)


class Graph:
    """Kernel launches by step, one after another, launched as one. (Edges that let a kernel start
    early made graphs of small ones slower.)"""

    def __init__(self, driver: Driver, kernels: Mapping[int, Any]):
        self._driver = driver
        self._kernels = kernels
        cu, do = driver._cu, driver._do
        self._cu = cu
        self._graph = do(cu.cuGraphCreate(0))
        before: list[Any] = []
        self._nodes: dict[int, Any] = {}
        for step, kernel in kernels.items():
            node = do(cu.cuGraphAddKernelNode(self._graph, before, len(before), kernel))
            self._nodes[step] = node
            before = [node]
        self._exec = do(cu.cuGraphInstantiate(self._graph, 0))
        self._queue = partial(cu.cuGraphLaunch, self._exec, driver.stream)

    def change(self, step: int) -> None:
        """Take the arguments of a launch anew."""
        node, kernel = self._nodes[step], self._kernels[step]
        self._driver._do(self._cu.cuGraphExecKernelNodeSetParams(self._exec, node, kernel))

    def launch(self) -> None:
        (code,) = self._queue()
        if code:
            raise self._driver._error(code)

    def __del__(self) -> None:
        if hasattr(self, "_exec"):
            self._cu.cuGraphExecDestroy(self._exec)
            self._cu.cuGraphDestroy(self._graph)
