"""Several launches as one: side by side in one parallel range, or one computed before the other.

What is made depends on the kernels and on which buffers they share; it is kept, so that each layer
of a model after the first costs no more than looking up its buffers and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Buffer, Expr, Kernel, Loop, Split, Stmt, binary, const, param
from tensorlogic.kernels.rename import Renaming
from tensorlogic.schedule.emit import STATUS, ZERO64, Number, Step

BLOCK = 1024
"""Elements of a flat loop that are one row beside other kernels."""
ALIGNMENT = 64
"""Local buffers begin at multiples of so many bytes in a worker's scratch memory."""

Use = tuple[Node, int] | None
Steps = Sequence[Step]


@dataclass(frozen=True, eq=False)
class _Joined:
    """A kernel made of several, and where each of its arguments comes from."""

    kernel: Kernel
    buffers: list[tuple[int, int]]
    """(step, place among its buffers)"""
    params: list[Callable[[Steps], Number]]

    def uses(self, steps: Steps) -> list[Use]:
        return [steps[i].buffers[k] for i, k in self.buffers]

    def values(self, steps: Steps) -> list[Number]:
        return [value(steps) for value in self.params]


class _Arguments:
    """The buffers and params of steps, as those of one kernel; equal buffers are one."""

    def __init__(self, steps: Steps):
        self.buffers: list[Buffer] = []
        self.params: list[Expr] = []
        self.sources: list[tuple[int, int]] = []
        self.values: list[Callable[[Steps], Number]] = []
        self.by_step: list[dict[Buffer, Buffer]] = [{} for _ in steps]
        self.leaves: list[dict[str, Expr]] = [{} for _ in steps]
        known: dict[Hashable, Buffer] = {}
        for i, step in enumerate(steps):
            kernel = step.kernel
            assert isinstance(kernel, Kernel)
            for k, (b, use) in enumerate(zip(kernel.buffers, step.buffers, strict=True)):
                key = None if use is None else (id(use[0]), use[1], b.dtype)
                if key not in known:
                    name = STATUS if use is None else f"b{len(self.buffers)}"
                    known[key] = Buffer(name, b.dtype, b.written)
                    self.buffers.append(known[key])
                    self.sources.append((i, k))
                self.by_step[i][b] = known[key]
            for k, p in enumerate(kernel.params):
                self.leaves[i][p.attr] = self.number(
                    lambda steps, i=i, k=k: steps[i].params[k],  # type: ignore[misc]
                    p.dtype,
                )
            rename = Renaming({}, self.leaves[i])
            for b in kernel.locals:
                size = None if b.size is None else rename(b.size)
                self.by_step[i][b] = Buffer(f"{b.name}_{i}", b.dtype, True, size)

    def number(self, value: Callable[[Steps], Number], dtype: str = "i64") -> Expr:
        p = param(f"p{len(self.params)}", dtype)
        self.params.append(p)
        self.values.append(value)
        return p

    def renaming(self, i: int, prefix: str = "") -> Renaming:
        """For the statements of step i."""
        return Renaming(self.by_step[i], self.leaves[i], prefix)

    def replace(self, node: Node, steps: Steps, by: Buffer) -> None:
        """Another buffer in place of those that hold a node."""
        for i, step in enumerate(steps):
            for b, use in zip(step.all_buffers, step.buffers, strict=True):
                old = self.by_step[i][b]
                if use is not None and use[0] is node:
                    self.by_step[i][b] = by
                    if old in self.buffers:
                        del self.sources[self.buffers.index(old)]
                        self.buffers.remove(old)

    def joined(self, body: Sequence[Stmt]) -> _Joined:
        kernel = Kernel(tuple(self.buffers), tuple(self.params), tuple(body))
        return _Joined(kernel, self.sources, self.values)


class Joiner:
    """Joins steps; what it made of some kernels serves for the same kernels over other nodes."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Joined] = {}

    def _joined(self, steps: Steps, kind: Hashable, make: Callable[[], _Joined]) -> _Joined:
        order: dict[Hashable, int] = {}
        alias = tuple(
            order.setdefault(None if use is None else (id(use[0]), use[1]), len(order))
            for s in steps
            for use in s.buffers
        )
        key = (kind, tuple(id(s.kernel) for s in steps), alias)
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def side_by_side(self, steps: Steps) -> Step:
        """One launch for steps that do not depend on each other."""
        made = self._joined(steps, "split", lambda: _split(steps))
        counts = [_rows(s) for s in steps]
        work = sum(counts)
        touched = sum(s.work * s.cost for s in steps)
        step = _step(made, steps)
        step.work, step.cost = work, max(touched // max(work, 1), 1)
        return step

    def before(self, first: Step, step: Step, dtype: str) -> Step:
        """One launch in which each worker computes what `first` stores for itself, as `dtype` in
        local memory, and then rows of `step`, which alone reads it."""
        steps = (first, step)
        made = self._joined(steps, dtype, lambda: _prologue(first, step, dtype))
        (node,) = first.writes
        joined = _step(made, steps)
        joined.work, joined.cost = step.work, step.cost
        joined.setup = step.setup + first.work * first.cost
        size = node.size * ir.BYTES[dtype]
        joined.scratch += -(-size // ALIGNMENT) * ALIGNMENT
        joined.reads = [n for n in joined.reads if n is not node]
        joined.writes = list(step.writes)
        return joined


def _step(made: _Joined, steps: Steps) -> Step:
    reads = list({id(n): n for s in steps for n in s.reads}.values())
    writes = [n for s in steps for n in s.writes]
    step = Step(made.kernel, made.uses(steps), made.values(steps), 0, 1, reads, writes)
    step.checks = [c for s in steps for c in s.checks]
    step.in_place = [pair for s in steps for pair in s.in_place]
    step.scratch = sum(s.scratch for s in steps)
    return step


def is_flat(step: Step) -> bool:
    """Whether the only loop of a launch shares out elements, not rows."""
    assert isinstance(step.kernel, Kernel)
    last = step.kernel.body[-1]
    return isinstance(last, Loop) and last.kind == "flat"


def _rows(step: Step) -> int:
    return -(-step.work // BLOCK) if is_flat(step) else step.work


def _split(steps: Steps) -> _Joined:
    arguments = _Arguments(steps)
    row = ir.index("r")
    counts: list[Expr] = []
    bodies: list[tuple[Stmt, ...]] = []
    for i, step in enumerate(steps):
        assert isinstance(step.kernel, Kernel)
        (last,) = step.kernel.body
        rename = arguments.renaming(i)
        if isinstance(last, Split):
            arguments.leaves[i][last.index.attr] = row
            counts += rename(last.counts)
            bodies += rename(last.bodies)
            continue
        assert isinstance(last, Loop)
        stop = rename(last.stop)
        if last.kind == "flat":
            blocks = arguments.number(lambda steps, i=i: _rows(steps[i]))  # type: ignore[misc]
            first = row * BLOCK
            at, body = rename((last.index, last.body))
            end = binary("min", first + BLOCK, stop)
            counts.append(blocks)
            bodies.append((Loop(at, first, end, "vector", body),))
        else:
            arguments.leaves[i][last.index.attr] = row
            counts.append(stop)
            bodies.append(rename(last.body))
    return arguments.joined([Split(row, tuple(counts), tuple(bodies))])


def _prologue(first: Step, step: Step, dtype: str) -> _Joined:
    (node,) = first.writes
    arguments = _Arguments((first, step))
    size = arguments.number(lambda steps: steps[0].writes[0].size)
    depth = len(step.kernel.locals) if isinstance(step.kernel, Kernel) else 0
    arguments.replace(node, (first, step), Buffer(f"ahead{depth}", dtype, True, size))
    assert isinstance(first.kernel, Kernel)
    assert isinstance(step.kernel, Kernel)
    (loop,) = first.kernel.body
    assert isinstance(loop, Loop)
    rename = arguments.renaming(0, f"u{depth}")
    body: tuple[Stmt, ...]
    if loop.kind == "flat":
        at, stop, inner = rename((loop.index, loop.stop, loop.body))
        body = (Loop(at, ZERO64, stop, "vector", inner),)
    elif first.work == 1:
        arguments.leaves[0][loop.index.attr] = const(0, "i64")
        body = rename(loop.body)
    else:
        at, stop, inner = rename((loop.index, loop.stop, loop.body))
        body = (Loop(at, ZERO64, stop, "serial", inner),)
    return arguments.joined([*body, *arguments.renaming(1)(step.kernel.body)])
