"""Quantized weights as lines of sixteen rows: what a lane reads belongs to one row.

In the file a row's blocks stand one after another, and a vector is put together from bytes, digits,
scales of one row. Here the words of a unit alternate between the rows of a group: line j of unit u
has word j of that unit of each row. Sums of a group then need no shuffles and no horizontal
additions, and sixteen scales are read and multiplied at once. A group has as many bytes as in the
file and stands at the same place, so that a row that is the first of its group is found there.

Only AVX-512 with VNNI has code for it: sixteen lanes of four bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tensorlogic.codegen.emit import KERNEL, Function, Module, Value, constant, f32, vector
from tensorlogic.codegen.llvm_blocks import BLOCKS, BlockType
from tensorlogic.codegen.llvm_dots import places, record_bytes
from tensorlogic.codegen.llvm_unit import Target

ROWS = 16
"""Rows of a group: lanes of a vector."""
LINE = 4 * ROWS
"""Bytes of a line: a word of each row."""
WHOLE, REAL, SMALL = vector("i32", ROWS), vector("float", ROWS), vector("i8", LINE)
_ZERO = LINE
"""A byte of zero, in shuffles beside a line."""
HIGH = 1 / 16
"""What a digit in the upper half of a byte is to be taken times."""


@dataclass(frozen=True)
class Word:
    """Four digits of a line: in the "lower" or the "upper" halves of its bytes or in "whole" ones,
    and which elements of the unit they are: `at` within run `run`."""

    line: int
    kind: str
    run: int
    at: int


@dataclass(frozen=True)
class Lines:
    """How a type lies in lines. `halves`: of the two-byte words of a unit in the order of lines
    their places in the file; `parts`: the digits of each `sub` elements; `scales`: reads what they
    are multiplied with."""

    type: BlockType
    halves: tuple[int, ...]
    parts: tuple[tuple[Word, ...], ...]
    scales: Callable[[Unit], Scales]

    def large(self, part: int) -> bool:
        """Whether products of a part come out 16 times as large, as those of upper digits do. Where
        scales are not whole numbers, all parts are alike."""
        return any(w.kind == "upper" for w in self.parts[part])

    @property
    def zero(self) -> int:
        """What is subtracted from digits; signed ones are raised, so that none is negative."""
        return 128 if self.type.signed else self.type.zero


@dataclass(frozen=True)
class Scales:
    """Of each part: scales as they are (float32), or whole numbers, four in a word (`numbers`),
    times a factor; then there are minimums like that, too."""

    real: tuple[Value, ...] = ()
    numbers: tuple[Value, ...] = ()
    least: tuple[Value, ...] = ()
    factors: tuple[Value, ...] = ()


@dataclass
class Unit:
    """One unit of a group, at a pointer to its first line."""

    f: Function
    pointer: Value
    lines: dict[int, Value] = field(default_factory=dict)

    def line(self, j: int) -> Value:
        """A line. Memory is read ahead for loads that go through it in order, which nothing but
        `volatile` keeps."""
        if j not in self.lines:
            at = self.f.gep("i8", self.pointer, LINE * j)
            self.lines[j] = self.f.assign(f"load volatile {WHOLE}, ptr {at}, align {LINE}")
        return self.lines[j]

    def digits(self, word: Word, moved: bool = False) -> Value:
        """Four digits of each row; upper ones 16 times as large unless they are `moved`."""
        x = self.line(word.line)
        if word.kind == "whole":
            return self.f.op("xor", WHOLE, x, constant("i32", ROWS, str(0x80808080)))
        if word.kind == "lower":
            return self.masked(x, 0x0F0F0F0F)
        if not moved:
            return self.masked(x, 0xF0F0F0F0)
        return self.masked(self.f.op("lshr", WHOLE, x, constant("i32", ROWS, "4")), 0x0F0F0F0F)

    def masked(self, x: Value, mask: int) -> Value:
        return self.f.op("and", WHOLE, x, constant("i32", ROWS, str(mask)))

    def half(self, line: int, upper: bool) -> Value:
        """A float16 of each row as float32."""
        f, halves = self.f, vector("i16", ROWS)
        x = self.line(line)
        if upper:
            x = f.op("lshr", WHOLE, x, constant("i32", ROWS, "16"))
        raw = f.cast("bitcast", halves, f.cast("trunc", WHOLE, x, halves), vector("half", ROWS))
        return f.cast("fpext", vector("half", ROWS), raw, REAL)

    def bytes(self, x: Value, order: Sequence[int | None]) -> Value:
        """Words made of bytes of a word each, None being zero."""
        f = self.f
        given = f.cast("bitcast", WHOLE, x, SMALL)
        lanes = [_ZERO if b is None else 4 * r + b for r in range(ROWS) for b in order]
        moved = f.shuffle(SMALL, given, "zeroinitializer", lanes)
        return f.cast("bitcast", SMALL, moved, WHOLE)


def _scales_32(u: Unit) -> Scales:
    return Scales(real=tuple(u.half(b // 2, b % 2 == 1) for b in range(4)))


def _scales_4k(u: Unit) -> Scales:
    """Eight scales and eight minimums of six bits in three words (see quants.py)."""
    f = u.f
    _, first, second, third = (u.line(j) for j in range(4))

    def down(x: Value, n: int) -> Value:
        return f.op("lshr", WHOLE, x, constant("i32", ROWS, str(n)))

    def eight(x: Value, upper: Value) -> tuple[Value, Value]:
        """Four numbers of a word's lower bits, and four of which it has the upper two bits."""
        tops = u.masked(down(x, 2), 0x30303030)
        more = f.op("or disjoint", WHOLE, u.masked(upper, 0x0F0F0F0F), tops)
        return u.masked(x, 0x3F3F3F3F), more

    return Scales(
        numbers=eight(first, third),
        least=eight(second, down(third, 4)),
        factors=(u.half(0, False), u.half(0, True)),
    )


def _words(first: int, count: int, kind: str, run: int) -> tuple[Word, ...]:
    """`count` neighbouring words from line `first` on, whose digits begin at run `run`."""
    return tuple(Word(first + j, kind, run + j // 4, 4 * (j % 4)) for j in range(count))


def _lines_32(name: str, parts: tuple[tuple[Word, ...], ...]) -> Lines:
    """Four blocks that each begin with a scale: the scales in two lines, then the digits."""
    block = BLOCKS[name].nbytes // 8
    scales = tuple(block * b for b in range(4))
    halves = (*scales, *(i for i in range(4 * block) if i not in scales))
    return Lines(BLOCKS[name], halves, parts, _scales_32)


def _lines_4_0() -> Lines:
    parts = tuple(
        _words(2 + 4 * b, 4, "lower", 2 * b) + _words(2 + 4 * b, 4, "upper", 2 * b + 1)
        for b in range(4)
    )
    return _lines_32("q4_0", parts)


def _lines_8_0() -> Lines:
    return _lines_32("q8_0", tuple(_words(2 + 8 * b, 8, "whole", 2 * b) for b in range(4)))


def _lines_4k() -> Lines:
    parts = tuple(
        _words(4 + 8 * pair, 8, kind, 4 * pair + 2 * i)
        for pair in range(4)
        for i, kind in enumerate(("lower", "upper"))
    )
    return Lines(BLOCKS["q4_K"], tuple(range(72)), parts, _scales_4k)


LINES = {lines.type.name: lines for lines in (_lines_4_0(), _lines_8_0(), _lines_4k())}
"""The types that have such a form."""


def available(target: Target | None) -> bool:
    """Whether a processor has code for lines."""
    return target is not None and target.dot and target.width == LINE


def interleave_name(name: str) -> str:
    return f"interleave_{name}"


def interleave(name: str) -> str:
    """A module with a kernel that writes groups lo to hi as lines: its argument words are the
    addresses of the rows and of the lines, and the units of a row."""
    lines, module = LINES[name], Module()
    f = module.function(interleave_name(name), KERNEL)
    source, to = (f.load("ptr", f.gep("i64", "%args", i), 8) for i in range(2))
    units = f.load("i64", f.gep("i64", "%args", 2), 8)
    row = f.mul(units, lines.type.nbytes)
    with f.loop("%lo", "%hi") as g, f.loop(0, units) as u, f.loop(0, ROWS) as r:
        at = f.add(
            f.mul(f.add(f.mul(g.index, ROWS), r.index), row), f.mul(u.index, lines.type.nbytes)
        )
        place = f.add(f.mul(g.index, f.mul(row, ROWS)), f.mul(u.index, ROWS * lines.type.nbytes))
        given = f.gep("i8", source, at)
        out = f.gep("i8", to, f.add(place, f.mul(r.index, 4)))
        for i, half in enumerate(lines.halves):
            one = f.load("i16", f.gep("i16", given, half), 2)
            f.store("i16", one, f.gep("i8", out, LINE * (i // 2) + 2 * (i % 2)), 2)
    f.ret()
    return module.text()


# Products of some vectors with groups


def dots_name(name: str, count: int) -> str:
    return f"dots{count}_{name}_lines"


def dots_library(name: str, count: int, target: Target) -> tuple[str, tuple[str, ...]]:
    """A module with `dots` for a number of vectors, and the name of it."""
    module = Module()
    _Dots(module, LINES[name], count, target).write()
    return module.text(), (dots_name(name, count),)


class _Dots:
    """dots(w, w_stride, rows, x, x_stride, blocks, out, out_stride): as llvm_dots.py has it, with
    lines, whole groups from w on: up to ROWS - 1 more sums than rows are stored."""

    def __init__(self, module: Module, lines: Lines, count: int, target: Target) -> None:
        self.lines, self.type = lines, lines.type
        args = [("ptr noalias", "w"), ("i64", "w_stride"), ("i64", "rows"), ("ptr noalias", "x")]
        args += [("i64", "x_stride"), ("i64", "blocks")]
        args += [("ptr noalias", "out"), ("i64", "out_stride")]
        self.f = module.function(dots_name(self.type.name, count), args)
        self.vectors = range(count)
        self.places = places(self.type, target)

    def write(self) -> None:
        f, t = self.f, self.type
        units = f.op("sdiv", "i64", "%blocks", str(t.blocks))
        zeros = [(REAL, "zeroinitializer")] * (2 * len(self.vectors))
        with f.loop(0, "%rows", ROWS) as r:
            group = f.gep("i8", "%w", f.mul(r.index, "%w_stride"))
            with f.loop(0, units, carry=zeros) as u:
                unit = Unit(f, f.gep("i8", group, f.mul(u.index, ROWS * t.nbytes)))
                at = f.mul(u.index, record_bytes(t))
                records = [
                    f.gep("i8", "%x", f.add(f.mul("%x_stride", c), at)) for c in self.vectors
                ]
                u.next = self._unit(unit, records, u.carried)
            for c in self.vectors:
                total, offset = u.carried[2 * c : 2 * c + 2]
                if not t.whole and self.lines.large(0):
                    total = self._times(total, HIGH)
                by = _real(t.sign if t.least else -self.lines.zero)
                total = f.intrinsic("fma", REAL, offset, by, total)
                to = f.gep("float", "%out", f.add(f.mul("%out_stride", c), r.index))
                f.store(REAL, total, to, 4)
        f.ret()

    def _unit(self, unit: Unit, records: Sequence[Value], before: Sequence[Value]) -> list[Value]:
        """The sums of each vector, and those of its offsets, with a unit more."""
        f, t = self.f, self.type
        scales = self.lines.scales(unit)
        zero, whole = "zeroinitializer", bool(t.whole)
        # Whole numbers leave a factor for the unit, and large products are taken apart.
        totals = [
            {False: zero, True: zero} if whole else {self.lines.large(0): before[2 * c]}
            for c in self.vectors
        ]
        offsets = [zero if whole else before[2 * c + 1] for c in self.vectors]
        for s, words in enumerate(self.lines.parts):
            by, least = self._by(unit, scales, s)
            digits, large = [unit.digits(w) for w in words], self.lines.large(s)
            for c, record in enumerate(records):
                number = f.cast("sitofp", WHOLE, self._total(words, digits, record), REAL)
                x_scale, x_sum = (
                    self._everywhere("float", record, 2 * t.unit + 4 * (k * t.subs + s))
                    for k in range(2)
                )
                scale = f.op("fmul", REAL, by, x_scale)
                totals[c][large] = f.intrinsic("fma", REAL, number, scale, totals[c][large])
                offsets[c] = f.intrinsic("fma", REAL, least, x_sum, offsets[c])
        out = []
        for c, sums, offset in zip(self.vectors, totals, offsets, strict=True):
            if whole:
                factor, of_least = scales.factors
                total = f.intrinsic("fma", REAL, factor, sums[False], before[2 * c])
                high = self._times(factor, HIGH)
                total = f.intrinsic("fma", REAL, high, sums[True], total)
                out += [total, f.intrinsic("fma", REAL, of_least, offset, before[2 * c + 1])]
            else:
                out += [sums[self.lines.large(0)], offset]
        return out

    def _by(self, unit: Unit, scales: Scales, s: int) -> tuple[Value, Value]:
        """The scale of a part, and what the sum of its activations is taken times."""
        if scales.real:
            return scales.real[s], scales.real[s]
        place = (s % 4, None, None, None)
        by, least = (
            self.f.cast("sitofp", WHOLE, unit.bytes(numbers[s // 4], place), REAL)
            for numbers in (scales.numbers, scales.least)
        )
        return by, least

    def _total(self, words: Sequence[Word], digits: Sequence[Value], record: Value) -> Value:
        """The integer sum of a part in each row: of digits in both halves 16 times as much."""
        f = self.f
        chains: list[Value] = []
        for part in range(2):  # the high bytes of activations, the low ones
            pairs = list(zip(words, digits, strict=True))
            upper = [(w, d) for w, d in pairs if w.kind == "upper"]
            lower = [(w, d) for w, d in pairs if w.kind != "upper"]
            total = "zeroinitializer"
            if lower:
                total = self._chain(total, lower, record, part)
                if upper:
                    total = f.op("shl", WHOLE, total, constant("i32", ROWS, "4"))
            chains.append(self._chain(total, upper, record, part))
        high = f.op("shl", WHOLE, chains[0], constant("i32", ROWS, "8"))
        return f.op("add", WHOLE, high, chains[1])

    def _chain(
        self, total: Value, words: Sequence[tuple[Word, Value]], record: Value, part: int
    ) -> Value:
        for word, digits in words:
            x = self._everywhere("i32", record, self.places[word.run][part] + word.at)
            given = ((WHOLE, total), (WHOLE, digits), (WHOLE, x))
            total = self.f.call(WHOLE, "llvm.x86.avx512.vpdpbusd.512", *given)
        return total

    def _everywhere(self, type_: str, record: Value, at: int) -> Value:
        """A number of a record in all lanes."""
        one = self.f.load(type_, self.f.gep("i8", record, at), 4)
        return self.f.splat(type_, ROWS, one)

    def _times(self, x: Value, by: float) -> Value:
        return self.f.op("fmul", REAL, x, _real(by))


def _real(value: float) -> str:
    return constant("float", ROWS, f32(value))
