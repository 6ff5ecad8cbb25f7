"""Packing for the matmul family: operands as float32, as the micro-kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, constant, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.kernels.ir import BYTES
from tensorlogic.kernels.spec import Matmul

PAD = 32
"""Floats between panels: panels a multiple of 4 KiB apart would share the same sets of the L1."""


def operands(spec: Matmul) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
    """Of a and b: dtype, and a panel's own name for the axis whose stride is 1, "k" or "rows"."""
    axes = (spec.a_contiguous, spec.b_contiguous)
    a, b = (axis if axis in ("k", None) else "rows" for axis in axes)
    return (spec.a_dtype, a), (spec.b_dtype, b)


def pack_name(operand: tuple[str, str | None], width: int) -> str:
    dtype, contiguous = operand
    return f"pack{width}_{dtype}_{contiguous or 'any'}"


def pack(module: Module, operand: tuple[str, str | None], width: int, lanes: int) -> None:
    """pack(source, rs, ks, rows, panels, kc, to) for an operand's dtype and layout.

    It fills `panels` panels of `width` rows: to[panel][k][row] = source[row * rs + k * ks] as
    float32. `rows` are there to read: a panel that reaches beyond them repeats the last one, and
    those products are never stored. A row of `to` is written in whole vectors, whose excess the
    next row overwrites.
    """
    args = [("ptr noalias", "source"), ("i64", "rs"), ("i64", "ks"), ("i64", "rows")]
    args += [("i64", "panels"), ("i64", "kc"), ("ptr noalias", "to")]
    f = module.function(pack_name(operand, width), args)
    dtype, contiguous = operand
    element, size = STORED[dtype], BYTES[dtype]
    type_ = vector("float", lanes)
    last = f.sub("%rows", 1)
    stride = f.add(f.mul("%kc", width), PAD)
    reach = -(-width // lanes) * lanes

    def row_pointer(row: Value) -> Value:
        return f.gep(element, "%source", f.mul(f.smin(row, last), "%rs"))

    def one_by_one(panel: Value, k_start: Value) -> None:
        first, to = f.mul(panel, width), f.gep("float", "%to", f.mul(panel, stride))
        with f.loop(0, width) as r:
            source = row_pointer(f.add(first, r.index))
            with f.loop(k_start, "%kc") as k:
                raw = f.load(element, f.gep(element, source, f.mul(k.index, "%ks")), size)
                at = f.add(f.mul(k.index, width), r.index)
                f.store("float", loaded(f, dtype, raw, 1), f.gep("float", to, at), 4)

    def transposing(panel: Value, turn: int, whole: Value) -> None:
        """`turn` steps of k at a time, one 32-bit word of each row after the other."""
        words, first = vector("i32", lanes), f.mul(panel, width)
        with f.loop(0, reach, lanes) as g:
            group = f.sub(reach - lanes, g.index)  # the last first: its excess is written over
            rows = [row_pointer(f.add(f.add(first, group), i)) for i in range(lanes)]
            to = f.gep("float", f.gep("float", "%to", f.mul(panel, stride)), group)
            with f.loop(0, whole, turn) as k:
                at = [f.gep(element, r, k.index) for r in rows]
                block = [f.load(words, pointer, size) for pointer in at]
                out = f.gep("float", to, f.mul(k.index, width))
                lines = [x for w in transposed(f, block, lanes) for x in _split(f, dtype, w, lanes)]
                for i, line in enumerate(lines):
                    f.store(type_, line, f.gep("float", out, i * width), 4)

    if contiguous == "k":
        turn = lanes * 4 // size
        whole = f.op("and", "i64", "%kc", str(-turn))
        with f.loop(0, "%panels") as p:
            transposing(p.index, turn, whole)
            one_by_one(p.index, whole)
    elif contiguous == "rows":
        room = f.op("sdiv", "i64", f.sub("%rows", reach - width), str(width))
        whole = f.smin(f.smax(room, 0), "%panels")
        with f.loop(0, "%kc") as k:
            source = f.gep(element, "%source", f.mul(k.index, "%ks"))
            to = f.gep("float", "%to", f.mul(k.index, width))
            with f.loop(0, whole) as p:
                start = f.gep(element, source, f.mul(p.index, width))
                out = f.gep("float", to, f.mul(p.index, stride))
                for v in range(0, width, lanes):
                    raw = f.load(vector(element, lanes), f.gep(element, start, v), size)
                    f.store(type_, loaded(f, dtype, raw, lanes), f.gep("float", out, v), 4)
        with f.loop(whole, "%panels") as p:
            one_by_one(p.index, "0")
    else:
        with f.loop(0, "%panels") as p:
            one_by_one(p.index, "0")
    f.ret()


def _split(f: Function, dtype: str, words: Value, lanes: int) -> list[Value]:
    """The float32 values that lie in a vector of 32-bit words, the first of each word first."""
    whole, type_ = vector("i32", lanes), vector("float", lanes)
    if dtype == "f32":
        return [f.cast("bitcast", whole, words, type_)]
    if dtype == "bf16":
        low = f.op("shl", whole, words, constant("i32", lanes, "16"))
        high = f.op("and", whole, words, constant("i32", lanes, "-65536"))
        return [f.cast("bitcast", whole, bits, type_) for bits in (low, high)]
    high = f.op("lshr", whole, words, constant("i32", lanes, "16"))
    halves = [f.cast("trunc", whole, bits, vector("i16", lanes)) for bits in (words, high)]
    raw = [f.cast("bitcast", vector("i16", lanes), h, vector("half", lanes)) for h in halves]
    return [loaded(f, dtype, h, lanes) for h in raw]


def transposed(f: Function, rows: Sequence[Value], lanes: int) -> list[Value]:
    """The transpose of `lanes` vectors of 32-bit words.

    Blocks of 4 x 4 within 128 bits first, then the blocks: each step is one instruction on x86.
    """
    type_ = vector("i32", lanes)

    def words(a: Value, b: Value, order: Sequence[int]) -> Value:
        """Words of a (0 to 3) and b (4 to 7), within each 128 bits."""
        base = range(0, lanes, 4)
        return f.shuffle(type_, a, b, [g + i % 4 + lanes * (i // 4) for g in base for i in order])

    def blocks(a: Value, b: Value, order: Sequence[int]) -> Value:
        """Groups of 128 bits of a and b side by side, by number."""
        return f.shuffle(type_, a, b, [4 * o + i for o in order for i in range(4)])

    columns: list[list[Value]] = []  # [row group][column within the 4 x 4 block]
    for g in range(0, lanes, 4):
        a, b, c, d = rows[g : g + 4]
        columns.append([])
        for pairs in ((0, 4, 1, 5), (2, 6, 3, 7)):
            ab, cd = words(a, b, pairs), words(c, d, pairs)
            columns[-1] += [words(ab, cd, half) for half in ((0, 1, 4, 5), (2, 3, 6, 7))]
    if lanes == 4:
        return columns[0]
    if lanes == 8:
        first, second = columns
        return [blocks(first[j], second[j], (q, 2 + q)) for q in range(2) for j in range(4)]
    out: list[Value] = []
    for order in ((0, 1, 4, 5), (2, 3, 6, 7)):
        pairs_of = [
            [blocks(columns[g][j], columns[g + 1][j], order) for j in range(4)] for g in (0, 2)
        ]
        for q in ((0, 2, 4, 6), (1, 3, 5, 7)):
            out += [blocks(x, y, q) for x, y in zip(*pairs_of, strict=True)]
    return out
