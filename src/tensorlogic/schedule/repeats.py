"""Layers of a model repeat: what was built for one node serves for others of equal structure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

from tensorlogic import ops
from tensorlogic.graph import Node, apply
from tensorlogic.schedule.emit import Number, Step
from tensorlogic.schedule.records import CheckRecord


def structure(
    roots: Sequence[Node],
    opened: Collection[int],
    stored: Collection[int],
    memory_type: Callable[[Node], str],
    alone: Callable[[Node], bool],
) -> tuple[Hashable, list[Node]]:
    """All that the kernels of some roots depend on, and the nodes that it speaks of, in order.

    It goes down to leaves and stored nodes, but through those that are `opened`. `alone` tells
    whether a node has one reader.
    """
    nodes = list(roots)
    places = {id(n): i for i, n in enumerate(nodes)}
    parts: list[Hashable] = [memory_type(n) for n in nodes]
    for n in nodes:  # `nodes` grows
        if n.op is None:
            parts.append(_leaf(n))
        elif id(n) in stored and id(n) not in opened:
            parts.append((n.shape, n.dtype.name, memory_type(n), alone(n)))
        else:
            spots = []
            for a in n.args:
                spot = places.get(id(a))
                if spot is None:
                    spot = places[id(a)] = len(nodes)
                    nodes.append(a)
                spots.append(spot)
            parts.append((id(n.op), n.attrs, n.shape, n.dtype.name, *spots, alone(n)))
    return tuple(parts), nodes


def _leaf(n: Node) -> Hashable:
    d = n.data
    if d is None:
        return n.shape, n.dtype.name, n.weak, n.number is None, n.attrs
    return n.shape, n.dtype.name, n.weak, n.number is None, d.storage, d.offset, d.strides


@dataclass(frozen=True, eq=False)
class Built:
    """The launches that compute a node, the nodes that have to be there before, and those that
    turned out to need memory of their own."""

    steps: list[Step]
    needed: list[Node]
    stored: list[Node]
    core: Node | None = None
    """Of a launch that may have siblings, the node whose loops are those of the kernel."""


class Template:
    """What was built for the first of some nodes of equal structure."""

    def __init__(self, nodes: Sequence[Node], built: Built):
        self._nodes, self._built = nodes, built

    def again(self, nodes: Sequence[Node]) -> Built:
        """The same for other nodes; kernels are shared."""
        other = dict(zip(map(id, self._nodes), nodes, strict=True))
        records: dict[int, CheckRecord] = {}

        def of(n: Node) -> Node:
            if id(n) not in other:  # made in between
                other[id(n)] = apply(ops.PARTIAL, (), (), n.shape, n.dtype)
            return other[id(n)]

        def number(value: Number) -> Number:
            if isinstance(value, int):
                return value
            return of(value) if isinstance(value, Node) else record(value)

        def record(c: CheckRecord) -> CheckRecord:
            if id(c) not in records:
                records[id(c)] = replace(c, node=of(c.node))
            return records[id(c)]

        steps = [
            replace(
                s,
                buffers=[None if use is None else (of(use[0]), use[1]) for use in s.buffers],
                params=[number(v) for v in s.params],
                reads=[of(n) for n in s.reads],
                writes=[of(n) for n in s.writes],
                checks=[record(c) for c in s.checks],
                in_place=[(of(n), of(old)) for n, old in s.in_place],
            )
            for s in self._built.steps
        ]
        needed = [of(n) for n in self._built.needed]
        core = self._built.core
        stored = [of(n) for n in self._built.stored]
        return Built(steps, needed, stored, None if core is None else of(core))
