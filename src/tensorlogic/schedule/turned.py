"""Elementwise kernels that read along one axis and store along another, such as a stored transpose.

Walked in the order of the result, each element that is read would be in another line of memory. So
such a kernel takes squares: the elements of one are read along their own axis into local memory,
and taken from there in the order in which they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Expr,
    Loop,
    Stmt,
    Store,
    binary,
    const,
    nodes_of,
    replaced,
)
from tensorlogic.schedule.affine import Affine, LoopVar, collapse
from tensorlogic.schedule.emit import ZERO64, Emitter, Output, Step
from tensorlogic.schedule.loops import indices_of
from tensorlogic.schedule.lower import Lowering, is_load
from tensorlogic.schedule.traits import Traits

_SIDES = {False: 64, True: 32}
"""Elements along a side of a square: on the CPU two lines of its caches, on a GPU one simdgroup."""
_WIDE = 128
"""The side on the CPU where there are many squares: longer pieces of lines for its memory."""
_MANY = 1 << 20
"""Elements from which on squares are wide."""
_NEAR = 16
"""Squares side by side that are visited before those below them: their lines stay in the TLB."""
_LEAST = 1 << 12
"""Elements from which on squares pay."""
_SHORTEST = 16
"""Elements along an axis for which squares pay."""
_MOST = 4
"""Tensors that are read along another axis, at most."""

Group = list[LoopVar]


def turned_step(low: Lowering, output: Output, traits: Traits) -> Step | None:
    """The launch for an output that reads along another axis than it stores; else None."""
    if low.folds or low.pending_checks or low.row_variables:
        return None
    variables = [v for i in low.identity for v in _outermost_first(i.variables)]
    if math.prod(v.extent for v in variables) < _LEAST:
        return None
    loads, indices, pinned = indices_of([output.value], variables)
    groups = collapse(variables, [output.at, *indices, *loads], pinned)
    stored = _along(groups, output.at)
    if stored is None:
        return None
    turned = [
        e
        for e in nodes_of(output.value)
        if is_load(e) and not e.args and not e.attr[1].opaque and e.attr[1].coefficient(stored[-1])
    ]
    reads = {id(e): _along(groups, e.attr[1]) for e in turned}
    others = [g for g in reads.values() if g is not None and g is not stored]
    if not others:
        return None
    turned = [e for e in turned if reads[id(e)] is others[0]]
    if len(turned) > _MOST or any(g[-1].static for g in (stored, others[0])):
        return None
    return _Square(low, output, groups, (stored, others[0]), traits).step(turned)


def _outermost_first(variables: set[LoopVar]) -> list[LoopVar]:
    return sorted(variables, key=lambda v: v.origin[2])


def _along(groups: Sequence[Group], at: Affine) -> Group | None:
    """The loop along which neighbours lie, if it is long enough."""
    for g in groups:
        if at.coefficient(g[-1]) == 1 and _extent(g) >= _SHORTEST:
            return g
    return None


def _extent(group: Group) -> int:
    return math.prod(v.extent for v in group)


class _Square:
    """The kernel: x runs along what is stored, y along what is read."""

    def __init__(
        self,
        low: Lowering,
        output: Output,
        groups: Sequence[Group],
        axes: tuple[Group, Group],
        traits: Traits,
    ) -> None:
        self.low, self.output, self.gpu = low, output, traits.gpu
        x, y = axes
        many = not traits.gpu and math.prod(_extent(g) for g in axes) >= _MANY
        side = self.side = _WIDE if many else _SIDES[traits.gpu]
        emitter = self.emitter = Emitter()
        self.row, self.x, self.y = ir.index("r"), ir.index("x"), ir.index("y")
        emitter.name_scalars(low)
        wide, high = (-(-_extent(g) // side) for g in (x, y))
        near = min(wide, _NEAR)
        far = -(-wide // near)
        self.count = near * high * far
        near_x, rest = self._digit(self.row, near)
        square_y, rest = self._digit(rest, high)
        far_x, rest = self._digit(rest, far)
        firsts = ((far_x * emitter.number(near) + near_x) * side, square_y * side)
        for group, place, first in zip((x, y), (self.x, self.y), firsts, strict=True):
            emitter.place(group, first + place)
        self.room_x, self.room_y = (
            binary("min", emitter.extent(g) - first, const(side, "i64"))
            for g, first in zip((x, y), firsts, strict=True)
        )
        outer = [g for g in groups if g is not x and g is not y]
        self.count *= math.prod(_extent(g) for g in outer)
        emitter.digits(outer, rest)

    def _digit(self, rest: Expr, count: int) -> tuple[Expr, Expr]:
        """The last digit of a number that counts to `count`, and the number without it."""
        n = self.emitter.number(count)
        return binary("irem", rest, n), binary("idiv", rest, n)

    def step(self, turned: Sequence[Expr]) -> Step:
        emitter, low = self.emitter, self.low
        side = self.side
        if self.gpu:
            pitch = side + 1  # columns then spread over the banks of local memory
            place = self.x * pitch + self.y
        else:
            pitch = side  # turned on the way in, where tiles are transposed in registers
            place = self.y * pitch + self.x
        fill: list[Store] = []
        by: dict[Expr, Expr] = {}
        for i, e in enumerate(turned):
            words = "i32" if e.dtype == "bool" and not self.gpu else e.dtype  # tiles are of words
            square = Buffer(f"square{i}", words, True, const(side * pitch, "i64"))
            fill.append(Store(square, place, ir.cast(emitter.rewrite(e), words)))
            by[e] = ir.cast(ir.load(square, place), e.dtype)
        value = replaced(self.output.value, by, {})
        stores = emitter.stores(low, [Output(self.output.node, self.output.at, value)])
        body = self._by_threads(fill, stores) if self.gpu else self._by_lanes(fill, stores)
        step = emitter.rows(self.row, self.count, body, 2 * side * side * self.count)
        step.scratch = len(fill) * (4 * side * pitch + 128)
        return step

    def _by_lanes(self, fill: Sequence[Store], stores: Sequence[Store]) -> list[Stmt]:
        """Lines of the square, each in lanes."""
        x, y = (self.x, self.room_x), (self.y, self.room_y)
        lines = Loop(y[0], ZERO64, y[1], "vector", tuple(fill))
        columns = Loop(x[0], ZERO64, x[1], "vector", tuple(stores))
        return [
            Loop(x[0], ZERO64, x[1], "serial", (lines,)),
            Loop(y[0], ZERO64, y[1], "serial", (columns,)),
        ]

    def _by_threads(self, fill: Sequence[Store], stores: Sequence[Store]) -> list[Stmt]:
        """All elements of the square, shared out over the threads of a group."""
        whole, side = (const(n, "i64") for n in (self.side**2, self.side))
        loops: list[Stmt] = []
        for name, slow, fast, body in (
            ("e", self.x, self.y, fill),
            ("f", self.y, self.x, stores),
        ):
            e = ir.index(name)
            by = {slow: binary("idiv", e, side), fast: binary("irem", e, side)}
            memo: dict[Expr, Expr] = {}
            inside = (self.x < self.room_x) & (self.y < self.room_y)
            where = replaced(inside, by, memo)
            within = tuple(
                Store(s.buffer, replaced(s.at, by, memo), _guarded(s.value, where, by), where)
                for s in body
            )
            loops += [Loop(e, ZERO64, whole, "vector", within), Barrier()]
        return loops[:-1]


def _guarded(e: Expr, where: Expr, by: dict[Expr, Expr]) -> Expr:
    """The expression at other indices, with loads of device memory where `where` holds."""
    memo: dict[Expr, Expr] = {}
    for n in nodes_of(e):
        args = tuple(memo[a] for a in n.args)
        new = by.get(n) or ir.rebuilt(n, args)
        if n.op == "load" and not n.attr.local:
            guard = where if len(args) == 1 else args[1] & where
            new = ir.load(n.attr, args[0], guard)
        memo[n] = new
    return memo[e]
