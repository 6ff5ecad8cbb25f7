"""The self-test: a compact conformance run and a few timings on the machine at hand.

Its report is plain Markdown, to be pasted into an issue. Where a device has never run before, that
is how what its kernels do there becomes known.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.creation import from_storage, tensor, zeros
from tensorlogic.devices.base import DeviceInfo, devices
from tensorlogic.errors import DeviceError
from tensorlogic.function import function
from tensorlogic.functions.registry import FUNCTIONS
from tensorlogic.kernels.ir import Expr, const
from tensorlogic.ops import OPS, Op
from tensorlogic.quants import QUANTS, QuantType, dequantize
from tensorlogic.random import normal
from tensorlogic.tensor import Tensor
from tensorlogic.testing.compare import assert_close

f: Any = SimpleNamespace(**FUNCTIONS)
compiled: Any = function
Array = NDArray[Any]
PACKAGES = ("numpy", "llvmlite", "ml-dtypes", "metalcompute", "cuda-bindings")
_TAKES = {
    "float": ("float16", "float32"),
    "number": ("float16", "float32", "int32"),
    "bool": ("bool",),
    "any": ("float16", "int32", "bool"),
}


@dataclass(frozen=True)
class Check:
    """One thing to be right: `run` computes it on a device, and raises AssertionError if it is
    not."""

    name: str
    run: Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """One thing to be timed: what a run does, and how many bytes or operations that is."""

    name: str
    work: float
    unit: str
    make: Callable[[str], Callable[[], Tensor]]


def report(device: str | None = None, *, timings: bool = True) -> tuple[str, int]:
    """The report for one device, or for all that this machine has, and how many checks failed.

    Raises DeviceError for a device that is not there.

    >>> text, failed = report("cpu", timings=False)
    >>> failed
    0
    """
    wanted = [d for d in devices() if (d.available if device is None else d.name == device)]
    if not wanted or not wanted[0].available:
        reason = wanted[0].reason if wanted else "unknown"
        raise DeviceError(f"device {device!r} is not available here: {reason}")
    parts, failures = [_machine()], 0
    for one in wanted:
        lines, failed = _checked(one)
        parts.append(lines)
        failures += failed
        if timings and one.name != "reference":
            parts.append(_timed(one.name))
    return "\n".join(parts), failures


def _machine() -> str:
    versions = [f"Python {platform.python_version()}"]
    for package in ("tensorlogic", *PACKAGES):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    chip = platform.processor() or platform.machine()
    return (
        f"## tensorlogic selftest\n\n{platform.platform()}, {chip}\n\n{', '.join(versions)}\n\n"
        "| device | here | what |\n|---|---|---|\n"
        + "".join(
            f"| {d.name} | {'yes' if d.available else 'no'} | {d.reason or d.description} |\n"
            for d in devices()
        )
    )


def _checked(device: DeviceInfo) -> tuple[str, int]:
    failures: list[str] = []
    count, start = 0, time.perf_counter()
    for check in checks():
        count += 1
        _progress(f"{device.name}: {check.name}")
        try:
            check.run(device.name)
        except Exception as error:
            failures.append(f"**{check.name}**: {type(error).__name__}\n\n```\n{error}\n```\n")
    _progress("")
    seconds = time.perf_counter() - start
    head = f"### {device.name}: {count - len(failures)} of {count} checks passed in {seconds:.1f} s"
    return "\n".join([head, "", *failures]), len(failures)


def _progress(text: str) -> None:
    """What is being done, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# ---- what is checked ----


def checks() -> Iterator[Check]:
    """Every row of the op table by dtype, every quantized type, and the kernels of each kind."""
    for row in OPS.values():
        for dtype in _TAKES[row.accepts]:
            yield Check(f"{row.name} {dtype}", lambda d, row=row, t=dtype: _check_row(row, t, d))  # type: ignore[misc]
    for quant in QUANTS.values():
        yield Check(f"{quant.name}", lambda d, quant=quant: _check_quant(quant, d))  # type: ignore[misc]
    for name, check in _KERNELS.items():
        yield Check(name, check)


def _values(row: Op, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == "int32":
        return rng.integers(-1000, 1000, shape).astype(np.int32)
    low, high = (float(np.clip(v, -30, 30)) for v in row.domain)
    return rng.uniform(low, high, shape).astype(dtype)


_PUBLIC: dict[str, Callable[..., Tensor]] = {
    "gelu_erf": lambda x: f.gelu(x),
    "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
}


def _check_row(row: Op, dtype: str, device: str) -> None:
    assert row.numpy is not None
    rng = np.random.default_rng(1)
    shape = (13, 77)
    public = _PUBLIC.get(row.name) or getattr(f, row.name, None) or getattr(Tensor, row.name)
    if row.kind == "elementwise":
        arrays = [_values(row, dtype, shape, rng) for _ in range(row.arity)]
        if row.name == "where":
            arrays[0] = rng.integers(0, 2, shape).astype(bool)
        got = public(*(tensor(a, a.dtype, device) for a in arrays))
        with np.errstate(all="ignore"):
            want = row.numpy(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays))
    else:
        small = _values(row, dtype, shape, rng)
        if dtype != "bool":
            small = (small / 30).astype(small.dtype)
        got = public(tensor(small, small.dtype, device), axis=1)
        wide = small.astype(np.float64) if small.dtype.kind == "f" else small
        axis: Any = (1,) if row.kind == "reduce" and row.result != "int32" else 1
        keep = {"keepdims": True} if row.kind == "reduce" else {}
        want = np.asarray(row.numpy(wide, axis=axis, **keep))
        want = want[:, 0] if row.kind == "reduce" else want
    exact = got.dtype.kind != "float"
    want = np.asarray(want)
    assert_close(
        got,
        want.astype(got.dtype.numpy) if exact else want,
        ulps=None if exact else max(row.ulps, 1) if dtype == "float16" else row.ulps + 60,
        atol=None if exact else 1e-5,
    )


def _check_quant(quant: QuantType, device: str) -> None:
    rng = np.random.default_rng(2)
    rows, blocks = 24, 4
    data = _blocks(quant, rows * blocks, rng)
    values = dequantize(quant, data).astype(np.float64).reshape(rows, -1)
    weight = from_storage(data.reshape(-1), values.shape, quant.name).to(device)
    assert_close(weight.dequantize(), values, ulps=0, what="decoded")
    for count in (1, 20):
        x = rng.standard_normal((count, values.shape[1])).astype(np.float16)
        size = np.abs(x.astype(np.float64)) @ np.abs(values).T
        got = tensor(x, device=device) @ weight.T
        assert_close(got, x.astype(np.float64) @ values.T, atol=2e-3 * size, what=f"{count} rows")


def _blocks(quant: QuantType, count: int, rng: np.random.Generator) -> Array:
    """Blocks of random digits with scales that keep their values small."""
    data = rng.integers(0, 256, (count, quant.nbytes)).astype(np.uint8)
    for place in _halves(quant):
        scale = rng.uniform(0.001, 0.01, count).astype(np.float16)
        data[:, place : place + 2] = scale[:, None].view(np.uint8)
    return data


def _halves(quant: QuantType) -> set[int]:
    """At which bytes of a block its type reads a float16."""
    found: set[int] = set()

    def half(at: Expr) -> Expr:
        found.add(at.attr)
        return const(0.0, "f32")

    digits = tuple(const(0, "i64") for _ in quant.digits)
    quant.decode(lambda at: const(0, "i32"), half, digits)
    return found


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


def _draw(*shape: int, scale: float = 1.0) -> Array:
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) * scale).astype(np.float16)


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _check_rows(device: str) -> None:
    for shape in ((3, 5), (7, 1000), (2, 4099)):
        x, w, b = _draw(*shape), _draw(shape[1]), _draw(1, shape[1])[0]
        y, z = _wide(x), _wide(w)
        t, tw, tb = (tensor(a, device=device) for a in (x, w, b))
        assert_close(f.softmax(t), _softmax(y), what="softmax")
        rms = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5) * z
        assert_close(f.rms_norm(t, tw, eps=1e-5), rms, what="rms_norm")
        away = y - y.mean(-1, keepdims=True)
        norm = away / np.sqrt((away * away).mean(-1, keepdims=True) + 1e-5) * z + _wide(b)
        assert_close(f.layer_norm(t, tw, tb, eps=1e-5), norm, atol=1e-3, what="layer_norm")


def _check_products(device: str) -> None:
    for m, k, n in ((1, 300, 70), (3, 64, 33), (17, 129, 65), (130, 257, 131)):
        a, b = _draw(m, k), _draw(n, k)
        want = _wide(a) @ _wide(b).T
        size = np.abs(_wide(a)) @ np.abs(_wide(b)).T
        x, w = tensor(a, device=device), tensor(b, device=device)
        assert_close(x @ w.T, want, atol=1e-5 * size, what=f"{m} {k} {n}")
        assert_close(x @ tensor(b.T, device=device), want, atol=1e-5 * size, what="turned")
        assert_close(f.relu(x @ w.T + 1), np.maximum(want + 1, 0), atol=1e-5 * size + 1e-3)
    a, b = _draw(2, 3, 9, 31), _draw(3, 31, 14)
    got = tensor(a, device=device) @ tensor(b, device=device)
    assert_close(got, _wide(a) @ _wide(b), atol=1e-2, what="a batch")


def _check_attention(device: str) -> None:
    for queries, keys, causal in ((1, 40, False), (9, 9, True), (33, 70, True)):
        q, k, v = _draw(4, queries, 32), _draw(2, keys, 32), _draw(2, keys, 32)
        scores = _wide(q) @ np.repeat(_wide(k), 2, axis=0).swapaxes(1, 2) / np.sqrt(32)
        if causal:
            seen = np.arange(keys)[None] <= np.arange(queries)[:, None] + keys - queries
            scores = np.where(seen, scores, -np.inf)
        want = _softmax(scores) @ np.repeat(_wide(v), 2, axis=0)
        got = f.scaled_dot_product_attention(
            *(tensor(x, device=device) for x in (q, k, v)), causal=causal
        )
        assert_close(got, want, atol=1e-3, what=f"{queries} queries, {keys} keys")


def _check_convolution(device: str) -> None:
    x, w = _draw(2, 3, 11, 12), _draw(5, 3, 3, 3)
    got = f.conv2d(tensor(x, device=device), tensor(w, device=device), padding=1)
    padded = np.pad(_wide(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    assert_close(got, np.einsum("nchwij,ocij->nohw", windows, _wide(w)), atol=1e-2)


def _check_order(device: str) -> None:
    x = _draw(3, 500)
    t = tensor(x, device=device)
    assert_close(f.sort(t), np.sort(x, axis=-1), what="sort")
    assert_close(f.argsort(t), np.argsort(x, axis=-1, kind="stable"), what="argsort")
    rows = tensor([2, 0, 2], "int32", device)
    assert_close(t[rows], x[[2, 0, 2]], what="rows by index")
    assert_close(t.T.flip(0)[3:90:4], x.T[::-1][3:90:4], what="views")
    assert_close(f.concat([t, t * 2]), np.concatenate([x, x * 2]), what="concat")


def _check_updates(device: str) -> None:
    cache, expected = zeros([6, 4], device=device), np.zeros((6, 4))
    for i in range(3):
        row = np.full((1, 4), i + 1.0)
        cache = cache.update(2 * i, tensor(row, device=device))
        expected[2 * i] = row
        assert_close(cache, expected, what=f"update {i}")


def _check_calls(device: str) -> None:
    step = compiled(lambda x, w, n: f.gelu(x @ w) * n)
    w = tensor(_draw(8, 8), device=device)
    for i in range(6):
        x = tensor(_draw(i % 3 + 1, 8), device=device)
        want = step(x.to("reference"), w.to("reference"), 0.5 * i)
        assert_close(step(x, w, 0.5 * i), want.numpy(), rtol=4e-3, atol=1e-4, what=f"call {i}")


def _check_random(device: str) -> None:
    here = normal([1000], seed=3, device=device)
    there = normal([1000], seed=3, device="reference")
    assert_close(here, there.numpy(), ulps=2)


_KERNELS: dict[str, Callable[[str], None]] = {
    "softmax and norms": _check_rows,
    "matrix products": _check_products,
    "attention": _check_attention,
    "convolution": _check_convolution,
    "sorting, indices, views": _check_order,
    "updates in place": _check_updates,
    "compiled functions": _check_calls,
    "random numbers": _check_random,
}


# ---- what is timed ----


def _timed(device: str) -> str:
    lines = ["| on " + device + " | median | rate |", "|---|---|---|"]
    for timing in _timings():
        _progress(f"{device}: timing {timing.name}")
        try:
            seconds = _median(timing.make(device))
        except Exception as error:
            lines.append(f"| {timing.name} | failed: {type(error).__name__} | |")
            continue
        rate = f"{timing.work / seconds:,.1f} {timing.unit}" if timing.work else ""
        lines.append(f"| {timing.name} | {1e3 * seconds:.3f} ms | {rate} |")
    _progress("")
    return "\n".join([*lines, ""])


def _median(run: Callable[[], Tensor]) -> float:
    """Seconds of a run, its last value brought to the host; repeated for about half a second."""

    def once(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            last = run()
            f.eval(last)
        last[(0,) * last.ndim].item()
        return (time.perf_counter() - start) / count

    for _ in range(2):
        first = once(1)
    count = max(1, min(100, int(0.05 / max(first, 1e-6))))
    return statistics.median(once(count) for _ in range(7))


def _timings() -> Iterator[Timing]:
    def of(body: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Any:
        def make(device: str) -> Callable[[], Tensor]:
            call = compiled(body)
            inputs = [tensor(_draw(*s, scale=0.1), device=device) for s in shapes]
            return lambda: call(*inputs)

        return make

    n = 1 << 24
    yield Timing("gelu(x * 2 + 1), 16 Mi", 4e-9 * n, "GB/s", of(lambda x: f.gelu(x * 2 + 1), (n,)))
    rows = (4096, 4096)
    yield Timing("softmax 4096 x 4096", 4e-9 * n, "GB/s", of(f.softmax, rows))
    yield Timing("sum of 16 Mi", 2e-9 * n, "GB/s", of(lambda x: x.sum(), rows))
    for m in (1, 128, 1024):
        k = 4096 if m < 1024 else 1024
        work = 2e-9 * m * k * k
        name = f"matmul {m} x {k} x {k}"
        yield Timing(name, work, "GFLOP/s", of(lambda x, w: x @ w.T, (m, k), (k, k)))
    yield Timing("a call of a small linear", 0, "", of(lambda x, w: x @ w, (4, 3), (3, 5)))
