"""Kernels over the same loops become one with several results: values that they share are loaded
and computed once, and what only one of them reads from another is not stored at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tensorlogic.graph import Node, Shape
from tensorlogic.schedule.emit import Step

MAX_RESULTS = 4
WINDOW = 8
"""How many launches back one of the same loops is looked for: joined with a far one, results would
lie in memory for long."""


@dataclass(eq=False)
class Shaped:
    """A launch that computes roots in loops over one shape."""

    step: Step
    shape: Shape
    roots: list[Node]


Fuse = Callable[[Sequence[Node], Sequence[Node]], Step | None]
"""One launch for some roots, whose kernel computes other nodes on the way; None if there is none
that is worth it."""
Item = Step | Shaped


def needs(step: Step) -> list[Node]:
    """The nodes that have to be there before a step."""
    return [*step.reads, *(old for _, old in step.in_place)]


def with_siblings(items: Sequence[Item], kept: set[int], fuse: Fuse) -> list[Step]:
    """The steps in order, in fewer launches. `kept` are the results that have to be stored."""
    out: list[Item] = []
    for item in items:
        home = _home(out, item, fuse) if isinstance(item, Shaped) else None
        if home is None:
            out.append(item)
    return [x.step if isinstance(x, Shaped) else x for x in _without_unread(out, kept, fuse)]


def _step(item: Item) -> Step:
    return item.step if isinstance(item, Shaped) else item


def _home(out: list[Item], item: Shaped, fuse: Fuse) -> Item | None:
    """Join an item with one of the last ones, if their order allows it."""
    wanted = {id(n) for n in needs(item.step)}
    ahead_reads: set[int] = set()
    """What the items after the one that is looked at read, and"""
    ahead_writes: set[int] = set()
    """what they write."""
    for i in range(len(out) - 1, max(len(out) - 1 - WINDOW, -1), -1):
        other = out[i]
        step = _step(other)
        writes = {id(n) for n in step.writes}
        if isinstance(other, Shaped) and _alike(other, item, wanted, writes):
            stays = ahead_writes.isdisjoint(wanted)
            moves = ahead_reads.isdisjoint(writes)
            made = fuse([*other.roots, *item.roots], []) if stays or moves else None
            if made is not None:
                merged = Shaped(made, item.shape, [*other.roots, *item.roots])
                if stays:
                    out[i] = merged
                else:
                    del out[i]
                    out.append(merged)
                return merged
        ahead_reads |= {id(n) for n in needs(step)}
        ahead_writes |= writes
    return None


def _alike(other: Shaped, item: Shaped, wanted: set[int], writes: set[int]) -> bool:
    """Whether two run over one shape and one reads the other's result, or both a tensor as large
    as their results."""
    if other.shape != item.shape or len(other.roots) + len(item.roots) > MAX_RESULTS:
        return False
    if not wanted.isdisjoint(writes):
        return True
    size = item.roots[0].size
    return any(id(n) in wanted and n.size >= size for n in other.step.reads)


def _without_unread(items: list[Item], kept: set[int], fuse: Fuse) -> list[Item]:
    """Results that nothing else reads are not stored."""
    read = {id(n) for x in items for n in needs(_step(x))} | kept
    for x in items:
        if isinstance(x, Shaped) and len(x.roots) > 1:
            unread = [n for n in x.roots if id(n) not in read]
            rest = [n for n in x.roots if id(n) in read]
            made = fuse(rest, unread) if unread and rest else None
            if made is not None:
                x.step, x.roots = made, rest
    return items
