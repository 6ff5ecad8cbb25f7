"""Attention for the CPU: one function for each `Attention`, with two bodies.

Where many rows share their keys, a unit of the parallel range is a block of `Tile.nr` rows of one
batch. Rows stand in lanes: scores are kept as [key][row] and sums as [col][row], so that maximum,
sum and rescaling are those of whole vectors, a block of scores is in the very order in which the
second product reads it, and keys and values are read by broadcasts in the order in which memory has
them. Only q and the result are transposed, once for each unit. Keys are taken a block at a time.

Where `few` rows share their keys, reading these is the cost: a unit is a batch or a part of its
keys, each vector of which is read and converted once for all rows. Lanes run along depth and width.

Both use micro-kernels in registers for the two products and kernels of the IR for what lies
between: copies that convert, masks, the softmax, the stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tensorlogic.codegen.emit import Function, Module, Value, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm import Emitter
from tensorlogic.codegen.llvm_matmul import transposed
from tensorlogic.kernels.ir import (
    BYTES,
    Buffer,
    Expr,
    Fold,
    Loop,
    Stmt,
    Store,
    binary,
    cast,
    const,
    exprs_of,
    fold_of,
    index,
    load,
    nodes_of,
    param,
    replaced,
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
    KEYS,
    PART,
    PARTS,
    QUERIES,
    ROW,
    TOP,
    TOTAL,
    Attention,
)

_FLOAT = 4
_FEW_KEYS = 256
"""Keys whose scores the body for few rows has at a time."""
_CHUNK = 4096
"""Vector operations in a chunk of work, at least: about a microsecond."""
_LOWEST = const(float("-inf"), "f32")
_ZERO = const(0.0, "f32")
_ZERO64 = const(0, "i64")


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


def attention_units(
    spec: Attention, sizes: Mapping[str, float], lanes: int
) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of a launch: a chunk is worth waking a thread for."""
    batches, rows = int(sizes["batches"]), int(sizes["heads"] * sizes["queries"])
    few, tile = shares_keys(spec, lanes), TILES[lanes]
    work = batches * int(sizes["parts"]) * (1 if few else ceil(rows / tile.nr))
    at_once = rows if few else tile.nr
    cost = at_once * int(sizes["keys"] // sizes["parts"]) * (spec.depth + spec.width) // lanes
    return work, max(1, _CHUNK // max(cost, 1)), _FLOAT * _scratch(spec, lanes).end


def attention_kernel(spec: Attention, name: str, lanes: int) -> str:
    """A module with `void name(ptr args, i64 lo, i64 hi, ptr scratch)`.

    The argument words are those of the spec: the addresses of its buffers, then its parameters.
    """
    module = Module()
    body = _FewRows if shares_keys(spec, lanes) else _ManyRows
    body(module, spec, name, lanes).write()
    return module.text()


class _Scratch:
    """Offsets of arrays of floats in the scratch memory of a worker."""

    def __init__(self) -> None:
        self.end = 0
        self.places: dict[str, int] = {}

    def add(self, name: str, floats: int) -> None:
        self.places[name] = self.end
        self.end += -(-floats // 16) * 16 + 16


def _scratch(spec: Attention, lanes: int) -> _Scratch:
    s = _Scratch()
    if shares_keys(spec, lanes):
        s.add("rows", spec.few * spec.depth)
        s.add("scores", spec.few * (_FEW_KEYS + 16))
        s.add("sums", spec.few * spec.width)
        per_row = 16
    else:
        tile = TILES[lanes]
        depth, width = (_whole(n, lanes) for n in (spec.depth, spec.width))
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


def _whole(n: int, lanes: int) -> int:
    return -(-n // lanes) * lanes


def _loop(at: Expr, stop: Expr | int, kind: str, *body: Stmt) -> Loop:
    end = stop if isinstance(stop, Expr) else const(stop, "i64")
    return Loop(at, _ZERO64, end, kind, body)


def _largest(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The larger one; where b is NaN, a: a score that is NaN makes the sum so."""
    return (select(a[0] < b[0], b[0], a[0]),)


def _sum(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return (a[0] + b[0],)


class _Body:
    """What both bodies have in common: arguments, scratch memory, statements of the IR."""

    def __init__(self, module: Module, spec: Attention, name: str, lanes: int) -> None:
        args = [("ptr", "args"), ("i64", "lo"), ("i64", "hi"), ("ptr", "scratch")]
        self.module, self.spec, self.lanes = module, spec, lanes
        f = self.f = module.function(name, args)
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
        scratch = _scratch(spec, lanes)
        self.buffers = {
            name: Buffer(name, "i32" if name in ("head", "row") else "f32", True)
            for name in scratch.places
        }
        self.at = {name: f.gep("float", "%scratch", at) for name, at in scratch.places.items()}
        self.pointers |= {b: self.at[name] for name, b in self.buffers.items()}
        self.written = {s.buffer for s in (*spec.stores, *spec.row_stores)}
        self.written |= {s.status for s in spec.checks} | set(self.buffers.values())
        self.stop = param("stop")
        self.bound: dict[Expr, Value] = {}
        emitter = self.emitter()
        emitter.block(spec.checks)
        self.bound[self.stop] = emitter.scalar(spec.stop)
        self.bound[BATCH] = ""

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
        place = line * _whole(spec.depth, self.lanes) + d
        return Store(self.buffers["rows"], place, load(self.q, at) * spec.scale)

    def masked(self, score: Expr, key: Expr, head: Expr, row: Expr) -> Expr:
        """A score with the mask; -inf where a row does not see the key."""
        spec = self.spec
        if spec.mask is not None:
            by = {KEY: key, HEAD: head, ROW: row}
            mask = with_leaves(spec.mask, {str(e.attr): to for e, to in by.items()})
            score = score + mask if mask.dtype == "f32" else select(mask, score, _LOWEST)
        if spec.causal:
            score = select(key <= self.stop - QUERIES + row, score, _LOWEST)
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
        return (_loop(COL, self.spec.width, "vector", *stores), *once)

    def softmax(self, line: Expr, fold: Sequence[Stmt], largest: Expr) -> list[Stmt]:
        """After the largest score of a block is known: what it makes of top and rescale. Where
        nothing was seen yet, 0 stands for -inf, whose difference with itself is NaN."""
        top, rescale = self.buffers["top"], self.buffers["rescale"]
        old = load(top, line)
        new = select(old < largest, largest, old)
        return [
            *fold,
            Store(rescale, line, unary("exp", old - _finite(new))),
            Store(top, line, new),
        ]


def _finite(top: Expr) -> Expr:
    return select(top.eq(float("-inf")), _ZERO, top)


def with_leaves(e: Expr, names: Mapping[str, Expr]) -> Expr:
    """The expression with other values for the indices and vars of those names."""
    leaves = [n for n in nodes_of(e) if n.op in ("index", "var") and n.attr in names]
    return replaced(e, {n: names[n.attr] for n in leaves}, {})


def _with_names(s: Store, names: Mapping[str, Expr]) -> Store:
    where = None if s.where is None else with_leaves(s.where, names)
    return Store(s.buffer, with_leaves(s.at, names), with_leaves(s.value, names), where)


# ---- many rows ----


class _ManyRows(_Body):
    def write(self) -> None:
        f, spec, tile = self.f, self.spec, TILES[self.lanes]
        self.tile = tile
        self._make_functions()
        rows = f.mul(self.size["heads"], self.size["queries"])
        blocks = f.op("sdiv", "i64", f.add(rows, tile.nr - 1), str(tile.nr))
        with f.loop("%lo", "%hi") as unit:
            whole = f.op("sdiv", "i64", unit.index, blocks)
            self.bound[BATCH] = whole
            first = f.mul(f.op("srem", "i64", unit.index, blocks), tile.nr)
            self.first, self.last = param("first"), param("last")
            self.bound[self.first] = first
            self.bound[self.last] = f.sub(f.smin(f.add(first, tile.nr), rows), 1)
            self._start()
            self._keys()
            self._finish()
        f.ret()

    def _make_functions(self) -> None:
        tile, spec = self.tile, self.spec
        self.heights = sorted({len(t) for t in _tiles(spec.width, tile.mr)})
        _scores_kernel(self.module, spec.depth, tile)
        for height in self.heights:
            _sums_kernel(self.module, height, spec.width, tile)
        for n, name in ((spec.depth, "turn_q"), (spec.width, "turn_out")):
            _turn(self.module, name, tile, _whole(n, self.lanes), name == "turn_q")

    def _start(self) -> None:
        """Rows of q in lanes; no sum, no key seen."""
        f, tile = self.f, self.tile
        i, b = index("i"), self.buffers
        row = binary("min", self.first + i, self.last)
        self.statements(
            _loop(
                i,
                tile.nr,
                "serial",
                _loop(index("d"), self.spec.depth, "vector", self.rows_of(i, row)),
                Store(b["head"], i, cast(binary("idiv", row, QUERIES), "i32")),
                Store(b["row"], i, cast(binary("irem", row, QUERIES), "i32")),
                Store(b["top"], i, _LOWEST),
                Store(b["total"], i, _ZERO),
            ),
            _loop(i, self.spec.width * tile.nr, "vector", Store(b["sums"], i, _ZERO)),
        )
        f.call("void", "turn_q", ("ptr", self.at["rows"]), ("ptr", self.at["turned"]))

    def _bounds(self) -> tuple[Value, Value]:
        """Up to which key all rows of the block see every key, and up to which some do."""
        f = self.f
        if not self.spec.causal:
            return self.bound[self.stop], self.bound[self.stop]
        emitter = self.emitter()
        first, last = binary("irem", self.first, QUERIES), binary("irem", self.last, QUERIES)
        one_head = binary("idiv", self.first, QUERIES).eq(binary("idiv", self.last, QUERIES))
        seen = self.stop - QUERIES + 1
        low = select(one_head, first, _ZERO64) + seen
        high = select(one_head, last, QUERIES - 1) + seen
        all_see, some_see = (
            emitter.scalar(binary("max", binary("min", e, self.stop), 0)) for e in (low, high)
        )
        return all_see, f.smin(some_see, self.bound[self.stop])

    def _keys(self) -> None:
        f, tile, spec = self.f, self.tile, self.spec
        all_see, some_see = self._bounds()
        with f.loop(0, some_see, tile.block) as block:
            self.start, self.count = param("start"), param("count")
            self.bound[self.start] = block.index
            count = f.smin(f.sub(some_see, block.index), tile.block)
            self.bound[self.count] = count
            self._convert()
            panels = f.op("sdiv", "i64", f.add(count, tile.mr - 1), str(tile.mr))
            with f.loop(0, panels) as p:
                keys = f.gep("float", self.at["keys"], f.mul(p.index, tile.mr * spec.depth))
                scores = f.gep("float", self.at["scores"], f.mul(p.index, tile.mr * tile.nr))
                f.call("void", "scores", ("ptr", keys), ("ptr", self.at["turned"]), ("ptr", scores))
            if spec.mask is not None:
                self._softmax(True)
            elif spec.causal:
                inside = f.icmp("sle", "i64", f.add(block.index, count), all_see)
                with f.when(inside) as branch:
                    self._softmax(False)
                    branch.otherwise()
                    self._softmax(True)
            else:
                self._softmax(False)
            for t in _tiles(spec.width, tile.mr):
                values = f.gep("float", self.at["values"], t[0])
                sums = f.gep("float", self.at["sums"], t[0] * tile.nr)
                pointers = (values, self.at["scores"], sums, self.at["rescale"])
                f.call("void", f"sums{len(t)}", ("i64", count), *(("ptr", x) for x in pointers))
            for name in (self.start, self.count):
                del self.bound[name]

    def _convert(self) -> None:
        """A block of keys and of values as float32; a panel of keys is filled up with the last."""
        i, d, spec, b = index("i"), index("d"), self.spec, self.buffers
        within = self.start + binary("min", i, self.count - 1)
        key = self.element(self.k, spec.k_at, within, "k_row", d, "k_depth")
        value = self.element(self.v, spec.v_at, self.start + i, "v_row", d, "v_col")
        mr = self.tile.mr
        panels = binary("idiv", self.count + (mr - 1), const(mr, "i64")) * mr
        to_key, to_value = i * spec.depth + d, i * spec.width + d
        keys = _loop(d, spec.depth, "vector", Store(b["keys"], to_key, key))
        values = _loop(d, spec.width, "vector", Store(b["values"], to_value, value))
        self.statements(_loop(i, panels, "serial", keys), _loop(i, self.count, "serial", values))

    def _softmax(self, masked: bool) -> None:
        """Scores become weights; top, total and rescale of each row follow."""
        i, key, b = index("i"), index("key0"), self.buffers
        m, l = var("m", "f32"), var("l", "f32")
        at = key * self.tile.nr + i
        score = load(b["scores"], at)
        body: tuple[Stmt, ...] = ()
        if masked:
            head, row = (cast(load(b[n], i), "i64") for n in ("head", "row"))
            body = (Store(b["scores"], at, self.masked(score, self.start + key, head, row)),)
        (step,) = _largest((m,), (score,))
        largest = _fold(key, self.count, "serial", m, _LOWEST, step, _largest, body)
        top = load(b["top"], i)
        weigh = Store(b["scores"], at, unary("exp", score - _finite(top)))
        old = load(b["total"], i) * load(b["rescale"], i)
        total = _fold(key, self.count, "serial", l, old, l + score, _sum, (weigh,))
        lane = [*self.softmax(i, [largest], m), total, Store(b["total"], i, l)]
        self.statements(_loop(i, self.tile.nr, "vector", *lane))

    def _finish(self) -> None:
        f, b = self.f, self.buffers
        f.call("void", "turn_out", ("ptr", self.at["sums"]), ("ptr", self.at["rows"]))
        i = index("i")
        acc = load(b["rows"], i * _whole(self.spec.width, self.lanes) + COL)
        count = self.last - self.first + 1
        self.statements(_loop(i, count, "serial", *self.results(acc, i, self.first + i)))


def _fold(
    at: Expr,
    stop: Expr,
    kind: str,
    acc: Expr,
    init: Expr,
    step: Expr,
    merge: object,
    body: tuple[Stmt, ...] = (),
) -> Fold:
    return fold_of(at, (_ZERO64, stop), kind, (acc,), (init,), (step,), merge, body)  # type: ignore[arg-type]


def _tiles(n: int, most: int) -> list[range]:
    """0 to n in even ranges of at most `most`."""
    count = ceil(n / most)
    cuts = [n * i // count for i in range(count + 1)] if count else [0]
    return [range(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def _micro_kernel(
    f: Function,
    kc: Value | int,
    a: Value,
    steps: tuple[int, int],
    rows: int,
    tile: Tile,
    b: Value,
    start: Sequence[Value],
) -> list[Value]:
    """start + sum over k < kc of a[row * steps[0] + k * steps[1]] * b[k][nr], in registers."""
    type_ = vector("float", tile.lanes)
    carry = [*((type_, x) for x in start), ("ptr", a), ("ptr", b)]
    with f.loop(0, kc, carry=carry) as k:
        *sums, at, line = k.carried
        lanes = [f.load(type_, f.gep("float", line, v * tile.lanes), 4) for v in range(tile.nv)]
        for r in range(rows):
            x = f.load("float", f.gep("float", at, r * steps[0]), 4)
            one = f.splat("float", tile.lanes, x)
            for v, lane in enumerate(lanes):
                i = r * tile.nv + v
                sums[i] = f.intrinsic("fma", type_, one, lane, sums[i])
        k.next = [*sums, f.gep("float", at, steps[1]), f.gep("float", line, tile.nr)]
    return list(k.carried[:-2])


def _scores_kernel(module: Module, depth: int, tile: Tile) -> None:
    """scores[mr keys][nr] = keys[mr][depth] * q[depth][nr]"""
    f = module.function("scores", [(f"ptr noalias", n) for n in ("keys", "q", "to")])
    type_ = vector("float", tile.lanes)
    start = ["zeroinitializer"] * (tile.mr * tile.nv)
    sums = _micro_kernel(f, depth, "%keys", (depth, 1), tile.mr, tile, "%q", start)
    for i, x in enumerate(sums):
        f.store(type_, x, f.gep("float", "%to", i * tile.lanes), 4)
    f.ret()


def _sums_kernel(module: Module, rows: int, width: int, tile: Tile) -> None:
    """sums[rows cols][nr] = sums * rescale[nr] + values[kc][width] (some columns) * p[kc][nr]"""
    args = [("i64", "kc"), *(("ptr noalias", n) for n in ("values", "p", "sums", "rescale"))]
    f = module.function(f"sums{rows}", args)
    type_ = vector("float", tile.lanes)
    scale = [f.load(type_, f.gep("float", "%rescale", v * tile.lanes), 4) for v in range(tile.nv)]
    at = [f.gep("float", "%sums", i * tile.lanes) for i in range(rows * tile.nv)]
    start = [f.op("fmul", type_, f.load(type_, p, 4), scale[i % tile.nv]) for i, p in enumerate(at)]
    for x, p in zip(
        _micro_kernel(f, "%kc", "%values", (1, width), rows, tile, "%p", start), at, strict=True
    ):
        f.store(type_, x, p, 4)
    f.ret()


def _turn(module: Module, name: str, tile: Tile, n: int, forth: bool) -> None:
    """[nr][n] as [n][nr] (`forth`), or back; n is a multiple of the lanes."""
    f = module.function(name, [("ptr noalias", "from"), ("ptr noalias", "to")])
    lanes = tile.lanes
    words = vector("i32", lanes)
    lines, line, turned = (tile.nr, n, tile.nr) if forth else (n, tile.nr, n)
    with f.loop(0, lines, lanes) as i, f.loop(0, line, lanes) as j:
        source = f.gep("float", "%from", f.add(f.mul(i.index, line), j.index))
        block = [f.load(words, f.gep("float", source, r * line), 4) for r in range(lanes)]
        to = f.gep("float", "%to", f.add(f.mul(j.index, turned), i.index))
        for r, x in enumerate(transposed(f, block, lanes)):
            f.store(words, x, f.gep("float", to, r * turned), 4)
    f.ret()


# ---- few rows ----


class _FewRows(_Body):
    def write(self) -> None:
        f, spec = self.f, self.spec
        _dot_kernel(self.module, spec, self.lanes)
        _weigh_kernel(self.module, spec, self.lanes)
        parts = self.size["parts"]
        even = f.op("sdiv", "i64", f.add(self.bound[self.stop], f.sub(parts, 1)), parts)
        share = f.op("and", "i64", f.add(even, 31), "-32")
        with f.loop("%lo", "%hi") as unit:
            self.bound[BATCH] = f.op("sdiv", "i64", unit.index, parts)
            part = self.bound[PART] = f.op("srem", "i64", unit.index, parts)
            first = f.mul(part, share)
            last = f.smin(f.add(first, share), self.bound[self.stop])
            self._start()
            with f.loop(first, last, _FEW_KEYS) as block:
                self.start, self.count = param("start"), param("count")
                self.bound[self.start] = block.index
                self.bound[self.count] = f.smin(f.sub(last, block.index), _FEW_KEYS)
                self._keys()
            i = index("i")
            del self.bound[self.start], self.bound[self.count]
            acc = load(self.buffers["sums"], i * spec.width + COL)
            self.statements(_loop(i, spec.few, "serial", *self.results(acc, i, i)))
        f.ret()

    def _start(self) -> None:
        i, e, b, spec = index("i"), index("e"), self.buffers, self.spec
        row = _loop(index("d"), spec.depth, "vector", self.rows_of(i, i))
        zero = _loop(e, spec.few * spec.width, "vector", Store(b["sums"], e, _ZERO))
        seen = (Store(b["top"], i, _LOWEST), Store(b["total"], i, _ZERO))
        self.statements(_loop(i, spec.few, "serial", row, *seen), zero)

    def _keys(self) -> None:
        """Scores of a block of keys, their weights, the weighted sum of their values."""
        f, spec, b = self.f, self.spec, self.buffers
        emitter = self.emitter()
        start, count = self.bound[self.start], self.bound[self.count]
        lines = []
        for x, at, stride in ((self.k, spec.k_at, "k_row"), (self.v, spec.v_at, "v_row")):
            first = f.add(emitter.scalar(at), f.mul(start, self.size[stride]))
            pointer = f.gep(STORED[x.dtype], self.pointers[x], first)
            lines.append([("ptr", pointer), ("i64", self.size[stride]), ("i64", count)])
        f.call("void", "dot", *lines[0], ("ptr", self.at["rows"]), ("ptr", self.at["scores"]))
        i, key = index("i"), index("key0")
        m, l = var("m", "f32"), var("l", "f32")
        at = i * (_FEW_KEYS + 16) + key
        score = load(b["scores"], at)
        body: tuple[Stmt, ...] = ()
        if spec.mask is not None or spec.causal:
            head, row = binary("idiv", i, QUERIES), binary("irem", i, QUERIES)
            body = (Store(b["scores"], at, self.masked(score, self.start + key, head, row)),)
        (step,) = _largest((m,), (score,))
        largest = _fold(key, self.count, "vector", m, _LOWEST, step, _largest, body)
        top = _finite(load(b["top"], i))
        weigh = Store(b["scores"], at, unary("exp", score - top))
        total = _fold(key, self.count, "vector", l, _ZERO, l + score, _sum, (weigh,))
        old = load(b["total"], i) * load(b["rescale"], i)
        row_stmts = [*self.softmax(i, [largest], m), total, Store(b["total"], i, old + l)]
        self.statements(_loop(i, spec.few, "serial", *row_stmts))
        names = ("scores", "sums", "rescale")
        f.call("void", "weigh", *lines[1], *(("ptr", self.at[n]) for n in names))


def _vector_of(f: Function, dtype: str, pointer: Value, lanes: int) -> Value:
    raw = f.load(vector(STORED[dtype], lanes), pointer, BYTES[dtype])
    return loaded(f, dtype, raw, lanes)


def _dot_kernel(module: Module, spec: Attention, lanes: int) -> None:
    """scores[row][key] = rows[row] . keys[key]: each vector of a key is read once for all rows."""
    args = [("ptr noalias", "keys"), ("i64", "stride"), ("i64", "count")]
    f = module.function("dot", [*args, ("ptr noalias", "rows"), ("ptr noalias", "to")])
    rows, dtype, type_ = spec.few, spec.dtypes[1], vector("float", lanes)
    each = lanes >> (rows - 1).bit_length()  # keys at a time: a sum of each row in each lane
    last = f.sub("%count", 1)
    with f.loop(0, "%count", each) as k:
        keys = [
            f.gep(STORED[dtype], "%keys", f.mul(f.smin(f.add(k.index, i), last), "%stride"))
            for i in range(each)
        ]
        start = [(type_, "zeroinitializer")] * (rows * each)
        with f.loop(0, spec.depth, lanes, carry=start) as d:
            sums = list(d.carried)
            at = [_vector_of(f, dtype, f.gep(STORED[dtype], p, d.index), lanes) for p in keys]
            for r in range(rows):
                q = f.load(type_, f.gep("float", "%rows", f.add(d.index, r * spec.depth)), 4)
                for i in range(each):
                    sums[r * each + i] = f.intrinsic("fma", type_, at[i], q, sums[r * each + i])
            d.next = sums
        whole = [*d.carried, *[d.carried[0]] * (lanes - rows * each)]
        total = _sums_of_lanes(f, whole, lanes)
        for r in range(rows):
            to = f.gep("float", "%to", f.add(k.index, r * (_FEW_KEYS + 16)))
            picked = range(r * each, (r + 1) * each)
            if each == 1:
                one = f.assign(f"extractelement {type_} {total}, i32 {r}")
                f.store("float", one, to, 4)
            elif each == lanes:
                f.store(type_, total, to, 4)
            else:
                f.store(vector("float", each), f.shuffle(type_, total, "poison", picked), to, 4)
    f.ret()


def _sums_of_lanes(f: Function, vectors: Sequence[Value], lanes: int) -> Value:
    """One vector with the sum of the lanes of each of `lanes` vectors, in their order."""
    type_ = vector("float", lanes)
    parts, size = list(vectors), lanes  # each vector holds lanes / size sums in the making
    while size > 1:
        half = size // 2
        starts = range(0, 2 * lanes, size)  # in both vectors of a pair
        low = [s + i for s in starts for i in range(half)]
        high = [s + half + i for s in starts for i in range(half)]
        parts = [
            f.op("fadd", type_, f.shuffle(type_, a, b, low), f.shuffle(type_, a, b, high))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        size = half
    return parts[0]


def _weigh_kernel(module: Module, spec: Attention, lanes: int) -> None:
    """sums[row] = sums[row] * rescale[row] + sum over keys of p[row][key] * values[key]."""
    args = [("ptr noalias", "values"), ("i64", "stride"), ("i64", "count")]
    f = module.function("weigh", [*args, *(("ptr noalias", n) for n in ("p", "sums", "rescale"))])
    rows, dtype, type_ = spec.few, spec.dtypes[2], vector("float", lanes)
    room = 8 if lanes == 8 else 16
    for cols in _tiles(spec.width // lanes, max(1, room // rows)):
        places, start = [], []
        for r in range(rows):
            one = f.load("float", f.gep("float", "%rescale", r), 4)
            scale = f.splat("float", lanes, one)
            for c in cols:
                places.append(f.gep("float", "%sums", r * spec.width + c * lanes))
                start.append((type_, f.op("fmul", type_, f.load(type_, places[-1], 4), scale)))
        with f.loop(0, "%count", carry=start) as k:
            line = f.gep(STORED[dtype], "%values", f.mul(k.index, "%stride"))
            at = [_vector_of(f, dtype, f.gep(STORED[dtype], line, c * lanes), lanes) for c in cols]
            sums = list(k.carried)
            for r in range(rows):
                p = f.load("float", f.gep("float", "%p", f.add(k.index, r * (_FEW_KEYS + 16))), 4)
                weight = f.splat("float", lanes, p)
                for i, x in enumerate(at):
                    n = r * len(at) + i
                    sums[n] = f.intrinsic("fma", type_, weight, x, sums[n])
            k.next = sums
        for x, p in zip(k.carried, places, strict=True):
            f.store(type_, x, p, 4)
    f.ret()
