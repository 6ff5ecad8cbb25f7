"""Runs the CUDA text of every example kernel on an NVIDIA GPU and compares it with the interpreter.

    PYTHONPATH=src python tests/cuda/run_on_gpu.py [NAME...]

Needs NumPy and CuPy. Prints one table: each kernel with both widths of a row and both index types
on small inputs (its largest error against NumPy; WRONG where that is beyond its tolerance), then on
large ones its time and what it moves of its buffers, each counted once, also as a part of what a
device copy moves in this run. Ends with status 1 if anything was wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import cupy
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tensorlogic.codegen import clike, gpu_matmul, gpu_quant
from tensorlogic.kernels import interpret
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import BlockMatvec, Matmul
from tests.gpu_texts import MATMULS, MATVECS, matvec_text
from tests.kernels.kernel_examples import EXAMPLES
from tests.kernels.samples import SAMPLES, buffers_of

Array = Any
REPEATS = 10


class Compiled:
    """A kernel on the GPU."""

    def __init__(self, text: str, name: str, group: int):
        started = time.perf_counter()
        self.function = cupy.RawModule(code=text, options=("--std=c++17",)).get_function(name)
        self.seconds = time.perf_counter() - started
        self.group = group

    def __call__(self, threads: int, buffers: list[Array], words: bytes) -> None:
        word = np.dtype({"names": ["word"], "formats": [(np.int64, (len(words) // 8,))]})
        by_value = np.frombuffer(words, dtype=word)
        if threads:
            self.function((threads // self.group,), (self.group,), (*buffers, by_value))


def milliseconds(work: Callable[[], object]) -> float:
    """The median of several runs."""
    work()
    times = []
    for _ in range(REPEATS):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def as_float(array: Array, dtype: str) -> Array:
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def without_subnormals(array: Array) -> Array:
    """float32 subnormals as zeros: CuPy compiles with --ftz=true, as Metal's fast math does."""
    if array.dtype != np.float32:
        return array
    return np.where(np.abs(array) < np.finfo(np.float32).tiny, np.float32(0), array)


def largest_error(found: Array, expected: Array, dtype: str, rtol: float, atol: float) -> str:
    """The greatest difference, and whether it is beyond the tolerance."""
    a, e = as_float(found, dtype), as_float(expected, dtype)
    exact = dtype in ("i32", "bool", "u8")
    bound = 0.0 if exact else atol + rtol * np.abs(np.where(np.isfinite(e), e, 0.0))
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - e))
    worst = float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))
    wrong = np.any(~same & ~(error <= bound))
    return f"{'WRONG ' if wrong else ''}{worst:.1e}"


class Table:
    def __init__(self) -> None:
        self.wrong = 0
        self.copy = 0.0
        print(f"{'kernel':34}{'threads':>8}{'index':>6}{'error':>15}", end="")
        print(f"{'compile ms':>12}{'us':>12}{'GB/s':>9}{'of copy':>9}{'TFLOP/s':>9}")

    def measure_copy(self) -> None:
        source = cupy.zeros(1 << 29, np.uint8)
        target = cupy.empty_like(source)
        ms = milliseconds(lambda: cupy.copyto(target, source))
        self.row("device copy", "", "", "", None, ms, 2 * source.nbytes)
        self.copy = 2 * source.nbytes / ms / 1e6

    def row(
        self,
        name: str,
        width: object,
        index: str,
        error: str,
        compiled: Compiled | None = None,
        ms: float = 0.0,
        moved: int = 0,
        flops: float = 0.0,
    ) -> None:
        self.wrong += "WRONG" in error
        text = f"{name:34}{width!s:>8}{index:>6}{error:>15}"
        text += f"{compiled.seconds * 1e3:12.0f}" if compiled else " " * 12
        if ms:
            rate = moved / ms / 1e6
            text += f"{ms * 1e3:12.1f}{rate:9.0f}"
            text += f"{rate / self.copy:9.2f}" if self.copy else " " * 9
        if ms and flops:
            text += f"{flops / ms / 1e9:9.1f}"
        print(text, flush=True)


def run_kernel(
    table: Table,
    name: str,
    kernel: Kernel,
    small: tuple[Mapping[str, Array], Mapping[str, float]],
    large: tuple[Mapping[str, Array], Mapping[str, float]] | None,
    tolerance: tuple[float, float],
) -> None:
    buffers, params = {n: without_subnormals(a) for n, a in small[0].items()}, small[1]
    expected = {n: a.copy() for n, a in buffers.items()}
    interpret.run(kernel, expected, params)
    offsets = [0] * len(kernel.buffers)
    on_gpu = {n: cupy.asarray(a) for n, a in large[0].items()} if large else {}
    for width in (256,) if clike.is_flat(kernel) else (256, 32):
        capacity = clike.local_capacity(kernel, width)
        needed = {b.name: clike.uniform(b.size, params) for b in kernel.locals if b.size}
        fits = all(needed[n] <= capacity[n] for n in needed)
        for index in ("i64", "i32"):
            group = clike.group_size(kernel, width)
            text = clike.render(kernel, name, "cuda", width=width, index=index)
            compiled = Compiled(text, name, group)
            error = "too long a row"
            if fits:
                given = {n: cupy.asarray(a) for n, a in buffers.items()}
                words = clike.pack_params(kernel.params, params, offsets)
                threads = clike.grid(kernel, params, width)
                compiled(threads, [given[b.name] for b in kernel.buffers], words)
                errors = [
                    largest_error(given[b.name].get(), expected[b.name], b.dtype, *tolerance)
                    for b in kernel.buffers
                    if b.written
                ]
                error = max(errors, key=lambda e: ("WRONG" in e, float(e.split()[-1])))
                if index == "i32" and name in WIDE:
                    error = "(64 bits)"
            ms = moved = 0
            if large and fits:
                words = clike.pack_params(kernel.params, large[1], offsets)
                threads = clike.grid(kernel, large[1], width)
                needs = {b.name: clike.uniform(b.size, large[1]) for b in kernel.locals if b.size}
                if all(needs[n] <= capacity[n] for n in needs):
                    args = [on_gpu[b.name] for b in kernel.buffers]
                    ms = milliseconds(lambda c=compiled, t=threads, a=args, w=words: c(t, a, w))
                    moved = sum(a.nbytes for a in on_gpu.values())
            table.row(name, width, index, error, compiled, ms, moved)


WIDE = ("integers", "example_integers")
"""Kernels whose i64 values do not fit into 32 bits."""


def problem(
    spec: Matmul, compiled: Compiled, tile: gpu_matmul.GpuTile, m: int, n: int, k: int, batches: int
) -> tuple[Callable[[], None], Array, Array, Array, Array]:
    """A launch on random operands; also a, b, bias and out."""
    rng = np.random.default_rng(m + n + k)

    def operand(rows: int, cols: int, dtype: str, gap: int) -> Array:
        size = batches * rows * cols * gap
        x = rng.standard_normal(min(size, 1 << 20)).astype(np.float32) * np.float32(0.1)
        if dtype == "f16":
            x = x.astype(np.float16)
        elif dtype == "bf16":
            x = (x.view(np.uint32) >> 16).astype(np.uint16)
        return np.resize(x, size).reshape(batches, rows, cols, gap)

    gap_a, gap_b = (1 if c else 2 for c in (spec.a_contiguous, spec.b_contiguous))
    a = operand(*((k, m) if spec.a_contiguous == "m" else (m, k)), spec.a_dtype, gap_a)
    b = operand(*((n, k) if spec.b_contiguous == "k" else (k, n)), spec.b_dtype, gap_b)
    bias = rng.standard_normal(n).astype(np.float16)
    out = cupy.zeros((batches, m, n), np.float16)
    sign = cupy.zeros((batches, m, n), np.bool_)
    strides = [a.size // batches, *((1, m) if spec.a_contiguous == "m" else (k * gap_a, gap_a))]
    strides += [b.size // batches, *((1, k) if spec.b_contiguous == "k" else (n * gap_b, gap_b))]
    numbers = (m, n, k, batches, *strides, 1.0)
    params = dict(zip((p.attr for p in spec.all_params), numbers, strict=True))
    words = clike.pack_params(spec.all_params, params, [0] * 5)
    buffers = [*(cupy.asarray(x) for x in (a, b, bias)), out, sign]
    threads = gpu_matmul.matmul_grid(tile, params)
    a, b = a[..., 0], b[..., 0]
    a = a.transpose(0, 2, 1) if spec.a_contiguous == "m" else a
    b = b.transpose(0, 2, 1) if spec.b_contiguous == "k" else b
    return lambda: compiled(threads, buffers, words), a, b, bias, out


def run_matmuls(table: Table, wanted: Callable[[str], bool]) -> None:
    for name, spec in MATMULS.items():
        if not wanted(f"matmul_{name}"):
            continue
        matrix = gpu_matmul.uses_matrix_units(spec)
        timed = TIMED if name in ("f16_k_n", "f16_k_k") else TIMED[:1]
        for tile in TILES[: 5 if len(timed) > 1 else 2] if matrix else (gpu_matmul.PLAIN,):
            for index in ("i64", "i32") if len(timed) > 1 else ("i64",):
                text = gpu_matmul.render(spec, "product", "cuda", tile, index=index)
                compiled = Compiled(text, "product", tile.threads)
                shape = f"{tile.m}x{tile.n}x{tile.k}/{tile.simds_m}x{tile.simds_n}"
                for sizes in SIZES:
                    launch, a, b, bias, out = problem(spec, compiled, tile, *sizes)
                    launch()
                    sums = as_float(a, spec.a_dtype) @ as_float(b, spec.b_dtype) + bias
                    error = largest_error(out.get(), np.tanh(sums), "f16", 2e-3, 1e-4)
                    table.row(f"{name} {'x'.join(map(str, sizes))}", shape, index, error)
                for sizes in timed:
                    launch, a, b, *_, out = problem(spec, compiled, tile, *sizes)
                    ms = milliseconds(launch)
                    m, n, k, batches = sizes
                    moved = a.nbytes + b.nbytes + out.nbytes
                    label = f"{name} {'x'.join(map(str, sizes))}"
                    flops = 2.0 * m * n * k * batches
                    table.row(label, shape, index, "", compiled, ms, moved, flops)
    if wanted("vendor"):
        for m, n, k, _ in TIMED:
            a, b = (cupy.ones(s, np.float16) for s in ((m, k), (k, n)))
            ms = milliseconds(lambda a=a, b=b: cupy.matmul(a, b))
            moved = a.nbytes + b.nbytes + 2 * m * n
            table.row(f"vendor {m}x{n}x{k}", "", "", "", None, ms, moved, 2.0 * m * n * k)


def run_matvecs(table: Table, wanted: Callable[[str], bool]) -> None:
    rng = np.random.default_rng(0)
    for (name, spec), rows_each in product(MATVECS.items(), (1, 2, 4)):
        if not wanted(f"matvec_{name}"):
            continue
        text = matvec_text(name, "cuda", rows_each)
        compiled = Compiled(text, f"matvec_{name}", gpu_quant.GROUP)

        def prepare(rows: int, blocks: int, spec: BlockMatvec = spec, each: int = rows_each) -> Any:
            data = np.resize(rng.integers(0, 256, 18 << 16, dtype=np.uint8), (rows * blocks, 18))
            scales = np.resize(rng.standard_normal(1 << 16) * 0.05, rows * blocks)
            data[:, :2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
            x = rng.standard_normal(blocks * 32).astype(interpret.MEMORY[spec.x_dtype])
            bias = rng.standard_normal(rows).astype(np.float32)
            buffers = [*map(cupy.asarray, (data.ravel(), x, bias)), cupy.zeros(rows, np.float32)]
            params = {"rows": rows, "blocks": blocks}
            words = clike.pack_params(spec.all_params, params, [0] * 4)
            return data, x, bias, buffers, gpu_quant.matvec_grid(params, each), words

        for rows, blocks in ((11, 9), (8, 40), (1, 1)):
            data, x, bias, buffers, threads, words = prepare(rows, blocks)
            compiled(threads, buffers, words)
            digits = np.concatenate([data[:, 2:] & 15, data[:, 2:] >> 4], axis=1).astype(float) - 8
            scale = np.ascontiguousarray(data[:, :2]).view(np.float16).astype(float)
            sums = (digits * scale).reshape(rows, -1) @ x.astype(float) + bias
            error = largest_error(buffers[3].get(), np.maximum(sums, 0), "f32", 1e-5, 1e-5)
            table.row(f"matvec {name} {rows}x{blocks * 32}", f"{rows_each} rows", "i64", error)
        _, _, _, buffers, threads, words = prepare(32768, 128)
        matrices = [buffers[0].copy() for _ in range(8)]  # together more than the L2 holds

        launches = [(threads, [w, *buffers[1:]], words) for w in matrices]
        ms = milliseconds(lambda c=compiled, all=launches: [c(*one) for one in all])
        moved = sum(w.nbytes for w in matrices)
        table.row(
            f"matvec {name} 8 of 32768x4096", f"{rows_each} rows", "i64", "", compiled, ms, moved
        )


TILES = (
    gpu_matmul.LARGE,
    gpu_matmul.SMALL,
    gpu_matmul.GpuTile(128, 128, 32, 2, 2),
    gpu_matmul.GpuTile(128, 64, 32, 2, 2),
    gpu_matmul.GpuTile(256, 64, 32, 4, 2),
)
SIZES = ((70, 45, 33, 2), (256, 512, 64, 1), (130, 257, 200, 1), (1, 1, 1, 3), (5, 7, 0, 1))
TIMED = ((4096, 4096, 4096, 1), (512, 4096, 4096, 1), (16, 4096, 4096, 1))


def main(names: list[str]) -> int:
    """`names` are parts of kernel names; without any, all run."""
    wanted = lambda name: not names or any(n in name for n in names)  # noqa: E731
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{device}, CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}")
    table = Table()
    table.measure_copy()
    for name, sample in SAMPLES.items():
        if wanted(name):
            small = buffers_of(sample, np.random.default_rng(0))
            large = buffers_of(sample, np.random.default_rng(1), large=True)
            run_kernel(table, name, sample.kernel, small, large, (sample.rtol, sample.atol))
    for make in EXAMPLES:
        name, example = f"example_{make.__name__}", make()
        if wanted(name) and make.__name__ != "floats":  # float64: on the CPU alone
            small = (example.buffers, example.params)
            tolerance = (example.tolerance, example.tolerance)
            run_kernel(table, name, example.kernel, small, None, tolerance)
    run_matvecs(table, wanted)
    run_matmuls(table, wanted)
    print(f"{table.wrong} wrong")
    return int(table.wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
