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

SMALL_WORK = 30_000
"""Elements that a plan may touch to run on the calling thread, with the GIL held."""


@dataclass(frozen=True)
class _Patch:
    """Word `word` of a program is the address of node `place` plus `offset`."""

    word: int
    place: int
    offset: int


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
        touched = sum(s.work * s.cost for s in steps)
        products = sum(m * n * k // 4 for m, n, k in (s.problem for s in steps))
        self._small = touched + products < SMALL_WORK
        self._addresses: list[_Patch] = []
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
                else:
                    self._addresses.append(_Patch(word, b.place, b.offset))
                word += 1
            for value in params:
                if isinstance(value, NumberArgument):
                    self._numbers.append((word, value))
                else:
                    self._fixed.append((word, value))
                word += 1

    def _instance(self) -> _Instance:
        try:
            return self._free.pop()
        except IndexError:
            pass
        program = Program(self._launches, self._scratch, self._small)
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
        results, homes = self._layout.results(order, Memory.allocate, lambda memory: memory)
        instance = self._instance()
        words = instance.program.words
        for patch in self._addresses:
            memory = homes.get(patch.place) or leaf_memory(order, patch.place)
            words[patch.word] = memory.address + patch.offset
        for word, number in self._numbers:
            words[word] = number.word(order)
        checks = self._layout.checks
        if checks:
            instance.status[:] = 0
        entry()(instance.program.address)
        failed = [p for p, n in zip(checks, instance.status.tolist(), strict=False) if n]
        self._free.append(instance)
        if failed:
            raise CheckFailed(failed[0])
        return results
