"""The layout of a schedule: where each argument of each launch lies, and what changes between runs.

It holds no nodes and no addresses: places in the order of the graph, offsets in an arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorlogic.devices.arguments import number_word
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import BYTES
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import Schedule
from tensorlogic.schedule.records import CheckRecord
from tensorlogic.storage import ALIGNMENT

SMALL_WORK = 30_000
"""Elements that a small plan touches at most: no thread or turn of the GIL is worth its while."""
READY_WORK = 1 << 19
"""Elements that the plan of a ready call touches at most (calls.py): to record the call would take
a tenth of its time or more."""


@dataclass(frozen=True, slots=True)
class Argument:
    """Where a buffer argument begins: `offset` bytes into the arena, into the memory of result
    `which`, or into that of the leaf at place `which`, or into its interleaved rows. `kind` is
    "arena", "result", "leaf", "lines", "status", or "empty" for what is never read."""

    kind: str
    offset: int = 0
    which: int = -1


@dataclass(frozen=True, slots=True)
class NumberArgument:
    """A parameter that each run reads anew: the Python number at `place`, as an i32, f32, ..."""

    place: int
    dtype: str

    def word(self, order: Sequence[Node | None]) -> int:
        """The number as the 64-bit word that kernels take."""
        node = order[self.place]
        value = node.number if node is not None else None
        assert value is not None
        return number_word(value, self.dtype)


class Layout:
    """The arguments of the steps of a schedule; `order` are the nodes of its graph."""

    def __init__(self, schedule: Schedule, order: Sequence[Node]):
        steps = schedule.steps
        # A plan outlives the graph that it was made for: it keeps places, never nodes.
        place = {id(n): i for i, n in enumerate(order)}
        for n in (n for s in steps for n in s.writes):
            place.setdefault(id(n), len(place))
        self._aliases = _taken_over(steps, place)
        leaves = {i for i, n in enumerate(order) if n.op is None}
        homes = [self._home(place[id(r)]) for r in schedule.roots]
        self._results = {home: i for i, home in enumerate(homes)}
        self.targets = [
            (r.size * r.dtype.itemsize, home if home in leaves else -1)
            for r, home in zip(schedule.roots, homes, strict=True)
        ]
        """Bytes of each root's memory, and the place of the leaf whose memory it takes, or -1."""
        self._offsets, self.arena_bytes = self._lay_out(schedule, place, leaves)
        self.checks: list[int] = []
        """The place of the node that each status slot checks."""
        self.buffers = [
            [self._argument(use, place, i in s.interleaved) for i, use in enumerate(s.buffers)]
            for s in steps
        ]
        self.params = [self._parameters(s, place) for s in steps]
        touched = sum(s.work * s.cost for s in steps)
        products = sum(m * n * k // 4 for m, n, k in (s.problem for s in steps))
        self.small = touched + products < SMALL_WORK
        light = touched + products < READY_WORK
        self.ready = light and not self.checks and not any(s.in_place for s in steps)

    def _home(self, place: int) -> int:
        return self._aliases.get(place, place)

    def _lay_out(
        self, schedule: Schedule, place: dict[int, int], leaves: set[int]
    ) -> tuple[dict[int, int], int]:
        """Arena offsets of the intermediates; memory is used again after the last reader."""
        types = schedule.memory_types
        elsewhere = leaves | self._results.keys()
        last: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for i, s in enumerate(schedule.steps):
            for n in (*s.reads, *s.writes):
                home = self._home(place[id(n)])
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
                home = self._home(place[id(n)])
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

    def _argument(
        self, use: tuple[Node, int] | None, place: dict[int, int], interleaved: bool
    ) -> Argument:
        if use is None:
            return Argument("status")
        node, offset = use
        if node.op is not None and not node.size:
            return Argument("empty")  # never computed
        home = self._home(place[id(node)])
        if interleaved:
            assert node.data is not None
            return Argument("lines", offset - node.data.offset, home)
        if home in self._offsets:
            return Argument("arena", self._offsets[home] + offset)
        if home in self._results:
            return Argument("result", offset, self._results[home])
        return Argument("leaf", offset, home)

    def _parameters(self, step: Step, place: dict[int, int]) -> list[int | NumberArgument]:
        words: list[int | NumberArgument] = []
        for p, value in zip(step.all_params, step.params, strict=True):
            if isinstance(value, Node):
                words.append(NumberArgument(place[id(value)], p.dtype))
            elif isinstance(value, CheckRecord):
                words.append(len(self.checks))
                self.checks.append(place[id(value.node)])
            else:
                words.append(value)
        return words


def _taken_over(steps: Sequence[Step], place: dict[int, int]) -> dict[int, int]:
    """Nodes that live in the memory of another: written place to the place it took over."""
    taken: dict[int, int] = {}
    for s in steps:
        for node, old in s.in_place:
            source = place[id(old)]
            taken[place[id(node)]] = taken.get(source, source)
    return taken
