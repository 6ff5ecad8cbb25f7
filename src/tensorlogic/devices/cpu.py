"""The CPU: kernels become LLVM IR, tuned to this host, and run on all its cores."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from tensorlogic import settings
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm import emit_kernel
from tensorlogic.devices.native import Launch, compile_module, host, threads
from tensorlogic.devices.plans import Plan, plan_key, result_data
from tensorlogic.graph import Node, topological
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import Kernel, kernel_text
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule

MAX_PLANS = 512
"""Plans kept; the one used longest ago goes first."""
CHUNK = 16_384
"""Elements in a chunk of work, about: some microseconds."""


class Cpu:
    name = "cpu"
    description = "LLVM kernels on all cores"

    def __init__(self) -> None:
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._kernels: dict[str, int] = {}
        self._lock = Lock()

    def unavailable(self) -> None:
        return None

    @property
    def compiled(self) -> int:
        """How many kernels this process has compiled or loaded."""
        return len(self._kernels)

    def run(self, roots: Sequence[Node]) -> None:
        order = topological(roots)
        current = settings.current()
        key = plan_key(order, roots, current)
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = Plan(self, schedule(roots, current), order)
                if len(self._plans) > MAX_PLANS:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(key)
        for root, memory in zip(roots, plan.run(order), strict=True):
            root.realise(result_data(memory, root))

    # ---- what a plan asks of its device ----

    def launches(self, steps: Sequence[Step]) -> list[Launch]:
        """The launch of each step; kernels that are not there yet are compiled in one module."""
        texts = [self._text(s) for s in steps]
        missing: dict[str, Step] = {}
        for text, step in zip(texts, steps, strict=True):
            if text not in self._kernels:
                missing.setdefault(text, step)
        if missing:
            module, names = Module(), {}
            for text, step in missing.items():
                names[text] = "k" + hashlib.sha256(text.encode()).hexdigest()[:20]
                self._emit(module, step, names[text])
            addresses = compile_module(module.text(), list(names.values()))
            for text, name in names.items():
                self._kernels[text] = addresses[name]
        return [self._launch(s, self._kernels[t]) for s, t in zip(steps, texts, strict=True)]

    @staticmethod
    def _text(step: Step) -> str:
        if isinstance(step.kernel, Kernel):
            return kernel_text(step.kernel)
        raise NotImplementedError

    @staticmethod
    def _emit(module: Module, step: Step, name: str) -> None:
        assert isinstance(step.kernel, Kernel)
        check_kernel(step.kernel)
        emit_kernel(module, step.kernel, name, host().lanes)

    @staticmethod
    def _launch(step: Step, function: int) -> Launch:
        words = len(step.buffers) + len(step.params)
        share = -(-step.work // (64 * threads()))
        chunk = max(1, CHUNK // step.cost, share)
        if step.cost == 1:
            chunk = -(-chunk // 64) * 64
        return Launch(function, words, step.work, chunk)

    @staticmethod
    def scratch(step: Step) -> int:
        """Bytes of local memory that a worker needs for a step."""
        return step.scratch
