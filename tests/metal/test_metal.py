"""The Metal text of every example kernel passes the checker; texts with a planted error do not."""

from __future__ import annotations

import shutil

import pytest

from tensorlogic.codegen import clike, gpu_matmul
from tests.gpu_texts import MATMULS, matmul_text, texts
from tests.kernels.samples import SAMPLES
from tests.metal import checker, clang
from tests.metal.checker import check_metal
from tests.metal.text import MetalError

TEXTS = dict(texts("metal"))


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_is_well_formed(name):
    check_metal(TEXTS[name])


@pytest.mark.parametrize("name", MATMULS)
def test_every_matmul_is_well_formed(name):
    for tile in (gpu_matmul.SMALL, gpu_matmul.LARGE):
        check_metal(matmul_text(name, "metal", tile))


def test_a_missing_clang_fails_and_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="apt-get install clang"):
        check_metal("// not seen before\n")


def test_the_checker_runs_as_a_script(tmp_path):
    path = tmp_path / "softmax.metal"
    path.write_text(TEXTS["softmax"])
    checker.main([str(path)])
    path.write_text(TEXTS["softmax"].replace("float m =", "flaot m ="))
    with pytest.raises(MetalError):
        checker.main([str(path)])


SOFTMAX, GATHER = TEXTS["softmax"], TEXTS["gather"]
MATMUL = matmul_text("f16_k_n", "metal", gpu_matmul.SMALL)
IDS = "uint SIMDGROUP [[simdgroup_index_in_threadgroup]]"
BODY = "if (row >= rows) return;\n"


def inside(line: str) -> tuple[str, str, str]:
    """A line planted in the softmax kernel."""
    return SOFTMAX, BODY, f"{BODY}    {line}\n"


def before(line: str) -> tuple[str, str, str]:
    """A line planted before the softmax kernel."""
    return SOFTMAX, "KERNEL(softmax,", f"{line}\nKERNEL(softmax,"


PLANTED = {
    "a semicolon is missing": (SOFTMAX, "m = max_nan(m, m_other);", "m = max_nan(m, m_other)"),
    "a name is misspelt": (SOFTMAX, "lane_xor(m,", "lane_xor(mm,"),
    "a type is misspelt": (SOFTMAX, "float m =", "flaot m ="),
    "a function that Metal lacks": inside("float z = erf(1.0f);"),
    "a function of CUDA": inside("__syncthreads();"),
    "a store into an input": (SOFTMAX, "store_pack(y +", "store_pack(x +"),
    "a device pointer as threadgroup pointer": inside("threadgroup half* z = y;"),
    "a threadgroup pointer as device pointer": inside("device float* z = part_f32_0;"),
    "a pointer without address space": inside("half* z = y;"),
    "a pointer parameter without address space": before("float f(float* p) { return p[0]; }"),
    "a reference of another address space": (
        SOFTMAX,
        BODY,
        f"{BODY}    clear(part_f32_0[0]);\n",
        "KERNEL(softmax,",
        "void clear(thread float& x) { x = 0.0f; }\nKERNEL(softmax,",
    ),
    "constant memory is written": inside("params[0] = 1;"),
    "a double": inside("double z = 1.0;"),
    "a long long": inside("long long z = 1;"),
    "bfloat, which is Metal 3.1": inside("bfloat z;"),
    "atomic_float, which is Metal 3.0": (GATHER, "atomic_int*", "atomic_float*"),
    "an atomic on ordinary memory": (GATHER, "(device atomic_int*)(buffer)", "(buffer)"),
    "an atomic with an order but relaxed": (GATHER, "memory_order_relaxed", "memory_order_seq_cst"),
    "a shuffle of 64 bits": (
        SOFTMAX,
        "as_type<long>(simd_shuffle_xor(as_type<int2>(x)",
        "(simd_shuffle_xor(x",
    ),
    "a shuffle of bools": (
        SOFTMAX,
        "simd_shuffle_xor(int(x), ushort(d)) != 0",
        "simd_shuffle_xor(x, ushort(d))",
    ),
    "as_type between sizes": inside("int z = as_type<int>(y[0]);"),
    "an ambiguous overload": inside("float z = max(1, 2.0f);"),
    "vectors of two widths": inside("float4 z = float2(1.0f);"),
    "a function returns nothing": before("float f(float x) { x = 1.0f; }"),
    "a goto": inside("goto end; end:;"),
    "a lambda": inside("auto f = [](float z) { return z; };"),
    "the standard library": inside("std::size_t z = 0;"),
    "new": inside("float z = *new float;"),
    "threadgroup memory below the kernel's own block": inside(
        "{ threadgroup float z[4]; z[0] = 0.0f; }"
    ),
    "threadgroup memory in a function": before("float f() { threadgroup float z; return z; }"),
    "an initial value for threadgroup memory": inside("threadgroup float z = 1.0f;"),
    "too much threadgroup memory": inside("threadgroup float z[8200];"),
    "a buffer slot beyond 30": (SOFTMAX, "OUT(half, y, 1)", "OUT(half, y, 31)"),
    "a buffer slot twice": (SOFTMAX, "OUT(half, y, 1)", "OUT(half, y, 0)"),
    "a parameter without attribute": (SOFTMAX, "device T* name [[buffer(slot)]]", "device T* name"),
    "an attribute that does not exist": (SOFTMAX, "[[thread_index_in_simdgroup]]", "[[lane_id]]"),
    "an id of float": (SOFTMAX, "uint LANE", "float LANE"),
    "ids of two widths": (SOFTMAX, "uint THREAD [[", "uint2 THREAD [["),
    "a lane id of a vector type": (SOFTMAX, "uint LANE", "uint2 LANE"),
    "a buffer by value": (SOFTMAX, "constant long* params", "long params"),
    "a buffer in threadgroup space": (SOFTMAX, "constant long* params", "threadgroup long* params"),
    "a group of 2048": (SOFTMAX, "KERNEL(softmax, 256)", "KERNEL(softmax, 2048)"),
    "no group size": (SOFTMAX, "[[max_total_threads_per_threadgroup(threads)]] kernel", "kernel"),
    "a kernel returns a value": (SOFTMAX, "kernel void name", "kernel float name"),
    "no kernel": (SOFTMAX, "kernel void name", "void name"),
    "a matrix of 16 x 16": (
        MATMUL,
        "struct TileAB { simdgroup_half8x8",
        "struct TileAB { simdgroup_matrix<half, 16, 16>",
    ),
    "a matrix loaded from another type": (
        MATMUL,
        "threadgroup const half* p",
        "threadgroup const float* p",
    ),
    "a matrix in device memory as threadgroup memory": (
        MATMUL,
        "threadgroup const half* p",
        "device const half* p",
    ),
    "a bracket too many": (SOFTMAX, "AT(y_pack, u) = half(", "AT(y_pack, u) = half(("),
    "too few arguments": (SOFTMAX, "max_nan(m, m_other)", "max_nan(m)"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_errors_are_rejected(fault):
    text, *changes = PLANTED[fault]
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text, old
        text = text.replace(old, new)
    with pytest.raises(MetalError):
        check_metal(text)


def test_parameter_words():
    params = SAMPLES["gelu_chain"].kernel.params
    words = clike.pack_params(params, {"n": -2, "a": 1.0, "b": 0.0, "c": -0.0}, (3, 4))
    expected = (-2).to_bytes(8, "little", signed=True) + bytes.fromhex("0000803f00000000")
    expected += bytes(8) + bytes.fromhex("0000008000000000") + bytes([3, *[0] * 7, 4, *[0] * 7])
    assert words == expected


def test_clang_reads_our_flags():
    """A flag that clang does not know would be an error in every text and hide real ones."""
    clang.check_syntax("#include <metal_stdlib>\n")
