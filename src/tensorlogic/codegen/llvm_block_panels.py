"""Panels for products of many rows with quantized weights, and their micro-kernel.

A slice of K has 256 elements. Of the weights, digits become words (less the zero; times the scale,
where scales are whole numbers), two neighbours along K side by side in each column. What is left
of scales and minimums is a number for each 32 elements, or for a slice. The activations are words
too, with one scale for a slice. The micro-kernel sums as many products of words exactly, in int32,
as cannot overflow (`step_of`). Minimums that are whole numbers are words as well, and so are the
sums of activations that they are multiplied with.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, constant, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_blocks import BLOCKS, BlockType
from tensorlogic.codegen.llvm_dots import merged, padded, rounded, units_of
from tensorlogic.codegen.llvm_matmul import Tile
from tensorlogic.codegen.llvm_packing import transposed
from tensorlogic.codegen.llvm_unit import RUN, Target, Unit
from tensorlogic.kernels.ir import BYTES

SLICE = 256
"""Elements of K that are packed at a time."""
PART = 32
"""Elements of a block whose scale is no whole number, and K's are a multiple of."""
_SCALE = 2 * SLICE
_SUM_SCALE = _SCALE + 4
_SUMS = _SCALE + 32
ROW = _SUMS + 32
"""Bytes of a row of activations: words, the scale, sums and their scale; whole cache lines."""
COLUMN = 2 * SLICE + 64
"""Bytes between columns of words before they are transposed: not all in the same sets of the L1."""
_UNROLLED = 4
"""Pairs along K of a turn: the processor then foresees where a step ends."""
_FEW_SUMS = 8
"""Integer sums that are no more than keep the multipliers busy."""
_MOST = 32512
_LIMIT = 2**31 - 1
PANEL_ARGS = (
    *(("ptr noalias", "w"), ("i64", "stride"), ("i64", "last"), ("i64", "blocks")),
    *(("ptr noalias", n) for n in ("words", "scales", "least", "columns")),
)
"""Arguments of `pack_columns`."""


def step_of(t: BlockType) -> int:
    """Elements of K whose products are summed as integers."""
    if not t.whole:
        return PART
    steps = (SLICE >> i for i in range(3))
    return next((n for n in steps if n * t.reach * _MOST <= _LIMIT), PART)


def greatest(t: BlockType) -> float:
    """The largest word of activations, so that the sum of a step fits in 31 bits."""
    return float(min(_MOST, _LIMIT // (step_of(t) * t.reach) - 1))


def _sums_text(t: BlockType) -> str:
    """What is kept of a slice besides words: nothing, or words or floats of its sums."""
    return "" if not t.least else f"w{SLICE // t.sub}" if t.whole else f"f{SLICE // t.sub}"


def panel_bytes(t: BlockType, nr: int) -> tuple[int, int, int, int]:
    """Bytes of a panel of `nr` columns: words, scales, minimums, and words in columns."""
    return 2 * SLICE * nr, 4 * (SLICE // PART) * nr, 4 * (SLICE // PART + 1) * nr, COLUMN * nr


def pack_rows_name(t: BlockType, dtype: str) -> str:
    return f"rows{int(greatest(t))}{_sums_text(t)}_{dtype}"


def pack_columns_name(name: str, nr: int) -> str:
    return f"columns{nr}_{name}"


def multiply_name(t: BlockType, rows: int) -> str:
    return f"integers{rows}_{step_of(t)}{'s' if t.whole else ''}{_sums_text(t)}"


def pack_rows(module: Module, t: BlockType, dtype: str) -> None:
    """rows(source, rs, ks, last, count, kc, to): `count` rows of activations, from row 0 on; those
    beyond `last` repeat it."""
    args = [("ptr noalias", "source"), ("i64", "rs"), ("i64", "ks"), ("i64", "last")]
    args += [("i64", "count"), ("i64", "kc"), ("ptr noalias", "to")]
    f = module.function(pack_rows_name(t, dtype), args)
    element, size = STORED[dtype], BYTES[dtype]
    line = f.alloca(element, SLICE)
    whole = f.op("and", "i1", f.icmp("eq", "i64", "%ks", 1), f.icmp("eq", "i64", "%kc", SLICE))
    clear = (("ptr", line), ("i8", "0"), ("i64", str(size * SLICE)), ("i1", "false"))
    f.call("void", "llvm.memset.p0.i64", *clear)
    with f.loop(0, "%count") as r:
        source = f.gep(element, "%source", f.mul(f.smin(r.index, "%last"), "%rs"))
        with f.when(whole) as branch:
            branch.otherwise()
            with f.loop(0, "%kc") as k:
                one = f.load(element, f.gep(element, source, f.mul(k.index, "%ks")), size)
                f.store(element, one, f.gep(element, line, k.index), size)
        _pack_row(f, t, dtype, f.select(whole, "ptr", source, line), f.mul(r.index, ROW))
    f.ret()


def _pack_row(f: Function, t: BlockType, dtype: str, at: Value, row: Value) -> None:
    """A slice of activations as words, its scale, and the sums that minimums are multiplied
    with."""
    whole, words = vector("i32", RUN), vector("i16", RUN)
    out = f.gep("i8", "%to", row)
    values = []
    for run in range(SLICE // RUN):
        pointer = f.gep(STORED[dtype], at, RUN * run)
        raw = f.load(vector(STORED[dtype], RUN), pointer, BYTES[dtype])
        values.append(loaded(f, dtype, raw, RUN))
    scales, (numbers,) = rounded(f, [values], greatest(t))
    scale = f.assign(f"extractelement <1 x float> {scales}, i32 0")
    for run, v in enumerate(numbers):
        f.store(words, f.cast("trunc", whole, v, words), f.gep("i8", out, 2 * RUN * run), 32)
    f.store("float", scale, f.gep("i8", out, _SCALE), 4)
    if not t.least:
        return
    if t.sub > RUN:
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        numbers = [f.op("add", whole, a, b) for a, b in pairs]
    n = len(numbers)
    sums = f.cast("sitofp", vector("i32", n), merged(f, numbers, "add"), vector("float", n))
    if not t.whole:
        f.store(vector("float", n), sums, f.gep("i8", out, _SUMS), 32)
        return
    # Their own scale: sums are much smaller than they could be.
    in_lanes = f.shuffle(vector("float", n), sums, "zeroinitializer", [*range(n), *[n] * (RUN - n)])
    by, ((rounded_sums,),) = rounded(f, [[in_lanes]], _MOST)
    one = f.assign(f"extractelement <1 x float> {by}, i32 0")
    f.store("float", f.op("fmul", "float", one, scale), f.gep("i8", out, _SUM_SCALE), 4)
    f.store(words, f.cast("trunc", whole, rounded_sums, words), f.gep("i8", out, _SUMS), 32)


def pack_columns(module: Module, name: str, nr: int, target: Target) -> None:
    """columns(w, stride, last, blocks, words, scales, least, columns): a panel of `nr` rows of
    blocks, `stride` bytes apart; those beyond `last` repeat it."""
    t = BLOCKS[name]
    f = module.function(pack_columns_name(name, nr), PANEL_ARGS)
    whole, units = units_of(f, t, "%blocks")
    with f.loop(0, nr) as c:
        w = f.gep("i8", "%w", f.mul(f.smin(c.index, "%last"), "%stride"))
        rest = w
        if t.blocks > 1:
            rest = padded(f, w, whole, "%blocks", t.nbytes // t.blocks, t.blocks)
        column = f.gep("i8", "%columns", f.mul(c.index, COLUMN))
        with f.loop(0, units) as u:
            at = f.gep("i8", w, f.mul(u.index, t.nbytes))
            if t.blocks > 1:
                at = f.select(f.icmp("slt", "i64", u.index, whole), "ptr", at, rest)
            unit = Unit(f, target, at, t.nbytes)
            _words(f, t, unit, f.gep("i8", column, f.mul(u.index, 2 * t.unit)))
            _factors(f, t, unit, nr, u.index, c.index)
    lanes = target.lanes
    per = 2 * PART // 4 // lanes  # vectors of a column in a part
    steps = f.op("sdiv", "i64", f.mul("%blocks", t.block), str(PART))
    with f.loop(0, f.mul(steps, per)) as s:
        for g in range(0, nr, lanes):
            rows = []
            for i in range(lanes):
                column = f.gep("i8", "%columns", (g + i) * COLUMN)
                at = f.gep("i8", column, f.mul(s.index, 4 * lanes))
                rows.append(f.load(vector("i32", lanes), at, 4 * lanes))
            for k, line in enumerate(transposed(f, rows, lanes)):
                place = f.add(f.mul(s.index, lanes * nr), k * nr + g)
                f.store(vector("i32", lanes), line, f.gep("i32", "%words", place), 4 * lanes)
    f.ret()


def _words(f: Function, t: BlockType, unit: Unit, to: Value) -> None:
    """The digits of a unit in order, as words."""
    width = unit.target.width
    small, wide, words = vector("i8", width), vector("i16", width), vector("i16", RUN)
    factors, few = "", vector("i16", t.subs)
    if t.whole:
        factors = f.cast("sext", vector("i8", t.subs), t.whole(unit)[0], few)
    for digits, runs in zip(t.vectors(unit), t.order(width), strict=True):
        x = f.op("sub", small, digits, constant("i8", width, str(t.zero))) if t.zero else digits
        x = f.cast("sext", small, x, wide)
        if factors:
            lanes = [run * RUN // t.sub for run in runs for _ in range(RUN)]
            x = f.op("mul", wide, x, f.shuffle(few, factors, "poison", lanes))
        for i, run in enumerate(runs):
            part = f.shuffle(wide, x, "poison", range(i * RUN, (i + 1) * RUN))
            f.store(words, part, f.gep("i8", to, 2 * RUN * run), 32)


def _factors(f: Function, t: BlockType, unit: Unit, nr: int, u: Value, column: Value) -> None:
    """The scales and minimums of a unit, each beside those of the other columns."""

    def keep(base: Value, place: Value, vectors: Value, type_: str, count: int) -> None:
        """Elements of a vector, a line of columns for each."""
        for k in range(count):
            one = f.assign(f"extractelement {vector(type_, count)} {vectors}, i32 {k}")
            at = f.add(f.mul(f.add(place, k), nr), column)
            f.store(type_, one, f.gep(type_, base, at), 4)

    if t.whole:
        f.store("float", t.whole(unit)[1], f.gep("float", "%scales", column), 4)
        if t.whole_least:
            numbers, factor = t.whole_least(unit)
            bytes_, words, n = vector("i8", t.subs), vector("i16", t.subs), t.subs // 2
            pairs = f.cast("zext", bytes_, numbers, words)
            keep("%least", "0", f.cast("bitcast", words, pairs, vector("i32", n)), "i32", n)
            f.store("float", factor, f.gep("float", "%least", f.add(column, n * nr)), 4)
        return
    scales, least = t.scales(unit)
    first = f.mul(u, t.subs)
    keep("%scales", first, scales, "float", t.subs)
    if least is not None:
        keep("%least", first, least, "float", t.subs)


class _Micro:
    """The micro-kernel of some rows: how the sums of a step are added up, and the end."""

    def __init__(
        self,
        f: Function,
        t: BlockType,
        tile: Tile,
        target: Target,
        rows: int,
        pointers: tuple[Value, Value],
    ) -> None:
        self.f, self.type, self.target = f, t, target
        self.a, self.c = pointers
        self.rows, self.nv, self.nr = range(rows), range(tile.nv), tile.nr
        self.lanes, self.ldc = tile.lanes, tile.ldc
        self.places = [(r, v) for r in self.rows for v in self.nv]
        self.whole, self.real = vector("i32", tile.lanes), vector("float", tile.lanes)

    def products(self, a: Value, b: Value, pairs: int) -> list[Value]:
        """For each row and vector of columns the integer sum over `pairs` pairs along K."""
        f, size = self.f, 4 * self.lanes
        carry = [(self.whole, "zeroinitializer")] * len(self.places)
        turn = min(pairs, _UNROLLED)
        with f.loop(0, pairs, turn, carry) as k:
            sums = list(k.carried)
            for i in range(turn):
                line = f.gep("i32", b, f.mul(f.add(k.index, i), self.nr))
                columns = [f.load(self.whole, f.gep("i8", line, v * size), size) for v in self.nv]
                for r in self.rows:
                    place = f.gep("i32", f.gep("i8", a, r * ROW + 4 * i), k.index)
                    one = f.splat("i32", self.lanes, f.load("i32", place, 4))
                    for v, column in enumerate(columns):
                        at = r * len(self.nv) + v
                        sums[at] = _multiplied(f, self.target, sums[at], one, column)
            k.next = sums
        return list(k.carried)

    def of_row(self, r: int, at: int | Value) -> Value:
        """A number of a row's record in all lanes."""
        place = self.f.gep("i8", self.f.gep("i8", self.a, r * ROW), at)
        return self.f.splat("float", self.lanes, self.f.load("float", place, 4))

    def of_columns(self, base: Value, line: Value | int, v: int) -> Value:
        """Numbers of a vector of columns."""
        place = self.f.gep(
            "float", base, self.f.add(self.f.mul(str(line), self.nr), v * self.lanes)
        )
        return self.f.load(self.real, place, 4 * self.lanes)

    def number(self, x: Value) -> Value:
        return self.f.cast("sitofp", self.whole, x, self.real)

    def step(self, s: Value, before: Sequence[Value]) -> list[Value]:
        """The sums of a step, as float32 added to those before."""
        f, t, real, pairs = self.f, self.type, self.real, step_of(self.type) // 2
        a = f.gep("i8", self.a, f.mul(s, 4 * pairs))
        sums = self.products(a, f.gep("i32", "%b", f.mul(s, pairs * self.nr)), pairs)
        if t.whole:
            return [
                f.op("fadd", real, self.number(x), y) for x, y in zip(sums, before, strict=True)
            ]
        scales = [self.of_columns("%scales", s, v) for v in self.nv]
        least = [self.of_columns("%least", s, v) for v in self.nv] if t.least else []
        totals = []
        for i, (r, v) in enumerate(self.places):
            total = f.intrinsic("fma", real, self.number(sums[i]), scales[v], before[i])
            if least:
                given = self.of_row(r, f.add(f.mul(s, 4), _SUMS))
                total = f.intrinsic("fma", real, least[v], given, total)
            totals.append(total)
        return totals

    def end(self, totals: Sequence[Value]) -> None:
        """All of the slice, scaled, is added to c."""
        f, t, real = self.f, self.type, self.real
        least: list[Value] = []
        pairs = SLICE // t.sub // 2
        if t.whole and t.least:
            least = self.products(f.gep("i8", self.a, _SUMS), "%least", pairs)
        for i, (r, v) in enumerate(self.places):
            at = f.gep("float", self.c, r * self.ldc + v * self.lanes)
            by = self.of_row(r, _SCALE)
            if t.whole:
                by = f.op("fmul", real, by, self.of_columns("%scales", 0, v))
            total = f.intrinsic("fma", real, totals[i], by, f.load(real, at, 64))
            if least:
                factor = self.of_columns("%least", pairs, v)
                by = f.op("fmul", real, self.of_row(r, _SUM_SCALE), factor)
                total = f.intrinsic("fma", real, self.number(least[i]), by, total)
            f.store(real, total, at, 64)


def micro_kernel(module: Module, t: BlockType, rows: int, tile: Tile, target: Target) -> None:
    """c[rows, nr] += a * b over a slice of `parts` * PART: a from `pack_rows`, b from
    `pack_columns`. Half of the rows at a time, so that integer sums and those of float32 both stay
    in registers."""
    args = [("i64", "parts"), ("ptr noalias", "a"), ("ptr noalias", "b")]
    args += [("ptr noalias", "scales"), ("ptr noalias", "least"), ("ptr noalias", "c")]
    f = module.function(multiply_name(t, rows), args)
    some = rows if rows * tile.nv <= _FEW_SUMS else rows // 2
    steps = f.op("sdiv", "i64", "%parts", str(step_of(t) // PART))
    with f.loop(0, rows, some) as r:
        a = f.gep("i8", "%a", f.mul(r.index, ROW))
        c = f.gep("float", "%c", f.mul(r.index, tile.ldc))
        micro = _Micro(f, t, tile, target, some, (a, c))
        with f.loop(0, steps, carry=[(micro.real, "zeroinitializer")] * (some * tile.nv)) as s:
            s.next = micro.step(s.index, s.carried)
        micro.end(s.carried)
    f.ret()


def _multiplied(f: Function, target: Target, total: Value, a: Value, b: Value) -> Value:
    """total + the sums of two neighbouring products of words."""
    whole = vector("i32", target.lanes)
    if target.dot:
        args = [(whole, x) for x in (total, a, b)]
        return f.call(whole, "llvm.x86.avx512.vpdpwssd.512", *args)
    words = vector("i16", 2 * target.lanes)
    pairs = [(words, f.cast("bitcast", whole, x, words)) for x in (a, b)]
    return f.op("add", whole, total, f.call(whole, "llvm.x86.avx2.pmadd.wd", *pairs))
