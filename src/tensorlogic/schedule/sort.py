"""Sorting: the indices that sort the last axis, by counting and then by merging.

Runs of a few values are sorted by one kernel in which each value counts those that come before it.
Longer rows are merged from such runs, twice as long with each launch of a second kernel: a unit of
work finds by bisection where its share of the result begins in both runs ("merge path", Green,
McColl and Bader 2012) and merges it. Both keep equal values in order and write indices only.
"""

from __future__ import annotations

import math

from tensorlogic import ops
from tensorlogic.dtypes import int32
from tensorlogic.graph import Node, apply
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import (
    Expr,
    Loop,
    Store,
    binary,
    bitcast,
    cast,
    const,
    fold_of,
    select,
    unary,
    var,
)
from tensorlogic.schedule.affine import Affine
from tensorlogic.schedule.emit import ZERO64, Emitter, Step
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.records import BufferRef

RUN = 64
"""Values that are sorted by counting, and results that one unit of work merges."""


def sort_steps(node: Node, low: Lowering) -> tuple[list[Step], list[Node]]:
    """The launches of an argsort: one, and one more for each doubling of RUN to the row's size."""
    sorting = _Sorting(node, low)
    width, size = RUN, node.shape[-1]
    steps: list[Step] = []
    before: Node | None = None
    while before is not node:
        last = width * (1 if before is None else 2) >= size
        made = node if last else apply(ops.PARTIAL, (), (), node.shape, int32)
        if before is None:
            steps.append(sorting.count(made))
        else:
            steps.append(sorting.merge(before, made, width))
            width *= 2
        before = made
    return steps, list(low.dependencies.values())


class _Sorting:
    """The kernels of one argsort. A unit of work is one run of a row."""

    def __init__(self, node: Node, low: Lowering):
        self._x, self._low = node.args[0], low
        (self._descending,) = node.attrs
        low.folds_allowed = False
        self._variables, self._at = low.axes(node, node.shape[:-1])
        self._size = node.shape[-1]
        self._units = -(-self._size // RUN)
        self._rows = math.prod(node.shape[:-1])

    def _start(self) -> None:
        """Begin a kernel: which row the unit belongs to and where its range begins and ends."""
        self._emitter = e = Emitter()
        self._unit = ir.index("r")
        units, self._stop = e.number(self._units), e.number(self._size)
        row = binary("idiv", self._unit, units)
        e.digits([[v] for v in self._variables], row)
        self._row = row * self._stop
        self._first = binary("irem", self._unit, units) * RUN
        self._end = binary("min", self._first + RUN, self._stop)

    def _finish(self, *body: ir.Stmt) -> Step:
        count = self._rows * self._units
        return self._emitter.rows(self._unit, count, body, count * RUN * 16)

    def _key(self, at: Expr) -> Expr:
        """The value at an index as an int32 of the same order: NaN is the largest, -0 equals 0."""
        x = self._emitter.rewrite(self._low.value(self._x, [*self._at, Affine.of(at)]))
        if x.dtype == "f32":
            bits = bitcast(x, "i32")
            key = bits ^ (binary("sar", bits, 31) & (2**31 - 1))
            x = select(x.ne(x), 2**31 - 1, select(x.eq(0.0), 0, key))
        key = cast(x, "i32")
        return unary("not", key) if self._descending else key

    def count(self, made: Node) -> Step:
        """Each value of a run goes to the place that is the number of those before it."""
        self._start()
        i, j = ir.index("i"), ir.index("j")
        mine, other = self._key(i), self._key(j)
        before = (other < mine) | (other.eq(mine) & (cast(j, "i32") < cast(i, "i32")))
        place = var("n", "i32")
        step, bounds = place + cast(before, "i32"), (self._first, self._end)
        counting = fold_of(j, bounds, "serial", (place,), (const(0, "i32"),), (step,), None)
        target = self._emitter.buffer(BufferRef(made, "i32", True))
        store = Store(target, self._row + self._first + cast(place, "i64"), cast(i, "i32"))
        return self._finish(Loop(i, self._first, self._end, "vector", (counting, store)))

    def merge(self, before: Node, made: Node, width: int) -> Step:
        """Runs of `width`, by two and two."""
        self._start()
        e = self._emitter
        wide, first, end = e.number(width), self._first, self._end
        source = e.buffer(BufferRef(before, "i32"))
        target = e.buffer(BufferRef(made, "i32", True))
        left = binary("idiv", first, wide * 2) * (wide * 2)
        middle = binary("min", left + wide, self._stop)
        right = binary("min", middle + wide, self._stop)
        done = first - left

        def ahead(i: Expr, j: Expr, both: Expr | None) -> tuple[Expr, Expr, Expr]:
            """The entries at i of the left run and j of the right one; whether i's goes first."""
            mine = ir.load(source, self._row + i, i < middle if both is None else both)
            other = ir.load(source, self._row + j, j < right if both is None else both)
            keys = [self._key(cast(entry, "i64")) for entry in (mine, other)]
            return mine, other, keys[0] <= keys[1]

        # How many of the `done` results before this unit's own come from the left run.
        low, high = var("low", "i64"), var("high", "i64")
        middle_of = (low + high) >> 1
        there = low < high
        _, _, more = ahead(left + middle_of, middle + done - 1 - middle_of, there)
        search = fold_of(
            ir.index("s"),
            (ZERO64, e.number(width.bit_length())),
            "serial",
            (low, high),
            (binary("max", done - (right - middle), 0), binary("min", done, middle - left)),
            (
                select(there & more, middle_of + 1, low),
                select(there & unary("not", more), middle_of, high),
            ),
            None,
        )
        i, j, k = var("i", "i64"), var("j", "i64"), ir.index("k")
        mine, other, goes = ahead(i, j, None)
        goes = (i < middle) & (unary("not", j < right) | goes)
        one = cast(goes, "i64")
        store = Store(target, self._row + k, select(goes, mine, other))
        begin, step = (left + low, middle + done - low), (i + one, j + 1 - one)
        walk = fold_of(k, (first, end), "serial", (i, j), begin, step, None, (store,))
        return self._finish(search, walk)
