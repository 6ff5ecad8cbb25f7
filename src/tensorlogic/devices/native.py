"""The native runner: programs of kernel launches, walked by this thread and a pool of workers.

A kernel is `void kernel(ptr args, i64 lo, i64 hi, ptr scratch)`: `args` are 64-bit words (addresses
of its buffers, then its params: i64 as they are, i32 sign-extended, f32 as bits in the low half),
[lo, hi) is a part of its parallel range, `scratch` is 64-byte aligned memory of the worker. The
protocol of the threads is explained at the head of runner.ll.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tensorlogic.devices import symbols
from tensorlogic.devices.objects import Host, compile_module, host

__all__ = [
    "Host",
    "Launch",
    "Patch",
    "Program",
    "bind",
    "compile_module",
    "entry",
    "host",
    "run",
    "threads",
]

MIN_SCRATCH = 256 << 10
"""Bytes of scratch memory that every worker has."""
SPIN_SECONDS = 75e-6
"""How long an idle worker waits awake: waking one that sleeps costs 5 to 50 µs."""
_POOL_WORDS, _WORKER_WORDS = 104, 8
_AT_WANTED, _AT_SPINS, _AT_SMALL_BUSY, _AT_SET_BYTES, _AT_SMALL_SLOT, _AT_SET = (
    33,
    35,
    36,
    38,
    48,
    88,
)
_SET_BYTES = 128
_HEADER_WORDS, _RECORD_WORDS = 16, 24
_METH_O = 8
_CALL_WORDS, _RESULT_WORDS, _PATCH_WORDS = 8, 2, 4
RESULT, ADDRESS, INTEGER, FLOAT = range(4)
"""Kinds of patches."""

_X86 = """
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare i64 @llvm.readcyclecounter()
define internal i64 @ticks() nounwind {
  %now = call i64 @llvm.readcyclecounter()
  ret i64 %now
}
define internal void @relax() nounwind {
  call void @llvm.x86.sse2.pause()
  ret void
}
define internal i64 @get_float_mode() nounwind {
  %word = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %word)
  %mode = load i32, ptr %word
  %wide = zext i32 %mode to i64
  ret i64 %wide
}
define internal void @set_float_mode(i64 %mode) nounwind {
  %word = alloca i32
  %narrow = trunc i64 %mode to i32
  store i32 %narrow, ptr %word
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  ret void
}
"""
_ARM = """
declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare i64 @llvm.readsteadycounter()
define internal i64 @ticks() nounwind {
  %now = call i64 @llvm.readsteadycounter()
  ret i64 %now
}
define internal void @relax() nounwind {
  call void @llvm.aarch64.isb(i32 15)
  ret void
}
define internal i64 @get_float_mode() nounwind {
  %mode = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %mode
}
define internal void @set_float_mode(i64 %mode) nounwind {
  call void @llvm.aarch64.set.fpcr(i64 %mode)
  ret void
}
"""
_OTHER = """
define internal i64 @ticks() nounwind {
  ret i64 0
}
define internal void @relax() nounwind {
  ret void
}
define internal i64 @get_float_mode() nounwind {
  ret i64 0
}
define internal void @set_float_mode(i64 %mode) nounwind {
  ret void
}
"""


def runner_ir(machine: str) -> str:
    """The runner for a processor family; its floats round to nearest and keep subnormals."""
    if machine in ("x86_64", "AMD64"):
        own, mode, ticks = _X86, 0x1F80, 1 << 25  # MXCSR after reset; about 10 ms
    elif machine in ("arm64", "aarch64"):
        own, mode, ticks = _ARM, 0, 1 << 19  # 0.5 to 20 ms
    else:
        own, mode, ticks = _OTHER, 0, 1  # no clock: signals wait for the end of a program
    text = Path(__file__).with_name("runner.ll").read_text(encoding="utf-8")
    return (text + own).replace("$float_mode", str(mode)).replace("$signal_ticks", str(ticks))


def threads() -> int:
    """How many threads run a program: TENSORLOGIC_THREADS, or the cores this process may use.

    Raises ValueError where the variable is not a number of 1 or more.
    """
    given = os.environ.get("TENSORLOGIC_THREADS")
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"TENSORLOGIC_THREADS is a number of 1 or more, not {given!r}")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Memory:
    """Zeroed words at a 64-byte aligned address, and the view that patches them."""

    def __init__(self, words: int) -> None:
        owner = bytearray(8 * words + 64)
        start = ctypes.addressof(ctypes.c_char.from_buffer(owner))
        skip = -start % 64
        self.address = start + skip
        self.words = memoryview(owner)[skip : skip + 8 * words].cast("q")


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _builtin_of(method: _MethodDef, own: object) -> Callable[..., Any]:
    """A builtin function of CPython with the object that it is given first."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    builtin: Callable[..., Any] = make(ctypes.addressof(method), own, None)
    return builtin


class _Runner:
    """The pool of this process and the native functions that use it."""

    def __init__(self) -> None:
        names = ("run", "run_builtin", "call_builtin", "stop", "resume", "spin", "nothing")
        self.functions = compile_module(runner_ir(symbols.machine()), names)
        workers = threads() - 1 if symbols.HAS_THREADS else 0
        self._pool = _Memory(_POOL_WORDS + _WORKER_WORDS * workers)
        self.pool = self._pool.address
        self._pool.words[_AT_WANTED] = workers
        self._pool.words[_AT_SPINS] = self._spins()
        self._allow_cpus()
        symbols.keep_forever(self._pool)
        self.call = self._builtin()
        self.bound = self._method("call_builtin")
        if hasattr(os, "register_at_fork"):
            # Workers end before a fork, so that no lock is held and no thread is missing after it.
            os.register_at_fork(
                before=self._stop, after_in_parent=self._resume, after_in_child=self._resume_child
            )

    def _native(self, name: str, argument: type) -> Callable[[int], None]:
        function: Callable[[int], None] = ctypes.CFUNCTYPE(None, argument)(self.functions[name])
        return function

    def _spins(self) -> int:
        """Turns of the waiting loop in SPIN_SECONDS; the length of a pause differs tenfold."""
        spin, turns = self._native("spin", ctypes.c_int64), 2000
        times = []
        for _ in range(3):
            start = time.perf_counter()
            spin(turns)
            times.append(time.perf_counter() - start)
        return int(turns * SPIN_SECONDS / min(times)) + 1

    def _allow_cpus(self) -> None:
        """The cores that workers may be spread over, as the bits of a CPU set."""
        if symbols.HAS_CPU_SETS:
            cpus = os.sched_getaffinity(0)
            if len(cpus) > 1 and max(cpus) < 8 * _SET_BYTES:
                bits = sum(1 << c for c in cpus).to_bytes(_SET_BYTES, sys.byteorder)
                words = self._pool.words
                words[_AT_SET_BYTES] = _SET_BYTES
                words[_AT_SET : _AT_SET + _SET_BYTES // 8] = memoryview(bits).cast("q")

    def _builtin(self) -> Callable[[int], object]:
        """`run` as a CPython builtin: a fifth of the cost of a call through ctypes."""
        if sys.implementation.name != "cpython":
            return self._checked(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p))
        return _builtin_of(self._method("run_builtin"), None)

    def _method(self, name: str) -> _MethodDef:
        method = _MethodDef(name.encode(), self.functions[name], _METH_O, None)
        symbols.keep_forever(method)
        return method

    def _checked(self, prototype: Callable[[int], Callable[[int], int]]) -> Callable[[int], object]:
        native = prototype(self.functions["run"])

        def call(address: int) -> int:
            if native(address):
                raise MemoryError
            return 0

        return call

    def _stop(self) -> None:
        self._native("stop", ctypes.c_void_p)(self.pool)

    def _resume(self) -> None:
        self._native("resume", ctypes.c_void_p)(self.pool)

    def _resume_child(self) -> None:
        # A thread that ran a small program without the GIL is gone, its scratch with it.
        words = self._pool.words
        words[_AT_SMALL_BUSY] = 0
        words[_AT_SMALL_SLOT : _AT_SMALL_SLOT + 3] = memoryview(bytes(24)).cast("q")
        self._resume()


@cache
def _runner() -> _Runner:
    return _Runner()


@dataclass(frozen=True)
class Launch:
    """One kernel: its native address, number of argument words, parallel range and chunk size."""

    function: int
    words: int
    work: int
    chunk: int


class Program:
    """Launches that run in order, as one block of native memory that is patched between runs.

    `words` (a memoryview of int64) holds the argument words of all launches, those of launch k
    from `offset[k]` on. `small` programs run on the calling thread alone, with the GIL held. One
    program runs on one thread at a time; the memory that its words point to is the caller's care.
    """

    __slots__ = ("_base", "_bound", "_memory", "address", "offset", "words", "words_at")

    def __init__(
        self, launches: Sequence[Launch], scratch_bytes: int = 0, small: bool = False
    ) -> None:
        first = _HEADER_WORDS + _RECORD_WORDS * len(launches)
        offsets = [0]
        for launch in launches:
            offsets.append(offsets[-1] + launch.words)
        self._memory = _Memory(first + offsets[-1])
        self.address = self._memory.address
        self.offset = tuple(offsets[:-1])
        self.words = self._memory.words[first:]
        self.words_at = 8 * first
        self._bound: list[_Memory] = []
        base = self._base = self._memory.words
        base[0], base[1] = _runner().pool, len(launches)
        base[2], base[3] = max(scratch_bytes, MIN_SCRATCH), small
        for k, launch in enumerate(launches):
            at = _HEADER_WORDS + _RECORD_WORDS * k
            base[at] = launch.function
            base[at + 1] = self.address + self.words_at + 8 * self.offset[k]
            self.resize(k, launch.work, launch.chunk)

    def keep(self, block: _Memory) -> None:
        """Let memory live as long as the program."""
        self._bound.append(block)

    def args(self, k: int) -> memoryview:
        """The argument words of launch k."""
        end = self.offset[k + 1] if k + 1 < len(self.offset) else len(self.words)
        return self.words[self.offset[k] : end]

    def resize(self, k: int, work: int, chunk: int) -> None:
        """Give launch k another parallel range."""
        if work < 0 or chunk < 1:
            raise ValueError(f"a launch has work >= 0 and a chunk >= 1, not {work} and {chunk}")
        at = _HEADER_WORDS + _RECORD_WORDS * k
        self._base[at + 2], self._base[at + 3] = work, chunk

    @property
    def small(self) -> bool:
        return bool(self._base[3])

    @small.setter
    def small(self, value: bool) -> None:
        self._base[3] = value


def run(program: Program) -> None:
    """Run a program's launches in order, each to its end.

    Raises MemoryError without room for scratch, and what a handler of a signal raises meanwhile
    (KeyboardInterrupt): what the program writes is then incomplete.
    """
    _runner().call(program.address)


def entry() -> Callable[[int], object]:
    """What `run` calls, with a program's address, for those who keep it: it saves 40 ns a run."""
    return _runner().call


class Patch(NamedTuple):
    """What a word of a program gets in each run, by kind: RESULT and ADDRESS, the address of new
    result or input `which` and `offset` bytes; INTEGER, input `which`; FLOAT, its float32."""

    word: int
    kind: int
    which: int
    offset: int = 0


Bound = Callable[[list[Any]], tuple[Any, ...]]
"""A program as a function of its inputs, a list of addresses and numbers. For each new result it
returns what owns its memory, its address (a multiple of 64), and how many bytes into the owner that
is."""


def bind(program: Program, inputs: int, results: Sequence[int], patches: Sequence[Patch]) -> Bound:
    """The program as a function of so many inputs. `results` are the bytes of new results.

    As the program itself, it runs on one thread at a time. Errors are those of `run`.
    """
    if sys.implementation.name != "cpython":
        return _bound_in_python(program, results, patches)
    block = _Memory(_CALL_WORDS + _RESULT_WORDS * len(results) + _PATCH_WORDS * len(patches))
    words = block.words
    first = program.address + program.words_at
    words[:5] = memoryview(array("q", (program.address, first, inputs, len(results), len(patches))))
    rows = [n for nbytes in results for n in (nbytes, 0)] + [n for p in patches for n in p]
    words[_CALL_WORDS:] = memoryview(array("q", rows))
    program.keep(block)
    return _builtin_of(_runner().bound, block.address)


def _bound_in_python(program: Program, results: Sequence[int], patches: Sequence[Patch]) -> Bound:
    """What the builtin does, for other implementations of Python."""

    def call(given: list[Any]) -> tuple[Any, ...]:
        made: list[Any] = []
        for nbytes in results:
            owner = bytearray(nbytes + 64)
            start = ctypes.addressof(ctypes.c_char.from_buffer(owner))
            made += (owner, start + -start % 64, -start % 64)
        for word, kind, which, offset in patches:
            value = made[3 * which + 1] if kind == RESULT else given[which]
            if kind == FLOAT:
                value = ctypes.c_uint32.from_buffer(ctypes.c_float(value)).value
            program.words[word] = value + offset
        run(program)
        return tuple(made)

    return call
