"""The emitter of LLVM IR: what it writes is valid and does what its structure says."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tensorlogic.codegen.emit import Module, constant, f32, suffix, vector
from tensorlogic.devices.objects import compile_module


def test_loops_and_branches_carry_values():
    module = Module()
    f = module.function("collatz", [("i64", "n")], "i64")
    best = f.alloca("i64")
    f.store("i64", "0", best)
    with f.loop(0, 200, carry=[("i64", "%n"), ("i64", "0")]) as turn:
        value, steps = turn.carried
        with f.when(f.icmp("sgt", "i64", value, 1)) as running:
            odd = f.icmp("eq", "i64", f.op("and", "i64", value, "1"), 1)
            with f.when(odd) as branch:
                up = f.add(f.mul(value, 3), 1)
                branch.otherwise()
                down = f.op("lshr", "i64", value, "1")
            following, counted = branch.merge("i64", up, down), f.add(steps, 1)
            f.store("i64", f.smax(f.load("i64", best), following), best)
        turn.next = [
            running.merge("i64", following, value),
            running.merge("i64", counted, steps),
        ]
    peak = f.mul(f.load("i64", best), 1000)
    f.ret("i64", f.add(peak, turn.carried[1]))
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(
        compile_module(module.text(), ["collatz"])["collatz"]
    )
    assert [run(n) for n in (1, 2, 27)] == [0, 1_001, 9_232_111]


def test_vectors_and_intrinsics():
    module = Module()
    f = module.function("scale", [("ptr", "x"), ("float", "factor")])
    type_ = vector("float", 4)
    x = f.load(type_, "%x", 4)
    doubled = f.op("fadd", type_, x, f.splat("float", 4, "%factor"))
    sums = f.intrinsic("fma", type_, doubled, constant("float", 4, f32(0.5)), x)
    f.store(type_, f.shuffle(type_, sums, x, [1, 0, 7, 6]), "%x", 4)
    f.ret()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_float)(
        compile_module(module.text(), ["scale"])["scale"]
    )
    values = np.array([1, 2, 3, 4], np.float32)
    run(values.ctypes.data, 10)
    assert values.tolist() == [8, 6.5, 4, 3]


def test_names_of_intrinsic_types():
    names = {"<8 x float>": "v8f32", "half": "f16", "<4 x i64>": "v4i64", "i32": "i32", "ptr": "p0"}
    assert {t: suffix(t) for t in names} == names


def test_a_float_constant_is_rounded_to_float():
    assert f32(0.1) == "0x3FB99999A0000000"


def test_a_declaration_that_contradicts_another_is_an_error():
    module = Module()
    module.declare("i64", "f", ["i64"])
    module.declare("i64", "f", ["i64"])
    with pytest.raises(ValueError, match="@f is declared twice"):
        module.declare("i32", "f", ["i64"])
