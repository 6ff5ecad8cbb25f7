"""Every kernel that the public functions lead to is printed for Metal and CUDA and is well formed.

The graphs are those of the conformance tables, so that a new row or function is printed too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.devices.cpu_kernels import kernel_name
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Attention, Matmul
from tensorlogic.ops import OPS
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.emit import Step
from tests.conformance.cases import CASES
from tests.conformance.harness import numbers, public
from tests.conformance.test_quantized import weight
from tests.cuda.checker import check_cuda
from tests.metal.checker import check_metal
from tests.plans.printed import steps_of, together

CHECKS = {"metal": check_metal, "cuda": check_cuda}


def graphs() -> list[tl.Tensor]:
    """One unevaluated result for each row and case, by dtype."""
    rng = np.random.default_rng(0)
    results: list[tl.Tensor] = []
    for op in OPS.values():
        for dtype in ("float16", "float32", "int32", "bool"):
            arrays = [numbers(rng, (6, 5), dtype) for _ in range(op.arity)]
            if op.name == "where":
                arrays[0] = numbers(rng, (6, 5), "bool")
            try:
                results.append(public(op)(*[tl.tensor(a, dtype=a.dtype) for a in arrays]))
            except tl.DTypeError:
                continue  # the row does not take this dtype, as the promotion tests check
    for case in CASES:
        bounds = dict(case.ints)
        for dtype in case.dtypes:
            arrays = [
                rng.integers(-bounds[i], bounds[i], s).astype(np.int32)
                if i in bounds
                else numbers(rng, s, dtype)
                for i, s in enumerate(case.shapes)
            ]
            args = [None if a is None else tl.tensor(a, dtype=a.dtype) for a in arrays]
            result = case.call(*args)
            results += result if isinstance(result, tuple) else (result,)
    return results + [result for storage in QUANTS for result in of_quantized(storage)]


def of_quantized(storage: str) -> list[tl.Tensor]:
    """What a model does with weights of a quantized type: products, lookups, slices, values."""
    w, _ = weight(storage)
    ids = tl.tensor([1, 0], dtype="int32")
    few, many = tl.ones([1, w.shape[1]]), tl.ones([17, w.shape[1]])
    products = [tl.linear(few, w), tl.linear(many, w), many[:, :6] @ w]
    return [*products, tl.embedding(ids, w), w[1:5, 3:40] * 2, w.T + 0, w.dequantize(), w.sum()]


@cache
def kernels() -> tuple[dict[str, Kernel], dict[str, Step]]:
    fused: dict[str, Kernel] = {}
    families: dict[str, Step] = {}
    for result in graphs():
        for text, step in steps_of(result).items():
            if isinstance(step.kernel, Kernel):
                fused[text] = step.kernel
            else:
                families[text] = step
    return fused, families


@pytest.mark.parametrize("width", [256, 32])
@pytest.mark.parametrize("dialect", CHECKS)
def test_fused_kernels(dialect: str, width: int) -> None:
    fused, _ = kernels()
    assert len(fused) > 100
    for text in together(fused.items(), dialect, width):
        CHECKS[dialect](text)


@pytest.mark.parametrize("dialect", CHECKS)
def test_families(dialect: str) -> None:
    _, families = kernels()
    assert {type(step.kernel) for step in families.values()} == {Attention, Matmul}
    for text, step in families.items():
        launch = gpu_launch(step.kernel, kernel_name(text), dialect, step.sizes())
        CHECKS[dialect](launch.source)
