"""The GPU texts that the tests of both dialects check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tensorlogic.codegen import clike, forms, gpu_matmul
from tensorlogic.codegen.forms import Form
from tensorlogic.kernels.ir import (
    Buffer,
    Kernel,
    Store,
    cast,
    exprs_of,
    load,
    nodes_of,
    param,
    unary,
    walk,
)
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, M, Matmul, N
from tensorlogic.quants import QUANTS
from tests.kernels.kernel_examples import EXAMPLES
from tests.kernels.samples import SAMPLES


def kernels() -> Iterator[tuple[str, Kernel, Mapping[str, float]]]:
    """Every example kernel that a GPU can hold, with sizes: float64 exists on the CPU alone."""
    for name, sample in SAMPLES.items():
        yield name, sample.kernel, sample.inputs(np.random.default_rng(0), False)[1]
    for make in EXAMPLES:
        example = make()
        exprs = (e for s in walk(example.kernel.body) for e in nodes_of(*exprs_of(s)))
        if all(e.dtype != "f64" for e in exprs):
            yield f"example_{make.__name__}", example.kernel, example.params


def forms_of(kernel: Kernel, sizes: Mapping[str, float]) -> Iterator[tuple[str, Kernel, Form]]:
    """The forms that tests try: for any sizes, and the chosen one with each of its parts changed.

    The chosen one is that of a launch of `sizes`; numbers among them are not known before a run.
    """
    flat = forms.is_flat(kernel)
    for width, index in ((256, "i64"), (32, "i32"), (1024, "i32")):
        if width == 256 or not flat:
            yield f"{width}_{index}", kernel, forms.plain(kernel, width, index)
    known = {p.attr: sizes[p.attr] for p in kernel.params if p.dtype == "i64"}
    printed, form = forms.chosen(kernel, known)
    yield "chosen", printed, form
    if form.pack > 1 and not form.kept:
        yield "turns", printed, replace(form, turns=2)
    if form.kept:
        yield "late", printed, replace(form, early=False)
    if not flat and forms.is_thin(printed) and form.inner is None:
        yield "rows", printed, replace(form, width=32, rows=4)


def texts(dialect: str) -> Iterator[tuple[str, str]]:
    """Each kernel in each form; the plain name is the one with 256 threads and 64-bit addresses."""
    for name, kernel, sizes in kernels():
        for which, printed, form in forms_of(kernel, sizes):
            own = name if which == "256_i64" else f"{name}_{which}"
            yield own, clike.render(printed, own, dialect, form=form)


def matmul(a: str, b: str, a_contiguous: str | None, b_contiguous: str | None) -> Matmul:
    """out = tanh(scale * a @ b + bias), and whether it is positive."""
    bias, out = Buffer("bias", "f16"), Buffer("out", "f16", True)
    sign, scale = Buffer("sign", "bool", True), param("scale", "f32")
    at = (BATCH * M + ROW) * N + COL
    value = ACC * scale + load(bias, COL)
    stores = (Store(out, at, unary("tanh", value)), Store(sign, at, value > cast(M, "f32") * 0.0))
    return Matmul(a, b, a_contiguous, b_contiguous, stores, (bias, out, sign), (scale,))


def windows(dtype: str, padded: bool) -> Matmul:
    """The same of windows of b."""
    spec = replace(matmul(dtype, dtype, "k", None), windows=True)
    fill = param("fill", "f32")
    return replace(spec, fill=fill, params=(*spec.params, fill)) if padded else spec


MATMULS = {
    "f16_k_n": matmul("f16", "f16", "k", "n"),
    "f16_k_k": matmul("f16", "f16", "k", "k"),
    "f16_m_n": matmul("f16", "f16", "m", "n"),
    "f16_m_k": matmul("f16", "f16", "m", "k"),
    "f16_strided": matmul("f16", "f16", None, None),
    "f32_k_n": matmul("f32", "f32", "k", "n"),
    "f16_f32_m_k": matmul("f16", "f32", "m", "k"),
    "bf16_strided": matmul("bf16", "bf16", None, None),
    **{f"{dtype}_windows": windows(dtype, False) for dtype in ("f16", "bf16")},
    **{f"{dtype}_padded": windows(dtype, True) for dtype in ("f16", "bf16", "f32")},
    **{f"f16_{quant}": matmul("f16", quant, "k", "k") for quant in QUANTS},
}


def matmul_text(name: str, dialect: str, tile: gpu_matmul.GpuTile) -> str:
    spec = MATMULS[name]
    if not gpu_matmul.uses_matrix_units(spec):
        tile = gpu_matmul.PLAIN
    return gpu_matmul.render(spec, f"matmul_{name}_{tile.m}", dialect, tile)
