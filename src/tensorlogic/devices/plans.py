"""Plans of the CPU: launches of native kernels, walked by the native runner.

A plan is made once for a structure (ops, shapes, layouts, which leaves share memory) and kept. A
run takes one of the plan's programs, patches the addresses of leaves and results and the Python
numbers, and lets the native runner walk it. The arena of intermediates belongs to the program, and
a program to one run at a time; results own their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlogic.devices.layout import CheckFailed, Layout, NumberArgument, leaf_memory
from tensorlogic.devices.native import Program, entry
from tensorlogic.graph import Node
from tensorlogic.schedule.fuse import Schedule
from tensorlogic.storage import Memory

if TYPE_CHECKING:
    from tensorlogic.devices.cpu import Cpu


@dataclass(eq=False)
class _Instance:
    """One program with its arena and status words."""

    program: Program
    arena: Memory
    status: np.ndarray[Any, np.dtype[np.int32]]


class CpuPlan:
    """A schedule compiled for the CPU."""

    def __init__(self, device: Cpu, schedule: Schedule, order: Sequence[Node]):
        steps = schedule.steps
        self._layout = Layout(schedule, order)
        self._launches = device.launches(steps)
        self._scratch = max((device.scratch(s) for s in steps), default=0)
        self.ready = self._layout.ready
        # (word, which result or leaf, offset)
        self._result_words: list[tuple[int, int, int]] = []
        self._leaf_words: list[tuple[int, int, int]] = []
        self._arena: list[tuple[int, int]] = []
        self._status: list[int] = []
        self._numbers: list[tuple[int, NumberArgument]] = []
        self._fixed: list[tuple[int, int]] = []
        self._plan_patches()
        self._free: list[_Instance] = []

    def _plan_patches(self) -> None:
        """Which words change with each run, which with each program, and which never."""
        word = 0
        for buffers, params in zip(self._layout.buffers, self._layout.params, strict=True):
            for b in buffers:
                if b.kind == "status":
                    self._status.append(word)
                elif b.kind == "empty":
                    self._fixed.append((word, 0))
                elif b.kind == "arena":
                    self._arena.append((word, b.offset))
                elif b.kind == "result":
                    self._result_words.append((word, b.which, b.offset))
                else:
                    self._leaf_words.append((word, b.which, b.offset))
                word += 1
            for value in params:
                if isinstance(value, NumberArgument):
                    self._numbers.append((word, value))
                else:
                    self._fixed.append((word, value))
                word += 1

    def _instance(self) -> _Instance:
        program = Program(self._launches, self._scratch, self._layout.small)
        arena = Memory.allocate(self._layout.arena_bytes)
        status = np.zeros(max(len(self._layout.checks), 1), np.int32)
        address = status.__array_interface__["data"][0]
        words = program.words
        for word in self._status:
            words[word] = address
        for word, offset in self._arena:
            words[word] = arena.address + offset
        for word, value in self._fixed:
            words[word] = value
        return _Instance(program, arena, status)

    def run(self, order: Sequence[Node | None]) -> list[Memory]:
        results = [
            Memory.allocate(size) if place < 0 else leaf_memory(order, place)
            for size, place in self._layout.targets
        ]
        instance = self._free.pop() if self._free else self._instance()
        words = instance.program.words
        for word, i, offset in self._result_words:
            words[word] = results[i].address + offset
        for word, place, offset in self._leaf_words:
            words[word] = order[place].data.memory.address + offset  # type: ignore[union-attr]
        for word, number in self._numbers:
            words[word] = number.word(order)
        checks = self._layout.checks
        if not checks:
            entry()(instance.program.address)
            self._free.append(instance)
            return results
        instance.status[:] = 0
        entry()(instance.program.address)
        failed = [p for p, n in zip(checks, instance.status.tolist(), strict=False) if n]
        self._free.append(instance)
        if failed:
            raise CheckFailed(failed[0])
        return results
