"""Kernels that do something wrong when they run: the emulator says so, each for its own reason."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import Array
from tests.metal.emulator.library import EXACT, TRACED, Library, Memory, Mode
from tests.metal.text import MetalError
from tests.metal.traced import content, memory_of, run_in_orders

HEAD = """\
#include <metal_stdlib>
using namespace metal;
"""
IDS = """uint group [[threadgroup_position_in_grid]], uint id [[thread_position_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]"""
GROUP = "threadgroup_barrier(mem_flags::mem_threadgroup);"
DEVICE = "threadgroup_barrier(mem_flags::mem_device);"
SIMD = "simdgroup_barrier(mem_flags::mem_threadgroup);"


def kernel(body: str, more: str = "", threads: int = 64) -> str:
    """A kernel with x and y (256 floats each) and count (4 ints), in groups of `threads`."""
    return f"""{HEAD}{more}
[[max_total_threads_per_threadgroup({threads})]] kernel void k(
    device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    device atomic_int* count [[buffer(2)]], {IDS}) {{
    {body}
}}
"""


def run(text: str, groups: int = 2, mode: Mode = TRACED, order: int = 0) -> Array:
    slots = {
        0: memory_of(np.arange(256, dtype=np.float32)),
        1: memory_of(np.zeros(256, np.float32)),
        2: memory_of(np.zeros(4, np.int32)),
    }
    Library(text, mode).run("k", groups, slots, order)
    return content(slots[1]).view(np.float32).copy()


SHARED = "threadgroup float s[64];"
ROTATE = "y[group * 64 + id] = s[(id + 1) % 64];"
RIGHT = {
    "a barrier between": f"{SHARED} s[id] = x[id]; {GROUP} {ROTATE}",
    "two turns, two barriers each": f"""{SHARED}
        for (int i = 0; i < 2; i++) {{ s[id] = x[id] + i; {GROUP} {ROTATE} {GROUP} }}""",
    "a simdgroup of its own": f"""{SHARED} s[id] = x[id]; {SIMD}
        y[group * 64 + id] = s[simd * 32 + (lane + 1) % 32];""",
    "through device memory": f"""y[group * 64 + id] = x[id]; {DEVICE}
        const float v = y[group * 64 + (id + 1) % 64]; {DEVICE} y[group * 64 + id] = v;""",
    "all count": """atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
        y[group * 64 + id] = x[id];""",
    "all read one": f"""{SHARED} if (id == 0) s[0] = x[7]; {GROUP} y[group * 64 + id] = s[0];""",
    "a matrix between barriers": f"""threadgroup float m[2][64];
        simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(2.0f);
        simdgroup_store(a, &m[simd][0], 8); {SIMD} y[group * 64 + id] = m[simd][lane];""",
    "a group leaves early": f"""if (group > 0) return; {SHARED} s[id] = x[id]; {GROUP} {ROTATE}""",
    "a simdgroup leaves early, the other shuffles": """if (simd > 0) return;
        y[group * 64 + id] = simd_sum(x[id]);""",
}
WRONG = {
    # name: (body, what is said of it)
    "no barrier after a store": (f"{SHARED} s[id] = x[id]; {ROTATE}", "read before|race"),
    "a simdgroup's barrier for a group": (
        f"{SHARED} s[id] = x[id]; {SIMD} {ROTATE}",
        "race: .* is read, no barrier|read before",
    ),
    "a barrier of the wrong memory": (
        f"{SHARED} s[id] = x[id]; {DEVICE} {ROTATE}",
        "race: .*threadgroup variable 0 is read",
    ),
    "a barrier of threadgroup memory for device memory": (
        f"""y[group * 64 + id] = x[id]; {GROUP}
        const float v = y[group * 64 + (id + 1) % 64]; {DEVICE} y[group * 64 + id] = v;""",
        "race: .*buffer 1 is read",
    ),
    "no barrier before the next turn": (
        f"""{SHARED}
        for (int i = 0; i < 2; i++) {{ s[id] = x[id] + i; {GROUP} {ROTATE} }}""",
        "race: .* is written, no barrier after the thread that read",
    ),
    "two threads write one place": (
        "y[group * 64 + id / 2] = x[id];",
        "race: .* is written by two threads",
    ),
    "two groups write one place": ("y[id] = x[id];", "race: .* is written by two threads"),
    "one group reads what another writes": (
        "y[group * 64 + id] = y[((1 - group) * 64 + id)] + 1.0f;",
        "race: .*buffer 1",
    ),
    "a count that is not atomic": (
        "device int* c = (device int*)count; c[0] = c[0] + 1; y[group * 64 + id] = 0.0f;",
        "race: .*buffer 2",
    ),
    "an atomic beside a plain read": (
        """const int c = ((device int*)count)[0];
        atomic_fetch_add_explicit(count, 1, memory_order_relaxed); y[group * 64 + id] = c;""",
        "race: .*buffer 2",
    ),
    "a matrix read by lanes without a barrier": (
        """threadgroup float m[2][64];
        simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(2.0f);
        simdgroup_store(a, &m[simd][0], 8); y[group * 64 + id] = m[simd][lane];""",
        "race|read before",
    ),
    "a matrix stored over what lanes still read": (
        f"""threadgroup float m[2][64]; m[simd][lane] = x[lane]; {SIMD}
        y[group * 64 + id] = m[simd][(lane + 1) % 32];
        simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(2.0f);
        simdgroup_store(a, &m[simd][0], 8);""",
        "race: .* is written, no barrier after",
    ),
    "a barrier that half of the threads reach": (
        f"{SHARED} s[id] = x[id]; if (id < 32) {GROUP} y[group * 64 + id] = s[id];",
        "a threadgroup barrier is reached by 32 of 64 threads",
    ),
    "a thread that returns before a barrier": (
        f"{SHARED} s[id] = x[id]; if (id == 63) return; {GROUP} {ROTATE}",
        "a threadgroup barrier is reached by 63 of 64 threads|operation",
    ),
    "a shuffle that half of the lanes reach": (
        "float v = x[id]; if (lane < 16) v = simd_sum(v); y[group * 64 + id] = v;",
        "reached by 16 of 32 lanes; 0 are at a threadgroup barrier, 16 have returned",
    ),
    "lanes at different operations": (
        """float v = x[id]; if (lane < 16) v = simd_sum(v); else v = simd_max(v);
        y[group * 64 + id] = v;""",
        "lanes 0 and 16 wait at different operations",
    ),
    "lanes at a shuffle, others at a barrier": (
        f"float v = x[id]; if (lane < 16) v = simd_sum(v); else {GROUP} y[id] = v;",
        "16 are at a threadgroup barrier",
    ),
    "a read beyond the end": (
        "y[group * 64 + id] = x[id + 193];",
        "bytes 1024 to 1027 of buffer 0",
    ),
    "a read before the beginning": (
        "y[group * 64 + id] = x[int(id) - 1];",
        "bytes -4 to -1 of buffer 0",
    ),
    "a write beyond the end": (
        "y[group * 64 + id + 129] = x[id];",
        "bytes 1024 to 1027 of buffer 1",
    ),
    "a vector beyond the end": (
        "const float4 v = *(device const float4*)(x + 4 * id + 4); y[group * 64 + id] = v.x;",
        "bytes 1024 to 1039 of buffer 0",
    ),
    "far beyond the end": ("y[group * 64 + id] = x[(id + 1) << 20];", "outside of its memory"),
    "an atomic beyond the end": (
        "atomic_fetch_add_explicit(count + 4, 1, memory_order_relaxed); y[id + 64 * group] = 0.0f;",
        "bytes 16 to 19 of buffer 2",
    ),
    "a matrix beyond the end": (
        """simdgroup_float8x8 a; simdgroup_load(a, x + 256 - 32, 8);
        y[group * 64 + id] = 0.0f;""",
        "of buffer 0, which has 1024",
    ),
    "beyond a threadgroup array": (
        f"{SHARED} s[id + 1] = x[id]; {GROUP} y[group * 64 + id] = s[id + 1];",
        "trapped|between the threadgroup variables",
    ),
    "a vector that is not aligned": (
        "const float4 v = *(device const float4*)(x + id); y[group * 64 + id] = v.x;",
        "trapped",
    ),
    "a quotient by zero": ("y[group * 64 + id] = float(64 / int(x[id]));", "trapped"),
    "threadgroup memory that nothing wrote": (
        f"{SHARED} if (id < 32) s[id] = x[id]; {GROUP} y[group * 64 + id] = s[id];",
        "is read before anything wrote it",
    ),
    "threadgroup memory of another group": (
        f"{SHARED} if (group == 0) s[id] = x[id]; {GROUP} y[group * 64 + id] = s[id];",
        "is read before anything wrote it",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    text = kernel(RIGHT[name])
    results = [run(text, mode=mode, order=o) for mode in (EXACT, TRACED) for o in (0, 1, 7)]
    assert all(np.array_equal(r, results[0]) for r in results)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    body, said = WRONG[name]
    with pytest.raises(MetalError, match=said):
        run(kernel(body))


@pytest.mark.parametrize(
    "body",
    [
        "y[group * 64 + id] = x[id + 256];",
        "y[group * 64 + id + 256] = x[id];",
        "y[group * 64 + id] = x[int(id) - 2000];",
    ],
)
def test_closed_pages_need_no_tracing(body: str) -> None:
    with pytest.raises(MetalError, match=r"outside of its memory: byte .* of buffer"):
        run(kernel(body), mode=EXACT)


def test_a_write_into_the_gap_before_a_page_is_found() -> None:
    text = kernel("if (id + group == 0) y[1] = x[0]; if (id + group == 0) y[-1] = x[0];")
    with pytest.raises(MetalError, match="wrote beside buffer 1"):
        run(text, mode=EXACT)


def test_memory_can_begin_at_a_closed_page() -> None:
    text = kernel("y[group * 64 + id] = x[int(id) - 1];")
    slots = {i: Memory(1024, at_end=False) for i in range(3)}
    with pytest.raises(MetalError, match="byte -4 of buffer 0"):
        Library(text).run("k", 1, slots)


def test_the_order_of_threads_shows() -> None:
    """A kernel without a race that tracing sees, whose result depends on who comes first."""
    body = """const int n = atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
    y[group * 64 + id] = n;"""
    slots = {i: memory_of(np.zeros(256, np.float32)) for i in range(3)}
    with pytest.raises(MetalError, match="buffer 1 depends on the order of the threads"):
        run_in_orders(kernel(body), "k", 2, slots)


def test_a_fault_leaves_the_emulator_as_it_was() -> None:
    wrong, right = kernel("y[id] = x[1 << 20];"), kernel("y[group * 64 + id] = x[id];")
    for _ in range(3):
        with pytest.raises(MetalError):
            run(wrong)
        assert run(right)[5] == 5
