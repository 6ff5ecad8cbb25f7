"""Random kernels: compiled code and the interpreter agree to the last bit.

Floats are small integers, halves of them, NaN and inf, and no two of them are multiplied: so every
result is exact, and the printer's freedom to fuse a product with a sum can't show.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_running import compiled, launch

from tensorlogic.devices.objects import host
from tensorlogic.kernels import interpret
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import (
    Buffer,
    Fold,
    Kernel,
    Loop,
    Store,
    binary,
    cast,
    const,
    index,
    load,
    param,
    select,
    unary,
    var,
)

ROWS, N = param("rows"), param("n")
R, J, K, L = (index(name) for name in "rjkl")
ZERO = const(0, "i64")
HALF, INT, FLAG = Buffer("half", "f16"), Buffer("int", "i32"), Buffer("flag", "bool")
INPUTS = {"f32": HALF, "i32": INT, "bool": FLAG}
CONSTANTS = {
    "f32": st.sampled_from([0.0, 1.0, -2.0, 0.5, math.inf, math.nan]),
    "i32": st.sampled_from([0, 1, -1, 3, -7, 2**31 - 1, -(2**31)]),
    "bool": st.booleans(),
}


def addresses(at):
    """Along the row, across it, backwards, the same for all lanes, or wherever a load says."""
    inside = binary("irem", cast(load(INT, R * N + at), "i64"), 5) + 4
    return [R * N + at, at * ROWS + R, R * N + (N - 1 - at), R, inside]


@st.composite
def expressions(draw, dtype, at, extra=(), depth=4):
    """An expression of a type; `at` is the index inside, `extra` are variables it may use."""
    again = lambda t: draw(expressions(t, at, extra, depth - 1))  # noqa: E731
    kind = draw(st.integers(0, 3 if depth == 0 else 12))
    if kind == 0:
        return const(draw(CONSTANTS[dtype]), dtype)
    if kind <= 3:
        known = [v for v in extra if v.dtype == dtype]
        where = draw(st.sampled_from([None, None, at < 3, (at & 1).eq(0)]))
        places = [load(INPUTS[dtype], a, where) for a in addresses(at)]
        return draw(st.sampled_from(places + known * 3))
    if kind == 4:
        return select(again("bool"), again(dtype), again(dtype))
    if dtype == "bool":
        other = draw(st.sampled_from(["f32", "i32", "bool"]))
        if kind <= 7:
            names = ["eq", "ne", "lt", "le"] if other != "bool" else ["eq", "ne"]
            return binary(draw(st.sampled_from(names)), again(other), again(other))
        if kind == 8:
            return cast(again(other), "bool")
        if kind == 9:
            return unary("not", again("bool"))
        return binary(draw(st.sampled_from(["and", "or", "xor"])), again("bool"), again("bool"))
    if dtype == "i32":
        if kind == 5:
            return cast(again(draw(st.sampled_from(["f32", "bool"]))), "i32")
        if kind == 6:
            return unary(draw(st.sampled_from(["neg", "abs", "not"])), again("i32"))
        if kind == 7:
            return cast(draw(st.sampled_from([at * 3 - R, N - at, R])), "i32")
        names = ["add", "sub", "mul", "min", "max", "idiv", "irem", "and", "xor", "shl", "shr"]
        return binary(draw(st.sampled_from([*names, "sar", "mulhi"])), again("i32"), again("i32"))
    if kind == 5:
        return cast(binary("and", again("i32"), 63), "f32")
    if kind <= 7:
        names = ["neg", "abs", "floor", "ceil", "trunc", "rint"]
        return unary(draw(st.sampled_from(names)), again("f32"))
    if kind == 8:
        return again("f32") * draw(st.sampled_from([0.5, 2.0, -1.0]))
    return binary(draw(st.sampled_from(["add", "sub", "min", "max"])), again("f32"), again("f32"))


IDENTITY = {
    "i32": {"add": 0, "xor": 0, "min": 2**31 - 1, "max": -(2**31)},
    "f32": {"min": math.inf, "max": -math.inf},
    "bool": {"and": True, "or": False, "xor": False},
}


def fold(draw, name, at, stop, kind, value, body=()):
    """A fold of some operation that suits the value's type, and its result."""
    op = draw(st.sampled_from(sorted(IDENTITY[value.dtype])))
    acc, left, right = (var(name + side, value.dtype) for side in ("", "_left", "_right"))
    init = const(IDENTITY[value.dtype][op], value.dtype)
    step, merge = binary(op, acc, value), binary(op, left, right)
    return Fold(at, ZERO, stop, kind, (acc,), (init,), (step,), (left,), (right,), (merge,), body)


@st.composite
def kernels(draw):
    """For each row a fold, in lanes or not, that also stores; then a loop, in lanes or not, with a
    fold inside whose length may depend on the lane, that uses both results."""
    types, kinds = st.sampled_from(sorted(INPUTS)), st.sampled_from(["vector", "serial"])
    out = {t: Buffer("out_" + t, INPUTS[t].dtype, True) for t in INPUTS}
    first, second = draw(types), draw(types)
    aside = Store(out[first], R * N + J, draw(expressions(first, J)))
    element = draw(expressions(draw(types), J))
    row = fold(draw, "row", J, N, draw(kinds), element, () if first == second else (aside,))

    limit = draw(st.sampled_from([binary("min", N, 3), binary("min", N, K & 3)]))
    element = draw(expressions(draw(types), L, depth=2))
    if element.dtype != "bool":
        element = binary("max", element, draw(expressions(element.dtype, K, row.acc, 1)))
    inner = fold(draw, "inner", L, limit, "serial", element)
    value = draw(expressions(second, K, (*row.acc, *inner.acc)))
    guard = draw(st.sampled_from([None, K.ne(2)]))
    place = draw(st.sampled_from([R * N + K, K * ROWS + R]))
    store = Store(out[second], place, value, guard)
    columns = Loop(K, ZERO, N, draw(kinds), (inner, store))
    body = (Loop(R, ZERO, ROWS, "parallel", (row, columns)),)
    return Kernel((HALF, INT, FLAG, *out.values()), (ROWS, N), body)


@settings(max_examples=60, deadline=None)
@given(kernels(), st.integers(1, 3), st.sampled_from([1, 3, 16, 37, 70]))
def test_random_kernels_are_compiled_right(kernel, rows, n):
    check_kernel(kernel)
    rng = np.random.default_rng(n)
    size = max(rows * n, 9)
    halfs = rng.integers(-20, 20, size) / 2
    halfs[rng.integers(0, size, 3)] = [math.nan, math.inf, -math.inf]
    buffers = {
        "half": halfs.astype(np.float16),
        "int": rng.integers(-40, 40, size).astype(np.int32),
        "flag": rng.integers(0, 2, size).astype(np.bool_),
        "out_f32": np.zeros(size, np.float16),
        "out_i32": np.zeros(size, np.int32),
        "out_bool": np.zeros(size, np.bool_),
    }
    params = {"rows": rows, "n": n}
    expected = {name: a.copy() for name, a in buffers.items()}
    interpret.run(kernel, expected, params)
    for lanes in {4, host().lanes}:
        function = compiled({"k": (kernel, lanes)})["k"]
        found = launch(function, kernel, buffers, params, [(0, rows)])
        for name, a in expected.items():
            np.testing.assert_array_equal(found[name], a, f"{name} with {lanes} lanes")
