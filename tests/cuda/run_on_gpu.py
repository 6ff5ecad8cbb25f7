"""Runs the CUDA text of every example kernel on an NVIDIA GPU and compares it with the interpreter.

    PYTHONPATH=src python tests/cuda/run_on_gpu.py [NAME...]

Needs NumPy and CuPy. Prints one table: each kernel in several forms on small inputs (its largest
error against NumPy; WRONG where that is beyond its tolerance), then in the form that is chosen for
large ones its time and what it moves of its buffers, each counted once, also as a part of what a
device copy moves in this run. Ends with status 1 if anything was wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import nvrtc

sys.path.insert(0, str(Path(__file__).parents[2]))

from tensorlogic.codegen import clike, forms, gpu_matmul
from tensorlogic.codegen.gpu_tiles import LARGE, PLAIN, SMALL, GpuTile
from tensorlogic.kernels import interpret
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Matmul
from tensorlogic.quants import QUANTS, dequantize
from tests.blocks import ordinary_blocks
from tests.gpu_texts import MATMULS, forms_of
from tests.kernels.kernel_examples import EXAMPLES
from tests.kernels.samples import SAMPLES, buffers_of

Array = Any
REPEATS = 10


def compiled(text: str, name: str, options: tuple[str, ...]) -> Any:
    """The kernel of a text. CuPy's own way to compile knows one target, which has no wgmma."""
    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    nvrtc.compileProgram(program, options)
    module = cupy.cuda.function.Module()
    module.load(nvrtc.getCUBIN(program))
    return module.get_function(name)


class Compiled:
    """A kernel on the GPU."""

    def __init__(self, text: str, name: str, group: int):
        started = time.perf_counter()
        capability = cupy.cuda.Device().compute_capability
        arch = f"sm_{capability}a" if capability == "90" else f"sm_{capability}"
        options = ("--std=c++17", f"--gpu-architecture={arch}", "--ftz=true")
        self.function = compiled(text, name, options)
        self.seconds = time.perf_counter() - started
        self.group = group

    def __call__(self, groups: int, buffers: list[Array], words: bytes) -> None:
        word = np.dtype({"names": ["word"], "formats": [(np.int64, (len(words) // 8,))]})
        by_value = np.frombuffer(words, dtype=word)
        if groups:
            self.function((groups,), (self.group,), (*buffers, by_value))


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
    """float32 subnormals as zeros: kernels are compiled so here, as Metal's fast math does."""
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
    for which, printed, form in forms_of(kernel, params):
        capacity = forms.local_capacity(printed, form)
        needed = {b.name: forms.uniform(b.size, params) for b in kernel.locals if b.size}
        if any(needed[n] > capacity[n] for n in needed):
            continue
        text = clike.render(printed, "kern", "cuda", form=form)
        run = Compiled(text, "kern", forms.group_size(printed, form))
        given = {n: cupy.asarray(a) for n, a in buffers.items()}
        words = clike.pack_params(kernel.params, params, offsets)
        groups = forms.groups(printed, params, form)
        run(groups, [given[b.name] for b in kernel.buffers], words)
        errors = [
            largest_error(given[b.name].get(), expected[b.name], b.dtype, *tolerance)
            for b in kernel.buffers
            if b.written
        ]
        error = max(errors, key=lambda e: ("WRONG" in e, float(e.split()[-1])))
        if form.index == "i32" and name in WIDE:
            error = "(64 bits)"
        table.row(name, which, form.index, error, run)
    if large:
        known = {p.attr: large[1][p.attr] for p in kernel.params if p.dtype == "i64"}
        printed, form = forms.chosen(kernel, known)
        capacity = forms.local_capacity(printed, form)
        needed = {b.name: forms.uniform(b.size, large[1]) for b in kernel.locals if b.size}
        if any(needed[n] > capacity[n] for n in needed):
            return
        text = clike.render(printed, "kern", "cuda", form=form)
        run = Compiled(text, "kern", forms.group_size(printed, form))
        words = clike.pack_params(kernel.params, large[1], offsets)
        groups = forms.groups(printed, large[1], form)
        args = [on_gpu[b.name] for b in kernel.buffers]
        ms = milliseconds(lambda: run(groups, args, words))
        moved = sum(a.nbytes for a in on_gpu.values())
        table.row(name, "large", form.index, "", run, ms, moved)


WIDE = ("integers", "example_integers")
"""Kernels whose i64 values do not fit into 32 bits."""


def problem(
    spec: Matmul, compiled: Compiled, tile: GpuTile, m: int, n: int, k: int, batches: int
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
    quant = QUANTS.get(spec.b_dtype)
    if quant is None:
        b = operand(*((n, k) if spec.b_contiguous == "k" else (k, n)), spec.b_dtype, gap_b)
    else:
        few = ordinary_blocks(quant.name, 512)
        b = np.resize(few, (batches, n, k // quant.block, quant.nbytes))
    bias = rng.standard_normal(n).astype(np.float16)
    out = cupy.zeros((batches, m, n), np.float16)
    sign = cupy.zeros((batches, m, n), np.bool_)
    strides = [a.size // batches, *((1, m) if spec.a_contiguous == "m" else (k * gap_a, gap_a))]
    along = (1, b.size // batches // n) if quant or spec.b_contiguous == "k" else (n * gap_b, gap_b)
    strides += [b.size // batches, *along]
    numbers = (m, n, k, batches, *strides, 1.0)
    params = dict(zip((p.attr for p in spec.all_params), numbers, strict=True))
    words = clike.pack_params(spec.all_params, params, [0] * 5)
    buffers = [*(cupy.asarray(x) for x in (a, b, bias)), out, sign]
    groups = gpu_matmul.groups(tile, params)
    a, b = a[..., 0], b[..., 0] if quant is None else dequantize(quant, b).reshape(batches, n, k)
    a = a.transpose(0, 2, 1) if spec.a_contiguous == "m" else a
    b = b.transpose(0, 2, 1) if spec.b_contiguous == "k" else b
    return lambda: compiled(groups, buffers, words), a, b, bias, out


def run_matmuls(table: Table, wanted: Callable[[str], bool]) -> None:
    for name, spec in MATMULS.items():
        if not wanted(f"matmul_{name}"):
            continue
        matrix = gpu_matmul.uses_matrix_units(spec)
        timed = TIMED if name in ("f16_k_n", "f16_k_k") else TIMED[:2]
        for tile in TILES[: 4 if len(timed) > 2 else 2] if matrix else (PLAIN,):
            for index in ("i64", "i32") if len(timed) > 2 else ("i32",):
                text = gpu_matmul.render(spec, "product", "cuda", tile, index=index)
                compiled = Compiled(text, "product", tile.threads)
                shape = f"{tile.m}x{tile.n}x{tile.k}/{tile.simds_m}x{tile.simds_n}"
                quant = QUANTS.get(spec.b_dtype)
                for sizes in SIZES if quant is None else [(70, 45, 2 * quant.block, 1)]:
                    launch, a, b, bias, out = problem(spec, compiled, tile, *sizes)
                    launch()
                    sums = (
                        as_float(a, spec.a_dtype) @ as_float(b, "f32" if quant else spec.b_dtype)
                        + bias
                    )
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


TILES = (LARGE, SMALL, GpuTile(128, 128, 32, 2, 2), GpuTile(128, 64, 32, 4, 2))
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
    run_matmuls(table, wanted)
    print(f"{table.wrong} wrong")
    return int(table.wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
