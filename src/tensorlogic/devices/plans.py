"""Plans: a schedule made ready to run, with everything in it that does not change between runs.

A plan is made once for a structure (ops, shapes, layouts, which leaves share memory) and kept. A
run takes one of the plan's programs, patches the addresses of leaves and results and the Python
numbers, and lets the native runner walk it. The arena of intermediates belongs to the program, and
a program to one run at a time; results own their memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlogic.devices.native import Program, entry
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import BYTES
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import Schedule, may_overwrite
from tensorlogic.schedule.lower import CheckRecord
from tensorlogic.storage import ALIGNMENT, Memory, Strided, contiguous_strides

if TYPE_CHECKING:
    from tensorlogic.devices.cpu import Cpu

SMALL_WORK = 30_000
"""Elements that a plan may touch to run on the calling thread, with the GIL held."""


def plan_key(order: Sequence[Node], roots: Sequence[Node], settings: object) -> tuple[Any, ...]:
    """Everything that a plan depends on; numbers and addresses are not part of it."""
    place = {id(n): i for i, n in enumerate(order)}
    parts: list[Any] = [settings, tuple(place[id(r)] for r in roots)]
    for n in order:
        if n.op is not None:
            parts.append((n.op, n.attrs, n.shape, n.dtype, tuple(place[id(a)] for a in n.args)))
    parts += leaf_key([n for n in order if n.op is None])
    return tuple(parts)


def leaf_key(leaves: Sequence[Node]) -> list[Any]:
    """Dtype, storage, layout and aliasing of leaves, and which may be written in place."""
    memories: dict[int, int] = {}
    parts: list[Any] = []
    for n in leaves:
        d = n.data
        alias = memories.setdefault(id(n if d is None else d.memory), len(memories))
        if d is None:
            parts.append((n.dtype, n.weak, alias))
        else:
            layout = (n.shape, n.dtype, d.storage, d.offset, d.strides)
            parts.append((*layout, alias, may_overwrite(n)))
    return parts


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
        steps = schedule.steps
        # A plan outlives the graph that it was made for: it keeps places, never nodes.
        place = {id(n): i for i, n in enumerate(order)}
        for n in (n for s in steps for n in s.writes):
            place.setdefault(id(n), len(place))
        self._roots = [place[id(r)] for r in schedule.roots]
        self._root_sizes = [r.size * r.dtype.itemsize for r in schedule.roots]
        self._launches = device.launches(steps)
        self._scratch = max((device.scratch(s) for s in steps), default=0)
        touched = sum(s.work * s.cost for s in steps)
        products = sum(m * n * k // 4 for m, n, k in (s.problem for s in steps))
        self._small = touched + products < SMALL_WORK
        self._aliases = self._taken_over(steps, place)
        leaves = {i for i, n in enumerate(order) if n.op is None}
        self._offsets, self._arena_bytes = self._lay_out(schedule, place, leaves)
        self.checks: list[int] = []
        """The place of the node that each status slot checks."""
        self._addresses: list[_Patch] = []
        self._arena: list[tuple[int, int]] = []
        self._status: list[int] = []
        self._numbers: list[tuple[int, int, str]] = []
        self._fixed: list[tuple[int, int]] = []
        self._plan_patches(steps, place)
        self._free: list[_Instance] = []

    @staticmethod
    def _taken_over(steps: Sequence[Step], place: dict[int, int]) -> dict[int, int]:
        """Nodes that live in the memory of another: written place to the place it took over."""
        taken: dict[int, int] = {}
        for s in steps:
            for node, old in s.in_place:
                source = place[id(old)]
                taken[place[id(node)]] = taken.get(source, source)
        return taken

    def _lay_out(
        self, schedule: Schedule, place: dict[int, int], leaves: set[int]
    ) -> tuple[dict[int, int], int]:
        """Arena offsets of the intermediates; memory is used again after the last reader."""
        types = schedule.memory_types

        def home_of(n: Node) -> int:
            return self._aliases.get(place[id(n)], place[id(n)])

        elsewhere = leaves | {self._aliases.get(r, r) for r in self._roots}
        last: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for i, s in enumerate(schedule.steps):
            for n in (*s.reads, *s.writes):
                home = home_of(n)
                last[home] = i
                if home not in elsewhere and id(n) in types:
                    size = n.size * BYTES[types[id(n)]]
                    sizes[home] = -(-size // ALIGNMENT) * ALIGNMENT
        offsets: dict[int, int] = {}
        free: list[tuple[int, int]] = []  # (offset, size)
        end = 0
        done: dict[int, list[int]] = {}  # by step, what nobody reads after it
        for home, i in last.items():
            done.setdefault(i, []).append(home)
        for i, s in enumerate(schedule.steps):
            for n in s.writes:
                home = home_of(n)
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
            free += [(offsets[h], sizes[h]) for h in done.get(i, ()) if h in offsets]
        return offsets, end

    def _plan_patches(self, steps: Sequence[Step], place: dict[int, int]) -> None:
        """Which words change with each run, which with each program, and which never."""
        word = 0
        for s in steps:
            for use in s.buffers:
                if use is None:
                    self._status.append(word)
                elif use[0].op is not None and not use[0].size:
                    self._fixed.append((word, 0))  # empty: never computed, and never read
                else:
                    node, offset = use
                    home = self._aliases.get(place[id(node)], place[id(node)])
                    if home in self._offsets:
                        self._arena.append((word, self._offsets[home] + offset))
                    else:
                        self._addresses.append(_Patch(word, home, offset))
                word += 1
            for p, value in zip(s.all_params, s.params, strict=True):
                if isinstance(value, Node):
                    self._numbers.append((word, place[id(value)], p.dtype))
                elif isinstance(value, CheckRecord):
                    self._fixed.append((word, len(self.checks)))
                    self.checks.append(place[id(value.node)])
                else:
                    self._fixed.append((word, value))
                word += 1

    def _instance(self) -> _Instance:
        try:
            return self._free.pop()
        except IndexError:
            pass
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

    def run(self, order: Sequence[Node | None]) -> list[Memory]:
        """The memory of each root, computed from the leaves of `order` (places as in the key).

        Raises CheckFailed where a status word counted something.
        """
        results = []
        homes: dict[int, int] = {}
        for place, size in zip(self._roots, self._root_sizes, strict=True):
            home = self._aliases.get(place, place)
            node = order[home]
            if home != place and node is not None and node.data is not None:
                memory = node.data.memory  # an update in place
            else:
                memory = Memory.allocate(size)
            homes[home] = memory.address
            results.append(memory)
        instance = self._instance()
        words = instance.program.words
        for patch in self._addresses:
            address = homes.get(patch.place)
            if address is None:
                address = _leaf(order, patch.place).memory.address
            words[patch.word] = address + patch.offset
        for word, place, dtype in self._numbers:
            node = order[place]
            words[word] = _number_word(node.number if node is not None else None, dtype)
        if self.checks:
            instance.status[:] = 0
        entry()(instance.program.address)
        failed = [p for p, n in zip(self.checks, instance.status.tolist(), strict=False) if n]
        self._free.append(instance)
        if failed:
            raise CheckFailed(failed[0])
        return results


class CheckFailed(Exception):
    """A value check failed; `place` is that of the node that it belongs to."""

    def __init__(self, place: int):
        super().__init__(place)
        self.place = place


def _leaf(order: Sequence[Node | None], place: int) -> Strided:
    node = order[place]
    assert node is not None
    assert node.data is not None
    return node.data


def _number_word(value: float | int | bool | None, dtype: str) -> int:
    assert value is not None
    if dtype == "f32":
        bits: int = struct.unpack("<i", struct.pack("<f", value))[0] & 0xFFFFFFFF
        return bits
    return int(value)


def result_data(memory: Memory, node: Node) -> Strided:
    return Strided(memory, node.dtype.name, 0, contiguous_strides(node.shape))
