"""Kernels written by hand, one for each thing that the IR can say, with inputs to run them on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    index,
    load,
    param,
    select,
    unary,
    var,
)

ZERO = const(0, "i64")
ROWS, N, M = param("rows"), param("n"), param("m")
R, I, J, K, T = (index(c) for c in "rijkt")


@dataclass
class Example:
    """A kernel, its arguments, and the size of its parallel range."""

    kernel: Kernel
    buffers: dict[str, Any]
    params: dict[str, float]
    range: int
    tolerance: float = 2e-3


def number(value: float) -> Expr:
    return const(value, "f32")


def whole(value: int) -> Expr:
    return const(value, "i64")


def parallel(*body: Stmt, stop: Expr = ROWS, at: Expr = R) -> tuple[Stmt, ...]:
    return (Loop(at, ZERO, stop, "parallel", body),)


def flat(*body: Stmt, stop: Expr = N, at: Expr = I) -> tuple[Stmt, ...]:
    return (Loop(at, ZERO, stop, "flat", body),)


def vector(at: Expr, *body: Stmt, stop: Expr = N, start: Expr = ZERO) -> Loop:
    return Loop(at, start, stop, "vector", body)


def fold(
    name: str,
    op: str,
    init: float,
    at: Expr,
    value: Expr,
    kind: str = "vector",
    stop: Expr = N,
    body: tuple[Stmt, ...] = (),
) -> tuple[Fold, Expr]:
    """acc = op(acc, value), and the variable that holds it."""
    acc, left, right = (var(name + s, value.dtype) for s in ("", "_left", "_right"))
    step, merge = binary(op, acc, value), binary(op, left, right)
    first = const(init, value.dtype)
    return (
        Fold(at, ZERO, stop, kind, (acc,), (first,), (step,), (left,), (right,), (merge,), body),
        acc,
    )


def random(shape: int, dtype: type = np.float16, scale: float = 3.0) -> Any:
    return (np.random.default_rng(shape).standard_normal(shape) * scale).astype(dtype)


def softmax(n: int = 100) -> Example:
    x, out = Buffer("x", "f16"), Buffer("out", "f16", True)
    row = Buffer("row", "f32", True, N)
    top, m = fold("top", "max", -math.inf, I, load(x, R * N + I))
    e = unary("exp", load(x, R * N + J) - m)
    total, s = fold("total", "add", 0.0, J, e, body=(Store(row, J, e),))
    scaled = load(row, K) * (number(1.0) / s)
    body = parallel(top, total, Barrier(), vector(K, Store(out, R * N + K, scaled)))
    given = {"x": random(5 * n), "out": np.zeros(5 * n, np.float16)}
    return Example(Kernel((x, out), (ROWS, N), body), given, {"rows": 5, "n": n}, 5)


def layer_norm(n: int = 133) -> Example:
    x, w, b = Buffer("x", "f16"), Buffer("w", "f16"), Buffer("b", "f32")
    out = Buffer("out", "f16", True)
    eps = param("eps", "f32")
    size = cast(N, "f32")
    sum_, s = fold("s", "add", 0.0, I, load(x, R * N + I))
    mean = s / size
    centred = load(x, R * N + J) - mean
    squares, q = fold("q", "add", 0.0, J, centred * centred)
    scale = number(1.0) / unary("sqrt", q / size + eps)
    value = (load(x, R * N + K) - mean) * scale * load(w, K) + load(b, K)
    body = parallel(sum_, squares, vector(K, Store(out, R * N + K, value)))
    given = {
        "x": random(4 * n) + np.float16(50),
        "w": random(n),
        "b": random(n, np.float32),
        "out": np.zeros(4 * n, np.float16),
    }
    params = {"rows": 4, "n": n, "eps": 1e-5}
    return Example(Kernel((x, w, b, out), (ROWS, N, eps), body), given, params, 4, 1e-2)


def argmax(n: int = 77) -> Example:
    """The first of the greatest; NaN counts as greatest."""
    x, out = Buffer("x", "f16"), Buffer("out", "i32", True)
    names = [(var(s + "v", "f32"), var(s + "i", "i32")) for s in ("", "left_", "right_")]
    (v, i), left, right = names

    def better(a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> tuple[Expr, ...]:
        nan_a, nan_b = a[0].ne(a[0]), b[0].ne(b[0])
        wins = (b[0] > a[0]) | (nan_b & unary("not", nan_a))
        ties = (b[0].eq(a[0]) | (nan_a & nan_b)) & (b[1] < a[1])
        return tuple(select(wins | ties, p, q) for p, q in zip(b, a, strict=True))

    here = (load(x, R * N + J), cast(J, "i32"))
    find = Fold(
        J,
        ZERO,
        N,
        "vector",
        (v, i),
        (number(-math.inf), const(2**31 - 1, "i32")),
        better((v, i), here),
        left,
        right,
        better(left, right),
    )
    given = {"x": random(6 * n), "out": np.zeros(6, np.int32)}
    given["x"][5] = given["x"][60] = 1000
    given["x"][n + 41] = given["x"][n + 70] = np.nan
    given["x"][2 * n : 3 * n] = -np.inf
    kernel = Kernel((x, out), (ROWS, N), parallel(find, Store(out, R, i)))
    return Example(kernel, given, {"rows": 6, "n": n}, 6, 0)


def cumsum() -> Example:
    x, out = Buffer("x", "f32"), Buffer("out", "f32", True)
    s = var("s", "f32")
    value = s + load(x, R * N + I)
    step, _ = fold("s", "add", 0.0, I, load(x, R * N + I), "serial")
    scan = Fold(
        *(getattr(step, a) for a in ("index", "start", "stop", "kind", "acc", "init", "step")),
        step.left,
        step.right,
        step.merge,
        (Store(out, R * N + I, value),),
    )
    given = {"x": random(3 * 50, np.float32), "out": np.zeros(150, np.float32)}
    kernel = Kernel((x, out), (ROWS, N), parallel(scan))
    return Example(kernel, given, {"rows": 3, "n": 50}, 3, 1e-5)


def transposed_add() -> Example:
    """out[r, j] = x[j, r] + y[j, 2 * r]: strided loads, a strided store."""
    x, y, out = Buffer("x", "f16"), Buffer("y", "f32"), Buffer("out", "f16", True)
    value = load(x, J * ROWS + R) + load(y, (J * 2) * ROWS + R)
    body = parallel(vector(J, Store(out, J * 3 + R * (N * 3), value)))
    given = {
        "x": random(7 * 45),
        "y": random(2 * 7 * 45, np.float32),
        "out": np.zeros(7 * 45 * 3, np.float16),
    }
    return Example(Kernel((x, y, out), (ROWS, N), body), given, {"rows": 7, "n": 45}, 7)


def embedding() -> Example:
    """Rows by number, with negative numbers from the end; a bad number is counted and gives 0."""
    table, ids = Buffer("table", "f16"), Buffer("ids", "i32")
    out, status = Buffer("out", "f16", True), Buffer("status", "i32", True)
    given_id = cast(load(ids, R), "i64")
    at = select(given_id < 0, given_id + M, given_id)
    ok = (at >= 0) & (at < M)
    body = parallel(
        Check(status, whole(1), ok),
        vector(J, Store(out, R * N + J, load(table, at * N + J, ok))),
    )
    given = {
        "table": random(9 * 37),
        "ids": np.array([3, -1, 0, 9, 8, -10, -9], np.int32),
        "out": np.ones(7 * 37, np.float16),
        "status": np.zeros(2, np.int32),
    }
    kernel = Kernel((table, ids, out, status), (ROWS, N, M), body)
    return Example(kernel, given, {"rows": 7, "n": 37, "m": 9}, 7, 0)


def gather_flat() -> Example:
    """out[i] = x[ids[i]], each lane its own address; failures are counted lane by lane."""
    x, ids = Buffer("x", "f32"), Buffer("ids", "i32")
    out, status = Buffer("out", "f32", True), Buffer("status", "i32", True)
    at = cast(load(ids, I), "i64")
    ok = (at >= 0) & (at < M)
    body = flat(Check(status, ZERO, ok), Store(out, I, load(x, at, ok)))
    numbers = np.random.default_rng(0).integers(-3, 23, 75).astype(np.int32)
    given = {
        "x": random(20, np.float32),
        "ids": numbers,
        "out": np.ones(75, np.float32),
        "status": np.zeros(1, np.int32),
    }
    return Example(Kernel((x, ids, out, status), (N, M), body), given, {"n": 75, "m": 20}, 75, 0)


def pad() -> Example:
    """A row with `m` cells before and 5 after; the store of every third cell is left out."""
    x, out = Buffer("x", "f16"), Buffer("out", "f16", True)
    inside = (J >= M) & (J < N + M)
    value = select(inside, load(x, R * N + J - M, inside), -1.0)
    third = binary("irem", J, 3).ne(2)
    body = parallel(vector(J, Store(out, R * (N + M + 5) + J, value, third), stop=N + M + 5))
    given = {"x": random(4 * 30), "out": np.full(4 * 38, 7, np.float16)}
    return Example(Kernel((x, out), (ROWS, N, M), body), given, {"rows": 4, "n": 30, "m": 3}, 4, 0)


def split_parts() -> Example:
    """Three parts of one range, over unlike types and shapes; one is empty."""
    a, b = Buffer("a", "f16"), Buffer("b", "i32")
    out, sums = Buffer("out", "f16", True), Buffer("sums", "i32", True)
    total, s = fold("s", "add", 0, J, load(b, R * N + J))
    doubled = vector(K, Store(out, R * N + K, load(a, R * N + K) * 2.0))
    body = Split(R, (whole(3), M, ROWS), ((doubled,), (doubled,), (total, Store(sums, R, s))))
    given = {
        "a": random(3 * 21),
        "b": np.arange(4 * 21, dtype=np.int32),
        "out": np.zeros(3 * 21, np.float16),
        "sums": np.zeros(4, np.int32),
    }
    kernel = Kernel((a, b, out, sums), (ROWS, N, M), (body,))
    return Example(kernel, given, {"rows": 4, "n": 21, "m": 0}, 7, 0)


def attention(length: int = 19) -> Example:
    """One query row: online softmax over `m` keys, the weighted sum in local memory."""
    q, k, v = (Buffer(name, "f16") for name in "qkv")
    out, acc = Buffer("out", "f16", True), Buffer("acc", "f32", True, N)
    m, l = var("top", "f32"), var("total", "f32")
    dot, s = fold("score", "add", 0.0, J, load(q, R * N + J) * load(k, T * N + J))
    higher = binary("max", m, s)
    p, old = unary("exp", s - higher), unary("exp", m - higher)
    update = vector(K, Store(acc, K, load(acc, K) * old + p * load(v, T * N + K)))
    sides = [(var(n + "m", "f32"), var(n + "l", "f32")) for n in ("a", "b")]
    (am, al), (bm, bl) = sides
    both = binary("max", am, bm)
    merged = al * unary("exp", am - both) + bl * unary("exp", bm - both)
    keys = Fold(
        T,
        ZERO,
        M,
        "serial",
        (m, l),
        (number(-math.inf), number(0.0)),
        (higher, l * old + p),
        *sides,
        (both, merged),
        (dot, update),
    )
    clear = vector(I, Store(acc, I, number(0.0)))
    last = index("last")
    finish = vector(last, Store(out, R * N + last, load(acc, last) / l))
    given = {
        "q": random(3 * 24, scale=1),
        "k": random(length * 24, scale=1),
        "v": random(length * 24),
        "out": np.zeros(3 * 24, np.float16),
    }
    kernel = Kernel((q, k, v, out), (ROWS, N, M), parallel(clear, keys, finish))
    return Example(kernel, given, {"rows": 3, "n": 24, "m": length}, 3, 4e-3)


def attention_over_keys(length: int = 45) -> Example:
    """The same with keys side by side: a vector fold with a fold inside; one value column."""
    q, k, v = (Buffer(name, "f32") for name in "qkv")
    out = Buffer("out", "f32", True)
    names = [tuple(var(s + c, "f32") for c in "mlo") for s in ("", "left_", "right_")]
    (m, l, o), left, right = names
    dot, s = fold("score", "add", 0.0, J, load(q, R * N + J) * load(k, J * M + T), "serial")

    def join(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
        top = binary("max", a[0], b[0])
        # exp(-inf - -inf) is NaN: a side without keys weighs nothing.
        weights = [
            select(x[0].eq(-math.inf), number(0.0), unary("exp", x[0] - top)) for x in (a, b)
        ]
        return (top, *(a[i] * weights[0] + b[i] * weights[1] for i in (1, 2)))

    keys = Fold(
        T,
        ZERO,
        M,
        "vector",
        (m, l, o),
        (number(-math.inf), number(0.0), number(0.0)),
        join((m, l, o), (s, number(1.0), load(v, T))),
        left,
        right,
        join(left, right),
        (dot,),
    )
    given = {
        "q": random(3 * 6, np.float32, 1),
        "k": random(length * 6, np.float32, 1),
        "v": random(length, np.float32),
        "out": np.zeros(3, np.float32),
    }
    kernel = Kernel((q, k, v, out), (ROWS, N, M), parallel(keys, Store(out, R, o / l)))
    return Example(kernel, given, {"rows": 3, "n": 6, "m": length}, 3, 1e-5)


def q4_0_matvec() -> Example:
    """Rows of blocks of 18 bytes (a half, 32 digits of 4 bits) times a vector."""
    digits, scales = Buffer("digits", "u8"), Buffer("scales", "f16")
    x, out = Buffer("x", "f16"), Buffer("out", "f16", True)
    block = R * N + I  # n blocks a row
    byte = load(digits, block * 18 + 2 + J)
    digit = binary("and", binary("shr", byte, cast(K * 4, "i32")), 15) - 8
    both, d = fold(
        "d",
        "add",
        0.0,
        K,
        cast(digit, "f32") * load(x, I * 32 + K * 16 + J),
        "unrolled",
        whole(2),
    )
    row16, s = fold("s", "add", 0.0, J, d, "vector", whole(16), (both,))
    row, total = fold("total", "add", 0.0, I, s * load(scales, block * 9), "serial", N, (row16,))
    data = np.random.default_rng(1).integers(0, 256, 5 * 4 * 18, dtype=np.uint8)
    data.reshape(-1, 18)[:, :2] = random(20, scale=0.1).view(np.uint8).reshape(-1, 2)
    given = {
        "digits": data,
        "scales": data.view(np.float16),
        "x": random(4 * 32),
        "out": np.zeros(5, np.float16),
    }
    kernel = Kernel((digits, scales, x, out), (ROWS, N), parallel(row, Store(out, R, total)))
    return Example(kernel, given, {"rows": 5, "n": 4}, 5, 4e-3)


def integers() -> Example:
    """All of int32, division by zero and overflow included."""
    x, y, out = Buffer("x", "i32"), Buffer("y", "i32"), Buffer("out", "i32", True)
    a, b = load(x, I), load(y, I)
    values = [binary(op, a, b) for op in ("add", "sub", "mul", "min", "max", "idiv", "irem")]
    values += [binary(op, a, b) for op in ("mulhi", "and", "or", "xor", "shl", "shr", "sar")]
    values += [unary(op, a) for op in ("neg", "abs", "not")]
    values += [binary("idiv", a, 7), binary("irem", a, -3), select(a <= b, a, b)]
    values += [cast(cast(a, "f32"), "i32"), cast(cast(a, "i64") * cast(b, "i64") >> 16, "i32")]
    values += [cast(a.ne(0) ^ b.eq(a), "i32"), bitcast(bitcast(b, "f32"), "i32")]
    stores = [Store(out, I * len(values) + n, v) for n, v in enumerate(values)]
    edges = [0, 1, -1, 2**31 - 1, -(2**31), 7, -7, 40, 100000]
    pairs = np.array([(p, q) for p in edges for q in edges], np.int32)
    given = {
        "x": pairs[:, 0].copy(),
        "y": pairs[:, 1].copy(),
        "out": np.zeros(len(pairs) * len(values), np.int32),
    }
    kernel = Kernel((x, y, out), (N,), flat(*stores))
    return Example(kernel, given, {"n": len(pairs)}, len(pairs), 0)


def floats() -> Example:
    """Float arithmetic, rounding, comparison and conversion, with NaN, inf and signed zeros."""
    x, y, out = Buffer("x", "f32"), Buffer("y", "f32"), Buffer("out", "f32", True)
    flags, ints = Buffer("flags", "bool", True), Buffer("ints", "i32", True)
    a, b = load(x, I), load(y, I)
    values = [binary(op, a, b) for op in ("add", "sub", "mul", "div", "min", "max")]
    values += [unary(op, a) for op in ("neg", "abs", "sqrt", "floor", "ceil", "trunc", "rint")]
    values += [select(a <= b, a, b), cast(cast(a, "i64"), "f32"), cast(cast(a, "f64"), "f32")]
    tests = [a.eq(b), a.ne(b), a < b, a <= b, cast(a, "bool"), unary("not", a > b)]
    stores = [Store(out, I * len(values) + n, v) for n, v in enumerate(values)]
    stores += [Store(flags, I * len(tests) + n, v) for n, v in enumerate(tests)]
    stores += [Store(ints, I, cast(a, "i32"))]
    edges = [0.0, -0.0, 1.5, -2.5, 0.5, math.inf, -math.inf, math.nan, 3e9, -3e9, 1e-40, 2.5, 1e30]
    pairs = np.array([(p, q) for p in edges for q in edges], np.float32)
    given = {
        "x": pairs[:, 0].copy(),
        "y": pairs[:, 1].copy(),
        "out": np.zeros(len(pairs) * len(values), np.float32),
        "flags": np.zeros(len(pairs) * len(tests), np.bool_),
        "ints": np.zeros(len(pairs), np.int32),
    }
    kernel = Kernel((x, y, out, flags, ints), (N,), flat(*stores))
    return Example(kernel, given, {"n": len(pairs)}, len(pairs), 0)


def masks() -> Example:
    """Booleans in memory: logic, a select by a loaded mask, and how many hold."""
    p, q, x = Buffer("p", "bool"), Buffer("q", "bool"), Buffer("x", "f16")
    out, count = Buffer("out", "f16", True), Buffer("count", "i32", True)
    both = Buffer("both", "bool", True)
    a, b = load(p, R * N + J), load(q, R * N + J)
    body = (Store(both, R * N + J, a & unary("not", b)),)
    counted, c = fold("c", "add", 0, J, cast(a | b, "i32"), body=body)
    chosen = select(load(p, R * N + K).ne(load(q, K)), load(x, R * N + K), 0.25)
    kernel = Kernel(
        (p, q, x, out, count, both),
        (ROWS, N),
        parallel(counted, Store(count, R, c), vector(K, Store(out, R * N + K, chosen))),
    )
    rng = np.random.default_rng(5)
    given = {
        "p": rng.integers(0, 2, 3 * 50).astype(np.bool_),
        "q": rng.integers(0, 2, 3 * 50).astype(np.bool_),
        "x": random(3 * 50),
        "out": np.zeros(3 * 50, np.float16),
        "count": np.zeros(3, np.int32),
        "both": np.zeros(3 * 50, np.bool_),
    }
    return Example(kernel, given, {"rows": 3, "n": 50}, 3, 0)


def bfloat16() -> Example:
    """bf16 in and out: ties to even, overflow to inf, NaN kept; bytes in and out."""
    x, y, out = Buffer("x", "f32"), Buffer("y", "bf16"), Buffer("out", "bf16", True)
    b, c = Buffer("b", "u8"), Buffer("c", "u8", True)
    kernel = Kernel(
        (x, y, out, b, c),
        (N,),
        flat(
            Store(out, I * 2, load(x, I)),
            Store(out, I * 2 + 1, load(y, I) * 3.0),
            Store(c, I, load(b, I) * 3),
        ),
    )
    bits = np.arange(0, 2**32, 2**32 // 250, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(250, dtype=np.uint32) * 0x1010000) | 0x8000
    values = np.concatenate([bits, ties, [0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF]]).astype(np.uint32)
    n = len(values)
    given = {
        "x": values.view(np.float32),
        "y": (values >> 16).astype(np.uint16),
        "out": np.zeros(2 * n, np.uint16),
        "b": np.arange(n).astype(np.uint8),
        "c": np.zeros(n, np.uint8),
    }
    return Example(kernel, given, {"n": n}, n, 0)


def column_sums() -> Example:
    """A serial fold in each lane of a flat loop."""
    x, out = Buffer("x", "f16"), Buffer("out", "f32", True)
    total, s = fold("s", "add", 0.0, R, load(x, R * N + I), "serial", ROWS)
    kernel = Kernel((x, out), (ROWS, N), flat(total, Store(out, I, s)))
    given = {"x": random(6 * 53), "out": np.zeros(53, np.float32)}
    return Example(kernel, given, {"rows": 6, "n": 53}, 53, 1e-5)


def triangle_sums() -> Example:
    """Lanes with inner loops of unlike length, nested in loops that may be empty."""
    x, out = Buffer("x", "f32"), Buffer("out", "f32", True)
    total, s = fold("s", "add", 0.0, J, load(x, I * N + J), "serial", I)
    deep, d = fold("d", "max", -1.0, K, load(x, K) + load(x, whole(0)), "serial", M)
    kernel = Kernel((x, out), (N, M), flat(total, deep, Store(out, I, s + d)))
    given = {"x": random(21 * 21, np.float32), "out": np.zeros(21, np.float32)}
    return Example(kernel, given, {"n": 21, "m": 0}, 21, 1e-5)


def in_place() -> Example:
    """x[i] = x[i] * 2 twice: what was stored is read again."""
    x = Buffer("x", "f16", True)
    twice = Store(x, I, load(x, I) * 2.0)
    kernel = Kernel((x,), (N,), flat(twice, twice))
    return Example(kernel, {"x": random(70)}, {"n": 70}, 70, 0)


def mathematics() -> Example:
    x, out = Buffer("x", "f16"), Buffer("out", "f32", True)
    ops = ("exp", "log", "sin", "cos", "tanh", "erf")
    stores = [Store(out, I * 6 + n, unary(op, load(x, I))) for n, op in enumerate(ops)]
    given = {"x": random(66), "out": np.zeros(66 * 6, np.float32)}
    return Example(Kernel((x, out), (N,), flat(*stores)), given, {"n": 66}, 66, 4e-7)


EXAMPLES: list[Callable[[], Example]] = [
    softmax,
    layer_norm,
    argmax,
    cumsum,
    transposed_add,
    embedding,
    gather_flat,
    pad,
    split_parts,
    attention,
    attention_over_keys,
    q4_0_matvec,
    integers,
    floats,
    masks,
    bfloat16,
    column_sums,
    triangle_sums,
    in_place,
    mathematics,
]
