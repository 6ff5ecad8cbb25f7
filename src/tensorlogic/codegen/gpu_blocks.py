"""A function that decodes eight neighbouring elements of a quantized block, as GPU text."""

from __future__ import annotations

from math import prod

from tensorlogic.codegen.bits import Simplifier, power_of_two
from tensorlogic.codegen.blocks import FIRST, Blocks
from tensorlogic.codegen.c_text import KernelText, bare
from tensorlogic.kernels.ir import Buffer, Expr, binary, const, index, load
from tensorlogic.quants import QuantType

PIECE = 8
_NAMES = ("p", "h", "e", "wide", "first", "piece", "decoded")


def alignment(quant: QuantType) -> int:
    """The address of a block must be a multiple of it for wide loads."""
    return power_of_two(quant.nbytes)


def decoder(quant: QuantType) -> str:
    """`decoded(p, e, fast)`: elements e to e + 7 of the block at p as halfs. e is a multiple of 8;
    `fast`: the block's address is a multiple of `alignment(quant)`."""
    data, halves = Buffer("p", "u8"), Buffer("h", "f16")
    text = KernelText((data, halves), (), _NAMES)
    text.c_names = {data: "p", halves: "h"}
    width = alignment(quant)
    *outer, last = quant.digits
    names = [index(f"d{k}") for k in range(len(outer))]
    text.env["index", FIRST.attr] = ("first", 0)
    text.line(f"const index_t first = e % {last};")
    for k, (digit, n) in enumerate(zip(names, outer, strict=True)):
        below = prod(quant.digits[k + 1 :])
        text.env["index", digit.attr] = (digit.attr, 0)
        text.line(f"const index_t {digit.attr} = e / {below} % {n};")

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
    blocks = Blocks(text, elements, PIECE, {}, most=width)
    blocks.declare()
    for header, wide in (("if (fast)", True), ("else", False)):
        with text.block(header):
            blocks.read(False, wide)
    decode = Simplifier({}, dict(blocks.elements(0)))
    values = [decode.of(e) for e in elements]
    text.count(values)
    text.line("uint4 piece;")
    for k, part in enumerate("xyzw"):
        low, high = (bare(text.expr(v)) for v in values[2 * k : 2 * k + 2])
        text.line(f"piece.{part} = halves({low}, {high});")
    text.line("return piece;")
    head = "FUNC uint4 decoded(DEVICE const uchar* p, int e, bool fast) {"
    view = "    DEVICE const half* h = (DEVICE const half*)p;"
    return "\n".join((head, view, *text.chain[0].lines, "}", ""))
