"""Rows of quantized blocks times one vector of halfs, on matrix units: CUDA text.

Such a product is bound by instructions if each weight becomes a float and is multiplied on its own.
Here a group takes 16 rows, and its simdgroups share out the blocks along them. A is 16 rows by 16
weights as the integers that they are stored as, B has the vector in all of its columns.

- A field in the low 10 bits of a half is that number times 2**-24, a subnormal half, which matrix
  units take exactly. So one masking of a word makes two weights, without a conversion.
- What is subtracted from every digit (the 8 of Q4_0) is one more product of the vector, with a
  constant; so is what minima are multiplied with.
- A sum over k does not depend on the order of k. Each lane of four takes four neighbouring bytes,
  of which every second one makes a pair of halfs; the vector's halfs are paired alike.
- Scales, one for each 16 or more weights, are applied to sums in float32.

Blocks are copied into threadgroup memory some steps ahead, in pieces of 16 bytes: they begin at
even addresses only, and what is on its way needs no registers there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from string import Template

from tensorlogic.codegen.bits import FIELD, Simplifier, linear, power_of_two
from tensorlogic.codegen.blocks import FIRST, Blocks
from tensorlogic.codegen.c_text import KernelText, bare
from tensorlogic.codegen.gpu_blocks import alignment
from tensorlogic.kernels.ir import Buffer, Expr, binary, const, load, nodes_of, replaced, var
from tensorlogic.quants import QUANTS, QuantType

DEPTH = 16
"""Weights of a row in one product of matrices."""
ROWS = 16
SIMDS = 4
"""Simdgroups of a group: its turns along the blocks of its rows."""
MEMORY = 46 * 1024
"""Bytes of threadgroup memory for copies, at most."""
_NAMES = ("p", "h", "all", "first", "Decoded", "decoded", "masked", "word")


@dataclass(frozen=True)
class Part:
    """16 neighbours of a row: as a field of the words of their bytes, of which the value is
    scale * (field + bias) + least."""

    words: tuple[Expr, ...]
    masks: tuple[int, ...]
    flip: int
    bias: int
    scale: Expr
    least: Expr | None


_DATA, _HALVES = Buffer("p", "u8"), Buffer("h", "f16")


def _element(quant: QuantType, digits: tuple[int, ...], at: int) -> Expr:
    """What the element `at` after `FIRST` is decoded from."""

    def byte(place: Expr) -> Expr:
        return load(_DATA, binary("add", place, 0))

    def half(place: Expr) -> Expr:
        return load(_HALVES, const(place.attr // 2, "i64"))

    known = tuple(const(d, "i64") for d in digits)
    return Simplifier({}, {}).of(quant.decode(byte, half, (*known, FIRST + at)))


def _place(address: Expr) -> int | None:
    """The constant c if an address is `FIRST` + c."""
    ends = [Simplifier({FIRST.attr: const(n, "i64")}, {}).of(address) for n in (0, 4)]
    if any(e.op != "const" for e in ends) or ends[1].attr - ends[0].attr != 4:
        return None
    return int(ends[0].attr)


@cache
def can_multiply(name: str) -> bool:
    """Whether elements of a quantized type are fields of bytes of their own, and copies of its
    blocks can be on their way while others are multiplied."""
    quant = QUANTS[name]
    if quant.digits[-1] % DEPTH:
        return False
    try:
        decoder(quant)
    except _Unlike:
        return False
    return stages(quant) > 1


class _Unlike(Exception):
    """A quantized type whose elements are no such fields."""


def _parts(quant: QuantType, text: KernelText) -> tuple[list[Part], dict[int, str], Blocks]:
    """A block's elements, the words (by their place) that they are fields of, and the loads of
    what they share."""
    *outer, last = quant.digits
    elements = [
        _element(quant, digits, at)
        for digits in product(*(range(n) for n in outer))
        for at in range(0, last, DEPTH)
    ]
    words: dict[int, str] = {}
    shared = []
    loads: dict[Expr, Expr] = {}
    for n in nodes_of(*elements):
        if n.op != "load":
            continue
        if FIRST not in nodes_of(n.args[0]):
            shared.append(n)
            continue
        place = _place(n.args[0])
        if place is None:
            raise _Unlike
        if place not in words:
            words[place] = text.unique("word")
            text.env["var", words[place]] = (words[place], 0)
        loads[n] = var(words[place], "i32") & 255
    blocks = Blocks(text, shared, 1, {}, most=alignment(quant))
    decode = Simplifier({}, loads | dict(blocks.elements(0)))
    return [_part(decode.of(e), set(words.values())) for e in elements], words, blocks


def _part(value: Expr, words: set[str]) -> Part:
    scale, least, field = linear(value, words)
    if field.op != FIELD or scale is None:
        raise _Unlike
    masks, flip, unit, bias = field.attr
    own = {n.attr for n in nodes_of(*field.args) if n.op == "var"}
    steps = bias / unit
    if not own <= words or max(masks) >= 1024 or not (-1024 < steps <= 0 and steps.is_integer()):
        raise _Unlike
    return Part(field.args, masks, flip, int(steps), scale * unit if unit != 1.0 else scale, least)


def decoder(quant: QuantType) -> str:
    """`Decoded_NAME`, a row's block as a lane multiplies it, and `decoded_NAME(p, first)`, which
    makes it of the block at p; first: the first of the lane's four among 16 neighbours."""
    name = quant.name
    text = KernelText((_DATA, _HALVES), (), _NAMES)
    text.c_names = {_DATA: "p", _HALVES: "h"}
    text.env["index", FIRST.attr] = ("first", 0)
    parts, words, blocks = _parts(quant, text)
    wide = min(alignment(quant), 4)
    for place, word in words.items():
        text.line(f"const int {word} = neighbours<{wide}>(p + first + {place});")
        text.line(f"const int {word}_odd = uint({word}) >> 8;")
        text.env["var", f"{word}_odd"] = (f"{word}_odd", 0)
    blocks.declare()
    blocks.read(False, True)
    groups = _groups(parts, text)
    text.count(e for p in parts for e in (p.scale, *([p.least] if p.least is not None else [])))
    for i, part in enumerate(parts):
        for side in (0, 1):
            text.line(f"all.pairs[{i}][{side}] = {_pair(part, text, words, side)};")
    for g, first in enumerate(sorted(set(groups))):
        part = parts[groups.index(first)]
        text.line(f"all.scale[{g}] = {bare(text.expr(part.scale))};")
        if part.least is not None:
            text.line(f"all.least[{g}] = {bare(text.expr(part.least))};")
    halves = any("h[" in line for line in text.chain[0].lines)
    count = len(set(groups))
    least = f" float least[{count}];" if parts[0].least is not None else ""
    return "\n".join(
        (
            f"struct Decoded_{name} {{",
            f"    uint pairs[{len(parts)}][2];",
            f"    float scale[{count}];{least}",
            "};",
            f"FUNC Decoded_{name} decoded_{name}(const uchar* p, int first) {{",
            *(["    const half* h = (const half*)p;"] if halves else []),
            f"    Decoded_{name} all;",
            *text.chain[0].lines,
            "    return all;",
            "}",
            "",
        )
    )


def _groups(parts: list[Part], text: KernelText) -> list[int]:
    """For each part the first of those before it with the same scale and minimum."""
    keys = [
        (text._key(p.scale), None if p.least is None else text._key(p.least), p.bias) for p in parts
    ]
    out: list[int] = []
    for i, key in enumerate(keys):
        out.append(out[-1] if i and key == keys[i - 1] else i)
    return out


def _pair(part: Part, text: KernelText, words: Mapping[int, str], side: int) -> str:
    """Two weights as halfs: of the first and third byte of a word, or of the other two."""
    by = {}
    if side:
        every = nodes_of(*part.words)
        by = {n: var(f"{n.attr}_odd", n.dtype) for n in every if n.op == "var"}
    bits = f"{part.flip * 0x10001}u"
    for word, mask in zip(part.words, part.masks, strict=True):
        shown = bare(text.expr(replaced(word, by, {})))
        bits = f"masked({shown}, {mask * 0x10001}u, {bits})"
    return bits


def blocks_at_once(quant: QuantType) -> int:
    """Blocks of a row that a simdgroup copies at a time: a power of two from 200 bytes on, for
    which the last copy of a row ends with the row."""
    blocks = 1
    while (size := blocks * quant.nbytes) < 200 or (size + _shift(size)) % 16:
        blocks *= 2
    return blocks


def _shift(size: int) -> int:
    """How far from the beginning of a piece copies of such a size begin, at most."""
    return -power_of_two(size) % 16


def _pieces(quant: QuantType) -> int:
    """Pieces of 16 bytes that a row's share of a copy stands in, wherever in a piece it begins."""
    size = blocks_at_once(quant) * quant.nbytes
    return (size + _shift(size)) // 16


def _line(quant: QuantType) -> int:
    """Bytes from row to row of a copy: an odd number of pieces, so eight rows meet all banks."""
    return (_pieces(quant) | 1) * 16


def stage_bytes(quant: QuantType) -> int:
    """Threadgroup memory for a copy of each simdgroup."""
    return _line(quant) * ROWS * SIMDS


def stages(quant: QuantType) -> int:
    """Copies that have room, one of which is being multiplied."""
    return min(MEMORY // stage_bytes(quant), 3)


def functions(quant: QuantType) -> str:
    """`dots_NAME(w, stride, rows, x, chunks, stage, sums)`: the sums of 16 rows of blocks, the
    first at w and each `stride` bytes after the other, times the vector at x, those of each
    simdgroup apart. Rows from `rows` on are the last one again. `chunks` times `blocks_at_once` are
    the blocks of a row. Where addresses are no multiples of 16 (of 8: x), sums are NaN."""
    text = KernelText((_DATA, _HALVES), (), _NAMES)
    parts, _, _ = _parts(quant, text)
    groups = _groups(parts, text)
    firsts = sorted(set(groups))
    lines = []
    for i, part in enumerate(parts):
        g = firsts.index(groups[i])
        if groups[i] == i:
            lines.append("c.clear();")
            if part.least is not None:
                lines.append("s.clear();")
        lines.append(f"b = vector_pairs(x + {DEPTH * i});")
        if part.bias:
            lines.append(f"multiply_same(c, {(0x8000 - part.bias) * 0x10001}u, b);")
        lines.append(f"multiply(c, low.pairs[{i}], high.pairs[{i}], b);")
        if part.least is not None:
            lines.append("multiply_same(s, 0x10001u, b);")
        if i + 1 == len(parts) or groups[i + 1] == i + 1:
            for side, of in enumerate(("low", "high")):
                lines.append(
                    f"total[{side}] = fmaf({of}.scale[{g}], c.part[{2 * side}], total[{side}]);"
                )
                if part.least is not None:
                    lines.append(
                        f"total[{side}] = fmaf({of}.least[{g}], s.part[0], total[{side}]);"
                    )
    least = ["Sums s;"] if parts[0].least is not None else []
    body = "\n".join(f"    {line}" for line in ["Sums c;", *least, "uint2 b;", *lines])
    blocks, pieces = blocks_at_once(quant), _pieces(quant)
    return decoder(quant) + Template(_DOTS).substitute(
        name=quant.name,
        body=body,
        length=str(quant.block),
        nbytes=str(quant.nbytes),
        blocks=str(blocks),
        bytes=str(blocks * quant.nbytes),
        stages=str(stages(quant)),
        simds=str(SIMDS),
        line=str(_line(quant)),
        stage=str(ROWS * _line(quant)),
        pieces=str(pieces),
        copies=str(-(-pieces * ROWS // 32)),
        shift="int(size_t(p) & 15)" if blocks * quant.nbytes % 16 else "0",
    )


PRELUDE = """\
#undef KERNEL
#define KERNEL(name, threads) \\
    extern "C" __global__ void __launch_bounds__(threads, 512 / (threads)) name
#define any_lane(x) __any_sync(0xffffffffu, x)
FUNC bool not_finite(float x) { return (as_int(x) & 0x7f800000) == 0x7f800000; }
struct Sums {
    float part[4];
    __device__ __forceinline__ void clear() { part[0] = part[1] = part[2] = part[3] = 0.0f; }
};
template <int ALIGN> FUNC int neighbours(const uchar* p) {
    if (ALIGN >= 4) return *(const int*)p;
    return int(*(const ushort*)p | uint(*(const ushort*)(p + 2)) << 16);
}
FUNC void multiply4(Sums& c, uint a0, uint a1, uint a2, uint a3, uint2 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.part[0]), "+f"(c.part[1]), "+f"(c.part[2]), "+f"(c.part[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b.x), "r"(b.y));
}
FUNC void multiply(Sums& c, const uint* low, const uint* high, uint2 b) {
    multiply4(c, low[0], high[0], low[1], high[1], b);
}
FUNC void multiply_same(Sums& c, uint pair, uint2 b) {
    multiply4(c, pair, pair, pair, pair, b);
}
FUNC uint2 vector_pairs(const half* x) {
    const uint2 four = *(const uint2*)x;
    uint2 pairs;
    asm("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(pairs.x) : "r"(four.x), "r"(four.y));
    asm("prmt.b32 %0, %1, %2, 0x7632;" : "=r"(pairs.y) : "r"(four.x), "r"(four.y));
    return pairs;
}
FUNC void copy_piece(uchar* to, const uchar* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"((uint)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
#define COPIES_END() asm volatile("cp.async.commit_group;" ::: "memory")
#define COPIES_WAIT(left) asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory")
"""

_DOTS = """\
FUNC void multiply_$name(const uchar* p, const uchar* q, const half* x, int first, float* total) {
    const Decoded_$name low = decoded_$name(p, first), high = decoded_$name(q, first);
$body
}
FUNC void dots_$name(
        const uchar* w, index_t stride, int rows, const half* x, int chunks, uchar* stage,
        float* sums) {
    const int lane = int(LANE), first = lane % 4 * 4;
    const bool fast = ((size_t(w) | size_t(stride)) & 15) == 0 && (size_t(x) & 7) == 0;
    float total[2] = {0.0f, 0.0f};
    if (fast) {
        uchar* const mine = stage + SIMDGROUP * ($stages * $stage);
        int from[$copies], to[$copies];
        UNROLL
        for (int i = 0; i < $copies; i++) {
            const int row = (i * 32 + lane) / $pieces, place = (i * 32 + lane) % $pieces * 16;
            from[i] = int((row < rows ? row : rows - 1) * stride) + place;
            to[i] = row * $line + place;
        }
        const auto copy = [&](int chunk, int slot) {
            if (chunk < chunks) {
                const uchar* p = w + index_t(chunk) * $bytes;
                p -= $shift;
                UNROLL
                for (int i = 0; i < $copies; i++) {
                    if (i * 32 + lane < 16 * $pieces)
                        copy_piece(mine + slot * $stage + to[i], p + from[i]);
                }
            }
            COPIES_END();
        };
        UNROLL
        for (int s = 0; s < $stages - 1; s++) copy(int(SIMDGROUP) + s * $simds, s);
        int slot = 0;
        for (int chunk = int(SIMDGROUP); chunk < chunks; chunk += $simds) {
            COPIES_WAIT($stages - 2);
            SIMD_BARRIER();
            copy(chunk + ($stages - 1) * $simds, slot == 0 ? $stages - 1 : slot - 1);
            const uchar* p = w + index_t(chunk) * $bytes;
            p = mine + slot * $stage + lane / 4 * $line + $shift;
            const half* at = x + index_t(chunk) * ($blocks * $length) + first;
            UNROLL
            for (int b = 0; b < $blocks; b++)
                multiply_$name(
                    p + b * $nbytes, p + 8 * $line + b * $nbytes, at + b * $length, first, total);
            slot = slot == $stages - 1 ? 0 : slot + 1;
        }
        COPIES_WAIT(0);
    } else {
        total[0] = total[1] = as_float(0x7fc00000);
    }
    if (lane % 4 == 0) {
        sums[SIMDGROUP * 16 + lane / 4] = total[0] * 16777216.0f;
        sums[SIMDGROUP * 16 + lane / 4 + 8] = total[1] * 16777216.0f;
    }
}
"""
