"""Reads of quantized blocks as vectors of bytes, for a processor's width of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorlogic.codegen.emit import Function, Value, constant, vector

RUN = 16
"""Neighbouring elements that stay together in every order."""


@dataclass(frozen=True)
class Target:
    """What a processor multiplies with: `width` bytes in a vector; `arm` or x86; `dot`, sums of
    four products of bytes in one instruction (x86: VNNI, unsigned by signed; Arm: signed);
    `permutes`, any bytes out of two vectors in one instruction."""

    width: int
    arm: bool = False
    dot: bool = False
    permutes: bool = False

    @property
    def lanes(self) -> int:
        """int32 or float32 numbers in a vector."""
        return self.width // 4


class Unit:
    """Reads of one unit that starts at a pointer."""

    def __init__(self, f: Function, target: Target, pointer: Value, nbytes: int = 0) -> None:
        self.f, self.target, self.pointer, self.nbytes = f, target, pointer, nbytes
        self.type = vector("i8", target.width)
        self._ends: tuple[Value, Value] | None = None

    def load(self, type_: str, at: int, align: int = 1) -> Value:
        return self.f.load(type_, self.f.gep("i8", self.pointer, at), align)

    def bytes(self, starts: Sequence[int], length: int) -> Value:
        """Runs of `length` bytes from each of `starts`, one after the other: a whole vector."""
        f = self.f
        if len(starts) == 1:
            return self.load(self.type, starts[0])
        if self.in_two_vectors:
            return self.picked([s + i for s in starts for i in range(length)])
        parts = [self.load(vector("i8", length), s) for s in starts]
        while len(parts) > 1:
            both, length = vector("i8", length), 2 * length
            parts = [
                f.shuffle(both, a, b, range(length))
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    @property
    def in_two_vectors(self) -> bool:
        """Whether any bytes of the unit come out of two loads in one instruction."""
        width = self.target.width
        return self.target.permutes and width < self.nbytes <= 2 * width

    def picked(self, places: Sequence[int]) -> Value:
        """Bytes of the unit in any order (`in_two_vectors`)."""
        if self._ends is None:
            over = self.nbytes - self.target.width
            self._ends = self.load(self.type, 0), self.load(self.type, over)
        width = self.target.width
        lanes = [p if p < width else p + 2 * width - self.nbytes for p in places]
        return self.f.shuffle(self.type, *self._ends, lanes)

    def number(self, n: int) -> Value:
        return constant("i8", self.target.width, str(n))

    def mask(self, x: Value, n: int) -> Value:
        return self.f.op("and", self.type, x, self.number(n))

    def up(self, x: Value, n: int) -> Value:
        return self.f.op("shl", self.type, x, self.number(n)) if n else x

    def down(self, x: Value, n: int) -> Value:
        return self.f.op("lshr", self.type, x, self.number(n)) if n else x

    def join(self, a: Value, b: Value) -> Value:
        return self.f.op("or disjoint", self.type, a, b)

    def low(self, x: Value) -> Value:
        return self.mask(x, 15)

    def high(self, x: Value) -> Value:
        return self.down(x, 4)

    def where_bits(self, x: Value, bits: Sequence[int], value: int) -> Value:
        """`value` in those bytes of x in which a bit is set: `bits` has a mask for each byte."""
        f, width = self.f, self.target.width
        masks = ", ".join(f"i8 {b if b < 128 else b - 256}" for b in bits)
        met = f.op("and", self.type, x, f"<{masks}>")
        where = f.icmp("ne", self.type, met, "zeroinitializer")
        return f.select(where, self.type, self.number(value), "zeroinitializer", width)

    def spread_words(self, places: Sequence[int]) -> Value:
        """Of words at some places of the unit: each byte eight times, a run for each word."""
        f, width = self.f, self.target.width
        if self.in_two_vectors:
            return self.picked([p + k for p in places for k in range(2) for _ in range(8)])
        words = vector("i16", width // 2)
        joined = "poison"
        for i, p in enumerate(places):
            joined = f.assign(
                f"insertelement {words} {joined}, i16 {self.load('i16', p)}, i32 {8 * i}"
            )
        given = f.cast("bitcast", words, joined, self.type)
        order = [RUN * i + k for i in range(len(places)) for k in range(2) for _ in range(8)]
        return f.shuffle(self.type, given, "poison", order)

    def floats(self, count: int, at: Sequence[int]) -> list[Value]:
        """`count` halves from each place of `at` on, side by side: a vector for each of them."""
        f, n = self.f, len(at)
        if self.in_two_vectors:
            halves = vector("half", n)
            out = []
            for k in range(count):
                places = [a + 2 * k + i for a in at for i in range(2)]
                raw = f.cast("bitcast", vector("i8", 2 * n), self.picked(places), halves)
                out.append(f.cast("fpext", halves, raw, vector("float", n)))
            return out
        element = f"i{16 * count}"
        joined = "poison"
        for i, a in enumerate(at):
            one = self.load(element, a)
            joined = f.assign(
                f"insertelement {vector(element, n)} {joined}, {element} {one}, i32 {i}"
            )
        halves = vector("half", n * count)
        raw = f.cast("bitcast", vector(element, n), joined, halves)
        wide = vector("float", n * count)
        values = f.cast("fpext", halves, raw, wide)
        if count == 1:
            return [values]
        return [f.shuffle(wide, values, "poison", range(k, n * count, count)) for k in range(count)]

    def real(self, x: Value, lanes: int, signed: bool = False) -> Value:
        """Bytes as float32."""
        given, wide = vector("i8", lanes), vector("i32", lanes)
        whole = self.f.cast("sext" if signed else "zext", given, x, wide)
        return self.f.cast("sitofp", wide, whole, vector("float", lanes))

    def scaled(self, x: Value, lanes: int, by: Value) -> Value:
        type_ = vector("float", lanes)
        return self.f.op("fmul", type_, x, self.f.splat("float", lanes, by))

    def half(self, at: int) -> Value:
        return self.f.cast("fpext", "half", self.load("half", at, 2), "float")
