"""Lines stored as columns of local memory: tiles, what is left of lines and of the lines."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_running import compiled, launch

from tensorlogic.codegen.llvm import render
from tensorlogic.devices.objects import host
from tensorlogic.kernels.ir import Buffer, Kernel, Loop, Store, const, index, load, param

SIDE = 40
WIDTHS = sorted({4, 8, host().lanes})
ROOMS = [(40, 40), (32, 16), (33, 17), (16, 5), (5, 16), (1, 40), (0, 8), (-8, 40), (40, -20)]


def zero():
    return const(0, "i64")


@cache
def kernel(dtype):
    """out[y, x] = a[x, y] through a square, for x < wide and y < high."""
    a, out = Buffer("a", dtype), Buffer("out", dtype, True)
    square = Buffer("square", "i32" if dtype == "i32" else "f32", True, const(SIDE * SIDE, "i64"))
    r, x, y = index("r"), index("x"), index("y")
    wide, high = param("wide"), param("high")
    line = Loop(y, zero(), high, "vector", (Store(square, y * SIDE + x, load(a, x * SIDE + y)),))
    column = Loop(
        x, zero(), wide, "vector", (Store(out, y * SIDE + x, load(square, y * SIDE + x)),)
    )
    body = (Loop(x, zero(), wide, "serial", (line,)), Loop(y, zero(), high, "serial", (column,)))
    return Kernel((a, out), (wide, high), (Loop(r, zero(), const(1, "i64"), "parallel", body),))


@cache
def functions():
    return compiled({f"{t}_{n}": (kernel(t), n) for t in ("f16", "f32", "i32") for n in WIDTHS})


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("dtype", ["f16", "f32", "i32"])
def test_every_room(dtype, lanes):
    type_ = {"f16": np.float16, "f32": np.float32, "i32": np.int32}[dtype]
    a = np.arange(SIDE * SIDE).astype(type_)
    for wide, high in ROOMS:
        given = {"a": a, "out": np.full(SIDE * SIDE, -1, type_)}
        function = functions()[f"{dtype}_{lanes}"]
        found = launch(function, kernel(dtype), given, {"wide": wide, "high": high}, [(0, 1)])
        want = np.full((SIDE, SIDE), -1, type_)
        w, h = max(wide, 0), max(high, 0)
        want[:h, :w] = a.reshape(SIDE, SIDE)[:w, :h].T
        np.testing.assert_array_equal(found["out"].reshape(SIDE, SIDE), want, f"{wide} x {high}")


def test_tiles_are_made_where_words_are_stored_as_columns():
    assert render(kernel("f32"), "k", 16).count("shufflevector <16 x i32>") >= 64
    assert "shufflevector <4 x i32>" in render(kernel("f16"), "k", 4)
