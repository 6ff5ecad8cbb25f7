"""What both bodies of attention for the CPU are made of: blocking, scratch memory, statements."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tensorlogic.codegen.emit import KERNEL, Module, Value
from tensorlogic.codegen.llvm import Emitter
from tensorlogic.kernels.ir import (
    Buffer,
    Expr,
    Fold,
    Loop,
    Merge,
    Stmt,
    Store,
    binary,
    const,
    fold_of,
    index,
    load,
    nodes_of,
    param,
    replaced,
    select,
    unary,
)
from tensorlogic.kernels.spec import (
    BATCH,
    COL,
    HEAD,
    KEY,
    PART,
    QUERIES,
    ROW,
    Attention,
)

FEW_KEYS = 256
"""Keys whose scores the body for few rows has at a time."""
LOWEST = const(float("-inf"), "f32")
ZERO = const(0.0, "f32")
ZERO64 = const(0, "i64")


@dataclass(frozen=True)
class Tile:
    """The blocking for a vector width: `mr` keys (or columns) x `nv` vectors of rows in registers,
    `block` keys at a time: they, their values and scores stay in the L2, a panel of q in the L1."""

    lanes: int
    mr: int
    nv: int
    block: int

    @property
    def nr(self) -> int:
        return self.nv * self.lanes


TILES = {16: Tile(16, 12, 2, 96), 8: Tile(8, 6, 2, 96), 4: Tile(4, 8, 3, 96)}


def shares_keys(spec: Attention, lanes: int) -> bool:
    """Whether the body for few rows can be used: whole vectors along depth and width."""
    whole = spec.depth % lanes == 0 and spec.width % lanes == 0 and spec.depth and spec.width
    return 0 < spec.few <= lanes and spec.contiguous and bool(whole)


class Scratch:
    """Offsets of arrays of floats in the scratch memory of a worker."""

    def __init__(self) -> None:
        self.end = 0
        self.places: dict[str, int] = {}

    def add(self, name: str, floats: int) -> None:
        self.places[name] = self.end
        self.end += -(-floats // 16) * 16 + 16


def scratch_of(spec: Attention, lanes: int) -> Scratch:
    s = Scratch()
    if shares_keys(spec, lanes):
        s.add("rows", spec.few * spec.depth)
        s.add("scores", spec.few * (FEW_KEYS + 16))
        s.add("sums", spec.few * spec.width)
        per_row = 16
    else:
        tile = TILES[lanes]
        depth, width = (whole_vectors(n, lanes) for n in (spec.depth, spec.width))
        s.add("rows", tile.nr * max(depth, width))
        s.add("turned", depth * tile.nr)
        s.add("keys", (tile.block + tile.mr) * spec.depth)
        s.add("values", tile.block * spec.width)
        s.add("scores", (tile.block + tile.mr) * tile.nr)
        s.add("sums", width * tile.nr)
        per_row = tile.nr
    for name in ("top", "total", "rescale", "head", "row"):
        s.add(name, per_row)
    return s


def whole_vectors(n: int, lanes: int) -> int:
    return -(-n // lanes) * lanes


def loop_of(at: Expr, stop: Expr | int, kind: str, *body: Stmt) -> Loop:
    end = stop if isinstance(stop, Expr) else const(stop, "i64")
    return Loop(at, ZERO64, end, kind, body)


def larger(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The larger one; where b is NaN, a: a score that is NaN makes the sum so."""
    return (select(a[0] < b[0], b[0], a[0]),)


def added(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return (a[0] + b[0],)


def finite(top: Expr) -> Expr:
    return select(top.eq(float("-inf")), ZERO, top)


def with_leaves(e: Expr, names: Mapping[str, Expr]) -> Expr:
    """The expression with other values for the indices and vars of those names."""
    leaves = [n for n in nodes_of(e) if n.op in ("index", "var") and n.attr in names]
    return replaced(e, {n: names[n.attr] for n in leaves}, {})


def _with_names(s: Store, names: Mapping[str, Expr]) -> Store:
    where = None if s.where is None else with_leaves(s.where, names)
    return Store(s.buffer, with_leaves(s.at, names), with_leaves(s.value, names), where)


def folding(
    at: Expr,
    stop: Expr,
    kind: str,
    acc: Expr,
    init: Expr,
    step: Expr,
    merge: Merge,
    body: tuple[Stmt, ...] = (),
) -> Fold:
    return fold_of(at, (ZERO64, stop), kind, (acc,), (init,), (step,), merge, body)


def even_ranges(n: int, most: int) -> list[range]:
    """0 to n in even ranges of at most `most`."""
    count = ceil(n / most)
    cuts = [n * i // count for i in range(count + 1)] if count else [0]
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


class Body:
    """What both bodies have in common: arguments, scratch memory, statements of the IR."""

    def __init__(self, module: Module, spec: Attention, name: str, lanes: int) -> None:
        self.module, self.spec, self.lanes = module, spec, lanes
        f = self.f = module.function(name, KERNEL)
        count = len(spec.all_buffers)
        words = [
            f.load("ptr" if i < count else "i64", f.gep("i64", "%args", i), 8)
            for i in range(count + len(spec.all_params))
        ]
        self.q, self.k, self.v = (Buffer(n, d) for n, d in zip("qkv", spec.dtypes, strict=True))
        buffers = (self.q, self.k, self.v, *spec.buffers)
        self.pointers = dict(zip(buffers, words[:count], strict=True))
        self.given = dict(zip(spec.all_params, words[count:], strict=True))
        self.size = {p.attr: word for p, word in self.given.items()}
        scratch = scratch_of(spec, lanes)
        self.buffers = {
            name: Buffer(name, "i32" if name in ("head", "row") else "f32", True)
            for name in scratch.places
        }
        self.at = {name: f.gep("float", "%scratch", at) for name, at in scratch.places.items()}
        self.pointers |= {b: self.at[name] for name, b in self.buffers.items()}
        self.written = {s.buffer for s in (*spec.stores, *spec.row_stores)}
        self.written |= {s.status for s in spec.checks} | set(self.buffers.values())
        self.stop, self.start, self.count = (param(n) for n in ("stop", "start", "count"))
        self.bound: dict[Expr, Value] = {}
        emitter = self.emitter()
        emitter.block(spec.checks)
        self.bound[self.stop] = emitter.scalar(spec.stop)

    def _begin(self, batch_part: Value) -> None:
        """Which batch a unit belongs to, and which of the keys are its part."""
        f, parts = self.f, self.size["parts"]
        even = f.op("sdiv", "i64", f.add(self.bound[self.stop], f.sub(parts, 1)), parts)
        share = f.op("and", "i64", f.add(even, 31), "-32")
        self.bound[BATCH] = f.op("sdiv", "i64", batch_part, parts)
        part = self.bound[PART] = f.op("srem", "i64", batch_part, parts)
        self.first_key = f.mul(part, share)
        self.last_key = f.smin(f.add(self.first_key, share), self.bound[self.stop])

    def emitter(self) -> Emitter:
        """One whose expressions know the arguments and what is bound."""
        emitter = Emitter(self.f, self.lanes, self.pointers, self.written)
        for p, word in self.given.items():
            emitter.bind_word(p, word)
        for name, value in self.bound.items():
            emitter.bind(name, value)
        return emitter

    def statements(self, *stmts: Stmt) -> None:
        self.emitter().block(stmts)

    def stride(self, name: str) -> Expr:
        """The stride along depth or width, of which it may be known that it is 1."""
        one = self.spec.contiguous and name in ("k_depth", "v_col")
        return const(1, "i64") if one else param(name)

    def element(self, x: Buffer, start: Expr, line: Expr, row: str, col: Expr, step: str) -> Expr:
        """x[start + line * its stride + col * its stride], in float32."""
        stride = self.stride(step)
        along = col if stride.op == "const" else col * stride
        return load(x, start + line * param(row) + along)

    def rows_of(self, line: Expr, row: Expr) -> Store:
        """One element of q, scaled, into `rows`[line]."""
        d, spec = index("d"), self.spec
        head, query = binary("idiv", row, QUERIES), binary("irem", row, QUERIES)
        at = spec.q_at + head * param("q_head") + query * param("q_row") + d * param("q_depth")
        place = line * whole_vectors(spec.depth, self.lanes) + d
        return Store(self.buffers["rows"], place, load(self.q, at) * spec.scale)

    def masked(self, score: Expr, key: Expr, head: Expr, row: Expr) -> Expr:
        """A score with the mask; -inf where a row does not see the key."""
        spec = self.spec
        if spec.mask is not None:
            by = {KEY: key, HEAD: head, ROW: row}
            mask = with_leaves(spec.mask, {str(e.attr): to for e, to in by.items()})
            score = score + mask if mask.dtype == "f32" else select(mask, score, LOWEST)
        if spec.causal:
            score = select(key <= self.stop - QUERIES + row, score, LOWEST)
        return score

    def results(self, acc: Expr, line: Expr, row: Expr) -> tuple[Stmt, ...]:
        """The spec's stores for one row, whose sums are `acc` (in terms of col)."""
        top, total = (load(self.buffers[n], line) for n in ("top", "total"))
        names = {"head": binary("idiv", row, QUERIES), "row": binary("irem", row, QUERIES)}
        names |= {"top": top, "total": total}
        if not self.spec.split:
            acc = acc / select(total.eq(0.0), const(1.0, "f32"), total)
        names["acc"] = acc
        stores = [_with_names(s, names) for s in self.spec.stores]
        once = [_with_names(s, names) for s in self.spec.row_stores]
        return (loop_of(COL, self.spec.width, "vector", *stores), *once)

    def softmax(self, line: Expr, fold: Sequence[Stmt], largest: Expr) -> list[Stmt]:
        """After the largest score of a block is known: what it makes of top and rescale. Where
        nothing was seen yet, 0 stands for -inf, whose difference with itself is NaN."""
        top, rescale = self.buffers["top"], self.buffers["rescale"]
        old = load(top, line)
        new = select(old < largest, largest, old)
        return [
            *fold,
            Store(rescale, line, unary("exp", old - finite(new))),
            Store(top, line, new),
        ]
