"""The CPU: kernels become LLVM IR, tuned to this host, and run on all its cores."""

from __future__ import annotations

import hashlib
import platform
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from tensorlogic import settings
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_block_matmul import (
    block_libraries,
    block_matmul_kernel,
    block_units,
)
from tensorlogic.codegen.llvm_blocks import BLOCKS, Target
from tensorlogic.codegen.llvm_matmul import libraries, matmul_kernel, units
from tensorlogic.codegen.llvm_rows import dot_libraries, emit_dot_kernel, record_size, vectors
from tensorlogic.devices.errors import value_error
from tensorlogic.devices.native import Launch, compile_module, host, threads
from tensorlogic.devices.plans import CheckFailed, Plan, leaf_key, plan_key, result_data
from tensorlogic.graph import Node, inline_calls, topological
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import Kernel, kernel_text
from tensorlogic.kernels.spec import Matmul, matmul_text
from tensorlogic.ops import CONVERT
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule

MAX_PLANS = 512
"""Plans kept; the one used longest ago goes first."""
CHUNK = 16_384
"""Elements in a chunk of work, about: some microseconds."""
SETUP = 16
"""Elements that the rows of a chunk touch for each one that is computed before them."""
MAX_CALL_PLANS = 64
"""Plans kept with one traced function: one for each layout of its inputs."""
INLINE = object()
"""Kept in place of a plan for calls that have to be inlined."""


def step_text(step: Step) -> str:
    """What a step's kernel is; steps of equal text share one compiled function."""
    kernel = step.kernel
    return kernel_text(kernel) if isinstance(kernel, Kernel) else matmul_text(kernel)


def target() -> Target | None:
    """What quantized blocks are multiplied with, None where their folds are printed as they are."""
    here = host()
    if platform.machine() in ("arm64", "aarch64"):
        return Target(16, arm=True, dot=here.has("dotprod"))
    if all(here.has(f) for f in ("avx512bw", "avx512vl", "avx512vnni")):
        return Target(64, dot=True, permutes=here.has("avx512vbmi"))
    return Target(32) if here.has("avx2") else None


def dot_types() -> frozenset[str]:
    """The quantized types whose rows have a fast product with a vector."""
    return frozenset(BLOCKS) if target() else frozenset()


def kernel_name(text: str) -> str:
    return "k" + hashlib.sha256(text.encode()).hexdigest()[:20]


def _product(spec: Matmul, name: str) -> str:
    """The module of a product."""
    if spec.quantized:
        return block_matmul_kernel(spec, name, host().lanes, target())
    return matmul_kernel(spec, name, host().lanes)


def _units(spec: Matmul, step: Step) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of the launch of a product."""
    given = (spec, step.problem, step.batch, host().lanes, threads())
    return block_units(*given, target()) if spec.quantized else units(*given)


class Cpu:
    name = "cpu"
    description = "LLVM kernels on all cores"

    def __init__(self) -> None:
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._kernels: dict[str, int] = {}
        self._libraries: dict[str, dict[str, int]] = {}
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
        try:
            memories = plan.run(order)
        except CheckFailed as failed:
            raise value_error(order[failed.place]) from None
        for root, memory in zip(roots, memories, strict=True):
            root.realise(result_data(memory, root))

    def run_call(self, results: Sequence[Node]) -> bool:
        """A call whose inputs are leaves runs by a plan that is kept with the traced function."""
        traced = results[0].attrs[0].traced
        args = results[0].args
        if any(a.op is not None for a in args):
            return False
        current = settings.current()
        key = (current, tuple(n.attrs[1] for n in results), *leaf_key(args))
        kept = traced.plans.get(key)
        if kept is None:
            with self._lock:
                if len(traced.plans) >= MAX_CALL_PLANS:
                    del traced.plans[next(iter(traced.plans))]
                kept = traced.plans[key] = self._prepare(results)
        if kept is INLINE:
            return False
        plan, order, spots = kept
        order = list(order)
        for place, i in spots:
            order[place] = args[i]
        try:
            memories = plan.run(order)
        except CheckFailed as failed:
            raise value_error(topological(inline_calls(results))[failed.place]) from None
        for n, memory in zip(results, memories, strict=True):
            n.realise(result_data(memory, n))
        return True

    def _prepare(self, results: Sequence[Node]) -> Any:
        """The plan of a call, its nodes in order, and which of them are which input."""
        args = results[0].args
        bodies = inline_calls(results)
        order = topological(bodies)
        dynamic = any(n.op is CONVERT for n in order) or len({id(b) for b in bodies}) < len(bodies)
        if dynamic or any(b.op is None for b in bodies):
            for a in args:
                a.uses += 1  # inlining gave the call's use back; it will be inlined once more
            return INLINE
        inputs = {id(a): i for i, a in enumerate(args)}
        spots = [(place, inputs[id(n)]) for place, n in enumerate(order) if id(n) in inputs]
        plan = Plan(self, schedule(bodies, settings.current()), order)
        # Only leaves are looked at again; what the call was given is let go.
        kept = [n if n.op is None and id(n) not in inputs else None for n in order]
        return plan, kept, spots

    # ---- what a plan asks of its device ----

    def launches(self, steps: Sequence[Step]) -> list[Launch]:
        """The launch of each step; kernels that are not there yet are compiled in one module."""
        by_kernel = {id(s.kernel): s for s in steps}  # repeated layers share kernels
        known = {k: step_text(s) for k, s in by_kernel.items()}
        texts = [known[id(s.kernel)] for s in steps]
        missing: dict[str, Step] = {}
        for text, step in zip(texts, steps, strict=True):
            if text not in self._kernels:
                missing.setdefault(text, step)
        if missing:
            self._compile(missing)
        return [self._launch(s, self._kernels[t]) for s, t in zip(steps, texts, strict=True)]

    def _compile(self, missing: dict[str, Step]) -> None:
        """Kernels of the IR share one module; each product has its own."""
        module, names, imports = Module(), {}, {}
        for text, step in missing.items():
            name = kernel_name(text)
            if isinstance(step.kernel, Kernel):
                check_kernel(step.kernel)
                emit_dot_kernel(module, step.kernel, name, host().lanes, dot_types())
                imports |= self._imports(step.kernel)
                names[text] = name
            else:
                source = _product(step.kernel, name)
                shared = self._imports(step.kernel)
                self._kernels[text] = compile_module(source, [name], shared)[name]
        if names:
            addresses = compile_module(module.text(), list(names.values()), imports)
            for text, name in names.items():
                self._kernels[text] = addresses[name]

    def _imports(self, kernel: Kernel | Matmul) -> dict[str, int]:
        """The addresses of what products have in common: packing and micro-kernels."""
        found: dict[str, int] = {}
        if isinstance(kernel, Matmul):
            blocks = kernel.quantized
            lanes = host().lanes
            shared = (
                block_libraries(kernel, lanes, target()) if blocks else libraries(kernel, lanes)
            )
        else:
            by = target()
            shared = dot_libraries(kernel, dot_types(), by) if by else []
        for source, functions in shared:
            if source not in self._libraries:
                self._libraries[source] = compile_module(source, functions)
            found |= self._libraries[source]
        return found

    @staticmethod
    def _launch(step: Step, function: int) -> Launch:
        words = len(step.buffers) + len(step.params)
        if isinstance(step.kernel, Matmul):
            work, chunk, _ = _units(step.kernel, step)
            return Launch(function, words, work, chunk)
        # With dots, a chunk rounds its vectors first.
        parts = 8 if vectors(step.kernel, dot_types()) else 64
        share = -(-step.work // (parts * threads()))
        chunk = max(1, CHUNK // step.cost, share)
        if step.cost == 1:
            chunk = -(-chunk // 64) * 64
        if step.setup:  # each chunk computes it: many rows for one of it, but some for each thread
            worth = SETUP * step.setup // step.cost
            chunk = max(chunk, min(worth, -(-step.work // (2 * threads()))))
        return Launch(function, words, step.work, chunk)

    @staticmethod
    def scratch(step: Step) -> int:
        """Bytes of local memory that a worker needs for a step."""
        if isinstance(step.kernel, Matmul):
            return _units(step.kernel, step)[2]
        dots = vectors(step.kernel, dot_types()).values()
        names = {p.attr: v for p, v in zip(step.all_params, step.params, strict=True)}
        return step.scratch + sum(64 + int(evaluate(record_size(d), names)) for d in dots)
