"""What the LLVM printer writes: for other processors too, hoisted, and usable by families."""

from __future__ import annotations

import ctypes
import re

import llvmlite.binding as llvm
import numpy as np
import pytest
from kernel_examples import EXAMPLES, ZERO, N, R, flat, fold, layer_norm, parallel, softmax, vector

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm import Emitter, emit_kernel, render
from tensorlogic.devices.objects import compile_module
from tensorlogic.kernels.ir import Buffer, Kernel, Store, index, load, param, var

TARGETS = {
    "haswell": ("x86_64-unknown-linux-gnu", 8),
    "skylake-avx512": ("x86_64-unknown-linux-gnu", 16),
    "apple-m1": ("arm64-apple-macosx", 4),
}


def assembly(text, processor):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TARGETS[processor][0])
    machine = target.create_target_machine(cpu=processor, opt=2, reloc="pic", codemodel="small")
    return machine.emit_assembly(llvm.parse_assembly(text))


def calls(text):
    """The functions that assembly calls, or jumps to at its end."""
    found = re.findall(r"^\s*(?:callq?|jmp|bl|b)\s+([A-Za-z_]\w*)", text, re.MULTILINE)
    return [name for name in found if not name.startswith("LBB")]


@pytest.mark.parametrize("processor", TARGETS)
def test_no_library_is_called_on(processor):
    module = Module()
    for make in EXAMPLES:
        emit_kernel(module, make().kernel, make.__name__, TARGETS[processor][1])
    assert calls(assembly(module.text(), processor)) == []


def test_a_library_call_would_be_seen():
    text = "define half @f(double %x) {\n  %h = fptrunc double %x to half\n  ret half %h\n}\n"
    assert calls(assembly(text, "haswell")) == ["__truncdfhf2"]


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_no_flag_that_loses_nan_or_inf(lanes):
    for make in EXAMPLES:
        text = render(make().kernel, "k", lanes)
        assert not re.search(r"\b(fast|nnan|ninf|arcp|afn|reassoc)\b", text)


def test_uniform_work_stands_outside_the_loops():
    text = render(softmax().kernel, "k", 8)
    assert text.count("fdiv") == 1  # 1 / total, for the vectors and for the rest
    text = render(layer_norm().kernel, "k", 8)
    assert text.count("fdiv") == 3  # the mean, the variance, 1 / deviation
    assert text.count("llvm.sqrt.f32(") == 2  # declared and called once


def test_a_load_that_turns_share_waits_until_there_is_a_turn():
    x, out = Buffer("x", "f32"), Buffer("out", "f32", True)
    total, s = fold("s", "add", 0.0, index("j"), load(x, R) + 1.0, "serial")
    text = render(Kernel((x, out), (param("rows"), N), parallel(total, Store(out, R, s))), "k", 8)
    guarded = re.search(
        r"br i1 %v\d+, label %then\d+, .*?(load float).*?phi float", text, re.DOTALL
    )
    assert guarded
    assert text.count("load float") == 1


def test_a_long_chain_does_not_recurse():
    x, out = Buffer("x", "f16"), Buffer("out", "f16", True)
    i = index("i")
    value = load(x, i)
    for _ in range(20_000):
        value = value + 1.0
    assert (
        render(Kernel((x, out), (N,), flat(Store(out, i, value))), "k", 8).count("fadd") == 40_000
    )


def test_a_family_writes_its_epilogue_with_its_own_values():
    """out[row, col] = acc * 2 + bias[col] for 4 columns at once, acc a vector in a register."""
    bias, out = Buffer("bias", "f16"), Buffer("out", "f32", True)
    row, col, acc = index("row"), index("col"), var("acc", "f32")
    store = Store(out, row * 10 + col, acc * 2.0 + load(bias, col))
    module = Module()
    f = module.function("epilogue", [("ptr", "sums"), ("ptr", "bias"), ("ptr", "out")])
    emitter = Emitter(f, 4, {bias: "%bias", out: "%out"}, {out})
    emitter.bind(row, "1")
    sums = f.load("<4 x float>", "%sums", 4)
    with emitter.scope(4, varying=[acc], steps=[col]):
        emitter.bind(col, "3")
        emitter.bind(acc, sums, 4)
        emitter.block([store])
    f.ret()
    address = compile_module(module.text(), ["epilogue"])["epilogue"]
    given = [
        np.arange(4, dtype=np.float32),
        np.arange(10, dtype=np.float16) * 10,
        np.zeros(20, np.float32),
    ]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(address)(*(a.ctypes.data for a in given))
    assert given[2].tolist() == [0.0] * 13 + [30.0, 42.0, 54.0, 66.0] + [0.0] * 3


def test_an_unbound_name_is_an_error():
    out = Buffer("out", "f32", True)
    kernel = Kernel((out,), (N,), parallel(vector(index("i"), Store(out, ZERO, var("v", "f32")))))
    with pytest.raises(KeyError, match="v is not bound"):
        render(kernel, "k", 8)
