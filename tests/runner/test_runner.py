"""The native runner: each chunk runs once, launches run in order, whatever else goes on."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorlogic.codegen.emit import KERNEL, Module, f32
from tensorlogic.devices import native, symbols
from tensorlogic.devices.native import Launch, Patch, Program


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_each_part_runs_exactly_once(functions, pool, threads):
    pool(threads)
    for work in (0, 1, 2, 7, 64, 1000):
        for chunk in (1, 3, 64, 5000):
            counts = np.zeros(work + 1, np.int64)
            program = Program([Launch(functions["count"], 1, work, chunk)] * 3)
            for k in range(3):
                program.args(k)[0] = counts.ctypes.data
            for _ in range(20):
                native.run(program)
            assert counts[:work].tolist() == [60] * work
            assert counts[work] == 0


def chain(functions, n: int, launches: int, chunk: int) -> tuple[Program, np.ndarray]:
    """A program whose launches each read, in reverse, what the one before wrote."""
    data = np.zeros((2, n), np.int64)
    program = Program([Launch(functions["step"], 3, n, chunk)] * launches)
    for k in range(launches):
        source, to = data[k % 2], data[(k + 1) % 2]
        program.args(k)[0], program.args(k)[1] = to.ctypes.data, source.ctypes.data
        program.args(k)[2] = n
    return program, data


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_launch_sees_all_of_the_one_before(functions, pool, threads):
    pool(threads)
    program, data = chain(functions, 1001, 50, 10)
    for turn in range(1, 101):
        native.run(program)
        assert data[0].tolist() == [50 * turn] * 1001
        if turn % 25 == 0:
            time.sleep(0.002)  # let the workers sleep


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("small", [False, True])
def test_a_thread_keeps_what_its_first_chunk_left(functions, pool, threads, small):
    pool(threads)
    work = 60
    out, kept = np.full((2, 3, work), -1, np.int64)
    program = Program([Launch(functions["turns"], 2, work, 1)] * 3, 64, small)
    for k in range(3):
        program.args(k)[0], program.args(k)[1] = out[k].ctypes.data, kept[k].ctypes.data
    for _ in range(50):
        out[:] = kept[:] = -1
        native.run(program)
        for turns, firsts in zip(out, kept, strict=True):
            begun = np.flatnonzero(turns == 0) if not small else np.array([0])
            assert 1 <= len(begun) <= threads
            assert set(firsts) == set(begun)
            assert all(firsts[i] <= i for i in range(work))


def test_programs_are_patched_between_runs(functions):
    data = np.zeros((2, 10), np.int64)
    program = Program([Launch(functions["count"], 1, 10, 4)])
    program.words[program.offset[0]] = data[0].ctypes.data
    native.run(program)
    program.words[0] = data[1].ctypes.data
    program.resize(0, 5, 2)
    program.small = True
    assert program.small
    native.run(program)
    assert data.tolist() == [[1] * 10, [1] * 5 + [0] * 5]
    for work, chunk in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="work >= 0 and a chunk >= 1"):
            program.resize(0, work, chunk)


@pytest.mark.parametrize("small", [False, True])
def test_python_threads_at_once(functions, pool, small):
    pool(2)
    failures = []

    def job() -> None:
        program, data = chain(functions, 500, 10, 7)
        program.small = small
        for turn in range(1, 201):
            native.run(program)
            if not (data[0] == 10 * turn).all():
                failures.append(turn)

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    assert failures == []


def test_scratch_is_aligned_and_apart(functions, pool):
    pool(3)
    out = np.zeros(3000, np.int64)
    size = 1 << 20
    program = Program([Launch(functions["where"], 1, 3000, 1)], scratch_bytes=size)
    program.words[0] = out.ctypes.data
    seen: set[int] = set()
    for _ in range(50):
        native.run(program)
        seen |= set(out.tolist())
    ordered = sorted(seen)
    assert 1 <= len(ordered) <= 3
    assert all(a % 64 == 0 for a in ordered)
    assert all(b - a >= size for a, b in itertools.pairwise(ordered))


@pytest.mark.skipif(
    not symbols.HAS_CPU_SETS or len(os.sched_getaffinity(0)) < 2, reason="no other core to go to"
)
def test_workers_keep_off_the_callers_core(functions, pool):
    pool(3)
    program, _ = chain(functions, 100, 3, 10)
    before = set(os.listdir("/proc/self/task"))
    native.run(program)
    workers = set(os.listdir("/proc/self/task")) - before
    assert len(workers) == 2
    sets = [os.sched_getaffinity(int(w)) for w in workers]
    everywhere = os.sched_getaffinity(0)
    assert sets[0] == sets[1] < everywhere
    assert len(sets[0]) == len(everywhere) - 1


def test_no_room_for_scratch_is_a_memory_error(functions):
    for small in (False, True):
        program = Program([Launch(functions["where"], 1, 0, 1)], scratch_bytes=1 << 60, small=small)
        with pytest.raises(MemoryError):
            native.run(program)
        program = Program([Launch(functions["where"], 1, 0, 1)], small=small)
        native.run(program)


def test_the_builtin_refuses_what_is_no_address():
    with pytest.raises(TypeError):
        native.entry()("x")


def test_the_call_through_ctypes(functions, pool, monkeypatch):
    monkeypatch.setattr(sys.implementation, "name", "another")
    pool(2)
    program, data = chain(functions, 100, 4, 7)
    native.run(program)
    assert data[0].tolist() == [4] * 100
    program = Program([Launch(functions["where"], 1, 0, 1)], scratch_bytes=1 << 60)
    with pytest.raises(MemoryError):
        native.run(program)


@pytest.fixture(params=["cpython", "another"])
def implementation(request, monkeypatch, pool):
    """Programs are bound natively, and as other implementations of Python do it."""
    monkeypatch.setattr(sys.implementation, "name", request.param)
    pool(2)
    return request.param


@pytest.mark.parametrize("small", [True, False])
def test_a_bound_program(functions, implementation, small):
    patches = [
        Patch(0, native.RESULT, 0),
        Patch(1, native.ADDRESS, 1, 8),
        Patch(2, native.INTEGER, 0),
        Patch(3, native.RESULT, 1, 8),
        Patch(4, native.RESULT, 0),
        Patch(5, native.INTEGER, 0),
    ]
    program = Program(
        [Launch(functions["step"], 3, 4, 3), Launch(functions["step"], 3, 4, 4)], small=small
    )
    call = native.bind(program, 2, (32, 48), patches)
    source = np.arange(5)
    for _ in range(3):
        made = call([4, source.ctypes.data])
        assert len(made) == 6
        arrays = []
        for owner, address, start in zip(made[::3], made[1::3], made[2::3], strict=True):
            assert address % 64 == 0
            arrays.append(np.frombuffer(owner, np.int64, 5, start))
            assert arrays[-1].ctypes.data == address
        assert arrays[0][:4].tolist() == [5, 4, 3, 2]
        assert arrays[1][1:].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("value", [-1, 0, 7, -(2**31), True])
def test_integers_of_a_bound_program(implementation, value):
    program = Program([Launch(0, 1, 0, 1)], small=True)
    native.bind(program, 1, (), [Patch(0, native.INTEGER, 0)])([value])
    assert program.words[0] == value


@given(st.floats(width=64))
def test_floats_of_a_bound_program(value):
    program = Program([Launch(0, 1, 0, 1)], small=True)
    native.bind(program, 1, (), [Patch(0, native.FLOAT, 0)])([value])
    with np.errstate(over="ignore"):
        expected = np.float32(value)
    found = np.array(program.words[0]).astype(np.uint32).view(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


def test_misuse_of_a_bound_program():
    program = Program([Launch(0, 1, 0, 1)], small=True)
    program.words[0] = 5
    for kind in (native.ADDRESS, native.INTEGER, native.FLOAT):
        call = native.bind(program, 1, (64,), [Patch(0, kind, 0)])
        with pytest.raises(TypeError):
            call(["x"])
        for wrong in ([], [1, 2], (1,)):
            with pytest.raises(SystemError):
                call(wrong)
    assert program.words[0] == 5
    with pytest.raises(MemoryError):
        native.bind(program, 0, (1 << 60,), [])([])


def test_bound_programs_leave_memory_flat(functions):
    program = Program([Launch(functions["step"], 3, 4, 4)], small=True)
    patches = [Patch(0, native.RESULT, 0), Patch(1, native.ADDRESS, 0), Patch(2, native.INTEGER, 1)]
    call = native.bind(program, 2, (4096,), patches)
    source = np.arange(4)
    given = [source.ctypes.data, 3]
    before = sys.getrefcount(given[0]), sys.getrefcount(native.bind)
    tracemalloc.start()
    try:
        call(given)
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            call(given)
        assert tracemalloc.get_traced_memory()[0] - start < 4096
    finally:
        tracemalloc.stop()
    assert (sys.getrefcount(given[0]), sys.getrefcount(native.bind)) == before


@pytest.mark.parametrize("given", ["0", "-1", "two", ""])
def test_threads_of_the_environment(monkeypatch, given):
    monkeypatch.setenv("TENSORLOGIC_THREADS", given)
    with pytest.raises(ValueError, match="TENSORLOGIC_THREADS is a number"):
        native.threads()


def flushing_kernels() -> str:
    """flush(): subnormals count as zero from here on; half: out[0] = least normal number / 2."""
    module = Module()
    f = module.function("flush", [])
    if platform.machine() in ("arm64", "aarch64"):
        f.call("void", "llvm.aarch64.set.fpcr", ("i64", str(1 << 24)))
    else:
        word = f.alloca("i32")
        f.store("i32", str(0x1F80 | 0x8040), word)
        f.call("void", "llvm.x86.sse.ldmxcsr", ("ptr", word))
    f.ret()
    f = module.function("half", KERNEL)
    out = f.load("ptr", "%args")
    least = f.load("float", f.gep("float", out, 1))
    with f.loop("%lo", "%hi"):
        f.store("float", f.op("fmul", "float", least, f32(0.5)), out)
    f.ret()
    return module.text()


def test_subnormals_are_kept_whatever_the_caller_set():
    import ctypes

    addresses = native.compile_module(flushing_kernels(), ["flush", "half"])
    out = np.array([0, np.finfo(np.float32).tiny], np.float32)
    program = Program([Launch(addresses["half"], 1, 1, 1)])
    program.words[0] = out.ctypes.data
    bare = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(addresses["half"])
    flush = ctypes.CFUNCTYPE(None)(addresses["flush"])
    bits, seen = out.view(np.int32), {}  # to read a subnormal as a float would flush it, too

    def job() -> None:  # a thread has its own float mode
        flush()
        native.run(program)
        seen["runner"] = int(bits[0])
        bare(program.address + 8 * (16 + 24), 0, 1, 0, 0)
        seen["caller"] = int(bits[0])

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == {"runner": 1 << 22, "caller": 0}


def script(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python text that has `program`: ten launches on a pool of three threads."""
    head = """
import os, sys, threading, time
from tensorlogic.devices import native, symbols
nothing = native._runner().functions["nothing"]
program = native.Program([native.Launch(nothing, 0, 64, 1)] * 10)
native.run(program)
"""
    env = {**os.environ, "TENSORLOGIC_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", head + body],
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


FORK = """
for turn in range(20):
    native.run(program)
    pid = os.fork()
    if pid == 0:
        for _ in range(50):
            native.run(program)
        os._exit(7)
    native.run(program)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print(len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 3)
"""
FORK_WHILE_RUNNING = """
def loop():
    own = native.Program([native.Launch(nothing, 0, 64, 1)] * 10)
    while True:
        native.run(own)
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside a Python thread
threading.Thread(target=loop, daemon=True).start()
for turn in range(20):
    pid = os.fork()
    if pid == 0:
        native.run(program)
        os._exit(7)
    native.run(program)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print("ok")
"""


def test_fork():
    done = script(FORK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    done = script(FORK_WHILE_RUNNING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


EXIT = """
def loop():
    own = native.Program([native.Launch(nothing, 0, 64, 1)] * 10)
    while True:
        native.run(own)
for _ in range(int(os.environ["LOOPS"])):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.02)
native.run(program)
print("end")
"""


@pytest.mark.parametrize("loops", ["0", "3"])
def test_the_interpreter_ends_cleanly(loops):
    done = script(EXIT, LOOPS=loops)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_the_overhead_is_reported(functions, pool, record_property):
    """Measured, not asserted: seconds of a small program, and of 100 launches on two threads."""
    pool(2)
    small = Program([Launch(functions["count"], 1, 0, 1)], small=True)
    shared = Program([Launch(functions["count"], 1, 0, 1)] * 100)
    for name, program in (("small", small), ("shared", shared)):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            native.run(program)
            times.append(time.perf_counter() - start)
        record_property(name, float(np.median(times)))


def test_the_runner_is_valid_for_every_processor():
    import llvmlite.binding as llvm

    for machine in ("x86_64", "AMD64", "arm64", "aarch64", "riscv64"):
        llvm.parse_assembly(native.runner_ir(machine)).verify()
