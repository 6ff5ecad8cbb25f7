"""Rows whose loops compute the same costly values: the first loop keeps them for the next.

The sum and the quotients of a softmax both take the exponential of each element. On a CPU a row of
float32 in a worker's own memory costs less than a second exponential.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tensorlogic.codegen.rewrite import differing_names, rewritten
from tensorlogic.kernels.ir import (
    Buffer,
    Expr,
    Fold,
    Kernel,
    Loop,
    Stmt,
    Store,
    bodies_of,
    exprs_of,
    load,
    nodes_of,
    replaced,
    with_bodies,
)
from tensorlogic.schedule.emit import Step

_COSTLY = ("exp", "log", "sin", "cos", "tanh", "erf", "either")
_LONGEST = 1 << 15
"""Elements of a row that are kept: they should stay in the nearer caches."""


def keep_rows(steps: Sequence[Step]) -> list[Step]:
    """The steps, with kernels that keep what several loops of their rows need."""
    return [_keeping(s) for s in steps]


def _keeping(step: Step) -> Step:
    kernel = step.kernel
    if not isinstance(kernel, Kernel):
        return step
    bodies = bodies_of(kernel)
    if not any(len(_loops(b)) > 1 for b in bodies):
        return step
    sizes = step.sizes()
    rows = _Rows(sizes)
    new = tuple(rows.body(b) for b in bodies)
    if not rows.buffers:
        return step
    made = with_bodies(kernel, new)
    return replace(step, kernel=made, scratch=step.scratch + rows.bytes)


def _loops(body: tuple[Stmt, ...]) -> list[int]:
    """Where the loops in lanes stand that could share values."""
    return [
        i
        for i, s in enumerate(body)
        if isinstance(s, Loop | Fold)
        and s.kind == "vector"
        and not any(isinstance(t, Loop | Fold) for t in s.body)
    ]


class _Rows:
    """Rewrites the bodies of rows; `buffers` are what they keep, in `bytes` of local memory."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self._sizes = sizes
        self.buffers: list[Buffer] = []
        self.bytes = 0

    def body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out = list(body)
        places = _loops(body)
        for n, j in enumerate(places):
            for i in places[:n]:
                a, b = out[i], out[j]
                assert isinstance(a, Loop | Fold)
                assert isinstance(b, Loop | Fold)
                if self._fits(a) and self._same([(a.start, b.start), (a.stop, b.stop)], a, b):
                    out[i], out[j] = self._shared(a, b)
        return tuple(out)

    def _fits(self, s: Loop | Fold) -> bool:
        """Whether a row begins at 0 and is short enough."""
        first = s.start.op == "const" and s.start.attr == 0
        length = self._sizes.get(s.stop.attr, 0) if s.stop.op == "param" else 0
        return first and 0 < length <= _LONGEST

    def _same(self, pairs: list[tuple[Expr, Expr]], a: Loop | Fold, b: Loop | Fold) -> bool:
        return differing_names(pairs, a, b, self._sizes) is not None

    def _shared(self, a: Loop | Fold, b: Loop | Fold) -> tuple[Loop | Fold, Loop | Fold]:
        """Both loops, the first of which stores what the second computes again."""
        ours = _costly(a)
        by: dict[Expr, Expr] = {}
        stores: list[Store] = []
        taken: set[Expr] = set()
        for y in reversed(_costly(b)):  # the largest first
            if y in taken:
                continue
            x = next((x for x in reversed(ours) if self._same([(x, y)], a, b)), None)
            if x is None:
                continue
            taken |= set(nodes_of(y))
            row = self._row(a)
            stores.append(Store(row, a.index, x))
            by[y] = load(row, b.index)
        if not by:
            return a, b
        memo: dict[Expr, Expr] = {}
        (second,) = rewritten((b,), lambda e: replaced(e, by, memo))
        assert isinstance(second, Loop | Fold)
        return replace(a, body=(*a.body, *stores)), second

    def _row(self, loop: Loop | Fold) -> Buffer:
        self.bytes += 4 * int(self._sizes[loop.stop.attr]) + 64
        self.buffers.append(Buffer(f"kept{len(self.buffers)}", "f32", True, loop.stop))
        return self.buffers[-1]


def _costly(loop: Loop | Fold) -> list[Expr]:
    """The expressions of a loop that depend on its index and have a costly function in them,
    arguments first."""
    found: dict[Expr, bool] = {}
    varying: set[Expr] = set()
    for e in nodes_of(*_expressions(loop)):
        if (e.attr == loop.index.attr and e.op == "index") or any(a in varying for a in e.args):
            varying.add(e)
            found[e] = e.op in _COSTLY or any(found.get(a, False) for a in e.args)
    return [e for e, costly in found.items() if costly and e.dtype == "f32"]


def _expressions(loop: Loop | Fold) -> Iterator[Expr]:
    yield from loop.step
    for s in loop.body:
        yield from exprs_of(s)
