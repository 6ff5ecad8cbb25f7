"""The CPU: kernels become LLVM IR, tuned to this host, and run on all its cores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_rows import emit_dot_kernel
from tensorlogic.codegen.rewrite import roughened
from tensorlogic.devices import products
from tensorlogic.devices.native import Launch, compile_module, host, threads
from tensorlogic.devices.planned import PlannedDevice
from tensorlogic.devices.plans import CpuPlan
from tensorlogic.graph import Node
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import Fold, Kernel, Loop, walk
from tensorlogic.kernels.spec import Attention, Matmul
from tensorlogic.schedule.emit import Step, step_text
from tensorlogic.schedule.fuse import Schedule
from tensorlogic.schedule.traits import CPU

CHUNK = 16_384
"""Elements in a chunk of work, about: some microseconds."""
SETUP = 16
"""Elements that the rows of a chunk touch for each one that is computed before them."""
PARTS = 64, 8
"""Chunks for each thread at most: of other kernels, and of those that round vectors first."""
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


class Cpu(PlannedDevice):
    name = "cpu"
    description = "LLVM kernels on all cores"

    traits = CPU

    def __init__(self) -> None:
        super().__init__()
        self._kernels: dict[str, int] = {}
        self._libraries: dict[str, dict[str, int]] = {}

    def unavailable(self) -> None:
        return None

    @property
    def compiled(self) -> int:
        """How many kernels this process has compiled or loaded."""
        return len(self._kernels)

    def plan(self, schedule: Schedule, order: Sequence[Node]) -> CpuPlan:
        return CpuPlan(self, schedule, order)

    # ---- what a plan asks of its device ----

    def launches(self, steps: Sequence[Step]) -> list[Launch]:
        """The launch of each step; kernels that are not there yet are compiled in one module."""
        texts = [step_text(s) + ("\nstreams" if streams(s) else "") for s in steps]
        missing: dict[str, Step] = {}
        for text, step in zip(texts, steps, strict=True):
            if text not in self._kernels:
                missing.setdefault(text, step)
        if missing:
            self._compile(missing)
        return [self._launch(s, self._kernels[t]) for s, t in zip(steps, texts, strict=True)]

    def _compile(self, missing: dict[str, Step]) -> None:
        """Kernels of the IR share one module; each product has its own."""
        module = Module()
        names: dict[str, str] = {}
        imports: dict[str, int] = {}
        for text, step in missing.items():
            name = kernel_name(text)
            if isinstance(step.kernel, Kernel):
                check_kernel(step.kernel)
                lanes, types = host().lanes, products.dot_types()
                kernel = roughened(step.kernel)
                emit_dot_kernel(module, kernel, name, lanes, types, streams(step))
                imports |= self._imports(step.kernel)
                names[text] = name
            else:
                source = products.source(step.kernel, name)
                shared = self._imports(step.kernel)
                self._kernels[text] = compile_module(source, [name], shared)[name]
        if names:
            addresses = compile_module(module.text(), list(names.values()), imports)
            for text, name in names.items():
                self._kernels[text] = addresses[name]

    def _imports(self, kernel: Kernel | Matmul | Attention) -> dict[str, int]:
        """The addresses of what products have in common: packing and micro-kernels."""
        found: dict[str, int] = {}
        for source, functions in products.libraries(kernel):
            if source not in self._libraries:
                self._libraries[source] = compile_module(source, functions)
            found |= self._libraries[source]
        return found

    @staticmethod
    def _launch(step: Step, function: int) -> Launch:
        words = len(step.buffers) + len(step.params)
        if not isinstance(step.kernel, Kernel):
            work, chunk, _ = products.product_units(step)
            return Launch(function, words, work, chunk)
        parts = PARTS[products.has_dots(step.kernel)] * threads()
        share = -(-step.work // parts)
        chunk = max(1, CHUNK // step.cost, share)
        body = step.kernel.body[-1]
        if isinstance(body, Loop) and body.kind == "flat":  # whole vectors, and whole cache lines
            unit = 64 if step.cost == 1 or step.work < 512 * threads() else 256
            chunk = -(-chunk // unit) * unit
        if step.setup:  # each chunk computes it: many rows for one of it, but some for each thread
            worth = SETUP * step.setup // step.cost
            chunk = max(chunk, min(worth, -(-step.work // (2 * threads()))))
        return Launch(function, words, step.work, chunk)

    @staticmethod
    def scratch(step: Step) -> int:
        """Bytes of local memory that a worker needs for a step."""
        return products.scratch(step)
