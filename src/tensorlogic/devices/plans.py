"""Plans: a schedule made ready to run, with everything in it that does not change between runs.

A plan is made once for a structure (ops, shapes, layouts, which leaves share memory) and kept. A run
takes one of the plan's programs, patches the addresses of leaves and results and the Python numbers,
and lets the native runner walk it. The arena of intermediates belongs to the program, and a program
to one run at a time; results own their memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlogic.devices import errors
from tensorlogic.devices.native import Launch, Program, entry
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.emit import Number
from tensorlogic.schedule.fuse import Schedule, may_overwrite
from tensorlogic.schedule.lower import CheckRecord
from tensorlogic.storage import ALIGNMENT, Memory, Strided, contiguous_strides

if TYPE_CHECKING:
    from tensorlogic.devices.cpu import Cpu

BYTES = {"f16": 2, "bf16": 2, "f32": 4, "i32": 4, "bool": 1, "u8": 1}
SMALL_WORK = 30_000
"""Elements that a plan may touch to run on the calling thread, with the GIL held."""


def plan_key(order: Sequence[Node], roots: Sequence[Node], settings: object) -> tuple[Any, ...]:
    """Everything that a plan depends on; numbers and addresses are not part of it."""
    place = {id(n): i for i, n in enumerate(order)}
    memories: dict[int, int] = {}
    parts: list[Any] = [settings, tuple(place[id(r)] for r in roots)]
    for n in order:
        if n.op is not None:
            parts.append((n.op, n.attrs, n.shape, n.dtype, tuple(place[id(a)] for a in n.args)))
        elif n.data is None:
            parts.append((n.dtype, n.weak))
        else:
            d = n.data
            alias = memories.setdefault(id(d.memory), len(memories))
            parts.append((n.shape, n.dtype, d.storage, d.offset, d.strides, alias, may_overwrite(n)))
    return tuple(parts)


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


class Plan:
    """A schedule compiled for the CPU."""

    def __init__(self, device: Cpu, schedule: Schedule, order: Sequence[Node]):
        self._place = {id(n): i for i, n in enumerate(order)}
        self._steps = schedule.steps
        self._roots = [self._place[id(r)] for r in schedule.roots]
        self._root_sizes = [
            r.size * BYTES.get(schedule.memory_types[id(r)], r.dtype.itemsize)
            for r in schedule.roots
        ]
        self._types = schedule.memory_types
        self._launches = device.launches(schedule.steps)
        self._scratch = max((device.scratch(s) for s in schedule.steps), default=0)
        touched = sum(s.work * s.cost for s in schedule.steps)
        products = sum(2 * m * n * k // 8 for m, n, k in (s.problem for s in schedule.steps))
        self._small = touched + products < SMALL_WORK
        self.checks: list[tuple[CheckRecord, int]] = []
        self._aliases = self._taken_over()
        self._offsets, self._arena_bytes = self._lay_out(schedule)
        self._plan_patches()
        self._free: list[_Instance] = []

    def _taken_over(self) -> dict[int, int]:
        """Nodes that live in the memory of another: written place to the place it took over."""
        taken: dict[int, int] = {}
        for s in self._steps:
            if s.in_place is not None:
                source = self._place[id(s.in_place)]
                taken[self._place[id(s.writes[0])]] = taken.get(source, source)
        return taken

    def _home(self, node: Node) -> int:
        place = self._place[id(node)]
        return self._aliases.get(place, place)

    def _lay_out(self, schedule: Schedule) -> tuple[dict[int, int], int]:
        """Arena offsets of the intermediates; memory is used again after the last reader."""
        roots = {self._aliases.get(r, r) for r in self._roots}
        last: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for i, s in enumerate(self._steps):
            for n in (*s.reads, *s.writes):
                home = self._home(n)
                last[home] = i
                if n.op is not None and home not in roots and id(n) in self._types:
                    size = n.size * BYTES[self._types[id(n)]]
                    sizes[home] = -(-size // ALIGNMENT) * ALIGNMENT
        for n in schedule.roots:
            sizes.pop(self._home(n), None)
        offsets: dict[int, int] = {}
        free: list[tuple[int, int]] = []  # (offset, size)
        end = 0
        for i, s in enumerate(self._steps):
            for n in s.writes:
                home = self._home(n)
                if home not in sizes or home in offsets:
                    continue
                size = sizes[home]
                fit = next((f for f in free if f[1] >= size), None)
                if fit is None:
                    offsets[home], end = end, end + size
                else:
                    free.remove(fit)
                    offsets[home] = fit[0]
                    if fit[1] > size:
                        free.append((fit[0] + size, fit[1] - size))
            free += [(offsets[h], sizes[h]) for h in offsets if last[h] == i]
        return offsets, end

    def _plan_patches(self) -> None:
        """Which words change with each run, which with each program, and which never."""
        self._addresses: list[_Patch] = []
        self._arena: list[tuple[int, int]] = []
        self._status: list[int] = []
        self._numbers: list[tuple[int, int, str]] = []
        self._fixed: list[tuple[int, int]] = []
        word = 0
        for s in self._steps:
            for use in s.buffers:
                if use is None:
                    self._status.append(word)
                else:
                    node, offset = use
                    home = self._home(node)
                    if home in self._offsets:
                        self._arena.append((word, self._offsets[home] + offset))
                    else:
                        self._addresses.append(_Patch(word, home, offset))
                word += 1
            params = s.kernel.params if isinstance(s.kernel, Kernel) else s.kernel.all_params
            for p, value in zip(params, s.params, strict=True):
                self._number(word, value, p.dtype)
                word += 1

    def _number(self, word: int, value: Number, dtype: str) -> None:
        if isinstance(value, Node):
            self._numbers.append((word, self._place[id(value)], dtype))
        elif isinstance(value, CheckRecord):
            self._fixed.append((word, len(self.checks)))
            self.checks.append((value, self._place[id(value.node)]))
        else:
            self._fixed.append((word, value))

    def _instance(self) -> _Instance:
        if self._free:
            return self._free.pop()
        program = Program(self._launches, self._scratch, self._small)
        arena = Memory.allocate(self._arena_bytes)
        status = np.zeros(max(len(self.checks), 1), np.int32)
        address = status.__array_interface__["data"][0]
        words = program.words
        for word in self._status:
            words[word] = address
        for word, offset in self._arena:
            words[word] = arena.address + offset
        for word, value in self._fixed:
            words[word] = value
        return _Instance(program, arena, status)

    def run(self, order: Sequence[Node]) -> list[Memory]:
        """The memory of each root, computed from the leaves of `order` (nodes as in the key)."""
        results = []
        homes: dict[int, int] = {}
        for place, size in zip(self._roots, self._root_sizes, strict=True):
            home = self._aliases.get(place, place)
            data = order[home].data
            if home != place and data is not None:
                memory = data.memory  # an update in place
            else:
                memory = Memory.allocate(size)
            homes[home] = memory.address
            results.append(memory)
        instance = self._instance()
        words = instance.program.words
        for patch in self._addresses:
            address = homes.get(patch.place)
            if address is None:
                data = order[patch.place].data
                assert data is not None
                address = data.memory.address
            words[patch.word] = address + patch.offset
        for word, place, dtype in self._numbers:
            words[word] = _number_word(order[place].number, dtype)
        if self.checks:
            instance.status[:] = 0
        entry()(instance.program.address)
        if self.checks and instance.status.any():
            counts = [int(c) for c in instance.status]
            self._free.append(instance)
            nodes = [(record.kind, order[place]) for record, place in self.checks]
            raise errors.value_error(nodes, counts)
        self._free.append(instance)
        return results


def _number_word(value: float | int | bool | None, dtype: str) -> int:
    assert value is not None
    if dtype == "f32":
        bits: int = struct.unpack("<i", struct.pack("<f", value))[0] & 0xFFFFFFFF
        return bits
    return int(value)


def result_data(memory: Memory, node: Node) -> Strided:
    return Strided(memory, node.dtype.name, 0, contiguous_strides(node.shape))


