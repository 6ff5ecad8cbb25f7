"""Sums over the lines of a matrix, such as a vector times a matrix whose rows are contiguous.

Walked a result at a time, each element that is read would be in another line of memory. So such a
kernel takes a block of neighbouring results at once: their sums are in local memory, the lines of
the matrix go by, a few of them at a time, and lanes run along the lines. Rows of a small product
that share the matrix share what is read of it.
"""

from __future__ import annotations

import math

from tensorlogic import ops
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Buffer, Expr, Loop, Stmt, Store, binary, const, replaced
from tensorlogic.schedule.affine import LoopVar
from tensorlogic.schedule.emit import ZERO64, Emitter, Output, Step
from tensorlogic.schedule.loops import Loops, indices_of
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.records import FoldRecord
from tensorlogic.schedule.traits import Traits

_BLOCK = 2048
"""Results of a block at most: a line of them is a page to stream, their sums stay in the L1."""
_SHARES = 4
"""Blocks that are wanted, so that there is work for several cores."""
_NARROW = 128
"""Results of a block at least, where there are so many."""
_LINES = 8
"""Lines that are added while a sum is in a register."""
_ROWS = 4
"""Rows that share what is read, at most."""
_LEAST = 1 << 15
"""Products from which on blocks pay."""

Group = list[LoopVar]


def wide_step(low: Lowering, output: Output, traits: Traits) -> Step | None:
    """The launch for sums over lines, where that is what a kernel computes on a CPU; else None."""
    if traits.gpu or len(low.folds) != 1 or low.pending_checks:
        return None
    (record,) = low.folds
    if record.fold is not ops.reduce_sum.fold or record.checks or low.taps:
        return None
    loops = Loops(low, [(output.at, output.value)])
    depth = loops.fold_groups[id(record)]
    if loops.vector_row is None or loops.columns or len(depth) != 1 or depth[0][-1].static:
        return None
    every = [v for g in (*loops.rows, loops.vector_row, *depth) for v in g]
    if math.prod(v.extent for v in every) < _LEAST:
        return None
    lines, _, _ = indices_of(record.element, every)
    along = loops.vector_row[-1]
    wide = [at for at in lines if at.coefficient(along)]
    if not wide or any(at.opaque or at.coefficient(along) != 1 for at in wide):
        return None
    shared = [g for g in loops.rows if not any(at.coefficient(g[-1]) for at in wide)]
    if len(shared) > 1 or math.prod(_extent(g) for g in shared) > _ROWS:
        return None
    outer = [g for g in loops.rows if g not in shared]
    return _Block(low, output, record, (outer, shared, loops.vector_row, depth[0])).step()


def _extent(group: Group) -> int:
    return math.prod(v.extent for v in group)


class _Block:
    """The kernel; `axes` are outer rows, those that share the matrix, the results, the lines."""

    def __init__(
        self,
        low: Lowering,
        output: Output,
        record: FoldRecord,
        axes: tuple[list[Group], list[Group], Group, Group],
    ) -> None:
        self.low, self.output, self.record = low, output, record
        outer, shared, results, depth = axes
        emitter = self.emitter = Emitter()
        emitter.name_scalars(low)
        self.rows = math.prod(_extent(g) for g in shared)
        self.lines = _extent(depth)
        width = _extent(results)
        size = min(max(-(-width // _SHARES), _NARROW), _BLOCK)
        blocks = -(-width // size)
        self.count = blocks * math.prod(_extent(g) for g in outer)
        self.touched = self.count * size * self.lines
        self.index, self.col, self.k, self.row = (ir.index(n) for n in ("r", "n", "k", "m"))
        many, step = emitter.number(blocks), emitter.number(size)
        first = binary("irem", self.index, many) * step
        emitter.digits(outer, binary("idiv", self.index, many))
        emitter.place(results, first + self.col)
        emitter.place(depth, self.k)
        for g in shared:
            emitter.place(g, self.row)
        self.room = binary("min", emitter.extent(results) - first, step)
        self.depth = emitter.extent(depth)
        self.sums = Buffer("sums", "f32", True, const(self.rows * _BLOCK, "i64"))

    def step(self) -> Step:
        emitter, low = self.emitter, self.low
        element = emitter.rewrite(self.record.element[0])
        init = emitter.rewrite(self.record.init[0])
        whole = binary("idiv", self.depth, const(_LINES, "i64"))
        j = ir.index("j")
        several = [j * _LINES + u for u in range(_LINES)]
        body: list[Stmt] = [
            self._along(*(Store(self.sums, self._at(m), init) for m in range(self.rows))),
            Loop(j, ZERO64, whole, "serial", (self._add(element, several),)),
            Loop(self.k, whole * _LINES, self.depth, "serial", (self._add(element, [self.k]),)),
        ]
        stores = emitter.stores(low, [self.output])
        for m in range(self.rows):
            by = {self.row: const(m, "i64"), self.record.result[0]: ir.load(self.sums, self._at(m))}
            body.append(self._along(*(_replaced(s, by) for s in stores)))
        step = emitter.rows(self.index, self.count, body, self.touched)
        step.scratch = 4 * self.rows * _BLOCK + 128
        return step

    def _at(self, row: int) -> Expr:
        return self.col + row * _BLOCK

    def _along(self, *stores: Store) -> Loop:
        return Loop(self.col, ZERO64, self.room, "vector", stores)

    def _add(self, element: Expr, lines: list[Expr]) -> Loop:
        """Some lines added to the sums of a block."""
        stores = []
        for m in range(self.rows):
            total = ir.load(self.sums, self._at(m))
            for k in lines:
                total = total + replaced(element, {self.k: k, self.row: const(m, "i64")}, {})
            stores.append(Store(self.sums, self._at(m), total))
        return self._along(*stores)


def _replaced(s: Store, by: dict[Expr, Expr]) -> Store:
    memo: dict[Expr, Expr] = {}
    return Store(s.buffer, replaced(s.at, by, memo), replaced(s.value, by, memo))
