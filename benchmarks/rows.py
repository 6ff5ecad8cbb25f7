"""The rows of the table: what is computed, how large, and what bounds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.files import BLOCKS

Sizes = dict[str, Any]
FLOAT16 = 1e-2
"""Largest error of a result, relative to its values: some roundings to float16 in a row."""
EIGHT_BITS = 6e-2
"""The same where a peer rounds activations to 8 bits."""


@dataclass(frozen=True)
class Row:
    """One row: `moved` bytes or `flops` bound its time; `items` are what it yields (tokens)."""

    group: str
    name: str
    kind: str
    sizes: Sizes = field(default_factory=dict)
    moved: float = 0
    flops: float = 0
    items: int = 0
    tolerance: float = FLOAT16
    without: tuple[str, ...] = ()
    """Competitors that are left out, known to take minutes."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _matmul(group: str, m: int, k: int, n: int, layout: str, without: Iterable[str] = ()) -> Row:
    name = f"matmul {m}x{k}x{n}, weights {'[N, K]' if layout == 'nk' else '[K, N]'}"
    sizes = {"m": m, "k": k, "n": n, "layout": layout}
    moved = 2 * (m * k + k * n + m * n)
    return Row(group, name, "matmul", sizes, moved, 2 * m * k * n, without=tuple(without))


def _shape(rows: int, columns: int) -> str:
    return f"{rows}x{columns}"


def _gelu(group: str, rows: int, columns: int, tensors: bool, without: Iterable[str] = ()) -> Row:
    what = "a b c tensors" if tensors else "scalars"
    sizes = {"rows": rows, "columns": columns, "tensors": tensors}
    moved = 2 * rows * columns * (5 if tensors else 2)
    name = f"gelu(x*a+b)*c, {_shape(rows, columns)}, {what}"
    return Row(group, name, "gelu", sizes, moved, without=tuple(without))


def _rows(group: str, kind: str, rows: int, columns: int) -> Row:
    sizes = {"rows": rows, "columns": columns}
    return Row(group, f"{kind} {_shape(rows, columns)}", kind, sizes, 4 * rows * columns)


def _over(group: str, kind: str, name: str, rows: int, columns: int, passes: int) -> Row:
    sizes = {"rows": rows, "columns": columns}
    return Row(
        group, name, kind, sizes, 2 * passes * rows * columns, without=("mlx", "mlx.compile")
    )


def _sum(rows: int, columns: int, axis: int) -> Row:
    name = f"sum over axis {axis}, {_shape(rows, columns)}"
    sizes = {"rows": rows, "columns": columns, "axis": axis}
    return Row("elementwise", name, "sum", sizes, 2 * rows * columns)


def _matvec(group: str, n: int, k: int, count: int) -> Row:
    sizes = {"n": n, "k": k, "count": count, "rows": 1}
    return Row(
        group,
        f"matvec F16 {k} to {n}, {count} matrices",
        "matvec",
        sizes,
        2 * n * k * count,
        2 * n * k * count,
    )


def _quantized(group: str, type_: str, rows: int, n: int, k: int, count: int) -> Row:
    what = "matvec" if rows == 1 else f"matmul of {rows} rows,"
    sizes = {"type": type_, "rows": rows, "n": n, "k": k, "count": count}
    sizes["decoded"] = group == "gpu"  # PyTorch has no blocks: its float16 is the peer there
    weights = n * k * count
    size, length = BLOCKS[type_].size, BLOCKS[type_].length
    return Row(
        group,
        f"{what} {type_} {k} to {n}" + (f", {count} matrices" if count > 1 else ""),
        "quantized",
        sizes,
        weights // length * size if rows == 1 else 0,
        2 * weights * rows,
        tolerance=EIGHT_BITS,
    )


def _attention(heads: int, kv: int, queries: int, keys: int) -> Row:
    sizes = {"heads": heads, "kv": kv, "queries": queries, "keys": keys, "width": 64}
    sizes["causal"] = queries > 1
    name = f"attention, {heads} heads of 64, {queries} queries, {keys} keys"
    pairs = heads * (queries * (queries + 1) // 2 if queries > 1 else keys)
    moved = 2 * 2 * kv * keys * 64 if queries == 1 else 0
    return Row("attention", name, "attention", sizes, moved, 4 * 64 * pairs)


def _convolution(channels: int, size: int, out: int, taps: int, stride: int, groups: int) -> Row:
    sizes = {"batch": 1, "channels": channels, "size": size, "out": out, "taps": taps}
    sizes |= {"stride": stride, "groups": groups}
    kind = "depthwise " if groups == channels else ""
    name = f"{kind}convolution {taps}x{taps}, {channels} to {out}, {size}x{size}, stride {stride}"
    after = -(-size // stride)
    flops = 2 * taps * taps * channels // groups * out * after * after
    return Row("convolution", name, "convolution", sizes, 0, flops)


def _model(type_: str, kind: str, tokens: int, quick: bool) -> Row:
    from benchmarks.files import Shape

    shape = Shape.small() if quick else Shape()
    per_token = shape.weights
    size, length = BLOCKS[type_].size, BLOCKS[type_].length
    moved = per_token // length * size if kind == "decode" else 0
    count = 1 if kind == "decode" else tokens
    sizes = {"type": type_, "tokens": tokens, "quick": quick}
    name = f"{shape.name} {type_}, " + ("decode" if kind == "decode" else f"prefill of {tokens}")
    return Row("llm", name, kind, sizes, moved, 2 * per_token * count, count, tolerance=0.25)


TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0")


def _calls(group: str) -> list[Row]:
    rows = [
        Row(group, "x[4,3] @ w + b, one call", "linear", {"recorded": False}),
        Row(group, "x[4,3] @ w + b, recorded afresh", "linear", {"recorded": True}),
    ]
    if group == "gpu":
        return rows[:1]
    return [
        *rows,
        Row(group, "100-op chain on 16 elements", "chain", {"recorded": False}, tolerance=0.1),
        Row(group, "100-op chain, recorded afresh", "chain", {"recorded": True}, tolerance=0.1),
        Row(group, "first call of a new function", "first_call"),
        Row(group, "first call in a new process, caches warm", "cached_call"),
        Row(group, "import, over bare Python", "import"),
        Row(group, "a script's first result, from its start", "script"),
    ]


def cpu_rows(quick: bool) -> list[Row]:
    """Every row of the CPU groups."""
    n = 256 if quick else 4096
    slow = ("mlx", "mlx.compile", "tinygrad", "torch", "torch.compile")
    rows = [
        _matmul("matmul", n // 4, n // 4, n // 4, "kn", slow[:2]),
        _matmul("matmul", n // 4, n // 4, n // 4, "nk", slow[:2]),
        _matmul("matmul", n // 32, n, n, "kn", slow),
        _matmul("matmul", n // 32, n, n, "nk", slow[:3]),
        _matmul("matmul", n, n, n, "kn", slow),
        _matmul("matmul", n, n, n, "nk", slow),
        _gelu("elementwise", n, n, False),
        _gelu("elementwise", n, n, True),
        *(_gelu("elementwise", rows, 1024, False) for rows in (64, 1024, 1024 if quick else 65536)),
        _sum(n, n, 0),
        _sum(n, n, 1),
        _over("elementwise", "transposed", f"x.T * 2 + 1, {_shape(n, n)}", n, n, 2),
        _over("elementwise", "odd", f"relu(x[:, 1:] * 2 + x[:, :-1]), {_shape(n, n)}", n, n, 2),
        *(_rows("rows", kind, n, n) for kind in ("softmax", "rms_norm", "layer_norm")),
        *(_rows("rows", kind, 1024, n // 4 - 1) for kind in ("softmax", "layer_norm")),
        _matvec("matvec", n, n, 8),
        *(_quantized("matvec", t, 1, n, n, 8) for t in TYPES),
        *(_quantized("matvec", t, 128, *((256, 256) if quick else (5632, 2048)), 1)
          for t in ("Q4_0", "Q4_K", "Q8_0")),
        *_calls("calls"),
        *_load_rows(quick),
    ]  # fmt: skip
    for type_ in ("Q4_0", "Q4_K", "Q8_0", "F16"):
        rows.append(_model(type_, "decode", 8 if quick else 24, quick))
        rows.append(_model(type_, "prefill", 16 if quick else 128, quick))
    keys = 128 if quick else 2048
    rows += [_attention(32, 4, 1, keys), _attention(32, 4, keys // 4, keys // 4)]
    rows += [
        _convolution(64, 56 // (4 if quick else 1), 64, 3, 1, 1),
        _convolution(3, 224 // (4 if quick else 1), 64, 7, 2, 1),
        _convolution(256, 56 // (4 if quick else 1), 64, 1, 1, 1),
        _convolution(128, 56 // (4 if quick else 1), 128, 3, 1, 128),
    ]
    return rows


def _load_rows(quick: bool) -> list[Row]:
    sizes = {"tensors": 4 if quick else 64, "side": 256 if quick else 4096}
    moved = 2 * sizes["tensors"] * sizes["side"] ** 2
    size = f"{moved / 2**30:.2g} GiB of SafeTensors"
    first = {**sizes, "again": False}
    return [
        Row("load", f"open {size}", "open_file", sizes),
        Row("load", f"open and sum {size}", "sum_file", first, moved, tolerance=1e-3),
        Row("load", f"sum {size} again", "sum_file", {**sizes, "again": True}, moved,
            tolerance=1e-3),
    ]  # fmt: skip


def gpu_rows(quick: bool) -> list[Row]:
    """Every row of the GPU's table."""
    n = 256 if quick else 4096
    wide = 256 if quick else 16384
    n_out, k_in = (512, 256) if quick else (14336, 8192)
    return [
        _gelu("gpu", wide, 64 if quick else 16384, False),
        *(_rows("gpu", kind, wide, n) for kind in ("softmax", "rms_norm", "layer_norm")),
        *(_matmul("gpu", *sizes, "kn") for sizes in ((n, n, n), (2 * n, 2 * n, 2 * n))),
        *(_matmul("gpu", n // 8, n, n, layout) for layout in ("kn", "nk")),
        _matvec("gpu", 512 if quick else 14336, n, 8),
        *(_quantized("gpu", t, 1, n_out, k_in, 8) for t in TYPES),
        *(_quantized("gpu", t, 512, n, n, 1) for t in TYPES),
        *_calls("gpu"),
    ]


CPU_GROUPS = (
    "matmul", "elementwise", "rows", "matvec", "calls", "load", "llm", "attention", "convolution",
)  # fmt: skip
GROUPS = (*CPU_GROUPS, "gpu")


def rows_of(groups: Iterable[str], quick: bool) -> list[Row]:
    """The rows of these groups; "cpu" is all but those of the GPU."""
    wanted = {g for name in groups for g in (CPU_GROUPS if name == "cpu" else (name,))}
    return [r for r in cpu_rows(quick) + gpu_rows(quick) if r.group in wanted]
