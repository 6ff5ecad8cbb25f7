"""A stand-in for the package metalcompute 0.2.9, which exists for macOS alone.

It has the same objects, calls and quirks, read from its source; `tests.metal.backend` runs kernels.
A command runs as late as it may, when its handle or that of a later one is dropped, so that who
reads too early, or changes too early what a kernel has still to read, gets a wrong result. A kernel
that does something wrong stops, and nobody is told: the backend keeps a list of it. The functions
of version 0.1 (`init`, `compile`, `run`...) are not here.
"""

from __future__ import annotations

import ctypes
from collections import deque, namedtuple
from typing import Any

import numpy as np

from tests.metal import backend
from tests.metal.text import MetalError


class error(Exception):
    pass


error.__module__ = "metalcompute"
_Info = namedtuple(
    "metalcompute_device",
    "deviceName recommendedWorkingSetSize maxTransferRate hasUnifiedMemory",
)
_queue: deque[_Command] = deque()
_finished: list[int] = []
"""The real module keeps each command for ever."""


def get_devices() -> tuple[Any, ...]:
    return (_Info(backend.CURRENT.name, 1 << 33, 0, True),)


class Device:
    def __init__(self, index: int = -1, /) -> None:
        if index >= 1:
            raise error("Cannot create device")

    def __str__(self) -> str:
        return f"metalcompute.Device({backend.CURRENT.name})"

    def kernel(self, program: str, /) -> _Kernel:
        return _Kernel(self, program)

    def buffer(self, what: Any, /) -> _Buffer:
        return _Buffer(self, what)


class _Buffer(np.ndarray):  # type: ignore[type-arg]
    """Memory that the GPU shares. All that it can do is to give a buffer to who asks in C."""

    _memory: Any

    def __new__(cls, device: Device, what: Any) -> _Buffer:
        if not isinstance(device, Device):
            raise error("First argument should be a metalcompute.Device object")
        size, source = _size(what)
        if size <= 0:
            raise error("Could not make buffer")
        memory = backend.CURRENT.memory(size)
        span = (ctypes.c_ubyte * size).from_address(memory.address)
        span.memory = memory  # lives as long as any view of it
        self = np.ndarray.__new__(cls, (size,), np.uint8, span)
        fill = b"\0" * size if source is None else source.tobytes()
        ctypes.memmove(memory.address, fill, size)
        self._memory = memory
        return self

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            raise AttributeError(f"'metalcompute.Buffer' object has no attribute {name!r}")
        return object.__getattribute__(self, name)

    def _nothing(self, *args: Any) -> Any:
        raise TypeError("'metalcompute.Buffer' object has the buffer protocol and nothing else")

    __len__ = __iter__ = __getitem__ = __setitem__ = _nothing
    __array_ufunc__ = None
    __hash__ = object.__hash__
    __bool__ = lambda self: True  # noqa: E731
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __repr__ = object.__repr__

    def __str__(self) -> str:
        return f"metalcompute.Buffer(length={self._memory.size})"


def _size(what: Any) -> tuple[int, memoryview | None]:
    """The bytes of a new buffer, and what is copied into it: np.int64(1024) has 8 bytes."""
    try:
        view = memoryview(what)
    except TypeError:
        view = None
    if view is not None and view.c_contiguous:
        return view.nbytes, view
    try:
        return int(what), None
    except (TypeError, ValueError):
        raise error("Unsupported input format") from None


class _Kernel:
    def __init__(self, device: Device, program: str) -> None:
        if not isinstance(program, str):
            raise TypeError(f"argument 2 must be str, not {type(program).__name__}")
        self._device, self._program = device, program
        try:
            self._threads = backend.CURRENT.compile(program)
        except MetalError as e:
            raise error(str(e).replace("<stdin>", "program_source")) from None

    def function(self, name: str, /) -> _Function:
        return _Function(self, name)


class _Function:
    def __init__(self, kernel: _Kernel, name: str) -> None:
        if name not in kernel._threads:
            raise error("Function not found")
        self._kernel, self._name = kernel, name

    def __call__(self, *args: Any) -> _Run:
        return _Run(self, args)


class _Command:
    def __init__(self, function: _Function, groups: int, buffers: list[_Buffer]) -> None:
        self.function, self.groups, self.buffers = function, groups, buffers

    def run(self) -> None:
        slots = {i: b._memory for i, b in enumerate(self.buffers)}
        backend.CURRENT.run(self.function._kernel._program, self.function._name, self.groups, slots)


class _Run:
    """The handle of a command: dropping it waits."""

    def __init__(self, function: _Function, args: tuple[Any, ...]) -> None:
        if len(args) < 2:
            raise error("Buffer not found")
        try:
            count = int(args[0])
        except (TypeError, ValueError):
            raise error("First argument should be an integer kernel count") from None
        device = function._kernel._device
        buffers = [a if type(a) is _Buffer else _Buffer(device, a) for a in args[1:]]
        if len(buffers) > 31:
            raise error("more than 31 buffers: the real module ends the process")
        if count <= 0:
            raise error("a launch without threads, which Metal does not define")
        threads = function._kernel._threads[function._name]
        self._command = _Command(function, -(-count // threads), buffers)
        _queue.append(self._command)

    def __del__(self) -> None:
        command = getattr(self, "_command", None)
        while command in _queue:
            _queue.popleft().run()
            _finished.append(len(_finished))
