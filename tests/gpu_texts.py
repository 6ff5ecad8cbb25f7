"""The GPU texts that the tests of both dialects check."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tensorlogic.codegen import clike, gpu_matmul, gpu_quant
from tensorlogic.kernels.ir import (
    Buffer,
    Kernel,
    Store,
    binary,
    cast,
    exprs_of,
    load,
    nodes_of,
    param,
    unary,
    walk,
)
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, BlockMatvec, M, Matmul, N
from tests.kernels.kernel_examples import EXAMPLES
from tests.kernels.samples import SAMPLES


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Every example kernel that a GPU can hold: float64 exists on the CPU alone."""
    for name, sample in SAMPLES.items():
        yield name, sample.kernel
    for make in EXAMPLES:
        kernel = make().kernel
        exprs = (e for s in walk(kernel.body) for e in nodes_of(*exprs_of(s)))
        if all(e.dtype != "f64" for e in exprs):
            yield f"example_{make.__name__}", kernel


def texts(dialect: str) -> Iterator[tuple[str, str]]:
    """Each kernel in each form; the plain name is the one with 256 threads and 64-bit addresses."""
    for (name, kernel), width, index in product(kernels(), (256, 32), ("i64", "i32")):
        own = name if (width, index) == (256, "i64") else f"{name}_{width}_{index}"
        if not (width == 32 and clike.is_flat(kernel)):
            yield own, clike.render(kernel, own, dialect, width=width, index=index)


def matmul(a: str, b: str, a_contiguous: str | None, b_contiguous: str | None) -> Matmul:
    """out = tanh(scale * a @ b + bias), and whether it is positive."""
    bias, out = Buffer("bias", "f16"), Buffer("out", "f16", True)
    sign, scale = Buffer("sign", "bool", True), param("scale", "f32")
    at = (BATCH * M + ROW) * N + COL
    value = ACC * scale + load(bias, COL)
    stores = (Store(out, at, unary("tanh", value)), Store(sign, at, value > cast(M, "f32") * 0.0))
    return Matmul(a, b, a_contiguous, b_contiguous, stores, (bias, out, sign), (scale,))


MATMULS = {
    "f16_k_n": matmul("f16", "f16", "k", "n"),
    "f16_k_k": matmul("f16", "f16", "k", "k"),
    "f16_m_n": matmul("f16", "f16", "m", "n"),
    "f16_m_k": matmul("f16", "f16", "m", "k"),
    "f16_strided": matmul("f16", "f16", None, None),
    "f32_k_n": matmul("f32", "f32", "k", "n"),
    "f16_f32_m_k": matmul("f16", "f32", "m", "k"),
    "bf16_strided": matmul("bf16", "bf16", None, None),
}


def matmul_text(name: str, dialect: str, tile: gpu_matmul.GpuTile) -> str:
    spec = MATMULS[name]
    if not gpu_matmul.uses_matrix_units(spec):
        tile = gpu_matmul.PLAIN
    return gpu_matmul.render(spec, f"matmul_{name}_{tile.m}", dialect, tile)


def block_matvec(x_dtype: str) -> BlockMatvec:
    """out = relu(w @ x + bias)"""
    bias, out = Buffer("bias", "f32"), Buffer("out", "f32", True)
    value = binary("max", ACC + load(bias, ROW), 0.0)
    return BlockMatvec("q4_0", x_dtype, (Store(out, ROW, value),), (bias, out))


MATVECS = {"q4_0_f16": block_matvec("f16"), "q4_0_f32": block_matvec("f32")}


def matvec_text(name: str, dialect: str, rows: int = gpu_quant.ROWS, index: str = "i64") -> str:
    return gpu_quant.render(MATVECS[name], f"matvec_{name}", dialect, rows, index=index)
