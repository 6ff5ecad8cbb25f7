"""What this processor multiplies with: the code of products, and the sizes of their launches."""

from __future__ import annotations

import platform

from tensorlogic.codegen import llvm_matmul
from tensorlogic.codegen.emit import Module
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
from tensorlogic.devices.native import host, threads
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Matmul
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


def source(kernel: Kernel | Matmul, name: str) -> str:
    """A module with a kernel alone."""
    if isinstance(kernel, Kernel):
        module = Module()
        emit_dot_kernel(module, kernel, name, host().lanes, dot_types())
        return module.text()
    if kernel.quantized:
        return block_matmul_kernel(kernel, name, host().lanes, target())
    return llvm_matmul.matmul_kernel(kernel, name, host().lanes)


def libraries(kernel: Kernel | Matmul) -> Libraries:
    """The modules that a kernel imports."""
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
    """(work, chunk, scratch bytes) of the launch of a product."""
    spec = step.kernel
    assert isinstance(spec, Matmul)
    given = (spec, step.problem, step.batch, host().lanes, threads())
    return block_units(*given, target()) if spec.quantized else llvm_matmul.units(*given)


def scratch(step: Step) -> int:
    """Bytes of local memory that a worker needs for a step."""
    if isinstance(step.kernel, Matmul):
        return product_units(step)[2]
    numbers = {p.attr: v for p, v in zip(step.all_params, step.params, strict=True)}
    dots = vectors(step.kernel, dot_types()).values()
    return step.scratch + sum(64 + int(evaluate(record_size(d), numbers)) for d in dots)
