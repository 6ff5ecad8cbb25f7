"""Panels for products of many rows with quantized weights, and their micro-kernel.

A slice of K has 256 elements. Of the weights, digits become words (less the zero; times the scale,
where scales of 16 elements are whole numbers), two neighbours along K side by side in each column,
with a scale for each 32 elements and a minimum for each 32 or 16. The activations are words too,
with a scale and sums for the same parts (see llvm_dots.py). The micro-kernel sums 32 products of
words exactly, in int32, and adds that, scaled, to a block of float32.
"""

from __future__ import annotations

from tensorlogic.codegen.emit import Function, Module, Value, constant, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_blocks import BLOCKS, BlockType
from tensorlogic.codegen.llvm_dots import padded, rounded, units_of
from tensorlogic.codegen.llvm_matmul import Tile
from tensorlogic.codegen.llvm_packing import transposed
from tensorlogic.codegen.llvm_unit import RUN, Target, Unit
from tensorlogic.kernels.ir import BYTES

SLICE = 256
"""Elements of K that are packed at a time."""
STEP = 32
"""Elements of K whose products are summed as integers."""
ROW = 2 * SLICE + 4 * (SLICE // STEP) + 4 * (SLICE // RUN) + 32
"""Bytes of a row of activations: words, scales, sums; whole cache lines."""
COLUMN = 2 * SLICE + 64
"""Bytes between columns of words before they are transposed: not all in the same sets of the L1."""
_SCALES = 2 * SLICE
_SUMS = _SCALES + 4 * (SLICE // STEP)


def greatest(t: BlockType) -> float:
    """The largest word of activations, so that the sum of 32 products fits in 31 bits."""
    return 16256.0 if t.whole and t.top > 15 else 32512.0


def sums_of(t: BlockType) -> int:
    """How many minimums a step has."""
    return STEP // t.sub if t.least else 0


def panel_bytes(t: BlockType, nr: int) -> tuple[int, int, int, int]:
    """Bytes of a panel of `nr` columns: words, scales, minimums, and words in columns."""
    return 2 * SLICE * nr, 4 * (SLICE // STEP) * nr, 4 * (SLICE // RUN) * nr, COLUMN * nr


def pack_rows_name(t: BlockType, dtype: str) -> str:
    return f"rows{int(greatest(t))}_{sums_of(t)}_{dtype}"


def pack_columns_name(name: str, nr: int) -> str:
    return f"columns{nr}_{name}"


def multiply_name(t: BlockType, rows: int) -> str:
    return f"integers{rows}_{sums_of(t)}"


def pack_rows(module: Module, t: BlockType, dtype: str) -> None:
    """rows(source, rs, ks, last, count, kc, to): `count` rows of activations, from row 0 on; those
    beyond `last` repeat it."""
    args = [("ptr noalias", "source"), ("i64", "rs"), ("i64", "ks"), ("i64", "last")]
    args += [("i64", "count"), ("i64", "kc"), ("ptr noalias", "to")]
    f = module.function(pack_rows_name(t, dtype), args)
    element, size = STORED[dtype], BYTES[dtype]
    line = f.alloca(element, SLICE)
    dense = f.icmp("eq", "i64", "%ks", 1)
    with f.loop(0, "%count") as r:
        source = f.gep(element, "%source", f.mul(f.smin(r.index, "%last"), "%rs"))
        with f.when(dense) as branch:
            branch.otherwise()
            with f.loop(0, "%kc") as k:
                one = f.load(element, f.gep(element, source, f.mul(k.index, "%ks")), size)
                f.store(element, one, f.gep(element, line, k.index), size)
        from_ = f.select(dense, "ptr", source, line)
        to = f.gep("i8", "%to", f.mul(r.index, ROW))
        with f.loop(0, f.op("sdiv", "i64", "%kc", str(STEP))) as s:
            _pack_step(f, t, dtype, f.gep(element, from_, f.mul(s.index, STEP)), to, s.index)
    f.ret()


def _pack_step(f: Function, t: BlockType, dtype: str, at: Value, to: Value, step: Value) -> None:
    """32 activations as words, their scale, and the sums that minimums are multiplied with."""
    whole, words = vector("i32", RUN), vector("i16", RUN)
    values = []
    for run in range(STEP // RUN):
        pointer = f.gep(STORED[dtype], at, RUN * run)
        raw = f.load(vector(STORED[dtype], RUN), pointer, BYTES[dtype])
        values.append(loaded(f, dtype, raw, RUN))
    scales, (numbers,) = rounded(f, [values], greatest(t))
    scale = f.assign(f"extractelement <1 x float> {scales}, i32 0")
    out = f.gep("i8", to, f.mul(step, 2 * STEP))
    for run, v in enumerate(numbers):
        f.store(words, f.cast("trunc", whole, v, words), f.gep("i8", out, 2 * RUN * run), 32)
    f.store("float", scale, f.gep("float", f.gep("i8", to, _SCALES), step), 4)
    if not t.least:
        return
    if sums_of(t) == 1:
        numbers = [f.op("add", whole, *numbers)]
    for k, v in enumerate(numbers):
        total = f.call("i32", f"llvm.vector.reduce.add.v{RUN}i32", (whole, v))
        product = f.op("fmul", "float", scale, f.cast("sitofp", "i32", total, "float"))
        place = f.add(f.mul(step, len(numbers)), k)
        f.store("float", product, f.gep("float", f.gep("i8", to, _SUMS), place), 4)


def pack_columns(module: Module, name: str, nr: int, target: Target) -> None:
    """columns(w, stride, last, blocks, words, scales, least, columns): a panel of `nr` rows of
    blocks, `stride` bytes apart; those beyond `last` repeat it."""
    t = BLOCKS[name]
    args = [("ptr noalias", "w"), ("i64", "stride"), ("i64", "last"), ("i64", "blocks")]
    args += [("ptr noalias", n) for n in ("words", "scales", "least", "columns")]
    f = module.function(pack_columns_name(name, nr), args)
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
    per = 2 * STEP // 4 // lanes  # vectors of a column in a step
    steps = f.op("sdiv", "i64", f.mul("%blocks", t.block), str(STEP))
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
    factors = ""
    if t.whole:
        factors = f.cast("sext", vector("i8", RUN), t.whole(unit)[0], words)
    for digits, runs in zip(t.vectors(unit), t.order(width), strict=True):
        x = f.op("sub", small, digits, constant("i8", width, str(t.zero))) if t.zero else digits
        x = f.cast("sext", small, x, wide)
        if factors:
            lanes = [run for run in runs for _ in range(RUN)]
            x = f.op("mul", wide, x, f.shuffle(words, factors, "poison", lanes))
        for i, run in enumerate(runs):
            part = f.shuffle(wide, x, "poison", range(i * RUN, (i + 1) * RUN))
            f.store(words, part, f.gep("i8", to, 2 * RUN * run), 32)


def _factors(f: Function, t: BlockType, unit: Unit, nr: int, u: Value, column: Value) -> None:
    """The scales and minimums of a unit, each step's beside those of the other columns."""
    scales, least = t.scales(unit)
    of_steps = [scales] * t.subs
    steps = t.unit // STEP

    def keep(value: Value, base: Value, count: int, k: int) -> None:
        place = f.add(f.mul(f.add(f.mul(u, count), k), nr), column)
        f.store("float", value, f.gep("float", base, place), 4)

    few = vector("float", t.subs)
    factor = t.whole(unit)[1] if t.whole else ""
    for k in range(steps):
        one = factor or f.assign(f"extractelement {few} {of_steps[k]}, i32 {k}")
        keep(one, "%scales", steps, k)
    if least is not None:
        for k in range(t.subs):
            keep(f.assign(f"extractelement {few} {least}, i32 {k}"), "%least", t.subs, k)


def micro_kernel(module: Module, t: BlockType, rows: int, tile: Tile, target: Target) -> None:
    """c[rows, nr] += a * b over `steps` steps: a from `pack_rows`, b from `pack_columns`."""
    args = [("i64", "steps"), ("ptr noalias", "a"), ("ptr noalias", "b")]
    args += [("ptr noalias", "scales"), ("ptr noalias", "least"), ("ptr noalias", "c")]
    f = module.function(multiply_name(t, rows), args)
    lanes, nv, nr = tile.lanes, tile.nv, tile.nr
    whole, real = vector("i32", lanes), vector("float", lanes)
    count = sums_of(t)
    with f.loop(0, "%steps") as s:
        a = f.gep("i8", "%a", f.mul(s.index, 2 * STEP))
        b = f.gep("i32", "%b", f.mul(s.index, STEP // 2 * nr))
        carry = [(whole, "zeroinitializer")] * (rows * nv)
        with f.loop(0, STEP // 2, carry=carry) as k:
            sums = list(k.carried)
            pairs = f.gep("i32", b, f.mul(k.index, nr))
            columns = [f.load(whole, f.gep("i32", pairs, v * lanes), 4 * lanes) for v in range(nv)]
            for r in range(rows):
                place = f.gep("i32", f.gep("i8", a, r * ROW), k.index)
                one = f.splat("i32", lanes, f.load("i32", place, 4))
                for v, column in enumerate(columns):
                    sums[r * nv + v] = _multiplied(f, target, sums[r * nv + v], one, column)
            k.next = sums
        scales = f.gep("float", "%scales", f.mul(s.index, nr))
        by = [f.load(real, f.gep("float", scales, v * lanes), 4 * lanes) for v in range(nv)]
        offsets = f.gep("float", "%least", f.mul(s.index, count * nr))
        for r in range(rows):
            row = f.gep("i8", "%a", r * ROW)
            own = f.load("float", f.gep("float", f.gep("i8", row, _SCALES), s.index), 4)
            scale = f.splat("float", lanes, own)
            more = []
            for j in range(count):
                at = f.add(f.mul(s.index, count), j)
                one = f.load("float", f.gep("float", f.gep("i8", row, _SUMS), at), 4)
                more.append(f.splat("float", lanes, one))
            for v in range(nv):
                at = f.gep("float", "%c", r * tile.ldc + v * lanes)
                number = f.cast("sitofp", whole, k.carried[r * nv + v], real)
                total = f.intrinsic(
                    "fma", real, number, f.op("fmul", real, by[v], scale), f.load(real, at, 64)
                )
                for j, one in enumerate(more):
                    given = f.load(real, f.gep("float", offsets, j * nr + v * lanes), 4 * lanes)
                    total = f.intrinsic("fma", real, given, one, total)
                f.store(real, total, at, 64)
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
