"""The loops of a kernel: which are rows, which are columns, and which one runs in lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorlogic.kernels.ir import Expr, nodes_of
from tensorlogic.schedule.affine import Affine, LoopVar, collapse
from tensorlogic.schedule.lower import Lowering

SHORT = 2
"""Turns of an innermost loop up to which the loop around it runs in lanes."""


class Loops:
    """Which loops are rows (parallel), which are columns, and which one runs in lanes."""

    def __init__(self, low: Lowering, outputs: Sequence[tuple[Affine, Expr]]):
        """`outputs` are the addresses that are stored to, and the values."""
        roots = [value for _, value in outputs] + [e for f in low.folds for e in f.element]
        roots += [c.ok for c in (*low.checks, *low.pending_checks)]
        variables = [v for i in low.identity for v in in_order(i)]
        every = [*variables, *(v for f in low.folds for v in f.variables)]
        self.loads, indices, pinned = indices_of(roots, every)
        self.loads += [at for at, _ in outputs]
        indices += [at for at, _ in outputs]
        rows = low.row_variables
        outer = [v for v in variables if rows is not None and v in rows]
        inner = [v for v in variables if rows is None or v not in rows]
        self.rows = collapse(outer, indices, pinned)
        self.columns = collapse(inner, indices, pinned)
        self.fold_groups = {id(f): collapse(f.variables, indices, pinned) for f in low.folds}
        self.vector_row: list[LoopVar] | None = None
        if not low.folds:
            # Without folds all loops but the innermost (and the digits of a block) are parallel.
            cut = max(len(self.columns) - 1, 0)
            if cut > 3:  # splitting a row index into so many would cost more than a loop
                cut -= 1
            while cut > 0 and self.columns[cut][-1].static and self.columns[cut - 1][-1].static:
                cut -= 1
            self.rows, self.columns = self.columns[:cut], self.columns[cut:]
            if self._is_short():
                self.vector_row = self.rows.pop()
        elif self.rows:
            deepest = [g[-1][-1] for g in (*self.fold_groups.values(), self.columns) if g]
            along_row = self.rows[-1][-1]
            score = sum(any(a.coefficient(v) == 1 for v in deepest) for a in self.loads)
            row_score = sum(a.coefficient(along_row) == 1 for a in self.loads)
            taps = any(v in low.taps for v in deepest)
            static = any(v.static for v in deepest) and not taps
            if (row_score > score or taps) and not static and not along_row.static:
                self.vector_row = self.rows.pop()

    def _is_short(self) -> bool:
        """Whether the innermost loop would leave lanes empty that the one around it fills."""
        if not self.rows or len(self.columns) != 1:
            return False
        (inner,), around = self.columns, self.rows[-1]
        sizes = [math.prod(v.extent for v in group) for group in (inner, around)]
        return sizes[0] <= SHORT < sizes[1] and not (inner[-1].static or around[-1].static)


def indices_of(
    roots: Sequence[Expr], variables: Sequence[LoopVar]
) -> tuple[list[Affine], list[Affine], set[LoopVar]]:
    """Under expressions: addresses of loads, all affine indices, loops that stand by themselves."""
    by_expr = {id(v.expr): v for v in variables}
    loads: list[Affine] = []
    indices: list[Affine] = []
    pinned: set[LoopVar] = set()
    stack = list(roots)
    seen: set[int] = set()
    while stack:
        for e in nodes_of(stack.pop()):
            if id(e) in seen:
                continue
            seen.add(id(e))
            if e.op == "load" and isinstance(e.attr, tuple):
                at = e.attr[1]
                loads.append(at)
            elif e.op == "affine":
                at = e.attr
            elif e.op == "index" and id(e) in by_expr:
                pinned.add(by_expr[id(e)])
                continue
            else:
                continue
            indices.append(at)
            stack += [t for t in at.terms if not isinstance(t, LoopVar)]
    return loads, indices, pinned


def in_order(at: Affine) -> list[LoopVar]:
    """The variables of an axis, outermost first."""
    return sorted(at.variables, key=lambda v: v.origin[2])
