"""Plans of the CPU: launches of native kernels, walked by the native runner.

A plan is made once for a structure (ops, shapes, layouts, which leaves share memory) and kept, on
disk too. A run takes one of its programs, patches the addresses of leaves and results and the
Python numbers, and lets the native runner walk it. The arena of intermediates belongs to the
program, and a program to one run at a time; results own their memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlogic.computed import computed
from tensorlogic.devices.arguments import CheckFailed, leaf_memory, number_word
from tensorlogic.devices.lines import Weights
from tensorlogic.devices.native import (
    ADDRESS,
    FLOAT,
    INTEGER,
    RESULT,
    Bound,
    Launch,
    Patch,
    Program,
    bind,
)
from tensorlogic.graph import Node, word_of
from tensorlogic.storage import SMALL, Allocated, Memory, padded


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

    __slots__ = ("_arena", "_program", "run", "status")

    def __init__(self, program: Program, run: Bound, arena: Memory, status: Memory):
        self._program, self.run, self._arena, self.status = program, run, arena, status


class CpuCall:
    """Runs of a plan that differ in some of its leaves: `spots` gives the place of each and its
    number among those that `run` takes; the others are the leaves of `order`. Each run has its own
    program, so that threads need not wait for each other.

    The native runner writes what changes into a program and makes room for small results; larger
    ones, and those that take the memory of a leaf, are further inputs of its.
    """

    __slots__ = (
        "_checks",
        "_constants",
        "_facts",
        "_free",
        "_launches",
        "_lines",
        "_makes",
        "_order",
        "_patches",
        "_sizes",
        "_taken",
        "_used",
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
        self._taken = {
            i: (place, spots.get(place, -1))
            for i, (_, place) in enumerate(facts.targets)
            if place >= 0
        }
        # What takes the memory of a leaf needs none.
        self._sizes = [padded(n) if place < 0 else 0 for n, place in facts.targets]
        self._makes = not self._taken and max(self._sizes, default=0) <= SMALL
        self._constants = [
            (w, leaf_memory(order, p).address + offset)
            for w, p, offset in facts.leaves
            if p not in spots
        ]
        self._weights = weights
        for w, p, offset in facts.lines:
            if p not in spots:
                self._constants.append((w, weights.address(order[p]) + offset))  # type: ignore[arg-type]
        for w, p, dtype in facts.numbers:
            if p not in spots:
                self._constants.append((w, number_word(order[p].number, dtype)))  # type: ignore
        leaves = [(w, spots[p], offset) for w, p, offset in facts.leaves if p in spots]
        numbers = [(w, spots[p], dtype) for w, p, dtype in facts.numbers if p in spots]
        used = sorted({i for _, i, _ in (*leaves, *numbers)})
        # None where all that `run` takes is used as it comes.
        self._used = None if used == list(range(len(spots))) else used
        which = {i: k for k, i in enumerate(used)}
        kind, first = (RESULT, 0) if self._makes else (ADDRESS, len(used))
        lines = [(w, spots[p], offset) for w, p, offset in facts.lines if p in spots]
        self._lines = sorted({i for _, i, _ in lines})
        after = len(used) + (0 if self._makes else len(self._sizes))
        place = {i: after + k for k, i in enumerate(self._lines)}
        self._patches = [
            *(Patch(w, ADDRESS, which[i], offset) for w, i, offset in leaves),
            *(Patch(w, FLOAT if t == "f32" else INTEGER, which[i]) for w, i, t in numbers),
            *(Patch(w, kind, first + i, offset) for w, i, offset in facts.results),
            *(Patch(w, ADDRESS, place[i], offset) for w, i, offset in lines),
        ]
        self._free: list[_Instance] = []

    def _instance(self, inputs: int) -> _Instance:
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
        run = bind(program, inputs, self._sizes if self._makes else (), self._patches)
        return _Instance(program, run, arena, status)

    def run(self, leaves: Sequence[Node], /) -> list[Memory]:
        """The memory of each root. Raises CheckFailed where a status word counted something."""
        if not self._makes:
            results = self._allocated(leaves)
            self._start(leaves, [memory.address for memory in results])
            return results
        made = iter(self._start(leaves))
        return [
            Allocated(owner, address, start, nbytes)
            for owner, address, start, nbytes in zip(made, made, made, self._sizes, strict=True)
        ]

    def leaves(self, leaves: Sequence[Node], kinds: Sequence[Node], /) -> list[Node]:
        """The results of a run as leaves like `kinds`."""
        if not self._makes:
            results = self.run(leaves)
            return [computed(k, m, m.address) for k, m in zip(kinds, results, strict=True)]
        made = self._start(leaves)
        if len(made) == 3:
            owner, address, start = made
            return [computed(kinds[0], owner, address, start)]
        return list(map(computed, kinds, made[::3], made[1::3], made[2::3]))

    def _start(self, leaves: Sequence[Node], results: Sequence[int] = ()) -> tuple[Any, ...]:
        """Run a program for these leaves, with the addresses of results that are not made there."""
        given = leaves if self._used is None else [leaves[i] for i in self._used]
        words: list[Any] = []
        for n in given:  # a comprehension is a function of its own up to Python 3.11
            words.append(n.word or word_of(n))
        if results:
            words += results
        if self._lines:
            words += [self._weights.address(leaves[i]) for i in self._lines]
        try:
            instance = self._free.pop()
        except IndexError:  # the first run, or another thread has it
            instance = self._instance(len(words))
        if self._checks:
            instance.status.base[:] = 0
        made = instance.run(words)
        failed = self._failed(instance) if self._checks else None
        self._free.append(instance)
        if failed is not None:
            raise CheckFailed(failed)
        return made

    def _failed(self, instance: _Instance) -> int | None:
        """The place of the first check that counted something."""
        counts = instance.status.base.view(np.int32).tolist()
        return next((p for p, n in zip(self._checks, counts, strict=False) if n), None)

    def _allocated(self, leaves: Sequence[Node]) -> list[Memory]:
        """The memory of each root; some take that of a leaf."""
        results: list[Memory] = []
        for i, nbytes in enumerate(self._sizes):
            place, number = self._taken.get(i, (-1, -1))
            if place < 0:
                results.append(Memory.allocate(nbytes))
            elif number < 0:
                results.append(leaf_memory(self._order, place))
            else:
                results.append(leaf_memory(leaves, number))
        return results


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
