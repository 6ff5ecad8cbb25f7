"""Where the printer puts barriers: wherever a thread may read what another wrote, nowhere else."""

from __future__ import annotations

import re

import pytest

from tensorlogic.codegen import clike
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.ir import (
    Buffer,
    Check,
    Expr,
    Kernel,
    Loop,
    Store,
    binary,
    const,
    index,
    load,
    param,
)
from tests.kernels.samples import SAMPLES

X, Y = Buffer("x", "f32"), Buffer("y", "f32", True)
ROWS, COLS = param("rows"), param("cols")
R, I, J, K, T = (index(n) for n in "rijkt")
ZERO = const(0, "i64")
KEPT = Buffer("kept", "f32", True, const(256, "i64"))


def vector(at: Expr, *body: Store, start: Expr = ZERO) -> Loop:
    return Loop(at, start, COLS, "vector", body)


def rows(*body) -> Kernel:
    return Kernel((X, Y), (ROWS, COLS), (Loop(R, ZERO, ROWS, "parallel", body),))


def barriers(kernel: Kernel, width: int = 256) -> list[str]:
    """What happens in order: barriers, loops and stores outside of loops."""
    text = clike.render(kernel, "k", "metal", width=width).split("return;\n")[-1]
    found = re.findall(r"(\w+_BARRIER\w*|for \(index_t \w+|^    if \(THREAD == 0\))", text, re.M)
    return [f.replace("for (index_t ", "").replace("    if (THREAD == 0)", "store") for f in found]


FILL = vector(I, Store(KEPT, I, load(X, I)))
CASES = {
    "each thread its own": ((FILL, vector(J, Store(Y, J, load(KEPT, J)))), ["i", "j"]),
    "a neighbour's": (
        (FILL, vector(J, Store(Y, J, load(KEPT, J + 1)))),
        ["i", "GROUP_BARRIER", "j"],
    ),
    "turned around": (
        (FILL, vector(J, Store(Y, J, load(KEPT, COLS - J)))),
        ["i", "GROUP_BARRIER", "j"],
    ),
    "another start, other threads": (
        (FILL, vector(J, Store(Y, J, load(KEPT, J)), start=const(1, "i64"))),
        ["i", "GROUP_BARRIER", "j"],
    ),
    "two places, one thread's neighbour": (
        (
            vector(I, Store(KEPT, binary("idiv", I, 2), load(X, I))),
            vector(J, Store(Y, J, load(KEPT, J))),
        ),
        ["i", "GROUP_BARRIER", "j"],
    ),
    "all read one": ((FILL, Store(Y, R, load(KEPT, ZERO))), ["i", "GROUP_BARRIER", "store"]),
    "one writes, all read": (
        (Store(KEPT, ZERO, load(X, R)), vector(J, Store(Y, J, load(KEPT, ZERO)))),
        ["store", "GROUP_BARRIER", "j"],
    ),
    "through device memory": (
        (vector(I, Store(Y, I, load(X, I))), vector(J, Store(Y, J, load(Y, COLS - J)))),
        ["i", "GROUP_BARRIER_DEVICE", "j"],
    ),
    "written again by others": (
        (vector(I, Store(Y, I, load(X, I))), vector(J, Store(Y, J + 1, load(X, J)))),
        ["i", "GROUP_BARRIER_DEVICE", "j"],
    ),
    "turns of a loop": (
        (
            Loop(
                *(T, ZERO, const(3, "i64"), "serial"),
                (FILL, vector(J, Store(Y, J, load(KEPT, J + 1)))),
            ),
        ),
        ["t", "GROUP_BARRIER", "i", "GROUP_BARRIER", "j"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_barriers_stand_where_they_are_due(case):
    body, expected = CASES[case]
    assert barriers(rows(*body)) == expected


def test_a_row_of_one_simdgroup_waits_for_itself_alone():
    body, _ = CASES["a neighbour's"]
    assert barriers(rows(*body), 32) == ["i", "SIMD_BARRIER", "j"]


def test_two_folds_share_no_memory_without_a_barrier():
    """Parts of one fold are read while those of the next are written, so these are others."""
    text = clike.render(SAMPLES["softmax"].kernel, "k", "metal")
    assert text.count("GROUP_BARRIER();") == 2
    assert "part_f32_0[SIMDGROUP] = s" in text
    assert "part_f32_1[SIMDGROUP] = m" in text


def test_the_accumulator_of_attention_needs_no_barrier():
    text = clike.render(SAMPLES["attention"].kernel, "k", "metal")
    assert text.count("GROUP_BARRIER();") == 2  # both of the merged dot product


def test_effects_before_the_range():
    flat = Loop(I, ZERO, COLS, "flat", (Store(Y, I, load(X, I)),))
    status = Buffer("status", "i32", True)
    check = Check(status, ZERO, COLS <= 5)
    text = clike.render(Kernel((X, Y, status), (COLS,), (check, flat)), "k", "metal")
    assert "if (GROUP == 0 && THREAD == 0 && !(cols <= 5)) COUNT(status, 0);" in text
    with pytest.raises(KernelError, match="before the parallel range"):
        clike.render(Kernel((X, Y), (COLS,), (Store(Y, ZERO, load(X, ZERO)), flat)), "k", "metal")
