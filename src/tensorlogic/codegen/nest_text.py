"""Folds over the blocks of quantized weights as text.

Lanes share out the blocks, packs of the last digit, and those of the other digits that no element
is shifted by; the digits that are left are unrolled here, so that each shift and mask is a
constant. The bytes of a block that a lane needs are loaded as words, as wide as the addresses
allow; elements are fields of the words (`bits.py`). Scales and offsets that the elements of a pack
share are applied to sums: sum (a q + b) x = a sum q x + b sum x.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from math import prod

from tensorlogic.codegen.bits import Simplifier, linear
from tensorlogic.codegen.blocks import FIRST, Blocks
from tensorlogic.codegen.c_text import bare
from tensorlogic.codegen.nests import Nest
from tensorlogic.codegen.packs import Packs
from tensorlogic.kernels.ir import Expr, Fold, const, fma, nodes_of, var


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
        # What is loaded in a branch begins to load before anything is computed. Where one part is
        # all that a turn has, that is so anyway, and two loops spare the merging of both branches.
        whole = len(body.parts) == 1
        loop = f"for (index_t {block} = {begin}; {block} < {stop}; {block} += {step})"
        for header in (f"if ({fast})", "else") if whole else ("",):
            with self.block(header) if whole else nullcontext(), self.block(loop):
                self.env["index", nest.block.attr] = (block, len(self.chain) - 1)
                body.blocks.declare()
                if whole:
                    body.read(header != "else")
                else:
                    for branch in (f"if ({fast})", "else"):
                        with self.block(branch):
                            body.read(branch != "else")
                with self.each_row(clamped=True):
                    (acc,) = [self.env["var", v.attr][0] for v in s.acc] if self.row else accs
                    for part in body.parts:
                        body.add(part, acc)


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
    """What a lane computes of a block: what it reads, and the sums of products."""

    def __init__(self, text: NestText, nest: Nest, lanes: list[str]) -> None:
        self.text = text
        pack = text.form.pack
        unrolled = [(d, n) for d, n in nest.others if d.attr not in lanes]
        self.parts: list[list[tuple[Expr, Expr]]] = []
        for digits in product(*(range(n) for _, n in unrolled)):
            known = {d.attr: const(v, "i64") for (d, _), v in zip(unrolled, digits, strict=True)}
            part = []
            for u in range(pack):
                plain = Simplifier(known | {nest.last.attr: FIRST + u if u else FIRST}, {})
                part.append((plain.of(nest.x), plain.of(nest.decoded)))
            self.parts.append(part)
        exprs = [e for part in self.parts for pair in part for e in pair]
        aligned = dict(text.form.aligned)
        self.blocks = Blocks(text, exprs, pack, aligned, text.own, text.form.rows)

    def mask(self) -> str:
        """Whether the buffers begin where wide loads may begin."""
        sizes = self.blocks.sizes().items()
        words = [f"({self.text.offset(b)} & {n - 1})" for b, n in sizes if n > 1]
        return f"({' | '.join(words)}) == 0" if words else "true"

    def read(self, wide: bool) -> None:
        """The loads of one block: wide ones, or element by element where addresses are odd."""
        self.blocks.read(False, wide)
        if any(r.own for r in self.blocks.runs.values()):
            with self.text.each_row(clamped=True):
                self.blocks.read(True, wide, f"[{self.text.turn_of_row}]")

    def add(self, part: list[tuple[Expr, Expr]], total: str) -> None:
        """The products of one pack are added to a sum."""
        text = self.text
        here = len(text.chain) - 1
        depth, row = (here - 1, f"[{text.turn_of_row}]") if text.row is not None else (here, "")
        text.env["var", total] = (total, here)
        decode = Simplifier({}, dict(self.blocks.elements(depth, row)))
        moving = self.blocks.moving()
        pairs = [(decode.of(x), decode.of(w)) for x, w in part]
        split = [linear(w, moving) for _, w in pairs]
        (a, b, _), *_ = split
        if not all(self.same(x, a) and self.same(y, b) for x, y, _ in split):
            a, b, split = None, None, [(None, None, w) for _, w in pairs]
        sum_: Expr | None = None
        plain: Expr | None = None
        for (x, _), (_, _, q) in zip(pairs, split, strict=True):
            sum_ = x * q if sum_ is None else fma(x, q, sum_)
            plain = x if plain is None else plain + x
        assert sum_ is not None
        assert plain is not None
        acc = var(total, "f32")
        result = fma(a, sum_, acc) if a is not None else acc + sum_
        if b is not None:
            result = fma(b, plain, result)
        text.epoch += 1
        text.count([result])
        text.line(f"{total} = {bare(text.expr(result))};")

    def same(self, x: Expr | None, y: Expr | None) -> bool:
        if x is None or y is None:
            return x is y
        return self.text._key(x) == self.text._key(y)
