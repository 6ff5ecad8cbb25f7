"""Kernels of the CPU: schedules become LLVM IR, tuned to this host, and launches of native code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_interleaved import ROWS
from tensorlogic.codegen.llvm_rows import emit_dot_kernel
from tensorlogic.codegen.rewrite import roughened
from tensorlogic.devices import products
from tensorlogic.devices.library import Library, Object
from tensorlogic.devices.native import host, threads
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import Fold, Kernel, Loop, walk
from tensorlogic.schedule.emit import Step, step_text

CHUNK, STREAM = 16_384, 524_288
"""Elements in a chunk of work, at least, some microseconds; and where there is much work at most,
so that what a chunk reads is a long stream of memory."""
FEW, MANY = 4, 64
"""Chunks for each thread: so many are enough, and so many are the most."""
STREAMED = 16 << 20
"""Bytes of results from which on a kernel stores past the caches."""


def streams(step: Step) -> bool:
    """Whether what a kernel stores would drive out of the caches all that is in them.

    Rows with folds store in bursts, between which they compute: those wait in the caches, while a
    store past them would make the next one wait.
    """
    if not isinstance(step.kernel, Kernel) or step.in_place:
        return False
    folds = any(isinstance(s, Fold) for s in walk(step.kernel.body))
    return not folds and sum(n.size * n.dtype.itemsize for n in step.writes) >= STREAMED


def kernel_name(text: str) -> str:
    return "k" + hashlib.sha256(text.encode()).hexdigest()[:20]


def launches(library: Library, steps: Sequence[Step]) -> list[tuple[str, int, int, int]]:
    """The launch of each step: name of the kernel, argument words, parallel range, chunk. Kernels
    that are not in the library yet are compiled in one module."""
    names = [kernel_name(step_text(s) + ("\nstreams" if streams(s) else "")) for s in steps]
    missing: dict[str, Step] = {}
    for name, step in zip(names, steps, strict=True):
        if name not in library.kernels:
            missing.setdefault(name, step)
    if missing:
        _compile(library, missing)
    return [_launch(s, name) for s, name in zip(steps, names, strict=True)]


def _compile(library: Library, missing: dict[str, Step]) -> None:
    """Kernels of the IR share one module; each product has its own."""
    module = Module()
    names: list[str] = []
    imports: dict[str, Object] = {}
    for name, step in missing.items():
        shared = [library.compile(*text) for text in products.libraries(step.kernel)]
        if isinstance(step.kernel, Kernel):
            check_kernel(step.kernel)
            lanes, types = host().lanes, products.dot_types()
            kernel = roughened(step.kernel)
            emit_dot_kernel(module, kernel, name, lanes, types, streams(step))
            imports |= {o.key: o for o in shared}
            names.append(name)
        else:
            source = products.source(step.kernel, name)
            library.add_kernels(library.compile(source, [name], shared))
    if names:
        library.add_kernels(library.compile(module.text(), names, imports.values()))


def _launch(step: Step, name: str) -> tuple[str, int, int, int]:
    words = len(step.buffers) + len(step.params)
    if not isinstance(step.kernel, Kernel):
        work, chunk, _ = products.product_units(step)
        return name, words, work, chunk
    parts = (FEW if products.has_dots(step.kernel) else MANY) * threads()
    stream = min(max(CHUNK, step.work * step.cost // (FEW * threads())), STREAM)
    chunk = max(1, stream // step.cost, -(-step.work // parts))
    body = step.kernel.body[-1]
    if isinstance(body, Loop) and body.kind == "flat":  # whole vectors, and whole cache lines
        unit = 64 if step.cost == 1 or step.work < 512 * threads() else 256
        chunk = -(-chunk // unit) * unit
    if step.interleaved:  # whole groups
        chunk = -(-chunk // ROWS) * ROWS
    return name, words, step.work, chunk


def scratch(steps: Sequence[Step]) -> int:
    """Bytes of local memory that a worker needs for these steps."""
    return max((products.scratch(s) for s in steps), default=0)
