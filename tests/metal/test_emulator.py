"""The emulator computes what Metal's specification says, against NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.compare import Array
from tests.gpu_texts import texts
from tests.metal import clang
from tests.metal.emulator.library import EXACT, FAST_MATH, Library, Mode
from tests.metal.text import MetalError, expanded, kernels
from tests.metal.traced import content, memory_of, run_in_orders

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
RNG = np.random.default_rng(8)
DOUBLE_MATH = Mode(double_math=True)


def launch(text: str, arrays: list[Array], groups: int, mode: Mode = EXACT) -> list[Array]:
    """The arrays after a launch of the text's kernel k."""
    slots = {i: memory_of(a) for i, a in enumerate(arrays)}
    Library(text, mode).run("k", groups, slots)
    return [content(slots[i]).view(a.dtype) for i, a in enumerate(arrays)]


# -- functions


def function_text(name: str) -> str:
    return f"""{HEAD}[[max_total_threads_per_threadgroup(256)]] kernel void k(
        device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
        uint i [[thread_position_in_grid]]) {{ y[i] = {name}(x[i]); }}"""


def floats() -> Array:
    n = 2048
    parts = [RNG.uniform(-100, 100, n), RNG.uniform(-1, 1, n), 2.0 ** RNG.uniform(-120, 127, n)]
    parts += [[0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 3.4e38, 88.7, 67108864.0, 1e5, 16777216.0]]
    x = np.concatenate(parts).astype(np.float32)
    return np.resize(x, 24 * 256)


@pytest.mark.parametrize("mode", [EXACT, DOUBLE_MATH], ids=["libm", "double"])
@pytest.mark.parametrize(
    "name", ["exp", "exp2", "log", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh"]
)
def test_functions_of_floats(name: str, mode: Mode) -> None:
    """An NVIDIA GPU computes them as double_math.h does: correctly rounded."""
    x = floats()
    _, got = launch(function_text(f"precise::{name}"), [x, np.zeros_like(x)], 24, mode)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x.astype(np.longdouble)).astype(np.float32)
        spacing = np.spacing(np.maximum(np.abs(want), np.float32(2.0**-126)))
        error = np.abs(got.astype(np.float64) - want.astype(np.float64)) / spacing
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    assert (np.where(same, 0, error) <= (2 if mode is EXACT else 0)).all()


def test_fast_math_flushes_subnormals_and_comes_close() -> None:
    x = np.resize(np.array([1e-40, 3.0, -2.5, 0.7], np.float32), 256)
    _, exact = launch(function_text("exp"), [x, np.zeros_like(x)], 1)
    _, fast = launch(function_text("exp"), [x, np.zeros_like(x)], 1, FAST_MATH)
    np.testing.assert_allclose(fast, exact, rtol=1e-5)
    half = function_text("0.5f * ")
    assert launch(half, [x, np.ones_like(x)], 1)[1][0] > 0
    assert launch(half, [x, np.ones_like(x)], 1, FAST_MATH)[1][0] == 0


# -- simdgroups


def lanes_text(value: str, ctype: str = "float") -> str:
    return f"""{HEAD}[[max_total_threads_per_threadgroup(64)]] kernel void k(
        device const {ctype}* x [[buffer(0)]], device {ctype}* y [[buffer(1)]],
        uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {{
        const {ctype} v = x[i]; y[i] = {value}; }}"""


LANE = np.arange(32)
ACROSS: dict[str, Callable[[Any], Any]] = {
    "simd_shuffle(v, 5)": lambda v: v[:, [5] * 32],
    "simd_shuffle_xor(v, 8)": lambda v: v[:, LANE ^ 8],
    "simd_shuffle_up(v, 3)": lambda v: v[:, np.where(LANE >= 3, LANE - 3, LANE)],
    "simd_shuffle_down(v, 3)": lambda v: v[:, np.where(LANE < 29, LANE + 3, LANE)],
    "simd_broadcast(v, 31)": lambda v: v[:, [31] * 32],
    "simd_broadcast_first(v)": lambda v: v[:, [0] * 32],
    "simd_sum(v)": lambda v: np.repeat(v.sum(1, keepdims=True), 32, 1),
    "simd_max(v)": lambda v: np.repeat(v.max(1, keepdims=True), 32, 1),
    "simd_min(v)": lambda v: np.repeat(v.min(1, keepdims=True), 32, 1),
    "simd_prefix_inclusive_sum(v)": lambda v: v.cumsum(1),
    "simd_prefix_exclusive_sum(v)": lambda v: v.cumsum(1) - v,
}


@pytest.mark.parametrize("dtype", ["float", "int", "half"])
@pytest.mark.parametrize("call", ACROSS)
def test_values_cross_lanes(call: str, dtype: str) -> None:
    kind = {"float": np.float32, "int": np.int32, "half": np.float16}[dtype]
    x = RNG.integers(-20, 20, 128).astype(kind)
    _, got = launch(lanes_text(call, dtype), [x, np.zeros_like(x)], 2)
    np.testing.assert_array_equal(got.reshape(4, 32), ACROSS[call](x.reshape(4, 32)))


def test_votes() -> None:
    x = np.array([1, *[0] * 31, *[1] * 32], np.int32)
    text = lanes_text("simd_any(v != 0) * 2 + simd_all(v != 0)", "int")
    _, got = launch(text, [x, np.zeros_like(x)], 1)
    assert got.reshape(2, 32)[:, 0].tolist() == [2, 3]


@pytest.mark.parametrize("turned", ["false", "true"])
@pytest.mark.parametrize("ctype", ["half", "float"])
def test_matrices(ctype: str, turned: str) -> None:
    text = f"""{HEAD}[[max_total_threads_per_threadgroup(32)]] kernel void k(
        device const {ctype}* a [[buffer(0)]], device const {ctype}* b [[buffer(1)]],
        device float* c [[buffer(2)]], uint lane [[thread_index_in_simdgroup]]) {{
        simdgroup_matrix<{ctype}, 8, 8> x, y; simdgroup_float8x8 z(1.0f);
        simdgroup_load(x, a, 10, ulong2(2, 1), {turned}); simdgroup_load(y, b, 8);
        simdgroup_multiply_accumulate(z, x, y, z); simdgroup_store(z, c, 8); }}"""
    kind = np.float16 if ctype == "half" else np.float32
    a = RNG.integers(-4, 4, (10, 10)).astype(kind)
    b = RNG.integers(-4, 4, (8, 8)).astype(kind)
    x = a[1:9, 2:10].T if turned == "true" else a[1:9, 2:10]
    slots = {0: memory_of(a), 1: memory_of(b), 2: memory_of(np.zeros(64, np.float32))}
    replay = run_in_orders(text, "k", 1, slots)
    got = replay.after[2].view(np.float32).reshape(8, 8)
    np.testing.assert_array_equal(got, x.astype(np.float32) @ b.astype(np.float32) + 1)
    assert replay.traffic.read[1] == b.nbytes
    assert (replay.traffic.read[0], replay.traffic.written[2]) == (64 * a.itemsize, 256)


def test_ids() -> None:
    ids = {
        "thread_position_in_grid": lambda g, t: g * 96 + t,
        "threadgroup_position_in_grid": lambda g, t: g + 0 * t,
        "thread_position_in_threadgroup": lambda g, t: t + 0 * g,
        "threads_per_threadgroup": lambda g, t: 96 + 0 * (g + t),
        "threadgroups_per_grid": lambda g, t: 3 + 0 * (g + t),
        "threads_per_grid": lambda g, t: 288 + 0 * (g + t),
        "thread_index_in_simdgroup": lambda g, t: t % 32 + 0 * g,
        "simdgroup_index_in_threadgroup": lambda g, t: t // 32 + 0 * g,
        "simdgroups_per_threadgroup": lambda g, t: 3 + 0 * (g + t),
        "thread_index_in_threadgroup": lambda g, t: t + 0 * g,
        "threads_per_simdgroup": lambda g, t: 32 + 0 * (g + t),
    }
    names = [f"uint i{k} [[{name}]]" for k, name in enumerate(ids)]
    stores = " ".join(f"y[i0 * {len(ids)} + {k}] = i{k};" for k in range(len(ids)))
    text = f"""{HEAD}[[max_total_threads_per_threadgroup(96)]] kernel void k(
        device uint* y [[buffer(0)]], {", ".join(names)}) {{ {stores} }}"""
    (got,) = launch(text, [np.zeros(288 * len(ids), np.uint32)], 3)
    g, t = np.meshgrid(np.arange(3), np.arange(96), indexing="ij")
    want = np.stack([f(g, t).reshape(-1) for f in ids.values()], axis=1)
    np.testing.assert_array_equal(got.reshape(288, -1), want)


ATOMICS = {"fetch_add": 7 + sum(range(64)), "fetch_max": 63, "fetch_min": 0, "fetch_or": 63}


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics(name: str) -> None:
    text = f"""{HEAD}[[max_total_threads_per_threadgroup(64)]] kernel void k(
        device atomic_int* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {{
        atomic_{name}_explicit(y, int(i), memory_order_relaxed); }}"""
    (got,) = launch(text, [np.array([7], np.int32)], 1)
    assert got.tolist() == [ATOMICS[name]]


def test_vectors() -> None:
    text = f"""{HEAD}[[max_total_threads_per_threadgroup(32)]] kernel void k(
        device float4* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {{
        const half2 h = half2(1.0h, 2.0h); const float4 v = float4(h, float2(i, 0.5f));
        y[i] = fma(v.wzyx, float4(2.0f), float4(1.0f)) + max(v, float4(1.0f)); }}"""
    (got,) = launch(text, [np.zeros((32, 4), np.float32).reshape(-1)], 1)
    i = np.arange(32, dtype=np.float32)
    rows = [[1, 2, k, 0.5] for k in i]
    want = [np.array(r[::-1]) * 2 + 1 + np.maximum(r, 1) for r in rows]
    np.testing.assert_array_equal(got.reshape(32, 4), want)


# -- what is refused


def test_limits() -> None:
    big = lanes_text("v + s[31 - lane]").replace(
        "const float v = x[i];",
        """threadgroup float s[9000]; const float v = x[i]; s[lane] = v;
        simdgroup_barrier(mem_flags::mem_threadgroup);""",
    )
    with pytest.raises(MetalError, match="36000 bytes of threadgroup memory"):
        Library(big)
    with pytest.raises(MetalError, match="nothing is bound to y"):
        Library(lanes_text("v")).run("k", 1, {0: memory_of(np.zeros(64, np.float32))})
    with pytest.raises(MetalError, match="use of undeclared identifier 'w'"):
        Library(lanes_text("w"))


# -- text


def tokens(text: str) -> list[str]:
    text = re.sub(r'#pragma clang loop unroll\(full\)|_Pragma\("[^"]*"\)', "", text)
    return text.replace("metal_atomic_", "atomic_").split()


@pytest.mark.parametrize("name", ["gelu_chain", "softmax", "attention", "split", "gather"])
def test_macros_are_expanded_as_clang_does(name: str) -> None:
    text = dict(texts("metal"))[name]
    words = "".join(f"#undef {w}\n" for w in ("device", "threadgroup", "thread"))
    marked = text.replace("using namespace metal;", f"{words}using namespace metal;", 1)
    printed = clang.run([clang.clang(), *clang.LANGUAGE, "-E", "-P", "-"], marked)
    printed = printed[printed.rindex("using namespace metal;") :]
    own = expanded(text)
    own = own[own.index("using namespace metal;") :]
    assert "".join(tokens(own)) == "".join(tokens(printed))


def test_signatures() -> None:
    (kernel,) = kernels(dict(texts("metal"))["softmax"])
    assert (kernel.name, kernel.threads, kernel.slots) == ("softmax", 256, [0, 1, 2])
    assert [p.ctype for p in kernel.parameters[:3]] == [
        "device const half*",
        "device half*",
        "constant long*",
    ]
    with pytest.raises(MetalError, match="#if: kernels have no conditional text"):
        kernels("#if 1\nkernel void k() {}\n#endif\n")
