"""Folds over the blocks of quantized weights as text.

Lanes share out the blocks, packs of the last digit, and those of the other digits that no element
is shifted by; the digits that are left are unrolled here, so that each shift and mask is a
constant. The bytes of a block that a lane needs are loaded as words, as wide as the addresses
allow; elements are fields of the words (`bits.py`). Scales and offsets that the elements of a pack
share are applied to sums: sum (a q + b) x = a sum q x + b sum x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

from tensorlogic.codegen.bits import Simplifier, linear, power_of_two, simple
from tensorlogic.codegen.c_text import LOAD, MEMORY, bare
from tensorlogic.codegen.nests import Nest
from tensorlogic.codegen.packs import Packs
from tensorlogic.kernels.ir import Buffer, Expr, Fold, const, fma, index, nodes_of, var

FIRST = index("first")
"""The first of a lane's digits, a multiple of the pack."""


@dataclass
class Run:
    """Elements of a buffer at `base` plus each of some constant distances, all that a lane needs
    there. `size` elements are loaded at once."""

    buffer: Buffer
    base: Expr
    own: bool
    align: int
    places: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)


class NestText(Packs):
    """Prints a fold over blocks."""

    width: int
    thread: str

    def nest(self, s: Fold, nest: Nest, accs: list[str]) -> None:
        pack = self.form.pack
        lanes = lane_digits(nest, max(1, self.form.lanes * pack // nest.digits))
        chunks = nest.digits // pack
        each = chunks * prod(n for _, n in lanes)
        place = self.unique("place")
        self.line(f"const index_t {place} = index_t({self.thread}) % {each};")
        here = len(self.chain) - 1
        first = self.unique("first")
        self.line(f"const index_t {first} = {place} % {chunks} * {pack};")
        self.env["index", FIRST.attr] = (first, here)
        below = chunks
        for digit, extent in reversed(lanes):
            name = self.unique(digit.attr)
            self.line(f"const index_t {name} = {place} / {below} % {extent};")
            self.env["index", digit.attr] = (name, here)
            below *= extent
        body = Decoded(self, nest, [d.attr for d, _ in lanes])
        fast = self.unique("fast")
        self.line(f"const bool {fast} = {body.mask()};")
        block = self.unique(nest.block.attr)
        start, stop = self.expr(nest.start), self.expr(nest.stop)
        mine = f"index_t({self.thread}) / {each}"
        begin = mine if start == "0" else f"{start} + {mine}"
        step = self.width // each
        with self.block(f"for (index_t {block} = {begin}; {block} < {stop}; {block} += {step})"):
            self.env["index", nest.block.attr] = (block, len(self.chain) - 1)
            body.read(fast)
            with self.each_row(clamped=True):
                (acc,) = [self.env["var", v.attr][0] for v in s.acc] if self.row else accs
                inside = len(self.chain) - 1
                name = self.unique("total", inside)
                self.env["var", "total"] = (name, inside)
                self.line(f"float {name} = {acc};")
                body.add(name)
                self.line(f"{acc} = {name};")


def lane_digits(nest: Nest, most: int) -> list[tuple[Expr, int]]:
    """The digits beside the last that lanes share out: those that are parts of addresses alone."""
    shifting = {
        x.attr
        for n in nodes_of(nest.decoded)
        if n.op == "cast" and n.dtype == "i32"
        for x in nodes_of(n)
        if x.op == "index"
    }
    out: list[tuple[Expr, int]] = []
    for digit, extent in nest.others:
        if digit.attr not in shifting and extent <= most:
            out.append((digit, extent))
            most //= extent
    return out


class Decoded:
    """What a lane computes of a block: which words it reads, and the sums of products."""

    def __init__(self, text: NestText, nest: Nest, lanes: list[str]) -> None:
        self.text, self.nest, self.pack = text, nest, text.form.pack
        self.runs: dict[tuple[object, ...], Run] = {}
        self.loads: dict[Expr, tuple[Run, int]] = {}
        self.aligned = dict(text.form.aligned)
        unrolled = [(d, n) for d, n in nest.others if d.attr not in lanes]
        self.parts: list[list[tuple[Expr, Expr]]] = []
        for digits in product(*(range(n) for _, n in unrolled)):
            known = {d.attr: const(v, "i64") for (d, _), v in zip(unrolled, digits, strict=True)}
            part = []
            for u in range(self.pack):
                at = known | {nest.last.attr: FIRST + u if u else FIRST}
                plain = Simplifier(at, {})
                part.append((plain.of(nest.x), plain.of(nest.decoded)))
            self.parts.append(part)
        for e in (e for part in self.parts for pair in part for e in pair):
            for n in nodes_of(e):
                if n.op == "load" and len(n.args) == 1:
                    self.note(n)
        self.placed()

    # -- loads

    def note(self, n: Expr) -> None:
        """A load: the run that it is part of."""
        terms, constant = self.terms(n.args[0])
        key = (n.attr, *sorted((k, c) for k, (_, c) in terms.items()))
        if key not in self.runs:
            base: Expr | None = None
            for e, c in terms.values():
                scaled = e if c == 1 else e * c
                base = scaled if base is None else base + scaled
            base = base if base is not None else const(0, "i64")
            own = self.text.own(n.args[0])
            self.runs[key] = Run(n.attr, base, own, self.alignment(terms))
        run = self.runs[key]
        run.places.add(constant)
        self.loads[n] = (run, constant)

    def terms(self, e: Expr) -> tuple[dict[int, tuple[Expr, int]], int]:
        """An address as a sum: terms by their structure with coefficients, and a constant."""
        out: dict[int, tuple[Expr, int]] = {}
        constant = 0
        stack = [(e, 1)]
        while stack:
            n, c = stack.pop()
            if n.op == "const":
                constant += c * int(n.attr)
            elif n.op in ("add", "sub"):
                stack += [(n.args[0], c), (n.args[1], c if n.op == "add" else -c)]
            elif n.op == "mul" and any(a.op == "const" for a in n.args):
                x, y = n.args
                x, y = (x, y) if y.op == "const" else (y, x)
                stack.append((x, c * int(y.attr)))
            else:
                k = self.text._key(n)
                out[k] = (n, out.get(k, (n, 0))[1] + c)
        return {k: v for k, v in out.items() if v[1]}, constant

    def alignment(self, terms: dict[int, tuple[Expr, int]]) -> int:
        return min((power_of_two(c) * self.divisor(e) for e, c in terms.values()), default=16)

    def divisor(self, e: Expr) -> int:
        """A power of two that divides an address's term."""
        if e.op == "param":
            return self.aligned.get(e.attr, 1)
        if e is FIRST:
            return self.pack
        if e.op == "mul":
            return min(prod(self.divisor(a) for a in e.args), 16)
        return 1

    def placed(self) -> None:
        """Names for what is loaded: words of bytes, packs of other elements, or single ones."""
        for run in self.runs.values():
            size = self.size(run)
            for at in sorted({p - p % size for p in run.places}):
                run.names[at] = self.text.unique(f"{self.text.c_names[run.buffer]}_{self.kind(run)}")

    def kind(self, run: Run) -> str:
        return "word" if run.buffer.dtype == "u8" else "pack" if self.size(run) > 1 else "one"

    def size(self, run: Run) -> int:
        """Elements of a buffer that are loaded at once."""
        align = min(run.align, 16)
        span = max(run.places) - min(run.places) + 1
        if run.buffer.dtype == "u8":
            if align >= 16 and span >= 12:
                return 16
            if align >= 8 and span >= 8:
                return 8
            return min(align, 4)
        packed = span >= self.pack and len(run.places) % self.pack == 0
        return self.pack if packed and align >= self.pack else 1

    def mask(self) -> str:
        """Whether the buffers begin where wide loads may begin."""
        sizes: dict[Buffer, int] = {}
        for run in self.runs.values():
            if not run.buffer.local:
                sizes[run.buffer] = max(sizes.get(run.buffer, 1), self.size(run))
        words = [f"({self.text.offset(b)} & {n - 1})" for b, n in sizes.items() if n > 1]
        return f"({' | '.join(words)}) == 0" if words else "true"

    def read(self, fast: str) -> None:
        """The loads of one block: wide ones, or element by element where addresses are odd."""
        text = self.text
        for run in self.runs.values():
            rows = f"[{text.form.rows}]" if run.own else ""
            for name in run.names.values():
                text.line(f"{self.ctype(run)} {name}{rows};")
        for header, wide in ((f"if ({fast})", "true"), ("else", "false")):
            with text.block(header):
                self.lines([r for r in self.runs.values() if not r.own], wide)
                own = [r for r in self.runs.values() if r.own]
                if own:
                    with text.each_row(clamped=True):
                        self.lines(own, wide)

    def ctype(self, run: Run) -> str:
        size = self.size(run)
        if run.buffer.dtype == "u8":
            return {16: "PACK(int, 4)", 8: "int2"}.get(size, "int")
        memory = MEMORY[run.buffer.dtype]
        return f"PACK({memory}, {size})" if size > 1 else memory

    def lines(self, runs: list[Run], wide: str) -> None:
        text = self.text
        for run in runs:
            size, row = self.size(run), f"[{text.turn_of_row}]" if run.own else ""
            base = text.expr(run.base)
            for at, name in run.names.items():
                place = base if at == 0 else f"{base} + {at}" if base != "0" else str(at)
                source = f"{text.c_names[run.buffer]} + {place}"
                space = "_local" if run.buffer.local else ""
                if run.buffer.dtype == "u8" and size > 1:
                    value = f"load_word{size}({source}, {wide})"
                elif size > 1:
                    value = f"load_pack{space}<{size}>({source}, {size}, {wide})"
                else:
                    value = f"{text.c_names[run.buffer]}[{bare(place)}]"
                text.line(f"{name}{row} = {value};")

    def elements(self) -> Iterator[tuple[Expr, Expr]]:
        """What stands for each load: a field of a word, or an element of a pack."""
        text, here = self.text, len(self.text.chain) - 1
        depth = here - 1 if text.row is not None else here
        for load, (run, at) in self.loads.items():
            size = self.size(run)
            first = at - at % size
            row = f"[{text.turn_of_row}]" if run.own else ""
            name = run.names[first] + row
            if run.buffer.dtype == "u8":
                each = min(size, 4)
                word = {16: f"AT({name}, {(at - first) // 4})", 8: f"{name}.{'xy'[at % 8 // 4]}"}.get(
                    size, name
                )
                e = var(word, "i32")
                text.env["var", word] = (word, here if run.own else depth)
                yield load, _byte(e, (at - first) % each, each)
                continue
            element = f"AT({name}, {at - first})" if size > 1 else name
            value = LOAD.get(run.buffer.dtype, "{}").format(element)
            text.env["var", element] = (value, here if run.own else depth)
            yield load, var(element, load.dtype)

    # -- sums

    def add(self, total: str) -> None:
        """The products of one block are added to a sum."""
        text = self.text
        decode = Simplifier({}, dict(self.elements()))
        moving = self.moving()
        for part in self.parts:
            pairs = [(decode.of(x), decode.of(w)) for x, w in part]
            split = [linear(w, moving) for _, w in pairs]
            (a, b, _), *_ = split
            alike = all(self.same(x, a) and self.same(y, b) for x, y, _ in split)
            if not alike:
                a, b, split = None, None, [(None, None, w) for _, w in pairs]
            sum_: Expr | None = None
            plain: Expr | None = None
            for (x, _), (_, _, q) in zip(pairs, split, strict=True):
                sum_ = x * q if sum_ is None else fma(x, q, sum_)
                plain = x if plain is None else plain + x
            assert sum_ is not None
            assert plain is not None
            result = fma(a, sum_, var("total", "f32")) if a is not None else var("total", "f32") + sum_
            if b is not None:
                result = fma(b, plain, result)
            text.epoch += 1
            text.count([result])
            text.line(f"{total} = {bare(text.expr(result))};")

    def moving(self) -> set[str]:
        """The names of what differs from element to element of a pack."""
        runs = [r for r in self.runs.values() if FIRST in nodes_of(r.base)]
        return {name for r in runs for name in r.names.values()}

    def same(self, x: Expr | None, y: Expr | None) -> bool:
        if x is None or y is None:
            return x is y
        return self.text._key(x) == self.text._key(y)


def _byte(word: Expr, at: int, size: int) -> Expr:
    """A byte of a word of 2 or 4."""
    shifted = word >> (8 * at) if at else word
    return shifted if at == size - 1 == 3 else simple(shifted & 255, (shifted, const(255, "i32")))
