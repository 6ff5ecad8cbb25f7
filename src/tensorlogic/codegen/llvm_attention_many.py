"""Attention for the CPU where many rows share their keys: rows stand in lanes."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, vector
from tensorlogic.codegen.llvm_attention_base import (
    LOWEST,
    TILES,
    ZERO,
    ZERO64,
    Body,
    Tile,
    added,
    even_ranges,
    finite,
    folding,
    larger,
    loop_of,
    whole_vectors,
)
from tensorlogic.codegen.llvm_packing import transposed
from tensorlogic.kernels.ir import (
    Stmt,
    Store,
    binary,
    cast,
    const,
    index,
    load,
    param,
    select,
    unary,
    var,
)
from tensorlogic.kernels.spec import COL, QUERIES


class ManyRows(Body):
    def write(self) -> None:
        f, tile = self.f, TILES[self.lanes]
        self.tile = tile
        self._make_functions()
        rows = f.mul(self.size["heads"], self.size["queries"])
        blocks = f.op("sdiv", "i64", f.add(rows, tile.nr - 1), str(tile.nr))
        with f.loop("%lo", "%hi") as unit:
            self._begin(f.op("sdiv", "i64", unit.index, blocks))
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
        self.heights = sorted({len(t) for t in even_ranges(spec.width, tile.mr)})
        _scores_kernel(self.module, spec.depth, tile)
        for height in self.heights:
            _sums_kernel(self.module, height, spec.width, tile)
        for n, name in ((spec.depth, "turn_q"), (spec.width, "turn_out")):
            _turn(self.module, name, tile, whole_vectors(n, self.lanes), name == "turn_q")

    def _start(self) -> None:
        """Rows of q in lanes; no sum, no key seen."""
        f, tile = self.f, self.tile
        i, b = index("i"), self.buffers
        row = binary("min", self.first + i, self.last)
        self.statements(
            loop_of(
                i,
                tile.nr,
                "serial",
                loop_of(index("d"), self.spec.depth, "vector", self.rows_of(i, row)),
                Store(b["head"], i, cast(binary("idiv", row, QUERIES), "i32")),
                Store(b["row"], i, cast(binary("irem", row, QUERIES), "i32")),
                Store(b["top"], i, LOWEST),
                Store(b["total"], i, ZERO),
            ),
            loop_of(i, self.spec.width * tile.nr, "vector", Store(b["sums"], i, ZERO)),
        )
        f.call("void", "turn_q", ("ptr", self.at["rows"]), ("ptr", self.at["turned"]))

    def _bounds(self) -> tuple[Value, Value]:
        """Up to which key all rows of the block see every key, and up to which some do."""
        f = self.f
        if not self.spec.causal:
            return self.last_key, self.last_key
        emitter = self.emitter()
        first, last = binary("irem", self.first, QUERIES), binary("irem", self.last, QUERIES)
        one_head = binary("idiv", self.first, QUERIES).eq(binary("idiv", self.last, QUERIES))
        seen = self.stop - QUERIES + 1
        low = select(one_head, first, ZERO64) + seen
        high = select(one_head, last, QUERIES - 1) + seen
        all_see, some_see = (
            emitter.scalar(binary("max", binary("min", e, self.stop), 0)) for e in (low, high)
        )
        return all_see, f.smin(some_see, self.last_key)

    def _keys(self) -> None:
        f, tile, spec = self.f, self.tile, self.spec
        all_see, some_see = self._bounds()
        with f.loop(self.first_key, some_see, tile.block) as block:
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
            for t in even_ranges(spec.width, tile.mr):
                values = f.gep("float", self.at["values"], t[0])
                sums = f.gep("float", self.at["sums"], t[0] * tile.nr)
                pointers = (values, self.at["scores"], sums, self.at["rescale"])
                f.call("void", f"sums{len(t)}", ("i64", count), *(("ptr", x) for x in pointers))

    def _convert(self) -> None:
        """A block of keys and of values as float32; a panel of keys is filled up with the last."""
        i, d, spec, b = index("i"), index("d"), self.spec, self.buffers
        within = self.start + binary("min", i, self.count - 1)
        key = self.element(self.k, spec.k_at, within, "k_row", d, "k_depth")
        value = self.element(self.v, spec.v_at, self.start + i, "v_row", d, "v_col")
        mr = self.tile.mr
        panels = binary("idiv", self.count + (mr - 1), const(mr, "i64")) * mr
        to_key, to_value = i * spec.depth + d, i * spec.width + d
        line = loop_of(d, spec.depth, "vector", Store(b["keys"], to_key, key))
        keys = loop_of(i, panels, "serial", line)
        line = loop_of(d, spec.width, "vector", Store(b["values"], to_value, value))
        self.statements(keys, loop_of(i, self.count, "serial", line))

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
        (step,) = larger((m,), (score,))
        largest = folding(key, self.count, "serial", m, LOWEST, step, larger, body)
        top = load(b["top"], i)
        weigh = Store(b["scores"], at, unary("exp", score - finite(top)))
        old = load(b["total"], i) * load(b["rescale"], i)
        total = folding(key, self.count, "serial", l, old, l + score, added, (weigh,))
        lane = [*self.softmax(i, [largest], m), total, Store(b["total"], i, l)]
        self.statements(loop_of(i, self.tile.nr, "vector", *lane))

    def _finish(self) -> None:
        f, b = self.f, self.buffers
        f.call("void", "turn_out", ("ptr", self.at["sums"]), ("ptr", self.at["rows"]))
        i = index("i")
        acc = load(b["rows"], i * whole_vectors(self.spec.width, self.lanes) + COL)
        count = self.last - self.first + 1
        self.statements(loop_of(i, count, "serial", *self.results(acc, i, self.first + i)))


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
    f = module.function("scores", [("ptr noalias", n) for n in ("keys", "q", "to")])
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
