"""The code of products and attention for this processor, and the sizes of their launches."""

from __future__ import annotations

import platform

from tensorlogic.codegen import llvm_matmul
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_attention import attention_kernel, attention_units
from tensorlogic.codegen.llvm_block_matmul import (
    block_libraries,
    block_matmul_kernel,
    block_units,
)
from tensorlogic.codegen.llvm_blocks import BLOCKS
from tensorlogic.codegen.llvm_rows import (
    dot_libraries,
    emit_dot_kernel,
    record_size,
    vectors,
)
from tensorlogic.codegen.llvm_unit import Target
from tensorlogic.codegen.llvm_windows import window_kernel, window_scratch
from tensorlogic.devices.native import host, threads
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Attention, Matmul
from tensorlogic.schedule.emit import Step

Libraries = list[tuple[str, tuple[str, ...]]]
"""Modules, and the functions of each."""


def target() -> Target | None:
    """What quantized blocks are multiplied with; None where their folds are printed as they are."""
    here = host()
    if platform.machine() in ("arm64", "aarch64"):
        return Target(16, arm=True, dot=here.has("dotprod"))
    if all(here.has(f) for f in ("avx512bw", "avx512vl", "avx512vnni")):
        return Target(64, dot=True, permutes=here.has("avx512vbmi"))
    return Target(32) if here.has("avx2") else None


def dot_types() -> frozenset[str]:
    """The quantized types whose rows have a fast product with a vector."""
    return frozenset(BLOCKS) if target() else frozenset()


def source(kernel: Kernel | Matmul | Attention, name: str) -> str:
    """A module with a kernel alone."""
    if isinstance(kernel, Kernel):
        module = Module()
        emit_dot_kernel(module, kernel, name, host().lanes, dot_types())
        return module.text()
    if isinstance(kernel, Attention):
        return attention_kernel(kernel, name, host().lanes)
    if kernel.quantized:
        return block_matmul_kernel(kernel, name, host().lanes, target())
    if kernel.windows:
        return window_kernel(kernel, name, host().lanes)
    return llvm_matmul.matmul_kernel(kernel, name, host().lanes)


def libraries(kernel: Kernel | Matmul | Attention) -> Libraries:
    """The modules that a kernel imports."""
    if isinstance(kernel, Attention):
        return []
    if isinstance(kernel, Matmul):
        if kernel.quantized:
            return block_libraries(kernel, host().lanes, target())
        return llvm_matmul.libraries(kernel, host().lanes)
    by = target()
    return dot_libraries(kernel, dot_types(), by) if by else []


def has_dots(kernel: Kernel) -> bool:
    """Whether each part of a kernel's range rounds vectors to integers first."""
    return bool(vectors(kernel, dot_types()))


def product_units(step: Step) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of the launch of a product or of attention."""
    spec, lanes = step.kernel, host().lanes
    if isinstance(spec, Attention):
        return attention_units(spec, step.sizes(), lanes)
    assert isinstance(spec, Matmul)
    given = (spec, step.problem, step.batch, lanes, threads())
    if spec.quantized:
        return block_units(*given, target())
    work, chunk, bytes_ = llvm_matmul.units(*given)
    return work, chunk, bytes_ + (window_scratch(lanes) if spec.windows else 0)


def scratch(step: Step) -> int:
    """Bytes of local memory that a worker needs for a step."""
    if not isinstance(step.kernel, Kernel):
        return product_units(step)[2]
    numbers = {p.attr: v for p, v in zip(step.all_params, step.params, strict=True)}
    dots = vectors(step.kernel, dot_types()).values()
    return step.scratch + sum(64 + int(evaluate(record_size(d), numbers)) for d in dots)
