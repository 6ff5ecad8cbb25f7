"""Runs the launches of whole graphs on an NVIDIA GPU: attention, transposes, convolutions.

    PYTHONPATH=src python tests/cuda/graphs_on_gpu.py [NAME...]

Needs NumPy and CuPy. Prints one table: each graph at small sizes with its largest error against
float64 (WRONG where that is beyond its tolerance), then at large ones the time of all its launches,
what their operands and results weigh in a second, and as a part of what a device copy moves in this
run. Where PyTorch sees the card too, its scaled_dot_product_attention follows for comparison. Ends
with status 1 if anything was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cupy
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorlogic as tl
from tensorlogic.codegen import clike
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.graph import Node, inline_calls
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.lower import CheckRecord
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings
from tests.conformance.cases import attention
from tests.cuda.device import BYTES, compiled

Array = Any
REPEATS = 20


@dataclass
class Launches:
    """What computes a graph on the card: `run()` makes all launches, `result()` fetches."""

    steps: Sequence[Step]
    calls: list[Callable[[], None]]
    result: Callable[[], Array]
    nbytes: int

    def run(self) -> None:
        for call in self.calls:
            call()


def launches_of(tensor: tl.Tensor) -> Launches:
    roots = inline_calls([tensor._node])
    plan = schedule(roots, Settings(), GPU)
    memory: dict[int, Any] = {}
    status = cupy.zeros(64, np.int32)
    calls: list[Callable[[], None]] = []
    moved = 0

    def place(node: Node) -> Any:
        nonlocal moved
        if id(node) not in memory:
            if node.data is not None:
                memory[id(node)] = cupy.asarray(node.data.memory.base)
            else:
                size = node.size * BYTES[plan.memory_types.get(id(node), node.dtype.ir)]
                memory[id(node)] = cupy.zeros(max(size, 1), np.uint8)
            if node.data is not None or node is roots[0]:
                moved += memory[id(node)].nbytes
        return memory[id(node)]

    for step in plan.steps:
        params = {
            p.attr: 0 if isinstance(v, CheckRecord) else v.number if isinstance(v, Node) else v
            for p, v in zip(step.all_params, step.params, strict=True)
        }
        arrays, offsets = [], []
        for buffer, use in zip(step.all_buffers, step.buffers, strict=True):
            node, start = (None, 0) if use is None else use
            arrays.append(status if node is None else place(node))
            offsets.append(start // BYTES[buffer.dtype])
        launch = gpu_launch(step.kernel, "kernel", "cuda", step.sizes())
        words = clike.pack_params(step.all_params, params, offsets)
        word = np.dtype({"names": ["word"], "formats": [(np.int64, (len(words) // 8,))]})
        args = (*arrays, np.frombuffer(words, dtype=word))
        function = compiled(launch.source, "kernel")
        shape = ((launch.groups,), (launch.threads,))
        if launch.groups:
            calls.append(lambda f=function, s=shape, a=args: f(*s, a))
    dtype = np.dtype(roots[0].dtype.numpy)

    def result() -> Array:
        values = memory[id(roots[0])].get()[: roots[0].size * dtype.itemsize].view(dtype)
        return values.reshape(roots[0].shape)

    return Launches(plan.steps, calls, result, moved)


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


def numbers(shape: tuple[int, ...], dtype: Any = np.float16, seed: int = 0) -> Array:
    some = np.random.default_rng(seed).standard_normal(1 << 16).astype(dtype)
    return np.resize(some, shape)


def tensor(x: Array) -> tl.Tensor:
    return tl.tensor(x, dtype=x.dtype)


class Table:
    def __init__(self) -> None:
        self.wrong = 0
        print(
            f"{'graph':52}{'launches':>9}{'error':>15}{'us':>10}{'GB/s':>8}{'of copy':>8}", end=""
        )
        print(f"{'TFLOP/s':>9}")
        source = cupy.zeros(1 << 29, np.uint8)
        target = cupy.empty_like(source)
        ms = milliseconds(lambda: cupy.copyto(target, source))
        self.copy = 2 * source.nbytes / ms
        self.row("device copy", "", "", ms, 2 * source.nbytes)

    def row(
        self,
        name: str,
        launches: object,
        error: str,
        ms: float = 0,
        moved: int = 0,
        flops: float = 0,
    ) -> None:
        self.wrong += "WRONG" in error
        text = f"{name:52}{launches!s:>9}{error:>15}"
        if ms:
            text += f"{ms * 1e3:10.1f}{moved / ms / 1e6:8.0f}{moved / ms / self.copy:8.2f}"
            text += f"{flops / ms / 1e9:9.1f}" if flops else ""
        print(text, flush=True)

    def check(self, name: str, made: tl.Tensor, want: Array, tolerance: float) -> None:
        launches = launches_of(made)
        launches.run()
        error = float(np.nan_to_num(np.abs(launches.result() - want), nan=np.inf).max(initial=0))
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        wrong = "WRONG " if error > tolerance * scale else ""
        self.row(name, len(launches.calls), f"{wrong}{error:.1e}")

    def time(self, name: str, made: tl.Tensor, flops: float = 0) -> None:
        launches = launches_of(made)
        ms = milliseconds(launches.run)
        self.row(name, len(launches.calls), "", ms, launches.nbytes, flops)


def operands(h: int, g: int, t: int, s: int, d: int, dtype: Any) -> list[Array]:
    return [numbers(x, dtype, i) for i, x in enumerate(((h, t, d), (g, s, d), (g, s, d)))]


def attentions(table: Table) -> None:
    small = [
        (4, 2, 1, 300, 64),
        (8, 1, 1, 1000, 128),
        (4, 4, 70, 150, 64),
        (4, 2, 100, 100, 128),
        (2, 1, 33, 70, 256),
        (3, 1, 5, 50, 5),
    ]
    for h, g, t, s, d in small:
        for causal in (False, True):
            for dtype in (np.float16, np.float32):
                q, k, v = (
                    numbers(x, dtype, i) for i, x in enumerate(((h, t, d), (g, s, d), (g, s, d)))
                )
                made = tl.scaled_dot_product_attention(*map(tensor, (q, k, v)), causal=causal)
                want = attention(*(x.astype(float) for x in (q, k, v)), causal=causal)
                name = f"attention {h}/{g} heads {t} x {s} of {d} {np.dtype(dtype)} {causal}"
                table.check(name, made, want, 1e-3 if dtype == np.float16 else 1e-5)
    large = [
        (32, 8, 1, 2048, 64, False),
        (32, 8, 1, 8192, 128, False),
        (32, 8, 1, 131072, 128, False),
        (32, 32, 1, 8192, 128, False),
        (12, 12, 128, 128, 32, False),
        (32, 32, 512, 512, 64, False),
        (32, 32, 4096, 4096, 64, True),
        (32, 32, 4096, 4096, 128, True),
        (32, 8, 4096, 4096, 128, False),
        (8, 8, 2048, 2048, 256, True),
    ]
    for h, g, t, s, d, causal in large:
        q, k, v = (
            numbers(x, np.float16, i) for i, x in enumerate(((h, t, d), (g, s, d), (g, s, d)))
        )
        made = tl.scaled_dot_product_attention(*map(tensor, (q, k, v)), causal=causal)
        flops = 4.0 * h * t * s * d / (2 if causal else 1)
        table.time(f"attention {h}/{g} heads {t} x {s} of {d} {causal}", made, flops)
        by_torch(table, (q, k, v), causal, flops)


def by_torch(table: Table, arrays: Sequence[Array], causal: bool, flops: float) -> None:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        q, k, v = (torch.from_numpy(x).cuda()[None] for x in arrays)
        each = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(each, 1) for x in (k, v))  # what its fast kernels take
        sdpa = torch.nn.functional.scaled_dot_product_attention
        moved = sum(x.nbytes for x in (q, k, v)) + q.nbytes
        with torch.cuda.stream(torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)):
            ms = milliseconds(lambda: sdpa(q, k, v, is_causal=causal))
        table.row("    PyTorch, heads repeated", 1, "", ms, moved, flops)


def transposes(table: Table) -> None:
    for shape, order in (((70, 130), (1, 0)), ((3, 65, 64), (0, 2, 1)), ((40, 5, 90), (2, 0, 1))):
        x = numbers(shape)
        made = tensor(x).permute(*order) + 0
        table.check(f"permute {shape} {order}", made, x.transpose(order), 0)
    for shape, order in (((8192, 8192), (1, 0)), ((512, 64, 4096), (0, 2, 1))):
        table.time(f"permute {shape} {order}", tensor(numbers(shape)).permute(*order) + 0)


def convolutions(table: Table) -> None:
    x, w = numbers((2, 20, 21, 19)), numbers((40, 20, 3, 3), seed=1)
    made = tl.conv2d(tensor(x), tensor(w), padding=1)
    padded = np.pad(x.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)])
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    want = np.einsum("nchwij,ocij->nohw", seen, w.astype(float))
    table.check("conv2d 2 x 20 x 21 x 19", made, want, 1e-3)
    for n, c, size, o in ((8, 64, 56, 64), (8, 256, 14, 256)):
        x, w = numbers((n, c, size, size)), numbers((o, c, 3, 3), seed=1)
        flops = 2.0 * n * o * size * size * c * 9
        made = tl.conv2d(tensor(x), tensor(w), padding=1)
        table.time(f"conv2d 3 x 3 {n} x {c} x {size} x {size}, {o}", made, flops)


def main(names: list[str]) -> int:
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{device}, CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}")
    table = Table()
    for part in (attentions, transposes, convolutions):
        if not names or any(n in part.__name__ for n in names):
            part(table)
    print(f"{table.wrong} wrong")
    return int(table.wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
