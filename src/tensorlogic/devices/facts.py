"""What a plan of the CPU has to know of a schedule."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.devices.layout import Layout, NumberArgument
from tensorlogic.devices.plans import Facts
from tensorlogic.graph import Node
from tensorlogic.schedule.fuse import Schedule


def facts_of(
    schedule: Schedule,
    order: Sequence[Node],
    launches: Sequence[tuple[str, int, int, int]],
    scratch: int,
) -> Facts:
    """Which words change with each run, which with each program, and which never."""
    layout = Layout(schedule, order)
    results: list[tuple[int, int, int]] = []
    leaves: list[tuple[int, int, int]] = []
    lines: list[tuple[int, int, int]] = []
    arena: list[tuple[int, int]] = []
    status: list[int] = []
    numbers: list[tuple[int, int, str]] = []
    fixed: list[tuple[int, int]] = []
    word = 0
    for buffers, params in zip(layout.buffers, layout.params, strict=True):
        for b in buffers:
            if b.kind == "status":
                status.append(word)
            elif b.kind == "empty":
                fixed.append((word, 0))
            elif b.kind == "arena":
                arena.append((word, b.offset))
            else:
                places = {"result": results, "leaf": leaves, "lines": lines}
                places[b.kind].append((word, b.which, b.offset))
            word += 1
        for value in params:
            if isinstance(value, NumberArgument):
                numbers.append((word, value.place, value.dtype))
            else:
                fixed.append((word, int(value)))
            word += 1
    return Facts(
        launches=tuple(launches),
        scratch=scratch,
        small=layout.small,
        ready=layout.ready,
        arena_bytes=layout.arena_bytes,
        targets=tuple(layout.targets),
        checks=tuple(layout.checks),
        results=tuple(results),
        leaves=tuple(leaves),
        lines=tuple(lines),
        arena=tuple(arena),
        status=tuple(status),
        numbers=tuple(numbers),
        fixed=tuple(fixed),
    )
