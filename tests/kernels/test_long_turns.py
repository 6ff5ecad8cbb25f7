"""Loops whose turns are long: their text stands once, for whole vectors and for the rest."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_examples import ZERO, I, N, flat, fold, parallel
from kernel_running import compiled, launch

from tensorlogic.codegen.llvm import render
from tensorlogic.devices.objects import host
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.interpret import run
from tensorlogic.kernels.ir import Buffer, Check, Expr, Kernel, Store, const, fma, load

WIDTHS = sorted({8, host().lanes})
SIZES = (0, 1, 15, 16, 17, 31, 32, 45)
TERMS = 40


def chain(x: Expr) -> Expr:
    """Two operations for each term."""
    for i in range(TERMS):
        x = fma(x, 0.5, 1.0 / (i + 1)) - 0.25
    return x


@cache
def elementwise(dtype: str, checked: bool) -> Kernel:
    """x[i] = chain(x[i]), in place; elements from 3 on may be counted."""
    x, status = Buffer("x", dtype, True), Buffer("status", "i32", True)
    value = load(x, I)
    body = [Store(x, I, chain(value))]
    if checked:
        body.insert(0, Check(status, const(1, "i64"), value < 3.0))
    return Kernel((x, *((status,) if checked else ())), (N,), flat(*body))


@cache
def summed() -> Kernel:
    """out[0] = sum of chain(x[i])."""
    x, out = Buffer("x", "f16"), Buffer("out", "f32", True)
    total, found = fold("total", "add", 0.0, I, chain(load(x, I)))
    body = parallel(total, Store(out, ZERO, found), stop=const(1, "i64"))
    return Kernel((x, out), (N,), body)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("dtype", ["f16", "f32", "bf16"])
def test_every_rest_in_place(dtype, checked, lanes):
    kernel = elementwise(dtype, checked)
    check_kernel(kernel)
    (function,) = compiled({f"long_{dtype}_{checked}_{lanes}": (kernel, lanes)}).values()
    type_ = {"f16": np.float16, "f32": np.float32, "bf16": np.uint16}[dtype]
    for n in SIZES:
        x = np.arange(n) / 8
        bits = x.astype(np.float32).view(np.uint32) >> 16
        given = {"x": (bits if dtype == "bf16" else x).astype(type_)}
        if checked:
            given["status"] = np.zeros(2, np.int32)
        want = {k: v.copy() for k, v in given.items()}
        run(kernel, want, {"n": n})
        found = launch(function, kernel, given, {"n": n}, [(0, n)] if n else [])
        if checked:
            assert found["status"].tolist() == [0, np.count_nonzero(x >= 3)]
        a, b = found["x"], want["x"]
        if dtype == "bf16":
            a, b = ((v.astype(np.uint32) << 16).view(np.float32) for v in (a, b))
        np.testing.assert_allclose(a, b, 1e-2 if dtype == "bf16" else 1e-3, 1e-5, err_msg=str(n))


@pytest.mark.parametrize("lanes", WIDTHS)
def test_every_rest_of_a_sum(lanes):
    kernel = summed()
    check_kernel(kernel)
    (function,) = compiled({f"long_sum_{lanes}": (kernel, lanes)}).values()
    for n in SIZES:
        given = {"x": (np.arange(n) / 8).astype(np.float16), "out": np.zeros(1, np.float32)}
        want = {k: v.copy() for k, v in given.items()}
        run(kernel, want, {"n": n})
        found = launch(function, kernel, given, {"n": n}, [(0, 1)])
        np.testing.assert_allclose(found["out"], want["out"], 1e-5, err_msg=str(n))


def test_a_long_turn_stands_once_where_there_are_masks():
    for kernel in (elementwise("f16", False), summed()):
        assert render(kernel, "k", 16).count("llvm.fma") == TERMS + 1  # and the declaration
        assert render(kernel, "k", 8).count("llvm.fma.v8f32") > TERMS
