"""Runs the launches of a graph at any vector width, on memory with a forbidden page behind it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

import tensorlogic as tl
from tensorlogic.codegen.llvm import render, scratch_bytes
from tensorlogic.codegen.llvm_attention import attention_kernel, attention_units
from tensorlogic.codegen.llvm_matmul import libraries, matmul_kernel, units
from tensorlogic.codegen.llvm_windows import window_kernel, window_scratch
from tensorlogic.devices.objects import compile_module
from tensorlogic.graph import Node
from tensorlogic.kernels.interpret import MEMORY, evaluate
from tensorlogic.kernels.ir import BYTES
from tensorlogic.kernels.spec import Attention, Matmul
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings
from tests.kernels.kernel_running import CALL, Fenced

Array = Any


def steps_of(result: tl.Tensor) -> list[Step]:
    return schedule([result._node], Settings()).steps


def run(result: tl.Tensor, lanes: int) -> Array:
    """The result by kernels of `lanes` lanes, each unit of their work by a call of its own."""
    steps = steps_of(result)
    memory: dict[int, Fenced] = {}

    def place(node: Node, dtype: str) -> Fenced:
        if id(node) not in memory:
            if node.data is not None:
                data = np.asarray(node.data.memory.base).reshape(-1).view(np.uint8)
                memory[id(node)] = Fenced(data)
            else:
                memory[id(node)] = Fenced(np.full(node.size * BYTES[dtype], 0xFF, np.uint8))
        return memory[id(node)]

    status = Fenced(np.zeros(8, np.int32))
    for step in steps:
        call, work, scratch = native_kernel(step, lanes)
        words = []
        for buffer, use in zip(step.all_buffers, step.buffers, strict=True):
            node, offset = (None, 0) if use is None else use
            at = status.address if node is None else place(node, buffer.dtype).address
            words.append(at + offset)
        for p, value in zip(step.all_params, step.params, strict=True):
            number = value.number if isinstance(value, Node) else value
            number = number if isinstance(number, int | float) else 0
            bits = struct.unpack("<i", struct.pack("<f", number))[0] if p.dtype == "f32" else number
            words.append(int(bits))
        args, room = np.array(words, np.int64), np.full(scratch + 64, 0xFF, np.uint8)
        start = room.ctypes.data + -room.ctypes.data % 64
        for i in range(work):
            call(args.ctypes.data, i, i + 1, start, i)
    node = result._node
    out = memory[id(node)].array.view(MEMORY[node.dtype.ir])
    return out.reshape(node.shape).copy()


def native_kernel(step: Step, lanes: int) -> tuple[Callable[..., None], int, int]:
    """(function, work, scratch bytes) of a step."""
    kernel = step.kernel
    imports: dict[str, int] = {}
    if isinstance(kernel, Attention):
        text = attention_kernel(kernel, "kernel", lanes)
        work, _, scratch = attention_units(kernel, step.sizes(), lanes)
    elif isinstance(kernel, Matmul):
        for source, names in libraries(kernel, lanes):
            imports |= compile_module(source, names)
        make = window_kernel if kernel.windows else matmul_kernel
        text = make(kernel, "kernel", lanes)
        work, _, scratch = units(kernel, step.problem, step.batch, lanes, 2)
        scratch += window_scratch(lanes)
    else:
        text, work = render(kernel, "kernel", lanes), step.work
        scratch = int(evaluate(scratch_bytes(kernel), step.sizes()))
    return CALL(compile_module(text, ["kernel"], imports)["kernel"]), work, scratch
