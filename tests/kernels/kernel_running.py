"""Runs kernels that the LLVM printer made, on memory with a forbidden page behind it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm import emit_kernel, scratch_bytes
from tensorlogic.devices.objects import compile_module
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import Kernel

_libc = ctypes.CDLL(None)
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
CALL = ctypes.CFUNCTYPE(None, _POINTER, _NUMBER, _NUMBER, _POINTER, _NUMBER)


class Fenced:
    """A copy of an array that ends where its last page ends: a read beyond it is a fault."""

    def __init__(self, array: Any) -> None:
        page = mmap.PAGESIZE
        pages = -(-max(array.nbytes, 1) // page)
        self._map = mmap.mmap(-1, (pages + 1) * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        fence = ctypes.c_void_p(start + pages * page)
        if _libc.mprotect(fence, ctypes.c_size_t(page), 0):
            raise OSError("mprotect failed")
        first = pages * page - array.nbytes
        self.array = np.frombuffer(self._map, array.dtype, array.size, first)
        self.array[:] = array
        self.address = start + first


def compiled(kernels: Mapping[str, tuple[Kernel, int]]) -> dict[str, Any]:
    """name -> (kernel, lanes) as name -> native function."""
    module = Module()
    for name, (kernel, lanes) in kernels.items():
        emit_kernel(module, kernel, name, lanes)
    return {n: CALL(a) for n, a in compile_module(module.text(), list(kernels)).items()}


def launch(
    function: Any,
    kernel: Kernel,
    buffers: Mapping[str, Any],
    params: Mapping[str, float],
    ranges: list[tuple[int, int]],
) -> dict[str, Any]:
    """Run the parts [lo, hi) of a kernel on one thread; the buffers as they are afterwards."""
    # Buffers that start at one address are one memory.
    fenced = {a.ctypes.data: Fenced(a.view(np.uint8)) for a in buffers.values()}
    words = [fenced[buffers[b.name].ctypes.data].address for b in kernel.buffers]
    for p in kernel.params:
        value = params[p.attr]
        words.append(int(np.float32(value).view(np.int32)) if p.dtype == "f32" else int(value))
    arguments = (ctypes.c_int64 * len(words))(*words)
    scratch = Fenced(np.zeros(int(evaluate(scratch_bytes(kernel), params)), np.uint8))
    for turn, (lo, hi) in enumerate(ranges):
        function(ctypes.addressof(arguments), lo, hi, scratch.address, turn)
    return {n: fenced[a.ctypes.data].array.view(a.dtype) for n, a in buffers.items()}
