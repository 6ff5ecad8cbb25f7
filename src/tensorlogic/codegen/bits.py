"""Fields of bits in words: how the digits of quantized blocks become floats in few operations.

A quantized element is decoded from bytes of its block. Where neighbouring bytes are loaded as one
word, a byte is a field of the word, and so are a nibble of it, a bit of it, or a nibble and a bit
of another word side by side. `Simplifier` brings expressions of known digits to such fields and
turns fields into floats without a conversion: bits below 2**23, put into the fraction of 2**23,
make a float whose difference from 2**23 is their value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tensorlogic.codegen.rewrite import Ids
from tensorlogic.kernels.ir import Expr, binary, cast, const, nodes_of, rebuilt

FIELD = "field"
"""A float from the bits of words, which no two have in common: args (word, ...), attr (masks, flip,
scale, bias): ((word & mask) ^ ... ^ flip) * scale + bias."""
_FRACTION = 23


@dataclass(frozen=True)
class Field:
    """((word >> shift) & mask) << place, or a sum of several without common bits."""

    word: Expr
    shift: int
    mask: int
    place: int = 0


class Simplifier:
    """Expressions with some indices known; where `loads` says what stands for memory, integers
    become floats as fields of words."""

    def __init__(self, known: Mapping[str, Expr], loads: Mapping[Expr, Expr]) -> None:
        self.known, self.loads = known, loads
        self.memo: dict[Expr, Expr] = {}

    def of(self, e: Expr) -> Expr:
        for n in nodes_of(e, known=Ids(self.loads)):
            if n not in self.memo:
                self.memo[n] = self._of(n)
        return self.memo[e]

    def _of(self, n: Expr) -> Expr:
        if n in self.loads:
            return self.loads[n]
        if n.op == "index":
            return self.known.get(n.attr, n)
        args = tuple(self.memo[a] for a in n.args)
        return floated(n, args) if self.loads else simple(n, args)


_INTEGERS = ("i32", "i64")


def simple(n: Expr, args: tuple[Expr, ...]) -> Expr:
    """The operation on simplified arguments, simplified."""
    if n.dtype in _INTEGERS and args and all(a.op == "const" for a in args):
        value = _constant(n.op, [int(a.attr) for a in args])
        if value is not None:
            return const(value, n.dtype)
    if len(args) == 2 and n.dtype in _INTEGERS:
        short = _identity(n.op, *args)
        if short is not None:
            return short
        parted = _parted(n, *args)
        if parted is not None:
            return parted
    if n.op == "cast" and n.dtype == "i32" and args[0].op == "add" and args[0].dtype == "i64":
        x, y = args[0].args
        if y.op == "const":
            return cast(x, "i32") + int(y.attr)
    if n.op in ("and", "shr", "shl", "or", "add") and n.dtype == "i32":
        fields = _fields(Expr(n.op, n.dtype, args))
        if fields is not None and len(fields) == 1 and n.op != "shl":
            return _field_text(fields[0])
    return rebuilt(n, args)


def floated(n: Expr, args: tuple[Expr, ...]) -> Expr:
    """The operation on simplified arguments; integers of few bits become floats as fields."""
    if n.op == "cast" and n.dtype == "f32" and args[0].dtype == "i32":
        return as_float(args[0])
    if n.op in ("add", "sub") and args[0].op == FIELD and args[1].op == "const":
        masks, flip, scale, bias = args[0].attr
        bias += args[1].attr if n.op == "add" else -args[1].attr
        if abs(bias) < 2**16 and float(bias).is_integer():
            return Expr(FIELD, "f32", args[0].args, (masks, flip, scale, bias))
    return simple(n, args)


def _constant(op: str, a: list[int]) -> int | None:
    if op == "cast":
        return a[0]
    if op in ("add", "sub", "mul", "and", "or", "xor"):
        x, y = a
        return {"add": x + y, "sub": x - y, "mul": x * y, "and": x & y, "or": x | y, "xor": x ^ y}[
            op
        ]
    if op in ("shr", "shl") and a[0] >= 0 and 0 <= a[1] < 31:
        return a[0] >> a[1] if op == "shr" else a[0] << a[1]
    return None


def _identity(op: str, x: Expr, y: Expr) -> Expr | None:
    """What is left of an operation with 0 or 1."""
    for a, b in ((x, y), (y, x)):
        if b.op == "const" and b.attr == 0:
            if op in ("add", "or", "xor") or (op in ("sub", "shr", "shl") and b is y):
                return a
            if op in ("mul", "and"):
                return b
        if b.op == "const" and b.attr == 1 and op == "mul":
            return a
    return None


def _parted(n: Expr, x: Expr, y: Expr) -> Expr | None:
    """(a + c) * k and w >> (a + c), with what is not constant apart."""
    if n.op == "mul" and x.op == "add" and x.args[1].op == y.op == "const":
        return x.args[0] * y + int(x.args[1].attr) * int(y.attr)
    if n.op == "shr" and y.op == "add" and y.args[1].op == "const":
        moved = Expr("shr", n.dtype, (x, y.args[0]))
        return simple(n, (moved, y.args[1]))
    return None


# -- fields


def _fields(e: Expr) -> list[Field] | None:
    """An i32 expression as fields of words, lowest word first as they stand; None if it is none."""
    if e.op == "var":
        return [Field(e, 0, 0xFFFFFFFF)]
    if len(e.args) != 2:
        return None
    x, y = e.args
    if e.op == "shr" and y.op != "const":
        return [Field(e, 0, 0xFFFFFFFF)]
    if e.op in ("or", "add"):
        a, b = _fields(x), _fields(y)
        if a is None or b is None or _bits(a) & _bits(b):
            return None
        return _merged(a + b)
    if y.op != "const":
        return None
    inner = _shifted_first(x, int(y.attr)) if e.op == "and" and x.op == "shr" else None
    inner = inner or _fields(x)
    if inner is None:
        return None
    n = int(y.attr)
    if e.op == "and":
        kept = [Field(f.word, f.shift, f.mask & n >> f.place, f.place) for f in inner]
        return [f for f in kept if f.mask]
    if e.op == "shl" and 0 <= n < 32:
        return [Field(f.word, f.shift, f.mask, f.place + n) for f in inner]
    if e.op == "shr" and 0 <= n < 32:
        out = []
        for f in inner:
            down = min(n, f.place)
            left = n - down
            if f.mask >> left:
                out.append(Field(f.word, f.shift + left, f.mask >> left, f.place - down))
        return out
    return None


def _shifted_first(e: Expr, kept: int) -> list[Field] | None:
    """(w >> c & m) >> d as (w >> d) >> c, where d is no constant, if m covers all that is `kept` of
    it: the word is shifted once for all of its fields."""
    x, d = e.args
    fields, most = _fields(x), _most(d)
    if d.op == "const" or most is None or fields is None or len(fields) != 1:
        return None
    (f,) = fields
    if f.place or f.word.op != "var" or f.mask & (f.mask + 1) or kept << most > f.mask:
        return None
    return [Field(Expr("shr", "i32", (f.word, d)), f.shift, 0xFFFFFFFF >> f.shift)]


def _most(e: Expr) -> int | None:
    """An upper bound of a shift."""
    if e.op == "const":
        return int(e.attr)
    if e.op == "and" and e.args[1].op == "const":
        return int(e.args[1].attr)
    bounds = [_most(a) for a in e.args]
    if e.op in ("cast", "mul", "add") and None not in bounds:
        numbers = [int(b or 0) for b in bounds]
        return sum(numbers) if e.op == "add" else math.prod(numbers)
    return None


def _merged(fields: list[Field]) -> list[Field]:
    """Those that stand as they do in one word are one."""
    out: list[Field] = []
    for f in fields:
        near = [g for g in out if _alike(g, f)]
        if not near:
            out.append(f)
            continue
        (g,) = near
        place = min(f.place, g.place)
        bits = (f.mask << f.place | g.mask << g.place) >> place
        out[out.index(g)] = Field(g.word, g.shift - g.place + place, bits, place)
    return out


def _alike(f: Field, g: Field) -> bool:
    """Whether two fields stand alike in one word."""
    one = f.word is g.word or (f.word.op == "var" and f.word.attr == g.word.attr)
    return one and f.shift - f.place == g.shift - g.place


def _bits(fields: list[Field]) -> int:
    return sum(f.mask << f.place for f in fields)


def _moved(word: Expr, right: int) -> Expr:
    """A word shifted to the right, or to the left by a negative number."""
    if right == 0:
        return word
    return word >> right if right > 0 else word << -right


def _field_text(f: Field) -> Expr:
    """A single field as an expression."""
    word = _moved(f.word, f.shift - f.place)
    mask = (f.mask << f.place) & 0xFFFFFFFF
    whole = f.shift - f.place > 0 and mask == 0xFFFFFFFF >> (f.shift - f.place)
    return word if whole or mask == 0xFFFFFFFF else word & mask


def as_float(e: Expr) -> Expr:
    """cast(e, "f32"), without a conversion where the value is known to have few bits."""
    bias = 0
    while e.op in ("sub", "add") and e.args[1].op == "const":
        bias += int(e.args[1].attr) * (1 if e.op == "add" else -1)
        e = e.args[0]
    flip = 0
    if e.op == "xor" and e.args[1].op == "const":
        flip, e = int(e.args[1].attr), e.args[0]
    fields = _fields(e)
    if fields:
        placed = _placed(fields, flip)
        if placed is not None:
            words, masks, up = placed
            return Expr(FIELD, "f32", words, (masks, flip << up, 2.0**-up, float(bias)))
    bound = largest(e)
    if bound is not None and max(bound, flip) < 2**_FRACTION:
        every = (1 << bound.bit_length()) - 1
        return Expr(FIELD, "f32", (e,), ((every,), flip, 1.0, float(bias)))
    whole = binary("xor", e, flip) if flip else e
    whole = whole + bias if bias else whole
    return Expr("cast", "f32", (whole,))


def _placed(fields: list[Field], flip: int) -> tuple[tuple[Expr, ...], tuple[int, ...], int] | None:
    """Words and masks that hold the fields side by side, and by how much all stand too high: as
    they are in the first word, if that is low enough."""
    width = max(_bits(fields), flip).bit_length()
    first = fields[0]
    for up in (first.shift - first.place, first.shift - first.place - 16, 0):
        if up < 0 or up + width > _FRACTION:
            continue
        words = tuple(_moved(f.word, f.shift - f.place - up) for f in fields)
        return words, tuple(f.mask << (f.place + up) for f in fields), up
    return None


def largest(e: Expr) -> int | None:
    """An upper bound of an i32 that cannot be negative; None if nothing is known."""
    bounds: dict[Expr, int | None] = {}
    for n in nodes_of(e):
        a = [bounds[x] for x in n.args]
        bounds[n] = _largest(n, a)
    return bounds[e]


def _largest(n: Expr, a: list[int | None]) -> int | None:
    if n.op == "const":
        return int(n.attr) if n.dtype == "i32" and n.attr >= 0 else None
    if n.op == "load" and n.attr.dtype == "u8":
        return 255
    if n.op == "and":
        return min((x for x in a if x is not None), default=None)
    if n.op == "shr" and a[0] is not None:
        return a[0]
    if n.op in ("or", "xor", "add") and None not in a:
        x, y = (int(v or 0) for v in a)
        return x + y if n.op == "add" else (1 << max(x, y).bit_length()) - 1
    return None


# -- sums of products


def linear(e: Expr, moving: set[str]) -> tuple[Expr | None, Expr | None, Expr]:
    """e as a * q + b with a and b (None: 1 and 0) free of the vars (or elements of packs of these
    names) that are `moving`, which q holds."""
    if e.op in ("mul", "add", "sub") and e.dtype == "f32":
        x, y = e.args
        free = [not any(_named(n, moving) for n in nodes_of(v)) for v in (x, y)]
        if free[0] != free[1]:
            fixed, rest = (x, y) if free[0] else (y, x)
            if e.op == "sub" and free[0]:
                return None, None, e
            a, b, q = linear(rest, moving)
            if e.op == "mul":
                scale = fixed if a is None else fixed * a
                return scale, None if b is None else fixed * b, q
            shift = fixed if e.op == "add" else -fixed
            return a, shift if b is None else b + shift, q
    return None, None, e


def _named(n: Expr, names: set[str]) -> bool:
    if n.op != "var":
        return False
    return re.split(r"[\[,.]", n.attr.removeprefix("AT("))[0] in names


def power_of_two(n: int, most: int = 16) -> int:
    """The largest power of two that divides n, `most` at most."""
    return most if n == 0 else min(n & -n, most)
