"""Quantized blocks as vectors of bytes: how the digits, scales and minimums of a type are read.

A unit is one block of 256 elements or four of 32. Its elements are `scale * (digit - zero)` or
`scale * digit + least`, where scales and minimums belong to `sub` neighbouring elements. `vectors`
gives the digits as they come out of the stored bytes by masks and shifts, in an order of elements
of its own (`order`), in runs of 16 neighbours; what they are multiplied with is laid out likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tensorlogic.codegen.emit import Value, constant, vector
from tensorlogic.codegen.llvm_unit import RUN, Unit
from tensorlogic.quants import QUANTS

Whole = tuple[Value, Value]
Scales = tuple[Value, Value | None]
"""Vectors of float32, one number for each `sub` elements of a unit: scales, and minimums."""


@dataclass(frozen=True)
class BlockType:
    """A quantized type as bytes. `top` is the greatest digit, `zero` is subtracted from each;
    `signed` digits are int8 as they stand (then `zero` is 0). `whole` gives scales that are int8
    numbers, `whole_top` at most, times one factor as those; `whole_least` gives minimums that are
    uint8 numbers times a factor. `pair` gives scales and minimums side by side, the minimums to be
    taken times `sign`."""

    name: str
    sub: int
    top: int
    zero: int
    least: bool
    order: Callable[[int], list[list[int]]]
    vectors: Callable[[Unit], list[Value]]
    scales: Callable[[Unit], Scales]
    signed: bool = False
    whole: Callable[[Unit], Whole] | None = None
    whole_top: int = 1
    whole_least: Callable[[Unit], Whole] | None = None
    pair: Callable[[Unit], Value] | None = None
    sign: float = 1.0

    #: x of a unit: bytes or words of digits, then its scales and its sums, each for `sub` elements.
    ALIGN: ClassVar[int] = 64

    @property
    def block(self) -> int:
        return QUANTS[self.name].block

    @property
    def blocks(self) -> int:
        """Blocks in a unit."""
        return 4 if self.block == 32 else 1

    @property
    def unit(self) -> int:
        return self.block * self.blocks

    @property
    def nbytes(self) -> int:
        """Bytes of a unit."""
        return QUANTS[self.name].nbytes * self.blocks

    @property
    def reach(self) -> int:
        """The greatest size of a digit less the zero, times a scale that is a whole number."""
        return (
            max(self.top - self.zero, self.zero, self.top + 1 if self.signed else 0)
            * self.whole_top
        )

    @property
    def subs(self) -> int:
        return self.unit // self.sub


def _nibble_order(blocks: int, stride: int, runs: int, width: int) -> list[list[int]]:
    """Runs of elements of each vector where a byte holds element e and, above it, e + 16 * runs:
    `runs` runs of bytes in each of `blocks` groups of `stride` runs."""
    starts = [g * stride + r for g in range(blocks) for r in range(runs)]
    per = width // RUN
    out = []
    for i in range(0, len(starts), per):
        some = starts[i : i + per]
        out += [some, [s + runs for s in some]]
    return out


def _order_32(width: int) -> list[list[int]]:
    return _nibble_order(4, 2, 1, width)


def _order_k(width: int) -> list[list[int]]:
    return _nibble_order(4, 4, 2, width)


def _order_6(width: int) -> list[list[int]]:
    return _nibble_order(2, 8, 4, width)


def _order_plain(width: int) -> list[list[int]]:
    per = width // RUN
    return [list(range(i, i + per)) for i in range(0, 128 // RUN, per)]


def _order_2(width: int) -> list[list[int]]:
    """Two bits of each of four elements that are 32 apart, in bytes of which 32 are neighbours."""
    starts = [part * 8 + r for part in range(2) for r in range(2)]
    per = width // RUN
    groups = [starts[i : i + per] for i in range(0, 4, per)]
    return [[s + 2 * pair for s in g] for g in groups for pair in range(4)]


def _nibbles(u: Unit, at: int) -> list[tuple[Value, Value, Sequence[int]]]:
    """Low and high digits of four blocks of 32, whose nibbles start at byte `at`, and which blocks
    they belong to."""
    stride, per = at + 16, u.target.width // RUN
    out: list[tuple[Value, Value, Sequence[int]]] = []
    for first in range(0, 4, per):
        blocks = range(first, first + per)
        x = u.bytes([b * stride + at for b in blocks], RUN)
        out.append((u.low(x), u.high(x), blocks))
    return out


def _four_bits(at: int) -> Callable[[Unit], list[Value]]:
    return lambda u: [x for low, high, _ in _nibbles(u, at) for x in (low, high)]


def _five_bits(at: int) -> Callable[[Unit], list[Value]]:
    """The fifth bits of a block are a word before the nibbles, which start at byte `at`."""

    def vectors(u: Unit) -> list[Value]:
        out = []
        for low, high, blocks in _nibbles(u, at):
            for half, x in enumerate((low, high)):
                fifths = u.spread_words([b * (at + 16) + at - 4 + 2 * half for b in blocks])
                bits = [1 << i for i in range(8)] * (u.target.width // 8)
                out.append(u.join(x, u.where_bits(fifths, bits, 16)))
        return out

    return vectors


def _eight_bits(u: Unit) -> list[Value]:
    width = u.target.width
    if width == 16:
        return [u.bytes([b * 34 + 2 + r], 16) for b in range(4) for r in (0, 16)]
    per = width // 32
    return [u.bytes([b * 34 + 2 for b in range(i, i + per)], 32) for i in range(0, 4, per)]


def _scales_32(nbytes: int) -> Callable[[Unit], Scales]:
    """Four blocks, each with its scale at its start."""
    return lambda u: (u.floats(1, [b * nbytes for b in range(4)])[0], None)


def _vectors_4k(u: Unit) -> list[Value]:
    width = u.target.width
    found = (u.bytes([16 + i], width) for i in range(0, 128, width))
    return [x for v in found for x in (u.low(v), u.high(v))]


def _vectors_5k(u: Unit) -> list[Value]:
    """Bit k of byte j of the fifth bits belongs to element 32 * k + j."""
    width = u.target.width
    out = []
    for i in range(0, 128, width):
        v = u.bytes([48 + i], width)
        fifths = u.bytes([16 + i % 32], width) if width < 32 else u.bytes([16] * (width // 32), 32)
        runs = [(i + r) // 32 for r in range(0, width, RUN)]
        for half, digits in enumerate((u.low(v), u.high(v))):
            bits = [1 << (2 * pair + half) for pair in runs for _ in range(RUN)]
            out.append(u.join(digits, u.where_bits(fifths, bits, 16)))
    return out


def _numbers_k(u: Unit) -> Value:
    """Eight scales and eight minimums of six bits in twelve bytes (see quants.py), as bytes."""
    f = u.f
    first, second, third = (u.load("i32", at, 2) for at in (4, 8, 12))

    def masked(x: Value, n: int) -> Value:
        return f.op("and", "i32", x, str(n))

    def eight(x: Value, upper: Value) -> Value:
        """Four numbers of a word's lower bits, and four of which it has the upper two bits."""
        tops = masked(f.op("lshr", "i32", x, "2"), 0x30303030)
        more = f.op("or", "i32", masked(upper, 0x0F0F0F0F), tops)
        both = [f.cast("zext", "i32", w, "i64") for w in (masked(x, 0x3F3F3F3F), more)]
        return f.op("or", "i64", both[0], f.op("shl", "i64", both[1], "32"))

    type_ = vector("i64", 2)
    joined = "poison"
    words = eight(first, third), eight(second, f.op("lshr", "i32", third, "4"))
    for i, w in enumerate(words):
        joined = f.assign(f"insertelement {type_} {joined}, i64 {w}, i32 {i}")
    return f.cast("bitcast", type_, joined, vector("i8", 16))


def _whole_k(u: Unit) -> Whole:
    return u.f.shuffle(vector("i8", 16), _numbers_k(u), "poison", range(8)), u.half(0)


def _whole_least_k(u: Unit) -> Whole:
    numbers = u.f.shuffle(vector("i8", 16), _numbers_k(u), "poison", range(8, 16))
    return numbers, u.f.op("fneg", "float", u.half(2))


def _pair_k(u: Unit) -> Value:
    """The scales and minimums, side by side, times the two factors of the block."""
    f, wide = u.f, vector("float", 16)
    halves = f.cast("fpext", vector("half", 2), u.load(vector("half", 2), 0, 2), "<2 x float>")
    factors = f.shuffle("<2 x float>", halves, "poison", [0] * 8 + [1] * 8)
    return f.op("fmul", wide, u.real(_numbers_k(u), 16), factors)


def _pair_32(nbytes: int) -> Callable[[Unit], Value]:
    """Four blocks that begin with a scale and a minimum: the scales, then the minimums."""

    def pair(u: Unit) -> Value:
        scales, least = u.floats(2, [b * nbytes for b in range(4)])
        return u.f.shuffle(vector("float", 4), scales, least, range(8))

    return pair


def _halves(pair: Callable[[Unit], Value], subs: int, sign: float) -> Callable[[Unit], Scales]:
    """Scales and minimums on their own."""

    def scales(u: Unit) -> Scales:
        f, wide, x = u.f, vector("float", 2 * subs), pair(u)
        found = [f.shuffle(wide, x, "poison", range(k, k + subs)) for k in (0, subs)]
        if sign < 0:
            found[1] = f.op("fneg", vector("float", subs), found[1])
        return found[0], found[1]

    return scales


def _vectors_6k(u: Unit) -> list[Value]:
    width, out = u.target.width, []
    for i in range(0, 128, width):
        part, lane = divmod(i, 64)
        v = u.bytes([i], width)
        if width == 64:
            upper = u.bytes([128 + part * 32] * 2, 32)
            # The second half of the lanes has its bits two places higher.
            words = u.f.cast("bitcast", u.type, upper, vector("i16", 32))
            shifted = u.f.op("lshr", vector("i16", 32), words, _steps((0, 2), 32))
            moved = u.f.cast("bitcast", vector("i16", 32), shifted, u.type)
            out.append(u.join(u.low(v), u.up(u.mask(moved, 3), 4)))
            out.append(u.join(u.high(v), u.mask(moved, 0x30)))
        else:
            row = lane // 32
            upper = u.bytes([128 + part * 32 + lane % 32], width)
            out.append(u.join(u.low(v), u.up(u.mask(u.down(upper, 2 * row), 3), 4)))
            out.append(u.join(u.high(v), u.mask(u.down(upper, 2 * row), 0x30)))
    return out


def _steps(amounts: Sequence[int], lanes: int) -> Value:
    each = lanes // len(amounts)
    return f"<{', '.join(f'i16 {a}' for a in amounts for _ in range(each))}>"


def _whole_6k(u: Unit) -> Whole:
    return u.load(vector("i8", 16), 192), u.half(208)


def _vectors_2k(u: Unit) -> list[Value]:
    width = u.target.width
    found = (u.bytes([16 + i], width) for i in range(0, 64, width))
    return [u.mask(u.down(v, 2 * pair), 3) for v in found for pair in range(4)]


def _whole_2k(u: Unit) -> Whole:
    type_ = vector("i8", 16)
    return u.f.op("and", type_, u.load(type_, 0), constant("i8", 16, "15")), u.half(80)


def _whole_least_2k(u: Unit) -> Whole:
    type_ = vector("i8", 16)
    high = u.f.op("lshr", type_, u.load(type_, 0), constant("i8", 16, "4"))
    return high, u.f.op("fneg", "float", u.half(82))


def _vectors_3k(u: Unit) -> list[Value]:
    """Bit 4 * part + pair of byte j of the third bits belongs to element 128 part + 32 pair + j."""
    width = u.target.width
    out = []
    for i in range(0, 64, width):
        v = u.bytes([32 + i], width)
        thirds = u.bytes([i % 32], width) if width < 64 else u.bytes([0, 0], 32)
        parts = [(i + r) // 32 for r in range(0, width, RUN)]
        for pair in range(4):
            bits = [1 << (4 * part + pair) for part in parts for _ in range(RUN)]
            out.append(u.join(u.mask(u.down(v, 2 * pair), 3), u.where_bits(thirds, bits, 4)))
    return out


def _whole_3k(u: Unit) -> Whole:
    """Sixteen scales of six bits: nibbles of eight bytes, then two bits of each of four bytes."""
    f = u.f
    low = u.load("i64", 96, 2)
    top = u.load("i32", 104, 2)

    def tops(shift: int) -> Value:
        """Two bits of each byte, as the upper bits of scales."""
        moved = f.op("lshr", "i32", top, str(shift)) if shift else top
        kept = f.op("and", "i32", moved, str(0x03030303))
        return f.op("shl", "i32", kept, "4")

    words = []
    for part in range(2):
        moved = f.op("lshr", "i64", low, "4") if part else low
        nibbles = f.op("and", "i64", moved, str(0x0F0F0F0F0F0F0F0F))
        pair = [f.cast("zext", "i32", tops(2 * (2 * part + half)), "i64") for half in (0, 1)]
        both = f.op("or", "i64", pair[0], f.op("shl", "i64", pair[1], "32"))
        words.append(f.op("or", "i64", nibbles, both))
    type_ = vector("i64", 2)
    joined = "poison"
    for i, w in enumerate(words):
        joined = f.assign(f"insertelement {type_} {joined}, i64 {w}, i32 {i}")
    given = vector("i8", 16)
    raw = f.cast("bitcast", type_, joined, given)
    return f.op("sub", given, raw, constant("i8", 16, "32")), u.half(108)


def _product(
    whole: Callable[[Unit], Whole], least: Callable[[Unit], Whole] | None = None
) -> Callable[[Unit], Scales]:
    """Scales, and minimums, that are whole numbers times one factor."""

    def product(u: Unit, of: Callable[[Unit], Whole], signed: bool) -> Value:
        numbers, factor = of(u)
        return u.scaled(u.real(numbers, 16, signed), 16, factor)

    def scales(u: Unit) -> Scales:
        return product(u, whole, True), product(u, least, False) if least else None

    return scales


def _paired(
    name: str,
    top: int,
    order: Callable[[int], list[list[int]]],
    vectors: Callable[[Unit], list[Value]],
    pair: Callable[[Unit], Value],
) -> BlockType:
    """A type with minimums, one for each 32 elements."""
    if QUANTS[name].block == 32:
        scales = _halves(pair, 4, 1.0)
        return BlockType(name, 32, top, 0, True, order, vectors, scales, pair=pair)
    return BlockType(
        name,
        32,
        top,
        0,
        True,
        order,
        vectors,
        _halves(pair, 8, -1.0),
        whole=_whole_k,
        whole_top=63,
        whole_least=_whole_least_k,
        pair=pair,
        sign=-1.0,
    )


BLOCKS: dict[str, BlockType] = {
    t.name: t
    for t in (
        BlockType("q4_0", 32, 15, 8, False, _order_32, _four_bits(2), _scales_32(18)),
        _paired("q4_1", 15, _order_32, _four_bits(4), _pair_32(20)),
        BlockType("q5_0", 32, 31, 16, False, _order_32, _five_bits(6), _scales_32(22)),
        _paired("q5_1", 31, _order_32, _five_bits(8), _pair_32(24)),
        BlockType("q8_0", 32, 127, 0, False, _order_plain, _eight_bits, _scales_32(34), True),
        BlockType(
            "q2_K",
            16,
            3,
            0,
            True,
            _order_2,
            _vectors_2k,
            _product(_whole_2k, _whole_least_2k),
            whole=_whole_2k,
            whole_top=15,
            whole_least=_whole_least_2k,
        ),
        BlockType(
            "q3_K",
            16,
            7,
            4,
            False,
            _order_2,
            _vectors_3k,
            _product(_whole_3k),
            whole=_whole_3k,
            whole_top=32,
        ),
        _paired("q4_K", 15, _order_k, _vectors_4k, _pair_k),
        _paired("q5_K", 31, _order_k, _vectors_5k, _pair_k),
        BlockType(
            "q6_K",
            16,
            63,
            32,
            False,
            _order_6,
            _vectors_6k,
            _product(_whole_6k),
            whole=_whole_6k,
            whole_top=128,
        ),
    )
}
