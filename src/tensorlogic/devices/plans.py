"""Plans of the CPU: launches of native kernels, walked by the native runner.

A plan is made once for a structure (ops, shapes, layouts, which leaves share memory) and kept, on
disk too. A run takes one of its programs, patches the addresses of leaves and results and the
Python numbers, and lets the native runner walk it. The arena of intermediates belongs to the
program, and a program to one run at a time; results own their memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tensorlogic.devices.arguments import CheckFailed, leaf_memory, number_word
from tensorlogic.devices.lines import Weights
from tensorlogic.devices.native import Launch, Program, entry
from tensorlogic.graph import Node
from tensorlogic.storage import POOLED, Memory, PooledMemory, padded, pool_of

of_pool = PooledMemory.of_pool


class Facts(NamedTuple):
    """All that a plan knows, in plain numbers and strings: what is kept on disk.

    Words are counted through the arguments of all launches, places in the order of the graph.
    """

    launches: tuple[tuple[str, int, int, int], ...]
    """Name of the kernel, argument words, parallel range, chunk."""
    scratch: int
    small: bool
    ready: bool
    arena_bytes: int
    targets: tuple[tuple[int, int], ...]
    """Bytes of each root's memory, and the place of the leaf whose memory it takes, or -1."""
    checks: tuple[int, ...]
    """The place of the node that each status word checks."""
    results: tuple[tuple[int, int, int], ...]
    """Word, which result, offset in bytes."""
    leaves: tuple[tuple[int, int, int], ...]
    """Word, place, offset in bytes."""
    lines: tuple[tuple[int, int, int], ...]
    """Leaves whose rows are interleaved: word, place, offset in bytes."""
    arena: tuple[tuple[int, int], ...]
    status: tuple[int, ...]
    numbers: tuple[tuple[int, int, str], ...]
    """Word, place and dtype of a Python number."""
    fixed: tuple[tuple[int, int], ...]


class _Instance:
    """One program with its arena and its status words."""

    __slots__ = ("address", "arena", "program", "run", "status", "words")

    def __init__(self, program: Program, arena: Memory, status: Memory):
        self.program, self.arena, self.status = program, arena, status
        self.address, self.words, self.run = program.address, program.words, entry()


class CpuCall:
    """Runs of a plan that differ in some of its leaves: `spots` gives the place of each and its
    number among those that `run` takes; the others are the leaves of `order`. Each run has its own
    program, so that threads need not wait for each other."""

    __slots__ = (
        "_checks",
        "_constants",
        "_facts",
        "_floats",
        "_free",
        "_integers",
        "_launches",
        "_leaves",
        "_lines",
        "_order",
        "_pools",
        "_results",
        "_taken",
        "_targets",
        "_weights",
    )

    def __init__(
        self,
        facts: Facts,
        launches: Sequence[Launch],
        order: Sequence[Node | None],
        spots: Mapping[int, int],
        weights: Weights,
    ):
        self._facts, self._launches, self._order = facts, launches, order
        self._checks = facts.checks
        self._targets = [nbytes for nbytes, _ in facts.targets]
        self._taken = [
            (i, place, spots.get(place, -1))
            for i, (_, place) in enumerate(facts.targets)
            if place >= 0
        ]
        small = not self._taken and max(self._targets, default=0) <= POOLED
        self._pools = [pool_of(padded(n)) for n in self._targets] if small else None
        self._results = facts.results
        self._leaves = [(w, spots[p], offset) for w, p, offset in facts.leaves if p in spots]
        self._constants = [
            (w, leaf_memory(order, p).address + offset)
            for w, p, offset in facts.leaves
            if p not in spots
        ]
        self._weights = weights
        self._lines = [(w, spots[p], offset) for w, p, offset in facts.lines if p in spots]
        for w, p, offset in facts.lines:
            if p not in spots:
                self._constants.append((w, weights.address(order[p]) + offset))  # type: ignore
        varying = [(w, spots[p], dtype) for w, p, dtype in facts.numbers if p in spots]
        for w, p, dtype in facts.numbers:
            if p not in spots:
                self._constants.append((w, number_word(order[p].number, dtype)))  # type: ignore
        self._integers = [(w, i) for w, i, dtype in varying if dtype != "f32"]
        floats = [(w, i) for w, i, dtype in varying if dtype == "f32"]
        self._floats = _Floats(floats) if floats else None
        self._free: list[_Instance] = []

    def _instance(self) -> _Instance:
        facts = self._facts
        program = Program(self._launches, facts.scratch, facts.small)
        arena = Memory.allocate(facts.arena_bytes)
        status = Memory.allocate(4 * max(len(facts.checks), 1))
        words = program.words
        for word in facts.status:
            words[word] = status.address
        for word, offset in facts.arena:
            words[word] = arena.address + offset
        for word, value in facts.fixed:
            words[word] = value
        for word, value in self._constants:
            words[word] = value
        return _Instance(program, arena, status)

    def run(self, leaves: Sequence[Node]) -> list[Memory]:
        """The memory of each root. Raises CheckFailed where a status word counted something."""
        if self._pools is None:
            results = self._allocated(leaves)
        else:
            results = [of_pool(pool) for pool in self._pools]
        try:
            instance = self._free.pop()
        except IndexError:  # the first run, or another thread has it
            instance = self._instance()
        words = instance.words
        for word, i, offset in self._results:
            words[word] = results[i].address + offset
        for word, i, offset in self._leaves:
            words[word] = leaves[i].data.memory.address + offset  # type: ignore[union-attr]
        for word, i, offset in self._lines:
            words[word] = self._weights.address(leaves[i]) + offset
        for word, i in self._integers:
            words[word] = int(leaves[i].number)  # type: ignore[arg-type]
        if self._floats is not None:
            self._floats.patch(words, leaves)
        if not self._checks:
            instance.run(instance.address)
            self._free.append(instance)
            return results
        counts = instance.status.base.data
        counts[:] = bytes(len(counts))
        instance.run(instance.address)
        failed = [p for p, n in zip(self._checks, counts.cast("i"), strict=False) if n]
        self._free.append(instance)
        if failed:
            raise CheckFailed(failed[0])
        return results

    def _allocated(self, leaves: Sequence[Node]) -> list[Memory]:
        """The memory of each root; some take that of a leaf."""
        taken = {
            which: leaf_memory(self._order, place) if i < 0 else leaf_memory(leaves, i)
            for which, place, i in self._taken
        }
        return [
            taken[i] if i in taken else Memory.allocate(nbytes)
            for i, nbytes in enumerate(self._targets)
        ]


class _Floats:
    """Python numbers as float32, all at once."""

    __slots__ = ("_leaves", "_pack", "_unpack", "_words")

    def __init__(self, spots: Sequence[tuple[int, int]]):
        self._words = [word for word, _ in spots]
        self._leaves = [i for _, i in spots]
        self._pack = struct.Struct(f"<{len(spots)}f").pack
        self._unpack = struct.Struct(f"<{len(spots)}I").unpack

    def patch(self, words: memoryview, leaves: Sequence[Node]) -> None:
        bits = self._unpack(self._pack(*[leaves[i].number for i in self._leaves]))
        for word, value in zip(self._words, bits, strict=True):
            words[word] = value


class CpuPlan:
    """A schedule compiled for the CPU."""

    def __init__(self, facts: Facts, functions: Mapping[str, int], weights: Weights):
        self.facts = facts
        self.ready = facts.ready
        self._launches = [Launch(functions[name], *sizes) for name, *sizes in facts.launches]
        every = {place: place for _, place, _ in (*facts.leaves, *facts.numbers)}
        every |= {place: place for _, place in facts.targets}
        every |= {place: place for _, place, _ in facts.lines}
        self._weights = weights
        self.run = CpuCall(facts, self._launches, (), every, weights).run

    def bind(self, order: Sequence[Node | None], spots: Sequence[tuple[int, int]]) -> CpuCall:
        """Runs in which only the leaves at some places change, (place, number) each."""
        return CpuCall(self.facts, self._launches, order, dict(spots), self._weights)
