"""Scheduling: the launches that compute the roots of a graph, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorlogic.graph import Node, shape_text, topological
from tensorlogic.schedule.build import Builder
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.join import Joiner
from tensorlogic.schedule.kept import keep_rows
from tensorlogic.schedule.launches import joined
from tensorlogic.schedule.moments import one_pass
from tensorlogic.schedule.repeats import Built
from tensorlogic.schedule.siblings import Item, Shaped, with_siblings
from tensorlogic.schedule.traits import CPU, Traits
from tensorlogic.settings import Settings


@dataclass(eq=False)
class Schedule:
    """Steps in order, and the memory type of each node that they store."""

    roots: list[Node]
    steps: list[Step]
    memory_types: dict[int, str]

    def text(self) -> str:
        """One line a step: what it computes, its extents, what it reads."""
        names = {id(n): f"%{i}" for i, n in enumerate(topological(self.roots))}
        lines = []
        for i, s in enumerate(self.steps):
            what = ", ".join(
                f"{names.get(id(n), '%?')} = {n.op} {self.memory_types[id(n)]}{shape_text(n.shape)}"
                for n in s.writes
            )
            reads = ", ".join(names.get(id(n), "%?") for n in s.reads)
            size = f"product {s.problem}" if s.problem[0] else f"{s.work} rows of {s.cost}"
            lines.append(f"{i}: {what}  from {reads}  ({size})")
        return "\n".join(lines) + "\n"


def _items(roots: Sequence[Node], builder: Builder) -> list[Item]:
    """The launches of roots and of all that they need, in order."""
    items: list[Item] = []
    built: dict[int, Built] = {}
    placed: set[int] = set()
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if id(node) in placed or node.op is None:
            continue
        if id(node) not in built:
            built[id(node)] = builder.build(node) if node.size else Built([], [], [])
        made = built[id(node)]
        if not ready:
            stack.append((node, True))
            stack += [(n, False) for n in made.needed]
            continue
        placed.add(id(node))
        if made.core is None:
            items += made.steps
        else:
            items.append(Shaped(made.steps[0], made.core.shape, [node]))
    return items


def schedule(roots: Sequence[Node], settings: Settings, traits: Traits = CPU) -> Schedule:
    """The steps that compute the roots (a graph without calls and host conversions) on a device."""
    builder = Builder(roots, settings, traits)
    steps = with_siblings(_items(roots, builder), {id(r) for r in roots}, builder.fuse)
    steps = joined(steps, roots, traits, Joiner())
    steps = one_pass(steps, traits)
    if not traits.gpu:
        steps = keep_rows(steps)
    types = {id(n): builder.memory_type(n) for s in steps for n in s.writes}
    types |= {id(r): r.dtype.ir for r in roots}
    return Schedule(list(roots), steps, types)
