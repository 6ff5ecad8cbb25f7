"""Kinds of work: the inputs of a row, made alike in every process, and what the result should be.

An oracle computes in float64, and only the entries along the first axis that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
Sizes = dict[str, Any]

POOL = 1_048_573
"""Random numbers that inputs are repeated from: a prime, so that no two rows of a matrix agree."""
LOOKED_AT = 64


def normal(shape: Sequence[int], seed: int, scale: float = 1.0) -> Array:
    """float16 values from a normal distribution."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape, dtype=np.int64))
    pool = rng.standard_normal(min(size, POOL), dtype=np.float32) * np.float32(scale)
    return np.resize(pool.astype(np.float16), size).reshape(shape)


def picks(length: int) -> Array:
    """Which entries of the first axis are compared."""
    return np.unique(np.linspace(0, length - 1, min(length, LOOKED_AT)).astype(np.int64))


def wide(x: Array) -> Array:
    return x.astype(np.float64)


@dataclass(frozen=True)
class Kind:
    """`inputs(sizes)` are float16 arrays; `expected(sizes, inputs, rows)` is the result at `rows`
    of its first axis, or None where peers are compared with each other."""

    inputs: Callable[[Sizes], list[Array]]
    expected: Callable[[Sizes, list[Array], Array], Array] | None
    length: Callable[[Sizes], int] | None = None
    """The result's first size."""


def _matmul_inputs(s: Sizes) -> list[Array]:
    m, k, n = s["m"], s["k"], s["n"]
    weights = (n, k) if s["layout"] == "nk" else (k, n)
    return [normal((m, k), 1), normal(weights, 2, k**-0.5)]


def _matmul(s: Sizes, x: list[Array], rows: Array) -> Array:
    a, b = wide(x[0][rows]), x[1].astype(np.float32)
    return a @ (b.T if s["layout"] == "nk" else b)


def gelu(u: Array) -> Array:
    return 0.5 * u * (1 + np.tanh(0.7978845608028654 * (u + 0.044715 * u**3)))


def _gelu_inputs(s: Sizes) -> list[Array]:
    shape = (s["rows"], s["columns"])
    return [normal(shape, i) for i in range(4 if s["tensors"] else 1)]


def _gelu(s: Sizes, x: list[Array], rows: Array) -> Array:
    if s["tensors"]:
        x, a, b, c = (wide(t[rows]) for t in x)
        return gelu(x * a + b) * c
    return gelu(wide(x[0][rows]) * 1.5 + 0.25) * 0.75


def _rows_inputs(s: Sizes) -> list[Array]:
    n = s["columns"]
    return [normal((s["rows"], n), 1), 1 + normal((n,), 2, 0.1), normal((n,), 3, 0.1)]


def _softmax(s: Sizes, x: list[Array], rows: Array) -> Array:
    e = wide(x[0][rows])
    e = np.exp(e - e.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _rms_norm(s: Sizes, x: list[Array], rows: Array) -> Array:
    a = wide(x[0][rows])
    return a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-5) * x[1]


def _layer_norm(s: Sizes, x: list[Array], rows: Array) -> Array:
    a = wide(x[0][rows])
    a = a - a.mean(-1, keepdims=True)
    return a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-5) * x[1] + x[2]


def _sum_inputs(s: Sizes) -> list[Array]:
    # A mean that is not 0, so that the sums are not all cancellation; their float16 is finite.
    return [normal((s["rows"], s["columns"]), 1, 0.5) + np.float16(1)]


def _sum(s: Sizes, x: list[Array], rows: Array) -> Array:
    if s["axis"] == 0:
        return wide(x[0][:, rows]).sum(0)
    return wide(x[0][rows]).sum(1)


def _transposed(s: Sizes, x: list[Array], rows: Array) -> Array:
    return wide(x[0][:, rows]).T * 2 + 1


def _odd(s: Sizes, x: list[Array], rows: Array) -> Array:
    return np.maximum(wide(x[0][rows, 1:]) * 2 + wide(x[0][rows, :-1]), 0)


def _matvec_inputs(s: Sizes) -> list[Array]:
    weights = [normal((s["n"], s["k"]), 10 + i, s["k"] ** -0.5) for i in range(s["count"])]
    return [normal((s["rows"], s["k"]), 1), *weights]


def _matvec(s: Sizes, x: list[Array], rows: Array) -> Array:
    return np.stack([wide(x[0]) @ x[1 + i].astype(np.float32).T for i in rows])


def _quantized_inputs(s: Sizes) -> list[Array]:
    return [normal((s["rows"], s["k"]), 1)]


def _quantized(s: Sizes, x: list[Array], rows: Array) -> Array:
    from benchmarks.files import decoded, turned

    first = wide(x[0]) @ decoded(s["file"]).T
    return np.stack([np.roll(first, turned(i), axis=-1) for i in rows])


def _attention_inputs(s: Sizes) -> list[Array]:
    d = s["width"]
    keys = (s["kv"], s["keys"], d)
    return [normal((s["heads"], s["queries"], d), 1), normal(keys, 2), normal(keys, 3)]


def _attention(s: Sizes, x: list[Array], rows: Array) -> Array:
    group = s["heads"] // s["kv"]
    q, k, v = wide(x[0][rows]), wide(x[1][rows // group]), wide(x[2][rows // group])
    scores = q @ k.transpose(0, 2, 1) * s["width"] ** -0.5
    if s["causal"]:
        above = np.arange(s["keys"]) > np.arange(s["queries"])[:, None]
        scores = np.where(above, -np.inf, scores)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e @ v / e.sum(-1, keepdims=True)


def _convolution_inputs(s: Sizes) -> list[Array]:
    taps = s["taps"]
    inner = s["channels"] // s["groups"]
    weight = (s["out"], inner, taps, taps)
    x = (s["batch"], s["channels"], s["size"], s["size"])
    return [normal(x, 1), normal(weight, 2, (inner * taps * taps) ** -0.5)]


def _convolution(s: Sizes, x: list[Array], rows: Array) -> Array:
    pad, step, groups, taps = s["taps"] // 2, s["stride"], s["groups"], s["taps"]
    a = np.pad(wide(x[0][rows]), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    a = np.lib.stride_tricks.sliding_window_view(a, (taps, taps), axis=(2, 3))
    a = a[:, :, ::step, ::step]
    n, c, h, w = a.shape[:4]
    a = a.reshape(n, groups, c // groups, h, w, taps, taps)
    b = wide(x[1]).reshape(groups, s["out"] // groups, c // groups, taps, taps)
    return np.einsum("ngchwij,gocij->ngohw", a, b, optimize=True).reshape(n, s["out"], h, w)


def _linear_inputs(s: Sizes) -> list[Array]:
    return [normal(shape, i) for i, shape in enumerate(((4, 3), (3, 2), (2,)))]


def _linear(s: Sizes, x: list[Array], rows: Array) -> Array:
    return (wide(x[0]) @ wide(x[1]) + wide(x[2]))[rows]


CHAIN = 50


def chain(x: Any) -> Any:
    """100 elementwise ops, in whatever library x is of."""
    for _ in range(CHAIN):
        x = x * 1.01
        x = x + 0.01
    return x


def _load_expected(s: Sizes, x: list[Array], rows: Array) -> Array:
    from benchmarks.files import tensor_of_file

    return np.full(len(rows), tensor_of_file(s).astype(np.float64).sum())


def _none(s: Sizes) -> list[Array]:
    return []


def _first(name: str) -> Callable[[Sizes], int]:
    return lambda s: int(s[name])


KINDS: dict[str, Kind] = {
    "matmul": Kind(_matmul_inputs, _matmul, _first("m")),
    "gelu": Kind(_gelu_inputs, _gelu, _first("rows")),
    "softmax": Kind(_rows_inputs, _softmax, _first("rows")),
    "rms_norm": Kind(_rows_inputs, _rms_norm, _first("rows")),
    "layer_norm": Kind(_rows_inputs, _layer_norm, _first("rows")),
    "sum": Kind(_sum_inputs, _sum, lambda s: int(s["columns" if s["axis"] == 0 else "rows"])),
    "transposed": Kind(_sum_inputs, _transposed, _first("columns")),
    "odd": Kind(_sum_inputs, _odd, _first("rows")),
    "matvec": Kind(_matvec_inputs, _matvec, _first("count")),
    "quantized": Kind(_quantized_inputs, _quantized, _first("count")),
    "attention": Kind(_attention_inputs, _attention, _first("heads")),
    "convolution": Kind(_convolution_inputs, _convolution, _first("batch")),
    "linear": Kind(_linear_inputs, _linear, lambda s: 4),
    "chain": Kind(
        lambda s: [normal((16,), 1)], lambda s, x, rows: chain(wide(x[0]))[rows], lambda s: 16
    ),
    "sum_file": Kind(_none, _load_expected, _first("tensors")),
    "open_file": Kind(_none, None),
    "decode": Kind(_none, None),
    "prefill": Kind(_none, None),
    "first_call": Kind(_none, None),
    "cached_call": Kind(_none, None),
    "import": Kind(_none, None),
    "script": Kind(_none, None),
}


def error(found: Array, expected: Array) -> float:
    """The largest difference, relative to the value and to the root mean square of all."""
    found, expected = wide(found), wide(expected)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    scale = np.sqrt(np.mean(expected * expected, dtype=np.float64)) if expected.size else 1.0
    return float(np.max(np.abs(found - expected) / (np.abs(expected) + scale + 1e-30), initial=0.0))
