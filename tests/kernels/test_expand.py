"""The functions that are written out, through compiled code, against float64."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from kernel_running import compiled, launch

from tensorlogic.devices.objects import host
from tensorlogic.kernels.expand import ERF, EXPANSIONS, expand
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import (
    Buffer,
    Kernel,
    Loop,
    Store,
    const,
    either,
    index,
    load,
    nodes_of,
    param,
    unary,
    var,
)

OPS = tuple(EXPANSIONS)
TRUTH = {op: getattr(np, op) for op in OPS if op != "erf"}
TRUTH["erf"] = lambda x: np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64)
HALFS = np.arange(65536, dtype=np.uint16).view(np.float16)
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan]


def kernel_of(op, dtype):
    x, out, i = Buffer("x", dtype), Buffer("out", dtype, True), index("i")
    store = Store(out, i, unary(op, load(x, i)))
    return Kernel(
        (x, out), (param("n"),), (Loop(i, const(0, "i64"), param("n"), "flat", (store,)),)
    )


@cache
def functions():
    lanes = host().lanes
    names = [(op, dtype) for op in OPS for dtype in ("f16", "f32")]
    return compiled({f"{op}_{dtype}": (kernel_of(op, dtype), lanes) for op, dtype in names})


def compute(op, x):
    dtype = "f16" if x.dtype == np.float16 else "f32"
    given = {"x": x, "out": np.zeros_like(x)}
    ranges = [(0, len(x))]
    function = functions()[f"{op}_{dtype}"]
    return launch(function, kernel_of(op, dtype), given, {"n": len(x)}, ranges)["out"]


def truth(op, x):
    with np.errstate(all="ignore"):
        return TRUTH[op](x.astype(np.float64))


def floats(op):
    """About 300,000 numbers: of any bits, and dense where the function changes."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    scales = np.exp(np.linspace(-20, 20, 50_000))
    dense = [np.linspace(-110, 95, 50_000), np.linspace(-5, 5, 50_000), scales, -scales]
    edges = [*SPECIAL, 88.722, 88.723, 88.73, -87.34, -103.97, 1e-45, -1e-45, 1e-38, 3.4e38]
    chosen = np.concatenate([*dense, edges]).astype(np.float32)
    x = np.concatenate([bits.view(np.float32), chosen])
    if op in ("sin", "cos"):
        return x[~(np.abs(x) > 2.0**30) | np.isinf(x)]
    return x


def steps(halfs):
    """Numbers of halfs in their order, so that neighbours differ by 1."""
    bits = halfs.view(np.int16).astype(int)
    return np.where(bits < 0, -0x8000 - bits, bits)


@pytest.mark.parametrize("op", OPS)
def test_all_halfs_are_rounded_correctly_or_its_neighbour(op):
    with np.errstate(over="ignore"):
        found, expected = compute(op, HALFS), truth(op, HALFS).astype(np.float16)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    assert np.abs(steps(found) - steps(expected))[~nan].max() <= 1
    assert np.array_equal(np.signbit(found)[~nan], np.signbit(expected)[~nan])


@pytest.mark.parametrize("op", OPS)
def test_floats_are_within_4_ulp(op):
    x = floats(op)
    found, exact = compute(op, x), truth(op, x)
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(found)[number], np.signbit(expected)[number])
    finite = np.isfinite(expected)
    ulp = np.spacing(np.abs(expected[finite])).astype(np.float64)
    error = np.abs(found[finite] - exact[finite]) / ulp
    assert error.max() < 2.6, (error.max(), x[finite][error.argmax()])


@pytest.mark.parametrize("op", OPS)
def test_special_values_are_those_of_numpy(op):
    x = np.array([*SPECIAL, -1.0, 1e-45], np.float32)
    found, expected = compute(op, x), truth(op, x).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, 2e-7)


@pytest.mark.parametrize("op", ["sin", "cos"])
def test_sines_of_huge_numbers_stay_in_range(op):
    huge = np.float32(2.0) ** np.arange(30, 128, dtype=np.float32)
    assert np.abs(compute(op, np.concatenate([huge, -huge]))).max() <= 1


@pytest.mark.parametrize("op", OPS)
def test_the_interpreter_evaluates_the_expansion_alike(op):
    x = np.array([*SPECIAL, *np.linspace(-20, 20, 1001)], np.float32)
    found = evaluate(expand(unary(op, var("x", "f32"))), {"x": x})
    np.testing.assert_allclose(found, compute(op, x), 1.3e-7)


@pytest.mark.parametrize("lanes", [host().lanes, min(host().lanes, 8), 1])
def test_the_rough_exponential(lanes):
    """Of every half, and of floats whose exponential is a half: a few units of the 20th bit."""
    kernels = {t: (kernel_of("rough_exp", t), lanes) for t in ("f16", "f32")}
    functions = compiled(kernels)

    def run(x, t):
        given = {"x": x, "out": np.zeros_like(x)}
        return launch(functions[t], kernels[t][0], given, {"n": len(x)}, [(0, len(x))])["out"]

    with np.errstate(over="ignore"):
        found, expected = run(HALFS, "f16"), truth("exp", HALFS).astype(np.float16)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    assert np.abs(steps(found) - steps(expected))[~nan].max() <= 1
    x = np.linspace(-17.5, 11.1, 200_001).astype(np.float32)
    np.testing.assert_allclose(run(x, "f32"), truth("exp", x), 2.0**-19)
    x = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, -200.0, 200.0, -3e38, 3e38], np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(run(x, "f32"), np.exp(x))


def test_the_fine_one_of_two_forms_is_printed():
    x = var("x", "f32")
    assert expand(either(x + 1.0, x + 2.0)).args[1].attr == 1.0


def test_only_the_named_functions_are_expanded_and_sharing_is_kept():
    x = var("x", "f32")
    shared = unary("erf", x)
    both = expand(unary("exp", shared) + shared, ERF)
    ops = [n.op for n in nodes_of(both)]
    assert "erf" not in ops
    assert ops.count("exp") == 2  # one stood there, one is part of erf
    assert both.args[0].args[0] is both.args[1]
    assert expand(x + 1.0, ERF).args[0] is x


def test_a_deep_chain_is_expanded_without_recursion():
    x = var("x", "f32")
    for _ in range(3000):
        x = unary("erf", x) + 1.0
    assert expand(x, ERF).op == "add"
