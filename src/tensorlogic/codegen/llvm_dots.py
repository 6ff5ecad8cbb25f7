"""Sums of products of quantized rows with activations, by integers, straight from the blocks.

Activations become whole numbers v of 16 bits first, x = scale * v with one scale for each `sub`
elements (32 or 16), once for many rows (`quantize`). A dot product is then a sum over the parts of
`scale_w * scale_x * sum(digit * v)` and of `least * scale_x * sum(v)`, where the inner sums are
exact integers. v is kept as two signed bytes, v = 256 * high + low, so that a digit, which is a
byte, is multiplied where it stands; where a processor has no product for the digits of a type, v is
kept as words. The error is that of rounding x to 1 in 65,000 of the greatest of its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, constant, f32, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_blocks import BLOCKS, BlockType
from tensorlogic.codegen.llvm_unit import RUN, Target, Unit
from tensorlogic.kernels.ir import BYTES

GREATEST = 32512.0
"""The largest v: its high byte is then at most 127."""
_TINY = 1e-30
"""Activations that are all smaller than this count as zeros: 1 / x might be infinite."""
_ROUND = 12582912.0
"""1.5 * 2**23: a float32 that is added to it is rounded, and stands in the lowest bits."""
_ROUND_BITS = 0x4B400000
_AHEAD = 256
"""How many bytes of a row are asked for in advance."""


def record_bytes(t: BlockType) -> int:
    """Bytes of the activations that belong to one unit: digits, scales, sums; whole cache lines."""
    return -(-(2 * t.unit + 8 * t.subs) // t.ALIGN) * t.ALIGN


def in_words(t: BlockType, target: Target) -> bool:
    """Whether activations are kept as words and not as two bytes."""
    return t.signed and not (target.arm or target.dot)


def quantize_name(name: str, dtype: str) -> str:
    return f"quantize_{name}_{dtype}"


def dots_name(name: str, count: int) -> str:
    return f"dots{count}_{name}"


def units_of(f: Function, t: BlockType, blocks: Value) -> tuple[Value, Value]:
    """Whole units, and units with the one that is not whole."""
    if t.blocks == 1:
        return blocks, blocks
    whole = f.op("sdiv", "i64", blocks, str(t.blocks))
    return whole, f.op("sdiv", "i64", f.add(blocks, t.blocks - 1), str(t.blocks))


def padded(f: Function, source: Value, whole: Value, blocks: Value, each: int, n: int) -> Value:
    """Stack memory for a unit of `n` blocks of `each` bytes with the last blocks, then zeros."""
    stack = f.alloca("i8", n * each)
    done = f.mul(whole, n)
    with f.when(f.icmp("slt", "i64", done, blocks)):
        clear = (("ptr", stack), ("i8", "0"), ("i64", str(n * each)), ("i1", "false"))
        f.call("void", "llvm.memset.p0.i64", *clear)
        with f.loop(done, blocks) as b:
            to = f.gep("i8", stack, f.mul(f.sub(b.index, done), each))
            copied = (("ptr", to), ("ptr", f.gep("i8", source, f.mul(b.index, each))))
            size = (("i64", str(each)), ("i1", "false"))
            f.call("void", "llvm.memcpy.p0.p0.i64", *copied, *size)
    return stack


def quantize(module: Module, name: str, dtype: str, target: Target) -> None:
    """quantize(x, to, blocks): the records of `blocks` blocks of activations of a dtype."""
    t = BLOCKS[name]
    args = [("ptr noalias", "x"), ("ptr noalias", "to"), ("i64", "blocks")]
    f = module.function(quantize_name(name, dtype), args)
    whole, units = units_of(f, t, "%blocks")
    size = BYTES[dtype]
    rest = "%x"
    if t.blocks > 1:
        rest = padded(f, "%x", whole, "%blocks", t.block * size, t.blocks)
    where = places(t, target)
    with f.loop(0, units) as u:
        at = f.gep("i8", "%x", f.mul(u.index, t.unit * size))
        if t.blocks > 1:
            at = f.select(f.icmp("slt", "i64", u.index, whole), "ptr", at, rest)
        to = f.gep("i8", "%to", f.mul(u.index, record_bytes(t)))
        _quantize_unit(f, t, dtype, (at, to), where)
    f.ret()


def places(t: BlockType, target: Target) -> dict[int, tuple[int, ...]]:
    """Of each run of 16 elements: where its words are kept, or its high and its low bytes."""
    width = target.width
    out: dict[int, tuple[int, ...]] = {}
    for v, runs in enumerate(t.order(width)):
        for r, run in enumerate(runs):
            if in_words(t, target):
                out[run] = (2 * width * v + 2 * RUN * r,)
            else:
                out[run] = (2 * width * v + RUN * r, 2 * width * v + width + RUN * r)
    return out


def _quantize_unit(
    f: Function,
    t: BlockType,
    dtype: str,
    pointers: tuple[Value, Value],
    places: dict[int, tuple[int, ...]],
) -> None:
    """The record of one unit of activations; `pointers` are theirs and that of the record."""
    source, to = pointers
    whole, small, few = vector("i32", RUN), vector("i8", RUN), vector("float", t.subs)
    values = []
    for run in range(t.unit // RUN):
        at = f.gep(STORED[dtype], source, RUN * run)
        raw = f.load(vector(STORED[dtype], RUN), at, BYTES[dtype])
        values.append(loaded(f, dtype, raw, RUN))
    each = t.sub // RUN
    parts = [values[i : i + each] for i in range(0, len(values), each)]
    scales, numbers = rounded(f, parts, GREATEST)
    for run, v in enumerate(x for part in numbers for x in part):
        if len(places[run]) == 1:
            words = f.cast("trunc", whole, v, vector("i16", RUN))
            f.store(vector("i16", RUN), words, f.gep("i8", to, places[run][0]), 16)
            continue
        raised = f.op("add", whole, v, constant("i32", RUN, "128"))
        high = f.op("lshr", whole, raised, constant("i32", RUN, "8"))
        for x_part, place in zip((high, v), places[run], strict=True):
            f.store(small, f.cast("trunc", whole, x_part, small), f.gep("i8", to, place), 16)
    sums = [p[0] if len(p) == 1 else f.op("add", whole, *p) for p in numbers]
    totals = f.cast("sitofp", vector("i32", t.subs), merged(f, sums, "add"), few)
    align = 4 * min(t.subs, 8)
    f.store(few, scales, f.gep("i8", to, 2 * t.unit), align)
    products = f.op("fmul", few, scales, totals)
    f.store(few, products, f.gep("i8", to, 2 * t.unit + 4 * t.subs), align)


def merged(f: Function, vectors: Sequence[Value], op: str) -> Value:
    """Of vectors of RUN int32, a power of two of them: the sum ("add") or greatest ("umax",
    unsigned) of each, side by side. Halves of two vectors are merged as one."""

    def joined(type_: str, a: Value, b: Value) -> Value:
        return f.intrinsic(op, type_, a, b) if op == "umax" else f.op(op, type_, a, b)

    def half(groups: int, lanes: int, part: int) -> list[int]:
        """Lanes of the first or second half of each group."""
        size = lanes // groups
        return [g * size + part * size // 2 + i for g in range(groups) for i in range(size // 2)]

    groups, type_, current = 1, vector("i32", RUN), list(vectors)
    while len(current) > 1:
        following = []
        for a, b in zip(current[::2], current[1::2], strict=True):
            picked = []
            for part in range(2):
                lanes = half(groups, RUN, part)
                picked.append(f.shuffle(type_, a, b, [*lanes, *(RUN + i for i in lanes)]))
            following.append(joined(type_, *picked))
        current, groups = following, 2 * groups
    result, count = current[0], RUN
    while count > groups:
        wide = f"<{count} x i32>"
        parts = [f.shuffle(wide, result, "poison", half(groups, count, part)) for part in range(2)]
        count //= 2
        result = joined(f"<{count} x i32>", *parts)
    return result


def rounded(
    f: Function, parts: Sequence[Sequence[Value]], most: float
) -> tuple[Value, list[list[Value]]]:
    """Parts of several vectors of RUN float32: one scale for each part (a vector of them), and the
    parts divided by it as int32, `most` at most."""
    whole, real, count = vector("i32", RUN), vector("float", RUN), len(parts)
    tops = []
    for part in parts:
        top = ""
        for x in part:
            bits = f.cast("bitcast", real, x, whole)
            size = f.op("and", whole, bits, constant("i32", RUN, str(0x7FFFFFFF)))
            top = f.intrinsic("umax", whole, top, size) if top else size
        tops.append(top)
    few = f"<{count} x float>"
    # As integers, NaN is above infinity.
    greatest = f.cast("bitcast", f"<{count} x i32>", merged(f, tops, "umax"), few)
    scales = f.op("fmul", few, greatest, f"splat (float {f32(1 / most)})")
    inverse = f.op("fdiv", few, f"splat (float {f32(most)})", greatest)
    usual = f.fcmp("ogt", few, greatest, f"splat (float {f32(_TINY)})")
    factors = f.assign(f"select <{count} x i1> {usual}, {few} {inverse}, {few} zeroinitializer")
    magic = constant("float", RUN, f32(_ROUND))
    out: list[list[Value]] = []
    for i, part in enumerate(parts):
        factor = f.shuffle(few, factors, "poison", [i] * RUN)
        out.append([])
        for x in part:
            near = f.cast("bitcast", real, f.intrinsic("fma", real, x, factor, magic), whole)
            out[-1].append(f.op("sub", whole, near, constant("i32", RUN, str(_ROUND_BITS))))
    return scales, out


def dots(module: Module, name: str, count: int, target: Target) -> None:
    """dots(w, w_stride, rows, x, x_stride, blocks, out, out_stride): products of rows of blocks,
    `w_stride` bytes apart, with `count` vectors of records, `x_stride` bytes apart:
    out[c * out_stride + r] = w[r] . x[c]; a row of blocks is read once for all vectors."""
    args = [("ptr noalias", "w"), ("i64", "w_stride"), ("i64", "rows"), ("ptr noalias", "x")]
    args += [("i64", "x_stride"), ("i64", "blocks"), ("ptr noalias", "out"), ("i64", "out_stride")]
    f = module.function(dots_name(name, count), args)
    t, lanes = BLOCKS[name], target.lanes
    whole, units = units_of(f, t, "%blocks")
    real, count_of = vector("float", lanes), t.subs * (2 if t.pair else 1)
    few = vector("float", count_of)
    groups = _groups(t, target)
    parts = 2 if count <= 2 and len(groups) > 1 else 1  # one addition waits for the one before
    # A load that broadcasts is free beside the shuffles that eight lanes need.
    alone = all(len(set(subs)) == 1 for subs in groups)
    through_memory = lanes == 8 and alone and t.subs >= 8
    spilled = f.alloca("float", 32) if through_memory else ""
    start = [(real, "zeroinitializer")] * parts + [(few, "zeroinitializer")]
    with f.loop(0, "%rows") as r:
        w = f.gep("i8", "%w", f.mul(r.index, "%w_stride"))
        rest = w
        if t.blocks > 1:
            rest = padded(f, w, whole, "%blocks", t.nbytes // t.blocks, t.blocks)
        with f.loop(0, units, carry=start * count) as u:
            at = f.gep("i8", w, f.mul(u.index, t.nbytes))
            for line in range(0, t.nbytes, 64):
                f.call("void", "llvm.prefetch.p0", ("ptr", f.gep("i8", at, _AHEAD + line)), *SOON)
            if t.blocks > 1:
                at = f.select(f.icmp("slt", "i64", u.index, whole), "ptr", at, rest)
            unit = Unit(f, target, at, t.nbytes)
            digits = t.vectors(unit)
            pair = t.pair(unit) if t.pair else ""
            scales, least = ("", None) if t.pair else t.scales(unit)
            following: list[Value] = []
            for c in range(count):
                *sums, offset = u.carried[c * (parts + 1) : (c + 1) * (parts + 1)]
                place = f.add(f.mul("%x_stride", c), f.mul(u.index, record_bytes(t)))
                record = f.gep("i8", "%x", place)
                factors = f.gep("i8", record, 2 * t.unit)
                given = _given(f, t, target, record)
                if pair:
                    both = f.load(few, factors, 4 * min(t.subs, 8))
                    by = f.op("fmul", few, pair, both)
                    offset = f.op("fadd", few, offset, by)
                else:
                    x_scales, x_sums = (
                        f.load(few, f.gep("float", factors, k), 4 * min(t.subs, 8))
                        for k in (0, t.subs)
                    )
                    by = f.op("fmul", few, scales, x_scales)
                    offset = f.intrinsic("fma", few, least or scales, x_sums, offset)
                if through_memory:
                    f.store(few, by, spilled, 32)
                for g, (lane_subs, members) in enumerate(groups.items()):
                    total = _sum(f, t, target, [(digits[v], given[v]) for v in members])
                    number = f.cast("sitofp", vector("i32", lanes), total, real)
                    if through_memory:
                        one = f.load("float", f.gep("float", spilled, lane_subs[0]), 4)
                        spread = f.splat("float", lanes, one)
                    else:
                        spread = f.shuffle(few, by, "poison", lane_subs)
                    sums[g % parts] = f.intrinsic("fma", real, number, spread, sums[g % parts])
                following += [*sums, offset]
            u.next = following
        for c in range(count):
            *sums, offset = u.carried[c * (parts + 1) : (c + 1) * (parts + 1)]
            total = _reduced(f, lanes, f.op("fadd", real, *sums) if parts == 2 else sums[0])
            zero = 128 if _raised(t, target) else t.zero
            if t.least or zero:
                if t.pair:
                    upper = range(t.subs, 2 * t.subs)
                    offset = f.shuffle(few, offset, "poison", upper)
                more = _reduced(f, t.subs, offset)
                if zero or t.sign < 0:
                    more = f.op("fmul", "float", more, f32(t.sign if t.pair else -zero))
                total = f.op("fadd", "float", total, more)
            place = f.add(f.mul("%out_stride", c), r.index)
            f.store("float", total, f.gep("float", "%out", place), 4)
    f.ret()


SOON = (("i32", "0"), ("i32", "3"), ("i32", "1"))


def _reduced(f: Function, lanes: int, x: Value) -> Value:
    type_ = vector("float", lanes)
    name = f"llvm.vector.reduce.fadd.v{lanes}f32"
    return f.call("float", name, ("float", f32(-0.0)), (type_, x), flags="reassoc")


def _groups(t: BlockType, target: Target) -> dict[tuple[int, ...], list[int]]:
    """Vectors by the parts that their lanes belong to: those of equal parts share a sum."""
    out: dict[tuple[int, ...], list[int]] = {}
    for v, runs in enumerate(t.order(target.width)):
        subs = tuple(run * RUN // t.sub for run in runs for _ in range(RUN // 4))
        out.setdefault(subs, []).append(v)
    return out


def _given(f: Function, t: BlockType, target: Target, record: Value) -> list[list[Value]]:
    """The activations for each vector of digits: high and low bytes, or the words of its halves."""
    width = target.width
    words = in_words(t, target)
    type_ = vector("i16", width // 2) if words else vector("i8", width)
    starts = range(0, 2 * t.unit, 2 * width)
    return [
        [f.load(type_, f.gep("i8", record, at + k), min(width, 64)) for k in (0, width)]
        for at in starts
    ]


def _sum(
    f: Function, t: BlockType, target: Target, pairs: Sequence[tuple[Value, list[Value]]]
) -> Value:
    """Lanes of int32: the sums over some neighbours of digits times activations."""
    width, lanes = target.width, target.lanes
    small, whole = vector("i8", width), vector("i32", lanes)
    total = ""
    if in_words(t, target):
        half = width // 2
        words = vector("i16", half)
        for d, given in pairs:
            for k in range(2):
                some = f.shuffle(small, d, "poison", range(k * half, k * half + half))
                wide = f.cast("sext", vector("i8", half), some, words)
                one = f.call(whole, "llvm.x86.avx2.pmadd.wd", (words, wide), (words, given[k]))
                total = f.op("add", whole, total, one) if total else one
        return total
    if target.arm or target.dot:
        for part in range(2):
            if part:
                total = f.op("shl", whole, total, constant("i32", lanes, "8"))
            for d, given in pairs:
                if _raised(t, target):
                    d = f.op("xor", small, d, constant("i8", width, "-128"))
                total = _dot(f, target, total or "zeroinitializer", d, given[part])
        return total
    pair = vector("i16", width // 2)
    halves = []
    for part in range(2):
        sums = ""
        for d, given in pairs:
            one = f.call(pair, "llvm.x86.avx2.pmadd.ub.sw", (small, d), (small, given[part]))
            sums = f.op("add", pair, sums, one) if sums else one
        weight = constant("i16", width // 2, "1" if part else "256")
        halves.append(f.call(whole, "llvm.x86.avx2.pmadd.wd", (pair, sums), (pair, weight)))
    return f.op("add", whole, *halves)


def _raised(t: BlockType, target: Target) -> bool:
    """Whether signed digits have to become unsigned ones, 128 more."""
    return t.signed and target.dot and not target.arm


def _dot(f: Function, target: Target, total: Value, a: Value, b: Value) -> Value:
    """total + the sums of four neighbouring products of bytes; without an instruction for that,
    the products of a run of bytes in any lanes."""
    small, whole = vector("i8", target.width), vector("i32", target.lanes)
    if not target.arm:
        words = [(whole, f.cast("bitcast", small, x, whole)) for x in (a, b)]
        return f.call(whole, "llvm.x86.avx512.vpdpbusd.512", (whole, total), *words)
    if target.dot:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return f.call(whole, name, (whole, total), (small, a), (small, b))
    half, words_of = vector("i8", 8), vector("i16", 8)
    for k in range(2):
        some = [f.shuffle(small, x, "poison", range(8 * k, 8 * k + 8)) for x in (a, b)]
        given = [(half, x) for x in some]
        products = f.call(words_of, "llvm.aarch64.neon.smull.v8i16", *given)
        wide = f.call(whole, "llvm.aarch64.neon.saddlp.v4i32.v8i16", (words_of, products))
        total = f.op("add", whole, total, wide)
    return total


def quantize_library(name: str, dtype: str, target: Target) -> tuple[str, tuple[str, ...]]:
    """A module with `quantize`, and the name of it."""
    module = Module()
    quantize(module, name, dtype, target)
    return module.text(), (quantize_name(name, dtype),)


def dots_library(name: str, count: int, target: Target) -> tuple[str, tuple[str, ...]]:
    """A module with `dots` for a number of vectors, and the name of it."""
    module = Module()
    dots(module, name, count, target)
    return module.text(), (dots_name(name, count),)
