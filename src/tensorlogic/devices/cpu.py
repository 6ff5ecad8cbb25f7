"""The CPU: kernels become LLVM IR, tuned to this host, and run on all its cores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm import emit_kernel
from tensorlogic.codegen.llvm_matmul import libraries, matmul_kernel, units
from tensorlogic.devices.native import Launch, compile_module, host, threads
from tensorlogic.devices.planned import PlannedDevice
from tensorlogic.devices.plans import CpuPlan
from tensorlogic.graph import Node
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.emit import Step, step_text
from tensorlogic.schedule.fuse import Schedule
from tensorlogic.schedule.traits import CPU

CHUNK = 16_384
"""Elements in a chunk of work, about: some microseconds."""


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
        texts = [step_text(s) for s in steps]
        missing: dict[str, Step] = {}
        for text, step in zip(texts, steps, strict=True):
            if text not in self._kernels:
                missing.setdefault(text, step)
        if missing:
            self._compile(missing)
        return [self._launch(s, self._kernels[t]) for s, t in zip(steps, texts, strict=True)]

    def _compile(self, missing: dict[str, Step]) -> None:
        """Kernels of the IR share one module; each product has its own."""
        module, names = Module(), {}
        for text, step in missing.items():
            name = kernel_name(text)
            if isinstance(step.kernel, Kernel):
                check_kernel(step.kernel)
                emit_kernel(module, step.kernel, name, host().lanes)
                names[text] = name
            else:
                source = matmul_kernel(step.kernel, name, host().lanes)
                imports = self._imports(step.kernel)
                self._kernels[text] = compile_module(source, [name], imports)[name]
        if names:
            addresses = compile_module(module.text(), list(names.values()))
            for text, name in names.items():
                self._kernels[text] = addresses[name]

    def _imports(self, spec: Matmul) -> dict[str, int]:
        """The addresses of what products have in common: packing and micro-kernels."""
        found: dict[str, int] = {}
        for source, functions in libraries(spec, host().lanes):
            if source not in self._libraries:
                self._libraries[source] = compile_module(source, functions)
            found |= self._libraries[source]
        return found

    @staticmethod
    def _launch(step: Step, function: int) -> Launch:
        words = len(step.buffers) + len(step.params)
        if isinstance(step.kernel, Matmul):
            m, n, _ = step.problem
            work, chunk, _ = units(m, n, step.batch, host().lanes, threads())
            return Launch(function, words, work, chunk)
        share = -(-step.work // (64 * threads()))
        chunk = max(1, CHUNK // step.cost, share)
        if step.cost == 1:
            chunk = -(-chunk // 64) * 64
        return Launch(function, words, step.work, chunk)

    @staticmethod
    def scratch(step: Step) -> int:
        """Bytes of local memory that a worker needs for a step."""
        if isinstance(step.kernel, Matmul):
            m, n, _ = step.problem
            return units(m, n, step.batch, host().lanes, threads())[2]
        return step.scratch
