"""What this machine can do at best: kernels of our own, through the library's compiler and runner.

The rate of multiply-adds in registers, and of reading memory that no cache holds.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from benchmarks.peers.base import Measured
from tensorlogic.codegen.emit import Function, Module, f32, vector
from tensorlogic.devices import native
from tensorlogic.devices.native import Launch, Program

ARGUMENTS = [("ptr", "args"), ("i64", "lo"), ("i64", "hi"), ("ptr", "scratch")]
CHAINS = 12
"""Multiply-adds under way at once: their latency times how many begin in a cycle, and some more."""
TURNS = 1_000_000
STREAMS, AHEAD = 4, 1024
"""Places that one thread reads at, and how many bytes ahead of each it asks for."""


def _write_fma(module: Module, lanes: int) -> None:
    """Word 0: where a sum for each part goes; word 1: turns of a part."""
    f = module.function("fma", ARGUMENTS)
    type_ = vector("float", lanes)
    out = f.load("ptr", "%args")
    turns = f.load("i64", f.gep("i64", "%args", 1))
    one, tiny = (f.splat("float", lanes, f32(v)) for v in (0.999, 1e-3))
    with f.loop("%lo", "%hi") as part:
        start = [(type_, f"splat (float {f32(1.0 + i)})") for i in range(CHAINS)]
        with f.loop(0, turns, 1, start) as loop:
            loop.next = [f.intrinsic("fma", type_, c, one, tiny) for c in loop.carried]
        total = loop.carried[0]
        for c in loop.carried[1:]:
            total = f.op("fadd", type_, total, c)
        f.store(type_, total, f.gep("float", out, f.mul(part.index, lanes)), 4)
    f.ret()


def _write_read(module: Module, lanes: int) -> None:
    """Word 0: where a sum for each part goes; word 1: the memory; word 2: bytes of a part."""
    f = module.function("read", ARGUMENTS)
    type_, line = vector("float", lanes), 128
    out, memory = (f.load("ptr", f.gep("i64", "%args", i)) for i in range(2))
    size = f.load("i64", f.gep("i64", "%args", 2))
    stream = f.op("sdiv", "i64", size, str(STREAMS))
    with f.loop("%lo", "%hi") as part:
        first = f.gep("i8", memory, f.mul(part.index, size))
        bases = [f.gep("i8", first, f.mul(stream, s)) for s in range(STREAMS)]
        per_line = line // (4 * lanes)
        carry = [(type_, "zeroinitializer")] * (STREAMS * per_line)
        with f.loop(0, stream, line, carry) as loop:
            loop.next = [
                v for s in range(STREAMS)
                for v in _lines(f, f.gep("i8", bases[s], loop.index), type_, lanes, per_line,
                                loop.carried[s * per_line :])
            ]  # fmt: skip
        total = loop.carried[0]
        for c in loop.carried[1:]:
            total = f.op("fadd", type_, total, c)
        f.store(type_, total, f.gep("float", out, f.mul(part.index, lanes)), 4)
    f.ret()


def _lines(
    f: Function, pointer: str, type_: str, lanes: int, count: int, sums: tuple[str, ...]
) -> list[str]:
    """Two cache lines at a pointer, added to the first `count` sums."""
    for at in (AHEAD, AHEAD + 64):
        arguments = (("i32", "0"), ("i32", "3"), ("i32", "1"))
        f.call("void", "llvm.prefetch.p0", ("ptr", f.gep("i8", pointer, at)), *arguments)
    parts = [f.load(type_, f.gep("float", pointer, lanes * i), 4) for i in range(count)]
    return [f.op("fadd", type_, s, p) for s, p in zip(sums, parts, strict=False)]


@cache
def _kernels() -> dict[str, int]:
    module, lanes = Module(), native.host().lanes
    _write_fma(module, lanes)
    _write_read(module, lanes)
    return native.compile_module(module.text(), ["fma", "read"])


def _measured(function: str, threads: int, words: list[int], kept: object) -> Measured:
    """One part for each thread. What `kept` owns stays."""
    out = np.zeros((threads, 64), np.float32)
    program = Program([Launch(_kernels()[function], 1 + len(words), threads, 1)])
    program.args(0)[0] = out.ctypes.data
    for i, word in enumerate(words):
        program.args(0)[1 + i] = word

    def measure() -> float:
        assert kept is not None
        start = time.perf_counter()
        native.run(program)
        seconds = time.perf_counter() - start
        assert np.isfinite(out).all()
        return seconds

    return Measured(measure)


def fma(threads: int) -> Measured:
    """Seconds for `fma_flops(threads)` operations on so many threads."""
    return _measured("fma", threads, [TURNS], _kernels())


def fma_flops(threads: int, lanes: int) -> float:
    return 2.0 * threads * lanes * CHAINS * TURNS


@cache
def _memory(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.zeros(size + 4096, np.uint8) + np.uint8(0)


def read(threads: int, size: int) -> Measured:
    """Seconds to read `size` bytes from memory on so many threads."""
    memory = _memory(size)
    part = size // threads // (128 * STREAMS) * (128 * STREAMS)
    return _measured("read", threads, [memory.ctypes.data, part], memory)
