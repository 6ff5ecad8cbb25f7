"""The CUDA text of every example kernel compiles, and is Metal's text but for the prelude."""

from __future__ import annotations

import pytest

from tensorlogic.codegen import clike, forms, gpu_matmul
from tensorlogic.codegen.dialects import BODY_MARK
from tensorlogic.codegen.forms import Form
from tensorlogic.devices.cuda_driver import STARTS_EARLY
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Kernel,
    Loop,
    Store,
    cast,
    const,
    index,
    load,
    param,
)
from tests.cuda import checker
from tests.cuda.checker import CudaError, check_cuda, check_waits, compile_all
from tests.gpu_texts import MATMULS, matmul_text, texts
from tests.kernels.samples import SAMPLES

TEXTS = dict(texts("cuda"))
METAL = dict(texts("metal"))
TILES = (gpu_matmul.SMALL, gpu_matmul.LARGE)


def test_every_text_is_well_formed():
    for text in TEXTS.values():
        check_cuda(text)
    for name in MATMULS:
        for tile in TILES:
            check_cuda(matmul_text(name, "cuda", tile))


@pytest.mark.parametrize("index", ["int", "long long"])
def test_every_text_compiles(index, tmp_path):
    chosen = {n: t for n, t in TEXTS.items() if f"typedef {index} index_t" in t}
    assert compile_all(chosen, "sm_80", tmp_path) == set(chosen)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_product_compiles(arch, tmp_path):
    if checker.nvcc() is None and arch == "sm_90":
        arch = "sm_86"  # the newest that the oldest clang in use knows
    chosen = {
        f"matmul_{name}_{tile.m}": matmul_text(name, "cuda", tile)
        for name, spec in MATMULS.items()
        for tile in (TILES if gpu_matmul.uses_matrix_units(spec) else (gpu_matmul.PLAIN,))
    }
    assert compile_all(chosen, arch, tmp_path) == set(chosen)


def test_without_nvcc_clang_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(checker, "nvcc", lambda: None)
    assert compile_all({"softmax": TEXTS["softmax"]}, "sm_80", tmp_path) == {"softmax"}


def body(text: str) -> list[str]:
    return text.split(BODY_MARK)[1].splitlines()


def test_bodies_are_equal_line_for_line():
    for name, text in TEXTS.items():
        assert body(text) == body(METAL[name]), name
    for name in MATMULS:
        for tile in TILES:
            metal, cuda = (body(matmul_text(name, d, tile)) for d in ("metal", "cuda"))
            assert metal == cuda, name


def test_every_kernel_waits_before_it_touches_memory():
    for text in (*TEXTS.values(), *(matmul_text(n, "cuda", t) for n in MATMULS for t in TILES)):
        check_waits(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    EARLIER_DONE();\n", ""),
        ("    EARLIER_DONE();\n", "    const half first = x[0];\n    EARLIER_DONE();\n"),
        ("const T* name", "const T* __restrict__ name"),
        ("m = max_nan(m, m_other);", "m = __ldg(x);"),
        ('"cvt.f32.f16 %0, %1;"', '"ld.global.nc.f32 %0, [%1];"'),
    ],
)
def test_a_kernel_that_does_not_wait_is_rejected(old, new):
    assert old in SOFTMAX
    with pytest.raises(CudaError):
        check_waits(SOFTMAX.replace(old, new))


def test_text_and_device_agree_which_cards_start_kernels_early():
    major, minor = STARTS_EARLY
    assert f"#if __CUDA_ARCH__ >= {100 * major + 10 * minor}\n#define EARLIER_DONE()" in SOFTMAX


SOFTMAX = TEXTS["softmax"]
PLANTED = {
    "a semicolon is missing": ("m = max_nan(m, m_other);", "m = max_nan(m, m_other)"),
    "a name is misspelt": ("lane_xor(m,", "lane_xor(mm,"),
    "a store into an input": ("store_pack(y +", "store_pack(x +"),
    "a function of Metal": ("GROUP_BARRIER();", "threadgroup_barrier();"),
    "a function that is not declared": ("math_exp(x) expf(x)", "math_exp(x) expg(x)"),
    "a register that PTX does not have": ('"=h"(bits)', '"=q"(bits)'),
    "a function of the host": ("FUNC float max_nan", "static float max_nan"),
    "a kernel that is not void": ("__global__ void", "__global__ int"),
    "no such type": ("OUT(half, y, 1)", "OUT(hafl, y, 1)"),
    "too few arguments": ("max_nan(m, m_other)", "max_nan(m)"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_errors_are_rejected(fault, tmp_path):
    old, new = PLANTED[fault]
    assert old in SOFTMAX, old
    text = SOFTMAX.replace(old, new)
    with pytest.raises(CudaError):
        check_cuda(text)
    with pytest.raises(CudaError):
        compile_all({"softmax": text}, "sm_80", tmp_path)


X, Y, N, I = Buffer("x", "f32"), Buffer("y", "f32", True), param("n"), index("i")
ZERO = const(0, "i64")


def flat(*body, buffers=(X, Y)):
    return Kernel(buffers, (N,), (Loop(I, ZERO, N, "flat", body),))


def big(size):
    kept, j = Buffer("kept", "f32", True, size), index("j")
    row = (
        Loop(j, ZERO, N, "vector", (Store(kept, j, load(X, j)),)),
        Store(Y, I, load(kept, ZERO)),
    )
    return Kernel((X, Y), (N,), (Loop(I, ZERO, N, "parallel", row),))


REFUSED = {
    "float64": flat(Store(Y, I, cast(cast(load(X, I), "f64"), "f32"))),
    "more than 31 buffers": flat(
        Store(Y, I, load(X, I)), buffers=(X, Y, *(Buffer(f"b{i}", "f32") for i in range(29)))
    ),
    "too much threadgroup memory": big(const(8300, "i64")),
    "a barrier between lone threads": flat(Barrier(), Store(Y, I, load(X, I))),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_gpu_cannot_hold_is_refused(what):
    with pytest.raises(KernelError):
        clike.render(REFUSED[what], "k", "cuda")


def test_a_width_that_is_no_team_is_refused():
    with pytest.raises(KernelError, match="32 to 1024"):
        clike.render(SAMPLES["softmax"].kernel, "k", "cuda", width=64)


def test_a_grid_that_depends_on_memory_is_refused():
    rows = cast(load(Buffer("count", "i32"), ZERO), "i64")
    kernel = Kernel((X, Y), (N,), (Loop(I, ZERO, rows, "flat", (Store(Y, I, load(X, I)),)),))
    with pytest.raises(KernelError, match="depends on parameters"):
        forms.groups(kernel, {"n": 3}, forms.plain(kernel))


def test_local_buffers_share_what_there_is():
    kernel = big(N)
    assert forms.local_capacity(kernel, Form()) == {"kept": (32768 - 1024) // 4}
    assert forms.local_capacity(kernel, Form(width=32)) == {"kept": (32768 - 1024) // 16}
    assert "LOCAL(float, kept, 7936);" in clike.render(kernel, "k", "cuda")
    assert "LOCAL(float, kept, 112);" in clike.render(
        kernel, "k", "cuda", local_sizes={"kept": 100}
    )


def test_names_that_the_text_uses_itself_are_changed():
    taken = [
        Buffer(name, "f32", name == "kernel") for name in ("half", "GROUP", "kernel", "t0", "i")
    ]
    value = load(taken[0], I) + load(taken[1], I) * load(taken[3], I) + load(taken[4], I)
    text = clike.render(flat(Store(taken[2], I, value), buffers=tuple(taken)), "k", "cuda")
    check_cuda(text)
    for name in ("half_2", "GROUP_2", "kernel_2"):
        assert name in text
