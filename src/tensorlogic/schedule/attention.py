"""Attention: the operands, masks and bounds of one kernel of its family, and its launches.

Where there are few rows and many keys, as when a decoder makes one token, a row for each core or
group of threads would leave most of a machine idle. The keys are then cut into parts, and a second
launch merges the results of the parts: with the largest score and the sum of each part this is as
exact as one pass (Milakov and Gimelshein 2018). How many parts depends on the sizes alone, so that
results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tensorlogic import ops
from tensorlogic.dtypes import float32
from tensorlogic.graph import Node, apply
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import (
    Check,
    Expr,
    Fold,
    Loop,
    Store,
    binary,
    cast,
    const,
    fold_of,
    select,
    unary,
    var,
)
from tensorlogic.kernels.spec import (
    ACC,
    BATCH,
    COL,
    HEAD,
    HEADS,
    KEY,
    PART,
    PARTS,
    QUERIES,
    ROW,
    TOP,
    TOTAL,
    Attention,
)
from tensorlogic.schedule.affine import Affine, LoopVar, collapse
from tensorlogic.schedule.emit import ZERO64, Emitter, Number, Output, Step
from tensorlogic.schedule.loops import indices_of
from tensorlogic.schedule.lower import Lowering, Materialise, affine_value, is_load
from tensorlogic.schedule.records import BufferRef
from tensorlogic.schedule.traits import Traits

FEW = 8
"""Rows of a batch up to which keys may be cut into parts; of one query, they share each key."""
_LOWEST = const(-math.inf, "f32")


def attention_step(
    root: Node,
    node: Node,
    low: Lowering,
    stored_at: Callable[[list[Affine]], Affine],
    traits: Traits,
) -> tuple[list[Step], list[Node]]:
    """The launches for an attention node, stored as `root` (the node, or another order and shape of
    it), in which `stored_at` says where the value at some indices of the node lies."""
    return _Builder(root, node, low, stored_at).steps(traits)


class _Builder:
    def __init__(
        self,
        root: Node,
        node: Node,
        low: Lowering,
        stored_at: Callable[[list[Affine]], Affine],
    ) -> None:
        self.root, self.node, self.low = root, node, low
        q, k, v, *_ = node.args
        heads, groups = q.shape[-3], k.shape[-3]
        self.each = heads // groups
        self.queries, self.keys = q.shape[-2], k.shape[-2]
        self.depth, self.width = q.shape[-1], v.shape[-1]
        low.folds_allowed = False
        head_axis = len(node.shape) - 3
        low.factors.setdefault((id(node), head_axis), ((groups, False), (self.each, False)))
        _, self.at = low.axes(node, node.shape[:-1])
        low.identity = self.at
        self.depths, self.cols, self.key = (
            low.axis(node, len(node.shape) + i, n)[1]
            for i, n in enumerate((self.depth, self.width, self.keys))
        )
        self.target = Output(root, stored_at([*self.at, self.cols]), ACC)
        self.emitter = Emitter()
        self.operands: list[tuple[Node, int] | None] = []
        self.dtypes: list[str] = []

    def steps(self, traits: Traits) -> tuple[list[Step], list[Node]]:
        rows = self.each * self.queries
        batches = math.prod(self.node.shape[:-1]) // max(rows, 1)
        # How many heads share keys is a matter of the model; lengths must not be part of a kernel.
        few = rows if rows <= FEW and self.queries == 1 else 0
        parts = _parts(batches, self.keys, traits) if rows <= FEW else 1
        spec, strides = self._spec(few, parts)
        step = self.emitter.step([], 0, 0)
        sizes = [batches, self.each, self.queries, self.keys, parts]
        step.kernel, step.work = spec, batches * parts
        step.cost = rows * self.keys * (self.depth + self.width) // parts + 1
        step.buffers, step.params = (
            [*self.operands, *step.buffers],
            [*sizes, *strides, *step.params],
        )
        steps = [step]
        if parts > 1:
            steps.append(self._merge(step.writes, batches * rows, parts))
        return steps, list(self.low.dependencies.values())

    # ---- the kernel ----

    def _spec(self, few: int, parts: int) -> tuple[Attention, list[Number]]:
        low, node, emitter = self.low, self.node, self.emitter
        q, k, v, scale, *more = node.args
        causal, has_length, has_mask = node.attrs
        *batch, head, query = self.at
        shared = {t: c // self.each for t, c in head.terms.items() if c >= self.each}
        group = Affine(0, shared)
        own = {t for t in head.variables if t not in shared}
        outer = [x for i in (*batch, group) for x in _outermost_first(i)]
        loads = [
            self._operand(x, at)
            for x, at in (
                (q, [*batch, head, query, self.depths]),
                (k, [*batch, group, self.key, self.depths]),
                (v, [*batch, group, self.key, self.cols]),
            )
        ]
        stop = self._stop(more[0] if has_length else None)
        factor = cast(low.value(scale, []), "f32")
        mask_node = more[-1] if has_mask else None
        mask = None if mask_node is None else low.value(mask_node, [*batch, head, query, self.key])
        places = {
            BATCH: outer,
            HEAD: [x for x in _outermost_first(head) if x in own],
            ROW: _outermost_first(query),
            KEY: _outermost_first(self.key),
            COL: _outermost_first(self.cols),
        }
        every = [x for axis in places.values() for x in axis]
        _, indices, pinned = indices_of([] if mask is None else [mask], every)
        for place, axis in places.items():
            emitter.digits(collapse(axis, [self.target.at, *loads, *indices], pinned), place)
        # The depth has no place: only its stride is used.
        inner = (
            (places[HEAD], places[ROW], _outermost_first(self.depths)),
            (places[KEY], _outermost_first(self.depths)),
            (places[KEY], places[COL]),
        )
        strides: list[Number] = []
        for x, load, groups in zip((q, k, v), loads, inner, strict=True):
            strides += [_stride(x, load, axis) for axis in groups]
        q_at, k_at, v_at = (
            emitter.address(Affine(0, {t: c for t, c in x.terms.items() if t in outer}), False)
            for x in loads
        )
        emitter.name_scalars(low)
        stores, row_stores = self._stores(parts)
        return Attention(
            (self.dtypes[0], self.dtypes[1], self.dtypes[2]),
            self.depth,
            self.width,
            strides[4] == strides[6] == 1,
            q_at,
            k_at,
            v_at,
            emitter.rewrite(factor),
            emitter.rewrite(stop),
            causal,
            None if mask is None else emitter.rewrite(mask),
            tuple(stores),
            self._checks(),
            emitter.all_buffers(),
            tuple(emitter.params),
            few,
            parts > 1,
            tuple(row_stores),
        ), strides

    def _operand(self, x: Node, at: list[Affine]) -> Affine:
        """Where the elements of q, k or v stand."""
        load = self.low.value(x, at)
        if not is_load(load) or load.args or load.attr[1].opaque:
            raise Materialise(x)
        ref, place = load.attr
        self.operands.append((ref.node, place.const * ir.BYTES[ref.dtype]))
        self.dtypes.append(ref.dtype)
        self.emitter.reads.append(ref.node)
        return Affine(0, place.terms)

    def _stop(self, length: Node | None) -> Expr:
        """How many keys count. A length that was wrong must be clamped: the check only reports."""
        keys = affine_value(Affine(self.keys))
        if length is None:
            return keys
        given = self.low.value(length, [])
        ok = (given >= 0) & (given <= cast(keys, "i32"))
        self.low.check("length", self.node, ok)
        return cast(select(ok, given, 0), "i64")

    def _checks(self) -> tuple[Check, ...]:
        for c in self.low.pending_checks:
            if c.node is not self.node:  # of a value, which this kernel would count many times over
                raise Materialise(c.node)
        return tuple(self.emitter.check(c) for c in self.low.finish())

    def _stores(self, parts: int) -> tuple[list[Store], list[Store]]:
        if parts == 1:
            return self.emitter.stores(self.low, [self.target]), []
        row = ((BATCH * HEADS + HEAD) * QUERIES + ROW) * PARTS + PART
        width = const(self.width, "i64")
        rows = math.prod(self.node.shape[:-1]) * parts
        sums, tops, totals = (
            self.emitter.buffer(BufferRef(_partial(rows, n), "f32", True))
            for n in (self.width, 1, 1)
        )
        stores = [Store(sums, row * width + COL, ACC)]
        return stores, [Store(tops, row, TOP), Store(totals, row, TOTAL)]

    # ---- the parts ----

    def _merge(self, partials: Sequence[Node], rows: int, parts: int) -> Step:
        """The second launch: a row of it is one row of the result."""
        emitter = Emitter()
        row, e, p = ir.index("r"), ir.index("e"), ir.index("p")
        sums, tops, totals = (emitter.buffer(BufferRef(x, "f32")) for x in partials)
        count, width = emitter.number(parts), const(self.width, "i64")
        at = row * count + p
        m, l, acc = var("m", "f32"), var("l", "f32"), var("acc", "f32")
        top = ir.load(tops, at)
        largest = _fold(p, count, m, _LOWEST, binary("max", m, top))
        # Where nothing was seen, all tops are -inf, whose differences are NaN.
        weight = select(top.eq(-math.inf), 0.0, unary("exp", top - m))
        total = _fold(p, count, l, const(0.0, "f32"), l + weight * ir.load(totals, at))
        step = acc + weight * ir.load(sums, at * width + e)
        element = _fold(p, count, acc, const(0.0, "f32"), step)
        axes = [x for i in self.at for x in _outermost_first(i)]
        for axis, place in ((axes, row), (_outermost_first(self.cols), e)):
            emitter.digits(collapse(axis, [self.target.at], set()), place)
        value = acc / select(l.eq(0.0), const(1.0, "f32"), l)
        (store,) = emitter.stores(self.low, [Output(self.root, self.target.at, value)])
        columns = Loop(e, ZERO64, width, "vector", (element, store))
        return emitter.rows(row, rows, (largest, total, columns), rows * parts * (self.width + 4))


def _fold(p: Expr, count: Expr, acc: Expr, init: Expr, step: Expr) -> Fold:
    return fold_of(p, (ZERO64, count), "serial", (acc,), (init,), (step,), None)


def _partial(rows: int, width: int) -> Node:
    return apply(ops.PARTIAL, (), (), (rows, width), float32)


def _parts(batches: int, keys: int, traits: Traits) -> int:
    """Into how many parts the keys are cut: as many as keep a large machine busy, none small."""
    wanted, least = (256, 128) if traits.gpu else (16, 1024)
    return max(1, min(-(-wanted // max(batches, 1)), keys // least, 64))


def _outermost_first(at: Affine) -> list[LoopVar]:
    return sorted(at.variables, key=lambda v: v.origin[2])


def _stride(x: Node, load: Affine, axis: Sequence[LoopVar]) -> int:
    """The stride of an axis; an operand whose axis has several is copied first."""
    groups = collapse(axis, [load], set())
    if len(groups) > 1:
        raise Materialise(x)
    return load.coefficient(groups[0][-1]) if groups else 0
