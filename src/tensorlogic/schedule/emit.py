"""Emission: the expressions of a lowering become one kernel and its launch.

Loops that every address walks as one are collapsed, one of them is chosen for the vector lanes, and
extents, strides and offsets become run-time parameters: kernels of equal structure are equal text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from tensorlogic.graph import Node, topological
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import (
    Buffer,
    Check,
    Expr,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    const,
    fold_of,
    nodes_of,
    param,
    var,
)
from tensorlogic.kernels.spec import BATCH, COL, ROW, Attention, Matmul, text_of
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.affine import Affine, LoopVar, collapse, dense, strides_along
from tensorlogic.schedule.loops import Loops, in_order, indices_of
from tensorlogic.schedule.lower import Lowering, Materialise
from tensorlogic.schedule.records import BufferRef, CheckRecord, FoldRecord, Product
from tensorlogic.schedule.windows import Window, window_of

ZERO64 = const(0, "i64")
STATUS = "status"
MAX_COPIES = 16
"""Copies of a body that unrolled loops make at most, where it is not folded."""
Number = int | Node | CheckRecord
"""A launch parameter: known, a Python number that each run reads anew, or a status slot."""


@dataclass(eq=False)
class Output:
    """A node that a kernel stores: at which flat index, its value, and where alone if not
    everywhere."""

    node: Node
    at: Affine
    value: Expr
    where: Expr | None = None


@dataclass(eq=False)
class Step:
    """One launch: a kernel and its arguments.

    `buffers` are (node, byte offset) in the kernel's order, None for the status word. `work` is the
    extent of the parallel range, `cost` roughly how many elements one unit of it touches.
    """

    kernel: Kernel | Matmul | Attention
    buffers: list[tuple[Node, int] | None]
    params: list[Number]
    work: int
    cost: int
    reads: list[Node]
    writes: list[Node]
    checks: list[CheckRecord] = field(default_factory=list)
    in_place: list[tuple[Node, Node]] = field(default_factory=list)
    """Written nodes, and those whose memory they take over."""
    scratch: int = 0
    """Bytes of local memory that a worker needs."""
    setup: int = 0
    """How many elements what stands before the parallel range touches."""
    batch: int = 1
    problem: tuple[int, int, int] = (0, 0, 0)
    """M, N, K of a product."""
    interleaved: frozenset[int] = frozenset()
    """Numbers of the buffers whose rows of blocks are interleaved, where a device does that."""

    @property
    def all_params(self) -> tuple[Expr, ...]:
        """The parameters that `params` are the values of."""
        return self.kernel.params if isinstance(self.kernel, Kernel) else self.kernel.all_params

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        """The buffers that `buffers` are bound to."""
        return self.kernel.buffers if isinstance(self.kernel, Kernel) else self.kernel.all_buffers

    def sizes(self) -> dict[str, float]:
        """The parameters that are known before the run, by name."""
        pairs = zip(self.all_params, self.params, strict=True)
        return {p.attr: v for p, v in pairs if isinstance(v, int)}


_texts: WeakKeyDictionary[Kernel | Matmul | Attention, str] = WeakKeyDictionary()
"""Texts of kernels: repeated layers share theirs."""


def step_text(step: Step) -> str:
    """What a step's kernel is; steps of equal text share one compiled function."""
    kernel = step.kernel
    text = _texts.get(kernel)
    if text is None:
        text = text_of(kernel)
        _texts[kernel] = text
    return text


@dataclass(eq=False)
class Part:
    """A body: how many rows it has, the extent of its innermost loop, and how many elements it
    touches."""

    rows: int
    span: int
    touched: int
    body: list[Stmt]


class Emitter:
    """Builds one kernel; a Split of several lowerings shares one emitter."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, str], Buffer] = {}
        self.uses: list[tuple[Node, int] | None] = []
        self.params: list[Expr] = []
        self.values: list[Number] = []
        self.checks: list[CheckRecord] = []
        self.status: Buffer | None = None
        self.writes: list[Node] = []
        self.reads: list[Node] = []
        self._done: dict[int, Expr] = {}
        self._keep: list[Any] = []
        self._places: dict[LoopVar, Expr] = {}
        self._addresses: dict[Any, Expr] = {}
        self._by_expr: dict[int, Expr] = {}
        self._merged: dict[LoopVar, LoopVar] = {}
        self._counts: dict[int, Expr] = {}
        self._digits: tuple[Sequence[Sequence[LoopVar]], Expr] = (), ZERO64

    # ---- arguments ----

    def number(self, value: Number, dtype: str = "i64") -> Expr:
        p = param(f"p{len(self.params)}", dtype)
        self.params.append(p)
        self.values.append(value)
        return p

    def buffer(self, ref: BufferRef) -> Buffer:
        key = (id(ref.node), ref.dtype)
        found = self.buffers.get(key)
        if found is None:
            found = Buffer(f"b{len(self.uses)}", ref.dtype, ref.written)
            self.buffers[key] = found
            self.uses.append((ref.node, 0))
            (self.writes if ref.written else self.reads).append(ref.node)
        return found

    def status_buffer(self) -> Buffer:
        if self.status is None:
            self.status = Buffer(STATUS, "i32", True)
            self.uses.append(None)
        return self.status

    def all_buffers(self) -> tuple[Buffer, ...]:
        named = list(self.buffers.values())
        if self.status is not None:
            named.insert(self.uses.index(None), self.status)
        return tuple(named)

    # ---- expressions ----

    def address(self, at: Affine, offset: bool = True) -> Expr:
        """An affine index as an expression: strides and offset are parameters, 0 and 1 known."""
        key = (at.key(), offset)
        found = self._addresses.get(key)
        if found is not None:
            return found
        self._keep.append(at)
        total: Expr | None = self.number(at.const) if offset or at.const else None
        terms: dict[LoopVar | Expr, int] = {}
        for t, c in at.terms.items():
            # Of a collapsed group the last variable carries the coefficient.
            if not isinstance(t, LoopVar) or self._merged[t] is t:
                terms[t] = c
        order = {v: i for i, v in enumerate(self._places)}
        for t in sorted(terms, key=lambda t: order[t] if isinstance(t, LoopVar) else len(order)):
            c = terms[t]
            place = self._places[t] if isinstance(t, LoopVar) else self.rewrite(t)
            scaled = place if c == 1 else place * self.number(c)
            total = scaled if total is None else total + scaled
        result = total if total is not None else ZERO64
        self._addresses[key] = result
        return result

    def even_address(self, at: Affine) -> Expr:
        """An address as a multiple of the row, if it grows from row to row by as much each time,
        also where other addresses of the kernel need the digits of the row."""
        groups, row = self._digits
        digits = [v for group in groups for v in group]
        stride = strides_along(at, digits) if len(groups) > 1 else None
        if stride in (None, [0]):
            return self.address(at)
        rest = Affine(at.const, {t: c for t, c in at.terms.items() if t not in digits})
        return self.address(rest) + row * self.number(stride[0])

    def rewrite(self, root: Expr) -> Expr:
        """The expression with affine loads and values made explicit."""
        for e in nodes_of(root):
            if id(e) in self._done:
                continue
            args = tuple(self._done[id(a)] for a in e.args)
            if e.op == "load" and isinstance(e.attr, tuple):
                ref, at = e.attr
                new = ir.load(self.buffer(ref), self.address(at), *args)
            elif e.op == "affine":
                new = self.address(e.attr, offset=False)
            elif e.op == "index":
                new = self._by_expr.get(id(e), e)
            else:
                new = ir.rebuilt(e, args)
            self._done[id(e)] = new
            self._keep.append(e)
        return self._done[id(root)]

    # ---- loops ----

    def extent(self, group: Sequence[LoopVar]) -> Expr:
        size = math.prod(v.extent for v in group)
        return const(size, "i64") if group[-1].static else self.number(size)

    def place(self, group: Sequence[LoopVar], at: Expr) -> None:
        """A collapsed group of loops runs as one index, standing in its last variable."""
        last = group[-1]
        for v in group:
            self._merged[v] = last
        self._places[last] = at
        self._by_expr[id(last.expr)] = at

    def digits(self, groups: Sequence[Sequence[LoopVar]], row: Expr) -> None:
        """The places of several loops that run as one parallel index."""
        self._digits = groups, row
        rest = row
        for i in range(len(groups) - 1, 0, -1):
            n = self.extent(groups[i])
            self.place(groups[i], ir.binary("irem", rest, n))
            rest = ir.binary("idiv", rest, n)
        if groups:
            self.place(groups[0], rest)

    def name_scalars(self, low: Lowering) -> None:
        """Python numbers are parameters that each run reads anew."""
        for node in low.scalar_nodes:
            named = low.scalars[id(node)]
            self._done[id(named)] = self.number(node, named.dtype)

    def stores(self, low: Lowering, outputs: Sequence[Output]) -> list[Store]:
        out = []
        for o in outputs:
            target = self.buffer(BufferRef(o.node, low.memory_type(o.node), True))
            where = None if o.where is None else self.rewrite(o.where)
            out.append(Store(target, self.address(o.at), self.rewrite(o.value), where))
        return out

    def body(self, low: Lowering, outputs: Sequence[Output], name: str, row: Expr) -> Part:
        """The statements of one lowering for the parallel index `row`."""
        low.drop_unused_folds([*(o.value for o in outputs), *(c.ok for c in low.checks)])
        loops = Loops(low, [(o.at, o.value) for o in outputs])
        self.digits(loops.rows, row)
        self.name_scalars(low)
        checks = low.finish()
        along, at = loops.vector_row, ir.index(f"{name}v")
        if along is not None:
            self.place(along, at)
        in_lanes = along is None
        stmts: list[Stmt] = []
        for f in low.folds:
            stmts += self.fold(f, loops.fold_groups[id(f)], in_lanes)

        def final() -> list[Stmt]:
            return [*(self.check(c) for c in checks), *self.stores(low, outputs)]

        stmts += self.loops(loops.columns, in_lanes, final, name)
        if along is not None:
            stmts = [Loop(at, ZERO64, self.extent(along), "vector", tuple(stmts))]
        rows = math.prod(v.extent for g in loops.rows for v in g)
        inner = [along] if along is not None else loops.columns[-1:]
        span = math.prod(v.extent for g in inner for v in g)
        size = math.prod(v.extent for i in low.identity for v in i.variables)
        per_row = sum(math.prod(v.extent for v in f.variables) for f in low.folds)
        per_row *= span if along is not None else 1
        return Part(rows, span, size + per_row * rows, stmts)

    def check(self, record: CheckRecord) -> Check:
        slot = self.number(record)
        self.checks.append(record)
        return Check(self.status_buffer(), slot, self.rewrite(record.ok))

    def loops(
        self, groups: Sequence[Sequence[LoopVar]], vector: bool, final: Any, name: str
    ) -> list[Stmt]:
        """Nested loops over groups, the last one in lanes."""
        indices = []
        for i, g in enumerate(groups):
            at = ir.index(f"{name}c{i}")
            self.place(g, at)
            indices.append((g, at, self.extent(g)))
        stmts: list[Stmt] = final()
        copies = 1
        for i, (g, at, stop) in reversed(list(enumerate(indices))):
            innermost = i == len(indices) - 1
            kind = "vector" if innermost and vector else "serial"
            if kind == "serial" and g[-1].static and copies * g[-1].extent <= MAX_COPIES:
                kind, copies = "unrolled", copies * g[-1].extent
            stmts = [Loop(at, ZERO64, stop, kind, tuple(stmts))]
        return stmts

    def fold(
        self,
        record: FoldRecord,
        groups: list[list[LoopVar]],
        vector: bool,
        part: tuple[list[LoopVar], Expr, Expr] | None = None,
    ) -> list[Stmt]:
        """Nested folds over the record's loops. The lanes of a static innermost loop stand
        outermost, so that they are merged once and not for each block. `part` is a group of which
        only a range is folded."""
        name = record.result[0].attr
        if vector and len(groups) > 1 and groups[-1][-1].static:
            groups = [groups[-1], *groups[:-1]]
            lanes = 0
        else:
            lanes = len(groups) - 1 if vector else -1
        ranges = []
        for i, g in enumerate(groups):
            at = ir.index(f"{name}k{i}")
            self.place(g, at)
            bounds = part[1:] if part is not None and part[0] is g else (ZERO64, self.extent(g))
            ranges.append((at, *bounds))
        init = tuple(self.rewrite(e) for e in record.init)
        inner: tuple[Expr, ...] = tuple(self.rewrite(e) for e in record.element)
        checks: tuple[Stmt, ...] = tuple(self.check(c) for c in record.checks)
        stmts: tuple[Stmt, ...] = checks
        for i in range(len(groups) - 1, -1, -1):
            at, start, stop = ranges[i]
            acc = record.result
            if i:
                acc = tuple(var(f"{v.attr}n{i}", v.dtype) for v in record.result)
            static = groups[i][-1].static
            kind = "vector" if i == lanes else "unrolled" if static else "serial"
            step, merge = record.fold.merge(acc, inner), record.fold.merge
            dot = self.dot(record) if i == 0 and part is None else None
            stmts = (fold_of(at, (start, stop), kind, acc, init, step, merge, stmts, dot),)
            inner = acc
        return list(stmts)

    def dot(self, record: FoldRecord) -> ir.BlockDot | None:
        """What the fold is, if it is a row of blocks times a vector."""
        d = record.dot
        if d is None or record.checks:
            return None
        if d.blocks not in self._counts:  # equal numbers tell that vectors are equal
            self._counts[d.blocks] = self.number(d.blocks)
        return ir.BlockDot(
            d.quant,
            self._counts[d.blocks],
            self.buffer(d.weights),
            self.even_address(d.at),
            self.buffer(d.x),
            self.address(d.x_at),
        )

    def rows(self, row: Expr, count: int, body: Sequence[Stmt], touched: int) -> Step:
        """The launch of `count` rows in parallel, which touch so many elements in all."""
        loop = Loop(row, ZERO64, self.number(count), "parallel", tuple(body))
        return self.step([loop], count, touched // max(count, 1))

    def step(self, body: Sequence[Stmt], work: int, cost: int) -> Step:
        kernel = Kernel(self.all_buffers(), tuple(self.params), tuple(body))
        return Step(
            kernel, self.uses, self.values, work, max(cost, 1), self.reads, self.writes, self.checks
        )


def kernel_step(low: Lowering, outputs: Sequence[Output]) -> Step:
    """The launch of an elementwise or row kernel."""
    emitter = Emitter()
    row = ir.index("r")
    part = emitter.body(low, outputs, "", row)
    (first, *more) = part.body
    if part.rows == 1 and not more and isinstance(first, Loop) and first.kind == "vector":
        flat = Loop(first.index, ZERO64, first.stop, "flat", first.body)
        return emitter.step([flat], part.span, part.touched // max(part.span, 1))
    return emitter.rows(row, part.rows, part.body, part.touched)


def split_step(parts: Sequence[tuple[Lowering, Output]]) -> Step:
    """One launch over unlike bodies, each with its own loops."""
    emitter = Emitter()
    row = ir.index("r")
    counts, bodies, rows, touched = [], [], 0, 0
    for i, (low, output) in enumerate(parts):
        part = emitter.body(low, [output], f"s{i}", row)
        counts.append(emitter.number(part.rows))
        bodies.append(tuple(part.body))
        rows += part.rows
        touched += part.touched
    return emitter.step([Split(row, tuple(counts), tuple(bodies))], rows, touched // max(rows, 1))


def _strides(
    product: Product, batch: list[LoopVar], rows: list[LoopVar], cols: list[LoopVar]
) -> tuple[list[int], tuple[str | None, str | None], Window | None]:
    """STRIDES of a product in these loops, along what a and b are contiguous, and how b is read as
    windows if it is. Raises Materialise for an operand that has to be stored first."""
    depth, pads = in_order(product.k), product.borders.pads
    a_at, b_at = product.a.attr[1], product.b.attr[1]
    a, b = strides_along(a_at, batch, rows, depth), strides_along(b_at, batch, cols, depth)
    if a and b and not pads:
        return [*a, b[0], b[2], b[1]], (_along(a, "m"), _along(b, "n")), None
    rest = strides_along(a_at, [], rows, depth)
    if rest is None:
        raise Materialise(product.node.args[0])
    window = None
    if not product.quant and (pads or b is None or b[1] <= 1):
        window = window_of((batch, cols, depth), a_at, b_at, product.borders.inside)
    if window is None:
        raise Materialise(pads[-1] if pads else product.node.args[a is not None])
    a_batch, b_batch = window.batch
    return [a_batch, *rest[1:], b_batch, window.b_k, window.b_n], (_along(rest, "m"), None), window


def _along(strides: list[int], axis: str) -> str | None:
    """Along what an operand is contiguous, of its strides along batch, axis and depth."""
    return "k" if strides[2] == 1 else axis if strides[1] == 1 else None


def matmul_step(low: Lowering, outputs: Sequence[Output]) -> Step:
    """The launch of a product with its epilogue."""
    assert low.product is not None
    node = low.product.node
    if low.pending_checks:
        checked = low.pending_checks[0].node
        below = any(n is checked for n in topological([node]))
        raise Materialise(checked if below else node)
    *_, row, col = low.identity
    batch, rows, cols = (dense(i) or [] for i in (low.identity[:-2], [row], [col]))
    emitter = Emitter()
    values = [e for o in outputs for e in (o.value, o.where) if e is not None]
    _, indices, pinned = indices_of(values, [*batch, *rows, *cols])
    indices += [o.at for o in outputs]
    for place, axis in ((BATCH, batch), (ROW, rows), (COL, cols)):
        emitter.digits(collapse(axis, indices, pinned), place)
    emitter.name_scalars(low)
    strides, contiguous, window = _strides(low.product, batch, rows, cols)
    operands: list[tuple[Node, int] | None] = []
    for load, quantized in ((low.product.a, ""), (low.product.b, low.product.quant)):
        ref, at = load.attr
        start = 0 if load is low.product.b and low.product.borders.pads else at.const
        offset = start * ir.BYTES[ref.dtype]
        if quantized:
            quant = QUANTS[quantized]
            strides[3:] = [n // quant.block * quant.nbytes for n in (strides[3], 0, strides[5])]
            offset = at.const // quant.block * quant.nbytes
        operands.append((ref.node, offset))
        emitter.reads.append(ref.node)
    border = low.product.borders.fill
    fill = None if border is None else emitter.rewrite(border)
    stores = tuple(emitter.stores(low, outputs))
    # As many as there are loops for: of a part of a product no more is computed.
    batches, m, n = (math.prod(v.extent for v in loops) for loops in (batch, rows, cols))
    k = node.args[0].shape[-1]
    spec = Matmul(
        low.product.a.attr[0].dtype,
        low.product.quant or low.product.b.attr[0].dtype,
        contiguous[0],
        contiguous[1],
        stores,
        emitter.all_buffers(),
        tuple(emitter.params),
        exact=bool(low.product.quant) and low.exact,
        windows=window is not None,
        fill=fill,
    )
    numbers: list[Number] = [m, n, k, batches, *strides]
    if window is not None:
        numbers += [*window.numbers, *(window.padding if fill is not None else ())]
    step = emitter.step([], 0, 0)
    step.kernel, step.problem, step.batch = spec, (m, n, k), batches
    step.buffers, step.params = [*operands, *step.buffers], [*numbers, *step.params]
    return step
