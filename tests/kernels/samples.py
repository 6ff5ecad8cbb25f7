"""Kernels that between them use every part of the IR, with inputs to run them on.

`SAMPLES` maps a name to a `Sample`; `Sample.inputs(rng, large)` makes the buffers in order (outputs
among them, in their initial state) and the parameters by name. bf16 buffers are uint16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    binary,
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

Inputs = tuple[dict[str, np.ndarray], dict[str, float]]
ZERO = const(0, "i64")
NUMPY = {"f16": "f2", "bf16": "u2", "f32": "f4", "i32": "i4", "bool": "?", "u8": "u1"}


@dataclass(frozen=True)
class Sample:
    kernel: Kernel
    inputs: Callable[[np.random.Generator, bool], Inputs]
    locals: dict[str, int] = field(default_factory=dict)
    """Elements of the local buffers whose size is a parameter."""
    rtol: float = 2e-3
    atol: float = 1e-6


def f32(value: float) -> Expr:
    return const(value, "f32")


def fold_one(
    name: str, i: Expr, stop: Expr, kind: str, op: str, init: float, value: Expr, *body: Stmt
) -> Fold:
    """A fold of one f32 accumulator by a binary op."""
    left, right, acc = var("left", "f32"), var("right", "f32"), var(name, "f32")
    step, merged = binary(op, acc, value), binary(op, left, right)
    return Fold(
        i, ZERO, stop, kind, (acc,), (f32(init),), (step,), (left,), (right,), (merged,), body
    )


def _half(rng: np.random.Generator, size: int) -> np.ndarray:
    """Normal numbers; of a large size, the same million again and again."""
    return np.resize(rng.standard_normal(min(size, 1 << 20)).astype(np.float16), size)


def _bfloat(rng: np.random.Generator, size: int) -> np.ndarray:
    return (_half(rng, size).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


# -- elementwise


def _gelu_chain() -> Sample:
    x, y = Buffer("x", "f16"), Buffer("y", "f16", True)
    n, a, b, c = param("n"), param("a", "f32"), param("b", "f32"), param("c", "f32")
    i = index("i")
    t = fma(load(x, i), a, b)
    gelu = t * 0.5 * (unary("erf", t * math.sqrt(0.5)) + 1.0)
    body = (Loop(i, ZERO, n, "flat", (Store(y, i, gelu * c),)),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        n = 1 << 27 if large else 1003
        buffers = {"x": _half(rng, n), "y": np.zeros(n, np.float16)}
        return buffers, {"n": n, "a": 1.5, "b": -0.25, "c": 0.75}

    return Sample(Kernel((x, y), (n, a, b, c), body), inputs, atol=1e-4)


def _broadcast_pad() -> Sample:
    """out[r, c] = x[r - 1, c - 2] + bias[c] within x, 0 around it."""
    x, bias, out = Buffer("x", "f16"), Buffer("bias", "f32"), Buffer("out", "f32", True)
    rows, cols, wide, total = param("rows"), param("cols"), param("wide"), param("total")
    i = index("i")
    r, c = binary("idiv", i, wide) - 1, binary("irem", i, wide) - 2
    inside = (r >= 0) & (r < rows) & (c >= 0) & (c < cols)
    value = load(x, r * cols + c, inside) + load(bias, c, inside)
    body = (Loop(i, ZERO, total, "flat", (Store(out, i, value),)),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        r, c = (8192, 4096) if large else (7, 33)
        wide, total = c + 5, (r + 3) * (c + 5)
        buffers = {
            "x": _half(rng, r * c),
            "bias": rng.standard_normal(c).astype(np.float32),
            "out": np.ones(total, np.float32),
        }
        return buffers, {"rows": r, "cols": c, "wide": wide, "total": total}

    return Sample(Kernel((x, bias, out), (rows, cols, wide, total), body), inputs)


MATH_OPS = (
    "sqrt",
    "exp",
    "log",
    "sin",
    "cos",
    "tanh",
    "erf",
    "floor",
    "ceil",
    "trunc",
    "rint",
    "abs",
)


def _functions() -> Sample:
    """Each float function of x, one after the other in y."""
    x, y, n, i = Buffer("x", "f32"), Buffer("y", "f32", True), param("n"), index("i")
    v = load(x, i)
    stores = tuple(Store(y, i + n * k, unary(op, v)) for k, op in enumerate(MATH_OPS))
    stores += (Store(y, i + n * len(MATH_OPS), binary("min", v, binary("max", -v, f32(0.5)))),)
    infinite = select(v.eq(math.inf) | v.eq(-math.inf), 4.0, f32(0.0))
    infinite = infinite + select(v < math.inf, 2.0, f32(0.0)) + select(v > -math.inf, 1.0, f32(0.0))
    infinite = (
        infinite + select(v <= -math.inf, 8.0, f32(0.0)) + select(v >= math.inf, 16.0, f32(0.0))
    )
    stores += (Store(y, i + n * (len(MATH_OPS) + 1), infinite),)
    body = (Loop(i, ZERO, n, "flat", stores),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        n = 1 << 22 if large else 3000
        special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 88.0, -104.0, 2.5, -2.5, 3e4]
        x = np.concatenate([rng.standard_normal(n - 11) * 6, special]).astype(np.float32)
        return {"x": x, "y": np.zeros((len(MATH_OPS) + 2) * n, np.float32)}, {"n": n}

    return Sample(Kernel((x, y), (n,), body), inputs, rtol=3e-6, atol=1e-7)


def _integers() -> Sample:
    """int32 and bool arithmetic, shifts, casts that saturate."""
    names = (("a", "i32"), ("b", "i32"), ("f", "f32"), ("mask", "bool"))
    a, b, f, mask = (Buffer(name, dtype) for name, dtype in names)
    out, less, byte = (
        Buffer("out", "i32", True),
        Buffer("less", "bool", True),
        Buffer("byte", "u8", True),
    )
    n, i = param("n"), index("i")
    x, y, m, v = load(a, i), load(b, i), load(mask, i), load(f, i)
    nonzero = select(y.eq(0), 1, y)
    values = (
        x + y,
        x * y - 7,
        binary("idiv", x, nonzero),
        binary("irem", x, nonzero),
        binary("min", x, y) ^ binary("max", x, 3),
        select(m, binary("sar", x, 3), x >> 5) | (y << 2),
        unary("abs", x) & 255,
        -(unary("not", y)),
        cast(v, "i32"),
        cast(m, "i32") + cast(x.ne(0), "i32"),
        bitcast(cast(x, "f32"), "i32"),
        cast(cast(v, "i64") >> 3, "i32"),
    )
    stores = tuple(Store(out, i + n * k, value) for k, value in enumerate(values))
    both = (x < y) & unary("not", m) | v.ne(v) ^ (v <= 2.0)
    body = (Loop(i, ZERO, n, "flat", (*stores, Store(less, i, both), Store(byte, i, x & 511))),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        n = 1 << 20 if large else 513
        numbers = rng.integers(-(2**31), 2**31, (2, n), dtype=np.int64).astype(np.int32)
        f = (rng.standard_normal(n) * 2e9).astype(np.float32)
        f[:4] = np.nan, 3e9, -3e9, 2.75
        buffers = {
            "a": numbers[0],
            "b": numbers[1] >> rng.integers(0, 31, n, dtype=np.int32),
            "f": f,
            "mask": rng.random(n) < 0.5,
            "out": np.zeros(len(values) * n, np.int32),
            "less": np.zeros(n, np.bool_),
            "byte": np.zeros(n, np.uint8),
        }
        return buffers, {"n": n}

    return Sample(Kernel((a, b, f, mask, out, less, byte), (n,), body), inputs, rtol=0, atol=0)


def _gather() -> Sample:
    """Rows of a table by id; an id out of range is counted and reads nothing."""
    ids, table = Buffer("ids", "i32"), Buffer("table", "bf16")
    out, status = Buffer("out", "f16", True), Buffer("status", "i32", True)
    count, rows, width, slot = param("count"), param("rows"), param("width"), param("slot")
    row, j = index("row"), index("j")
    at = cast(load(ids, row), "i64")
    ok = (at >= 0) & (at < rows)
    copy = Loop(
        j, ZERO, width, "vector", (Store(out, row * width + j, load(table, at * width + j, ok)),)
    )
    body = (Loop(row, ZERO, count, "parallel", (Check(status, slot, ok), copy)),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        count, rows, width = (65536, 50000, 1024) if large else (19, 50, 37)
        at = rng.integers(0, rows, count, dtype=np.int32)
        at[2], at[5] = -1, rows
        buffers = {
            "ids": at,
            "table": _bfloat(rng, rows * width),
            "out": np.zeros(count * width, np.float16),
            "status": np.zeros(4, np.int32),
        }
        return buffers, {"count": count, "rows": rows, "width": width, "slot": 2}

    return Sample(Kernel((ids, table, out, status), (count, rows, width, slot), body), inputs)


# -- rows


def _rows(rng: np.random.Generator, large: bool) -> tuple[int, int, np.ndarray]:
    rows, cols = (16384, 4096) if large else (5, 301)
    return rows, cols, _half(rng, rows * cols)


def _softmax() -> Sample:
    x, y = Buffer("x", "f16"), Buffer("y", "f16", True)
    rows, cols, row, j, k, o = (
        param("rows"),
        param("cols"),
        *(index(n) for n in ("row", "j", "k", "o")),
    )
    value = lambda at: load(x, row * cols + at)  # noqa: E731
    m, s = var("m", "f32"), var("s", "f32")
    exp = lambda at: unary("exp", value(at) - m)  # noqa: E731
    store = Store(y, row * cols + o, exp(o) / s)
    body = (
        fold_one("m", j, cols, "vector", "max", -math.inf, value(j)),
        fold_one("s", k, cols, "vector", "add", 0.0, exp(k)),
        Loop(o, ZERO, cols, "vector", (store,)),
    )

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols, x = _rows(rng, large)
        return {"x": x, "y": np.zeros_like(x)}, {"rows": rows, "cols": cols}

    return Sample(Kernel((x, y), (rows, cols), (Loop(row, ZERO, rows, "parallel", body),)), inputs)


def _layer_norm() -> Sample:
    """The mean and the squares in one pass over a row kept in float32, with weight and bias."""
    names = ("x", "weight", "bias")
    x, weight, bias = (Buffer(name, "f16") for name in names)
    y = Buffer("y", "f16", True)
    rows, cols, eps = param("rows"), param("cols"), param("eps", "f32")
    kept = Buffer("kept", "f32", True, cols)
    row, c, j, o = (index(n) for n in ("row", "c", "j", "o"))
    copy = Loop(c, ZERO, cols, "vector", (Store(kept, c, load(x, row * cols + c)),))
    s, q = var("s", "f32"), var("q", "f32")
    left, right = ((var(f"s{d}", "f32"), var(f"q{d}", "f32")) for d in "lr")
    v = load(kept, j)
    sums = Fold(
        *(j, ZERO, cols, "vector", (s, q), (f32(0), f32(0)), (s + v, fma(v, v, q)), left, right),
        (left[0] + right[0], left[1] + right[1]),
    )
    n = cast(cols, "f32")
    mean = s / n
    scale = f32(1.0) / unary("sqrt", q / n - mean * mean + eps)
    value = fma((load(kept, o) - mean) * scale, load(weight, o), load(bias, o))
    body = (copy, sums, Loop(o, ZERO, cols, "vector", (Store(y, row * cols + o, value),)))
    kernel = Kernel(
        (x, weight, bias, y), (rows, cols, eps), (Loop(row, ZERO, rows, "parallel", body),)
    )

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols, x = _rows(rng, large)
        buffers = {
            "x": x,
            "weight": _half(rng, cols),
            "bias": _half(rng, cols),
            "y": np.zeros_like(x),
        }
        return buffers, {"rows": rows, "cols": cols, "eps": 1e-5}

    return Sample(kernel, inputs, {"kept": 4096}, atol=1e-3)


def _reverse() -> Sample:
    """Rows turned around through local memory: each thread reads what another wrote."""
    x, y, cols, rows = Buffer("x", "f32"), Buffer("y", "f32", True), param("cols"), param("rows")
    kept = Buffer("kept", "f32", True, const(512, "i64"))
    row, c, o = index("row"), index("c"), index("o")
    body = (
        Loop(c, ZERO, cols, "vector", (Store(kept, c, load(x, row * cols + c)),)),
        Barrier(),
        Loop(o, ZERO, cols, "vector", (Store(y, row * cols + o, load(kept, cols - 1 - o)),)),
    )

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols = (65536, 512) if large else (6, 500)
        x = rng.standard_normal(rows * cols).astype(np.float32)
        return {"x": x, "y": np.zeros_like(x)}, {"rows": rows, "cols": cols}

    kernel = Kernel((x, y), (rows, cols), (Loop(row, ZERO, rows, "parallel", body),))
    return Sample(kernel, inputs, rtol=0, atol=0)


def _argmax() -> Sample:
    """The first place of each row's greatest value; NaN counts as the greatest."""
    x, out, rows, cols = (
        Buffer("x", "f16"),
        Buffer("out", "i32", True),
        param("rows"),
        param("cols"),
    )
    row, j = index("row"), index("j")
    best, at = var("best", "f32"), var("at", "i64")
    v = load(x, row * cols + j)

    def first(a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
        """The greater of two (value, place) pairs, the lower place where they tie."""
        nan_a, nan_b = a[0].ne(a[0]), b[0].ne(b[0])
        tie = (a[0].eq(b[0]) | (nan_a & nan_b)) & (b[1] < a[1])
        other = tie | unary("not", nan_a) & (nan_b | (a[0] < b[0]))
        return select(other, b[0], a[0]), select(other, b[1], a[1])

    left, right = ((var(f"v{d}", "f32"), var(f"i{d}", "i64")) for d in "lr")
    init = (f32(-math.inf), const(2**31 - 1, "i64"))
    step = first((best, at), (v, j))
    found = Fold(j, ZERO, cols, "vector", (best, at), init, step, left, right, first(left, right))
    body = (Loop(row, ZERO, rows, "parallel", (found, Store(out, row, cast(at, "i32")))),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols, x = _rows(rng, large)
        x = np.round(x)  # many ties
        x[cols + 17] = x[cols + 200] = np.nan
        return {"x": x, "out": np.zeros(rows, np.int32)}, {"rows": rows, "cols": cols}

    return Sample(Kernel((x, out), (rows, cols), body), inputs, rtol=0, atol=0)


def _cumsum() -> Sample:
    """A scan: a serial fold whose body stores; int32."""
    x, y, rows, cols = Buffer("x", "i32"), Buffer("y", "i32", True), param("rows"), param("cols")
    row, j, s = index("row"), index("j"), var("s", "i32")
    left, right = var("l", "i32"), var("r", "i32")
    at = row * cols + j
    total = s + load(x, at)
    scan = Fold(
        *(j, ZERO, cols, "serial", (s,), (const(0, "i32"),), (total,), (left,), (right,)),
        (left + right,),
        (Store(y, at, total),),
    )
    body = (Loop(row, ZERO, rows, "parallel", (scan,)),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols = (65536, 256) if large else (9, 40)
        x = rng.integers(-(2**30), 2**30, rows * cols, dtype=np.int32)
        return {"x": x, "y": np.zeros_like(x)}, {"rows": rows, "cols": cols}

    return Sample(Kernel((x, y), (rows, cols), body), inputs, rtol=0, atol=0)


def _split() -> Sample:
    """Two matrices of different types times one vector, in one grid."""
    a, b, x = Buffer("a", "f16"), Buffer("b", "bf16"), Buffer("x", "f16")
    ya, yb = Buffer("ya", "f16", True), Buffer("yb", "f32", True)
    rows_a, rows_b, cols, row = param("rows_a"), param("rows_b"), param("cols"), index("row")

    def product(w: Buffer, y: Buffer, name: str) -> tuple[Stmt, ...]:
        j = index(f"{name}_j")
        value = load(w, row * cols + j) * load(x, j)
        dot = fold_one(name, j, cols, "vector", "add", 0.0, value)
        return dot, Store(y, row, var(name, "f32"))

    split = Split(row, (rows_a, rows_b), (product(a, ya, "p"), product(b, yb, "q")))

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows_a, rows_b, cols = (14336, 8192, 4096) if large else (7, 10, 75)
        buffers = {
            "a": _half(rng, rows_a * cols),
            "b": _bfloat(rng, rows_b * cols),
            "x": _half(rng, cols),
            "ya": np.zeros(rows_a, np.float16),
            "yb": np.zeros(rows_b, np.float32),
        }
        return buffers, {"rows_a": rows_a, "rows_b": rows_b, "cols": cols}

    return Sample(Kernel((a, b, x, ya, yb), (rows_a, rows_b, cols), (split,)), inputs, atol=2e-2)


def _attention() -> Sample:
    """Online softmax over a cache: one query a head, grouped heads, a run-time length."""
    q, keys, values = (Buffer(name, "f16") for name in ("q", "keys", "values"))
    out = Buffer("out", "f16", True)
    names = ("heads", "group", "length", "capacity", "size")
    heads, group, length, capacity, size = map(param, names)
    scale = param("scale", "f32")
    weighted = Buffer("weighted", "f32", True, size)
    head, z, j, d, e, o = (index(n) for n in ("head", "z", "j", "d", "e", "o"))
    place = (binary("idiv", head, group) * capacity + j) * size
    dot = fold_one(
        *("dot", d, size, "vector", "add", 0.0), load(q, head * size + d) * load(keys, place + d)
    )
    m, total, s = var("m", "f32"), var("total", "f32"), var("dot", "f32") * scale
    top = binary("max", m, s)
    fade, p = unary("exp", m - top), unary("exp", s - top)
    sum_ = fma(load(weighted, e), fade, p * load(values, place + e))
    add = Loop(e, ZERO, size, "vector", (Store(weighted, e, sum_),))
    left, right = ((var(f"m{x}", "f32"), var(f"t{x}", "f32")) for x in "lr")
    peak = binary("max", left[0], right[0])
    merged = left[1] * unary("exp", left[0] - peak) + right[1] * unary("exp", right[0] - peak)
    online = Fold(
        *(j, ZERO, length, "serial", (m, total), (f32(-math.inf), f32(0))),
        *((top, fma(total, fade, p)), left, right, (peak, merged), (dot, add)),
    )
    final = Store(out, head * size + o, load(weighted, o) / total)
    body = (
        Loop(z, ZERO, size, "vector", (Store(weighted, z, f32(0)),)),
        online,
        Loop(o, ZERO, size, "vector", (final,)),
    )

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        heads, group, length, capacity, size = (
            (256, 8, 1000, 1024, 128) if large else (6, 3, 11, 16, 40)
        )
        cache = heads // group * capacity * size
        buffers = {
            "q": _half(rng, heads * size),
            "keys": _half(rng, cache),
            "values": _half(rng, cache),
            "out": np.zeros(heads * size, np.float16),
        }
        numbers = dict(zip(names, (heads, group, length, capacity, size), strict=True))
        return buffers, {**numbers, "scale": size**-0.5}

    params = (heads, group, length, capacity, size, scale)
    kernel = Kernel((q, keys, values, out), params, (Loop(head, ZERO, heads, "parallel", body),))
    return Sample(kernel, inputs, {"weighted": 128}, atol=1e-3)


def _q4_0_matvec() -> Sample:
    """y = W x, W in Q4_0 blocks: a float16 scale, then 16 bytes, low digits before high ones."""
    w, x, y = Buffer("w", "u8"), Buffer("x", "f16"), Buffer("y", "f32", True)
    rows, blocks, row, b, t = param("rows"), param("blocks"), index("row"), index("b"), index("t")
    at = (row * blocks + b) * 18
    bits = load(w, at) | (load(w, at + 1) << 8)
    magnitude = bits & 0x7FFF
    # float16 bits to float32: shifted into place and rescaled, which holds for subnormals too.
    value = bitcast(magnitude << 13, "f32") * 2.0**112
    scale = select((bits & 0x8000).ne(0), -value, value)
    byte = load(w, at + 2 + t)
    digit = lambda d: cast(d - 8, "f32")  # noqa: E731
    low, high = digit(byte & 15), digit(byte >> 4)
    step = fma(low, load(x, b * 32 + t), high * load(x, b * 32 + t + 16))
    inner = fold_one("part", t, const(16, "i64"), "unrolled", "add", 0.0, step)
    value = scale * var("part", "f32")
    dot = fold_one("dot", b, blocks, "vector", "add", 0.0, value, inner)
    body = (Loop(row, ZERO, rows, "parallel", (dot, Store(y, row, var("dot", "f32")))),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, blocks = (32768, 256) if large else (11, 9)
        data = rng.integers(0, 256, (rows * blocks, 18), dtype=np.uint8)
        scales = (rng.standard_normal(rows * blocks) * 0.05).astype(np.float16)
        data[:, :2] = scales.view(np.uint8).reshape(-1, 2)
        buffers = {"w": data.ravel(), "x": _half(rng, blocks * 32), "y": np.zeros(rows, np.float32)}
        return buffers, {"rows": rows, "blocks": blocks}

    return Sample(Kernel((w, x, y), (rows, blocks), body), inputs, atol=1e-3)


def _normalized() -> Sample:
    """What stands before the range is uniform: all rows are divided by the greatest magnitude."""
    x, y, n, rows, cols = (
        Buffer("x", "f32"),
        Buffer("y", "bf16", True),
        *map(param, ("n", "rows", "cols")),
    )
    i, row, j = index("i"), index("row"), index("j")
    top = fold_one("top", i, n, "vector", "max", 0.0, unary("abs", load(x, i)))
    at = row * cols + j
    store = Store(y, at, load(x, at, at < n) / var("top", "f32"), at < n)
    body = (top, Loop(row, ZERO, rows, "parallel", (Loop(j, ZERO, cols, "vector", (store,)),)))

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols = (64, 2048) if large else (4, 100)
        n = rows * cols - 3
        x = rng.standard_normal(n).astype(np.float32)
        return {"x": x, "y": np.zeros(rows * cols, np.uint16)}, {"n": n, "rows": rows, "cols": cols}

    return Sample(Kernel((x, y), (n, rows, cols), body), inputs, rtol=1e-2)


def _blur() -> Sample:
    """In place, turn by turn: what one thread wrote in a turn, its neighbours read in the next."""
    x = Buffer("x", "f32", True)
    rows, cols, turns = param("rows"), param("cols"), param("turns")
    kept = Buffer("kept", "f32", True, const(1024, "i64"))
    row, t, a, b = (index(n) for n in ("row", "t", "a", "b"))
    at = row * cols + a
    near = load(x, at - 1, a >= 1) + load(x, at) * 2.0 + load(x, at + 1, a < cols - 1)
    turn = (
        Loop(a, ZERO, cols, "vector", (Store(kept, a, near * 0.25),)),
        Loop(b, ZERO, cols, "vector", (Store(x, row * cols + b, load(kept, b)),)),
    )
    body = (Loop(row, ZERO, rows, "parallel", (Loop(t, ZERO, turns, "serial", turn),)),)

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        rows, cols = (4096, 1024) if large else (3, 700)
        x = rng.standard_normal(rows * cols).astype(np.float32)
        return {"x": x}, {"rows": rows, "cols": cols, "turns": 5}

    return Sample(Kernel((x,), (rows, cols, turns), body), inputs, rtol=1e-5)


def _prologue() -> Sample:
    """A vector is scaled into local memory before the range, then multiplied by two matrices, by
    one of them from its end on."""
    x, w = Buffer("x", "f16"), Buffer("w", "f32")
    a, b = Buffer("a", "f16"), Buffer("b", "f32")
    y, z = Buffer("y", "f16", True), Buffer("z", "f32", True)
    n, first, second = param("n"), param("first"), param("second")
    ahead = Buffer("ahead", "f32", True, n)
    row, k, j, i, t = index("row"), index("k"), index("j"), index("i"), index("t")
    total = fold_one("total", k, n, "vector", "add", 0.0, load(x, k) * load(x, k))
    scaled = load(x, j) / unary("sqrt", var("total", "f32")) * load(w, j)
    forward = load(ahead, i) * load(a, row * n + i)
    backward = load(ahead, n - 1 - t) * load(b, row * n + t)
    bodies = (
        (
            fold_one("dot", i, n, "vector", "add", 0.0, forward),
            Store(y, row, var("dot", "f32")),
        ),
        (
            fold_one("dot", t, n, "vector", "add", 0.0, backward),
            Store(z, row, var("dot", "f32")),
        ),
    )
    body = (
        total,
        Loop(j, ZERO, n, "vector", (Store(ahead, j, scaled),)),
        Split(row, (first, second), bodies),
    )

    def inputs(rng: np.random.Generator, large: bool) -> Inputs:
        n, first, second = (4096, 4096, 1024) if large else (300, 19, 7)
        buffers = {
            "x": _half(rng, n),
            "w": rng.uniform(0.5, 1.5, n).astype(np.float32),
            "a": _half(rng, n * first),
            "b": rng.standard_normal(n * second).astype(np.float32),
            "y": np.zeros(first, np.float16),
            "z": np.zeros(second, np.float32),
        }
        return buffers, {"n": n, "first": first, "second": second}

    kernel = Kernel((x, w, a, b, y, z), (n, first, second), body)
    return Sample(kernel, inputs, {"ahead": 4096}, atol=1e-3)


_ALL = (
    *(_gelu_chain, _broadcast_pad, _functions, _integers, _gather, _softmax, _layer_norm, _reverse),
    *(_argmax, _cumsum, _split, _attention, _q4_0_matvec, _normalized, _blur),
    _prologue,
)
SAMPLES: dict[str, Sample] = {make.__name__[1:]: make() for make in _ALL}


def buffers_of(sample: Sample, rng: np.random.Generator, large: bool = False) -> Inputs:
    """The inputs, their types checked against the kernel's buffers."""
    buffers, params = sample.inputs(rng, large)
    for b in sample.kernel.buffers:
        assert buffers[b.name].dtype == np.dtype(NUMPY[b.dtype]), b.name
    ordered: dict[str, Any] = {b.name: buffers[b.name] for b in sample.kernel.buffers}
    return ordered, params
