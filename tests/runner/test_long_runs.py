"""Long programs, many calls, crowded machines: what else happens meanwhile does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tensorlogic.devices import native
from tensorlogic.devices.native import Launch, Program


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_a_long_program(functions, pool, threads, request):
    pool(threads)
    # A process that was started in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    program = Program([Launch(functions["burn"], 0, 1000, 1)] * 100)  # some minutes
    for _ in range(2):
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        sender.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            native.run(program)
        assert time.perf_counter() - start < 10
        sender.join()
    data = np.zeros(100, np.int64)
    program = Program([Launch(functions["count"], 1, 100, 7)])
    program.args(0)[0] = data.ctypes.data
    native.run(program)  # and all goes on
    assert data.tolist() == [1] * 100


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_of_a_signal_may_run_programs_while_one_runs(functions, pool, threads):
    pool(threads)
    data = np.zeros(100, np.int64)
    inner = Program([Launch(functions["count"], 1, 100, 7)])
    inner.args(0)[0] = data.ctypes.data
    ends: list[float] = []

    def handler(number: int, frame: object) -> None:
        native.run(inner)
        ends.append(time.perf_counter())

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        native.run(Program([Launch(functions["burn"], 0, 100, 1)]))
        end = time.perf_counter()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert data.tolist() == [1] * 100
    assert ends[0] < end  # not only after it


def script(body: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", body],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_idle_workers_use_no_time(functions, pool):
    pool(4)
    data = np.zeros(1000, np.int64)
    program = Program([Launch(functions["count"], 1, 1000, 10)] * 20)
    for k in range(20):
        program.args(k)[0] = data.ctypes.data
    native.run(program)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(2)
    assert time.process_time() - before < 0.02


def test_busy_neighbours_stop_no_plan(functions, pool):
    """A worker without a core to run on must not be waited for: it has not joined."""
    pool(2)
    data = np.zeros(1000, np.int64)
    program = Program([Launch(functions["count"], 1, 1000, 100)] * 10)
    for k in range(10):
        program.args(k)[0] = data.ctypes.data
    cores = os.cpu_count() or 1
    text = "print('on', flush=True)\nwhile True: pass"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        for _ in range(min(cores, 4))
    ]
    try:
        for n in neighbours:
            assert n.stdout is not None
            n.stdout.readline()
        longest = 0.0
        for turn in range(1, 101):
            start = time.perf_counter()
            native.run(program)
            longest = max(longest, time.perf_counter() - start)
            assert (data == 10 * turn).all()
            if turn % 10 == 0:
                time.sleep(0.002)  # the worker sleeps, and finds its core taken
    finally:
        for n in neighbours:
            n.kill()
            n.communicate()
    assert longest < 2  # not a measure of speed: a plan that waits for a worker waits for good


FLAT = """
import gc, os
import tensorlogic as tl

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def growth(work, warm, turns):
    for i in range(warm):
        work(i)
    gc.collect()
    before = resident()
    for i in range(warm, warm + turns):
        work(i)
    gc.collect()
    return resident() - before

f = tl.function(lambda x, w: tl.relu(x @ w) + 1)
x, w = tl.ones([4, 3]), tl.ones([3, 2])
calls = growth(lambda i: tl.eval(f(x, w)), 2_000, 100_000)
z = tl.ones([2400])
graphs = growth(lambda i: tl.eval(z[: i + 1] * 2 + z[i]), 1200, 1000)  # once all tables are full
big = growth(lambda i: tl.eval(tl.zeros([1000 + i, 2000]) + 1), 5, 100)
print(calls, graphs, big)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no resident memory to read")
def test_many_calls_and_many_graphs_leave_memory_flat():
    calls, graphs, big = map(int, script(FLAT).split())
    assert calls < 1 << 20
    assert graphs < 4 << 20  # plans that are kept differ in size
    assert big < 300 << 20  # large memory that is kept is bounded


def test_threads_and_an_exception_in_one_of_them(functions, pool):
    """What fails in one thread leaves the runner to the others."""
    pool(2)
    failures: list[str] = []

    def right() -> None:
        data = np.zeros(200, np.int64)
        program = Program([Launch(functions["count"], 1, 200, 7)])
        program.args(0)[0] = data.ctypes.data
        for turn in range(1, 201):
            native.run(program)
            if not (data == turn).all():
                failures.append("wrong")

    def wrong() -> None:
        program = Program([Launch(functions["where"], 1, 8, 1)], scratch_bytes=1 << 60)
        for _ in range(50):
            try:
                native.run(program)
            except MemoryError:
                continue
            failures.append("no error")

    jobs = [threading.Thread(target=f) for f in (right, wrong, right, wrong)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    assert failures == []
