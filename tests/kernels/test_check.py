"""The checker accepts a well-formed kernel and names the rule that a malformed one breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_examples import softmax

from tensorlogic.kernels.check import KernelError, check_expr, check_kernel
from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Store,
    bitcast,
    cast,
    const,
    fma,
    index,
    load,
    param,
    select,
    unary,
    var,
)

X, OUT = Buffer("x", "f16"), Buffer("out", "f16", True)
STATUS = Buffer("status", "i32", True)
N, ZERO, I, J = param("n"), const(0, "i64"), index("i"), index("j")
ONE = const(1.0, "f32")
ACC, LEFT, RIGHT = var("acc", "f32"), var("left", "f32"), var("right", "f32")
STORE = Store(OUT, I, load(X, I))
FOLD = Fold(
    J, ZERO, N, "vector", (ACC,), (ONE,), (ACC * load(X, J),), (LEFT,), (RIGHT,), (LEFT * RIGHT,)
)


def kernel(*body, kind="parallel", buffers=(X, OUT, STATUS), params=(N,)):
    return Kernel(buffers, params, (Loop(I, ZERO, N, kind, body),))


def raw(op, dtype, *args, attr=None):
    return Expr(op, dtype, args, attr)


INT, WIDE, TRUE = const(1, "i32"), const(1, "i64"), const(True, "bool")

EXPRESSIONS = {
    "not a value type": const(1, "u8"),
    "a leaf has no arguments": raw("const", "f32", ONE, attr=1),
    "an index is i64": raw("index", "i32", attr="i"),
    "not a memory type": raw("load", "f32", I, attr=Buffer("h", "f8", size=WIDE)),
    "a load has its buffer's loaded type": raw("load", "i32", I, attr=X),
    "a load takes an i64 and a guard": load(X, INT),
    "a float function": unary("exp", INT),
    "a number": unary("abs", TRUE),
    "a bool or an integer": unary("not", ONE),
    "two numbers of a type": raw("add", "f32", ONE, INT),
    "div is for floats": INT / INT,
    "two integers": ONE & ONE,
    "mulhi is for i32": raw("mulhi", "i64", WIDE, WIDE),
    "two values of one type": raw("lt", "bool", ONE, INT),
    "a comparison is a bool": raw("lt", "i32", ONE, ONE),
    "select(bool, T, T)": select(INT, ONE, ONE),
    "three floats": fma(INT, INT, INT),
    "one value": raw("cast", "f32", ONE, ONE),
    "equal sizes": bitcast(ONE, "i64"),
    "unknown op": raw("cbrt", "f32", ONE),
}

KERNELS = {
    "a param twice": kernel(STORE, params=(N, N)),
    "a buffer twice": kernel(STORE, buffers=(X, OUT, OUT)),
    "a store into a buffer that is not marked written": kernel(Store(X, I, load(X, I))),
    "a kernel has one parallel range": Kernel((X, OUT), (N,), (STORE,)),
    "the parallel range stands last": Kernel(
        (X, OUT, STATUS), (N,), (*kernel(STORE).body, Check(STATUS, ZERO, TRUE))
    ),
    "out of scope": kernel(Store(OUT, J, ONE)),
    "a param that is not an argument": kernel(STORE, params=()),
    "a buffer that is not an argument": kernel(STORE, buffers=(OUT,)),
    "unknown kind": Kernel((), (), (Loop(I, ZERO, WIDE, "parallel", (Loop(J, I, I, "odd", ()),)),)),
    "a loop runs over an index": kernel(Loop(var("j", "i64"), ZERO, N, "serial", ())),
    "an index twice": kernel(Loop(I, ZERO, N, "serial", ())),
    "a vector loop inside another": kernel(Loop(J, ZERO, N, "vector", ()), kind="flat"),
    "an unrolled loop has constant bounds": kernel(Loop(J, ZERO, N, "unrolled", ())),
    "accumulators": kernel(replace(FOLD, init=())),
    "a new var": kernel(FOLD, replace(FOLD)),
    "one type": kernel(replace(FOLD, init=(INT,))),
    "a count for each part": Kernel((), (N,), (Split(I, (N, N), ((),)),)),
    "a store of the buffer's type": kernel(Store(OUT, I, INT)),
    "an address is i64": kernel(Store(OUT, INT, ONE)),
    "a check is a bool": kernel(Check(STATUS, ZERO, INT)),
    "status is an argument": kernel(Check(STATUS, ZERO, TRUE), buffers=(X, OUT)),
    "unknown statement": kernel("return"),
}


def test_well_formed_kernels_pass():
    check_kernel(softmax().kernel)
    check_kernel(kernel(FOLD, Barrier(), Store(OUT, I, ACC)))
    check_kernel(kernel(Check(STATUS, ZERO, cast(load(X, I), "bool"))))


@pytest.mark.parametrize("rule", EXPRESSIONS)
def test_malformed_expressions_are_rejected(rule):
    with pytest.raises(KernelError) as caught:
        check_expr(EXPRESSIONS[rule])
    assert str(caught.value).startswith(rule + ": ")


@pytest.mark.parametrize("rule", KERNELS)
def test_malformed_kernels_are_rejected(rule):
    with pytest.raises(KernelError) as caught:
        check_kernel(KERNELS[rule])
    assert rule in str(caught.value)
