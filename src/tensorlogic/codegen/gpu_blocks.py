"""Functions that decode eight neighbouring elements of a quantized block, as GPU text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

from tensorlogic.codegen.bits import Simplifier, power_of_two
from tensorlogic.codegen.blocks import FIRST, Blocks
from tensorlogic.codegen.c_text import KernelText, bare
from tensorlogic.kernels.ir import Buffer, Expr, binary, const, index, load
from tensorlogic.quants import QuantType

PIECE = 8
_NAMES = ("p", "h", "e", "fast", "first", "piece", "fetched", "decoded", "all", "Fetched")


def alignment(quant: QuantType) -> int:
    """The address of a block must be a multiple of it for wide loads."""
    return power_of_two(quant.nbytes)


def decoder(quant: QuantType) -> str:
    """What eight neighbouring elements of the block at p are decoded from, e to e + 7, and they as
    halfs: `decoded(fetched(p, e, fast), e)`. e is a multiple of 8; `fast`: the block's address is a
    multiple of `alignment(quant)`. What is fetched may be on its way for a while."""
    data, halves = Buffer("p", "u8"), Buffer("h", "f16")
    text = KernelText((data, halves), (), _NAMES)
    text.c_names = {data: "p", halves: "h"}
    *outer, last = quant.digits
    # A mask says how large a digit may be, which costs nothing: it is a remainder.
    names = [
        index(f"d{k}") & (n - 1) if n & (n - 1) == 0 else index(f"d{k}")
        for k, n in enumerate(outer)
    ]
    # Unsigned: a signed quotient by a power of two is more than a shift.
    digits = {"first": f"index_t(uint(e) % {last})"}
    for k, n in enumerate(outer):
        digits[f"d{k}"] = f"index_t(uint(e) / {prod(quant.digits[k + 1 :])} % {n})"
    for digit in digits:
        text.env["index", digit] = (digit, 0)

    def byte(at: Expr) -> Expr:
        return load(data, binary("add", at, 0))

    def half(at: Expr) -> Expr:
        return load(halves, const(at.attr // 2, "i64"))

    plain = Simplifier({}, {})
    elements = [
        plain.of(quant.decode(byte, half, (*names, FIRST + u if u else FIRST)))
        for u in range(PIECE)
    ]
    # Digits multiply powers of two alone, so that the block's own alignment is that of each run.
    blocks = Blocks(text, elements, PIECE, {}, most=alignment(quant))
    for header, wide in (("if (fast)", True), ("else", False)):
        with text.block(header):
            blocks.read(False, wide)
    reading = text.chain[0].lines
    text.chain[0].lines, text.chain[0].names = [], {}  # another function
    decode = Simplifier({}, dict(blocks.elements(0)))
    values = [decode.of(e) for e in elements]
    text.count(values)
    text.line("uint4 piece;")
    for k, part in enumerate("xyzw"):
        low, high = (bare(text.expr(v)) for v in values[2 * k : 2 * k + 2])
        text.line(f"piece.{part} = halves({low}, {high});")
    text.line("return piece;")
    parts = [(name, blocks.ctype(r)) for r in blocks.runs.values() for name in r.names.values()]
    view = "    DEVICE const half* h = (DEVICE const half*)p;"
    return "\n".join(
        (
            "struct Fetched {",
            *(f"    {ctype} {name};" for name, ctype in parts),
            "};",
            "FUNC Fetched fetched(DEVICE const uchar* p, int e, bool fast) {",
            *([view] if any("h[" in line for line in reading) else []),
            *_used(digits, reading),
            *(f"    {ctype} {name};" for name, ctype in parts),
            *reading,
            "    Fetched all;",
            *(f"    all.{name} = {name};" for name, _ in parts),
            "    return all;",
            "}",
            "FUNC uint4 decoded(Fetched all, int e) {",
            *_used(digits, text.chain[0].lines),
            *(f"    const {ctype} {name} = all.{name};" for name, ctype in parts),
            *text.chain[0].lines,
            "}",
            "",
        )
    )


def _used(digits: Mapping[str, str], lines: Sequence[str]) -> list[str]:
    """Those of the digits of e that some lines name."""
    words = set(re.findall(r"\w+", "\n".join(lines)))
    return [f"    const index_t {d} = {value};" for d, value in digits.items() if d in words]
