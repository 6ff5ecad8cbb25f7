"""Products of many rows with quantized weights: the matmul family with b read from its blocks.

A few rows are multiplied straight from the blocks, which are read once for four of them
(llvm_dots.py). More rows share panels of decoded weights: words, multiplied as integers
(llvm_block_panels.py), or float32 and the micro-kernel of all products, where the product is exact
or the processor has no products of words.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

from tensorlogic.codegen import llvm_interleaved, llvm_interleaved_panels
from tensorlogic.codegen.emit import KERNEL, Module, Value
from tensorlogic.codegen.instructions import STORED
from tensorlogic.codegen.llvm import emit_kernel
from tensorlogic.codegen.llvm_block_panels import (
    PART,
    ROW,
    SLICE,
    micro_kernel,
    multiply_name,
    pack_columns,
    pack_columns_name,
    pack_rows,
    pack_rows_name,
    panel_bytes,
)
from tensorlogic.codegen.llvm_blocks import BLOCKS
from tensorlogic.codegen.llvm_dots import (
    dots_library,
    dots_name,
    quantize_library,
    quantize_name,
    record_bytes,
)
from tensorlogic.codegen.llvm_few_rows import COUNTS, FEW, FewRows, few_shares
from tensorlogic.codegen.llvm_matmul import (
    TILES,
    Driver,
    Tile,
    ceil_div,
    heights,
    packing_libraries,
    shares,
)
from tensorlogic.codegen.llvm_packing import PAD, pack_name
from tensorlogic.codegen.llvm_unit import Target
from tensorlogic.kernels.ir import (
    Buffer,
    Expr,
    Kernel,
    Loop,
    Stmt,
    Store,
    const,
    index,
    load,
    param,
)
from tensorlogic.kernels.spec import Matmul
from tensorlogic.quants import QUANTS

_FLOATS = SLICE + 16
"""float32 numbers between decoded columns."""

Libraries = list[tuple[str, tuple[str, ...]]]


def _uses(spec: Matmul, target: Target | None) -> Target | None:
    """What integers are multiplied with, where the product may be rounded to them."""
    return None if spec.exact else target


def _words(spec: Matmul, target: Target | None) -> Target | None:
    """What panels of words are multiplied with; None where they are float32."""
    by = _uses(spec, target)
    return by if by and not by.arm else None


def _tile(spec: Matmul, lanes: int, target: Target | None) -> Tile:
    """Of words, blocks of columns are half as wide as those of dense products: rows are packed
    fast, and work is shared out more evenly."""
    tile = TILES[lanes]
    return replace(tile, panels=tile.panels // 2) if _words(spec, target) else tile


def block_units(
    spec: Matmul,
    problem: tuple[int, int, int],
    batches: int,
    lanes: int,
    threads: int,
    target: Target | None,
) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of a launch."""
    m, n, k = problem
    tile, t = _tile(spec, lanes, target), BLOCKS[spec.b_dtype]
    scratch = _driver(spec, target).scratch_bytes(spec, tile)
    if m > FEW or _uses(spec, target) is None:
        return (*shares(m, n, batches, tile, threads), scratch)
    records = ceil(k / t.unit) * record_bytes(t) * m
    return (*few_shares(m, n, batches, threads), scratch + 4 * k + 64 + records)


def _driver(spec: Matmul, target: Target | None) -> type[_Blocks]:
    return _Integers if _words(spec, target) else _Floats


def block_matmul_kernel(spec: Matmul, name: str, lanes: int, target: Target | None) -> str:
    """A module with the kernel `name` (its arguments: see llvm.py), which imports
    `block_libraries`. The argument words are those of the spec."""
    module = Module()
    _driver(spec, target)(
        module, spec, name, _tile(spec, lanes, target), _uses(spec, target)
    ).write()
    return module.text()


def block_libraries(spec: Matmul, lanes: int, target: Target | None) -> Libraries:
    """The modules that a kernel imports, and their functions: the same for every epilogue."""
    tile, t = _tile(spec, lanes, target), BLOCKS[spec.b_dtype]
    made: Libraries = []
    words = _words(spec, target)
    if words:
        module = Module()
        for rows in heights(tile):
            micro_kernel(module, t, rows, tile, words)
        made.append((module.text(), tuple(multiply_name(t, rows) for rows in heights(tile))))
        module = Module()
        pack_rows(module, t, spec.a_dtype)
        made.append((module.text(), (pack_rows_name(t, spec.a_dtype),)))
        module = Module()
        if spec.interleaved:
            llvm_interleaved_panels.pack_columns(module, t.name, tile.nr)
        else:
            pack_columns(module, t.name, tile.nr, words)
        made.append((module.text(), (_pack_columns_name(spec, tile),)))
    else:
        as_floats = Matmul(spec.a_dtype, "f32", spec.a_contiguous, "k", (), ())
        made += packing_libraries(as_floats, lanes)
        module = Module()
        _decode_kernel(module, spec.b_dtype, lanes)
        made.append((module.text(), (_decode_name(spec.b_dtype),)))
    by = _uses(spec, target)
    if by:
        made.append(quantize_library(t.name, spec.a_dtype, by))
        library = llvm_interleaved.dots_library if spec.interleaved else dots_library
        made += [library(t.name, count, by) for count in COUNTS]
    return made


def _pack_columns_name(spec: Matmul, tile: Tile) -> str:
    if spec.interleaved:
        return llvm_interleaved_panels.pack_columns_name(spec.b_dtype, tile.nr)
    return pack_columns_name(spec.b_dtype, tile.nr)


class _Blocks(Driver):
    """Slices of SLICE elements of K; b is addressed in bytes."""

    def __init__(
        self, module: Module, spec: Matmul, name: str, tile: Tile, few: Target | None
    ) -> None:
        super().__init__(module, spec, name, tile)
        self.type, self.few = BLOCKS[spec.b_dtype], few

    @staticmethod
    def scratch_bytes(spec: Matmul, tile: Tile) -> int:
        """Bytes of scratch memory for products of many rows, whole cache lines."""
        raise NotImplementedError

    def few_rows(self) -> FewRows | None:
        if not self.few:
            return None
        f, t, k = self.f, self.type, self.size["K"]
        stride = f.mul(ceil_div(f, k, t.unit), record_bytes(t))
        line = f.gep("i8", "%scratch", self.scratch_bytes(self.spec, self.tile))
        kept = f.gep("i8", line, f.op("and", "i64", f.add(f.mul(k, 4), 63), "-64"))
        dots = llvm_interleaved.dots_name if self.spec.interleaved else dots_name
        names = quantize_name(t.name, self.spec.a_dtype), partial(dots, t.name)
        return FewRows(*names, f.op("sdiv", "i64", k, str(t.block)), stride, line, kept)

    def _column_of_b(self, batch: Value, n: Value) -> tuple[Value, Value]:
        f, size = self.f, self.size
        at = f.add(f.mul(batch, size["b_batch"]), f.mul(n, size["b_n"]))
        return f.gep("i8", self.b, at), size["b_n"]

    def _products(self, batch: Value, m0: Value, m1: Value, n0: Value, n1: Value) -> None:
        """block[m1 - m0, n1 - n0] = the sums over all of K."""
        f, tile, size = self.f, self.tile, self.size
        quant = QUANTS[self.spec.b_dtype]
        slice_bytes = SLICE // quant.block * quant.nbytes
        if self.spec.interleaved:  # that of a group
            slice_bytes *= llvm_interleaved.ROWS
        rows = f.sub(m1, m0)
        a_panels = ceil_div(f, rows, tile.mr)
        b_panels = ceil_div(f, f.sub(n1, n0), tile.nr)
        a = self._row_of_a(batch, m0)
        b, _ = self._column_of_b(batch, n0)
        self._clear(f.mul(a_panels, tile.mr * tile.ldc))
        with f.loop(0, ceil_div(f, size["K"], SLICE)) as i:
            k0 = f.mul(i.index, SLICE)
            kc = f.smin(str(SLICE), f.sub(size["K"], k0))
            blocks = f.op("sdiv", "i64", kc, str(quant.block))
            a_slice = f.gep(STORED[self.spec.a_dtype], a, f.mul(k0, size["a_k"]))
            self._pack_a(a_slice, f.sub(size["M"], m0), a_panels, kc)
            with f.loop(0, b_panels) as j:
                n = f.mul(j.index, tile.nr)
                at = f.add(f.mul(n, size["b_n"]), f.mul(i.index, slice_bytes))
                columns = f.sub(f.sub(size["N"], n0), n)
                self._pack_b(f.gep("i8", b, at), columns, blocks, kc)
                with f.loop(0, a_panels) as r:
                    place = f.add(f.mul(r.index, tile.mr * tile.ldc), n)
                    c = f.gep("float", self.block, place)
                    self._panel(r.index, f.sub(rows, f.mul(r.index, tile.mr)), kc, c)

    def _clear(self, count: Value) -> None:
        f = self.f
        size = (("i64", f.mul(count, 4)), ("i1", "false"))
        f.call("void", "llvm.memset.p0.i64", ("ptr", self.block), ("i8", "0"), *size)

    def _pack_a(self, source: Value, rows: Value, panels: Value, kc: Value) -> None:
        raise NotImplementedError

    def _pack_b(self, source: Value, columns: Value, blocks: Value, kc: Value) -> None:
        raise NotImplementedError

    def _panel(self, panel: Value, left: Value, kc: Value, c: Value) -> None:
        """The product of panel `panel` of a with the one of b, added to c."""
        raise NotImplementedError


class _Integers(_Blocks):
    """Panels of words, and products of integers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        f, tile = self.f, self.tile
        places, at = [], tile.max_rows * ROW
        for size in panel_bytes(self.type, tile.nr):
            places.append(f.gep("i8", "%scratch", at))
            at += size
        self.panel = places
        self.block = f.gep("i8", "%scratch", at)

    @staticmethod
    def scratch_bytes(spec: Matmul, tile: Tile) -> int:
        panel = sum(panel_bytes(BLOCKS[spec.b_dtype], tile.nr))
        return tile.max_rows * ROW + panel + 4 * tile.max_rows * tile.ldc

    def _pack_a(self, source: Value, rows: Value, panels: Value, kc: Value) -> None:
        f, size = self.f, self.size
        numbers = (size["a_m"], size["a_k"], f.sub(rows, 1), f.mul(panels, self.tile.mr), kc)
        given = [("i64", n) for n in numbers]
        name = pack_rows_name(self.type, self.spec.a_dtype)
        f.call("void", name, ("ptr", source), *given, ("ptr", self.packed_a))

    def _pack_b(self, source: Value, columns: Value, blocks: Value, kc: Value) -> None:
        f = self.f
        numbers = [("i64", n) for n in (self.size["b_n"], f.sub(columns, 1), blocks)]
        name = _pack_columns_name(self.spec, self.tile)
        f.call("void", name, ("ptr", source), *numbers, *(("ptr", p) for p in self.panel))

    def _panel(self, panel: Value, left: Value, kc: Value, c: Value) -> None:
        f = self.f
        a = f.gep("i8", self.packed_a, f.mul(panel, self.tile.mr * ROW))
        words, scales, least, _ = self.panel
        parts = f.op("sdiv", "i64", kc, str(PART))
        given = [("i64", parts), *(("ptr", p) for p in (a, words, scales, least, c))]
        self._lowest(left, lambda rows: multiply_name(self.type, rows), given)


class _Floats(_Blocks):
    """Decoded columns, packed as float32."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decoded = self.f.gep("float", "%scratch", self.tile.scratch_bytes // 4)

    @staticmethod
    def scratch_bytes(spec: Matmul, tile: Tile) -> int:
        return -(-(tile.scratch_bytes + 4 * tile.nr * _FLOATS) // 64) * 64

    def _pack_a(self, source: Value, rows: Value, panels: Value, kc: Value) -> None:
        self._pack("a", source, rows, panels, kc, self.packed_a)

    def _pack_b(self, source: Value, columns: Value, blocks: Value, kc: Value) -> None:
        f, nr = self.f, self.tile.nr
        count = f.smin(columns, nr)
        args = f.alloca("i64", 5)
        for i, pointer in enumerate((source, source, self.decoded)):
            f.store("ptr", pointer, f.gep("i64", args, i), 8)
        for i, number in enumerate((self.size["b_n"], blocks), 3):
            f.store("i64", number, f.gep("i64", args, i), 8)
        values = args, "0", count, "null", "0"
        given = [(type_, value) for (type_, _), value in zip(KERNEL, values, strict=True)]
        f.call("void", _decode_name(self.spec.b_dtype), *given)
        numbers = [("i64", str(n)) for n in (_FLOATS, 1, count, 1, kc)]
        f.call(
            "void",
            pack_name(("f32", "k"), nr),
            ("ptr", self.decoded),
            *numbers,
            ("ptr", self.packed_b),
        )

    def _panel(self, panel: Value, left: Value, kc: Value, c: Value) -> None:
        f = self.f
        stride = f.add(f.mul(kc, self.tile.mr), PAD)
        a = f.gep("float", self.packed_a, f.mul(panel, stride))
        self._multiply(left, kc, (a, self.packed_b, c), "true")


def _decode_name(quant: str) -> str:
    return f"decode_{quant}"


def _decode_kernel(module: Module, quant: str, lanes: int) -> None:
    """A kernel: columns of blocks, `stride` bytes apart, as float32 _FLOATS apart."""
    q = QUANTS[quant]
    u8, f16, out = Buffer("u8", "u8"), Buffer("f16", "f16"), Buffer("out", "f32", written=True)
    stride, blocks = param("stride"), param("blocks")
    column, block = index("column"), index("block")
    digits = tuple(index(f"d{i}") for i in range(len(q.digits)))
    start = column * stride + block * q.nbytes

    def half(at: Expr) -> Expr:
        return load(f16, (start + at) >> 1)

    place = const(0, "i64")
    for digit, n in zip(digits, q.digits, strict=True):
        place = place * n + digit
    value = q.decode(lambda at: load(u8, start + at), half, digits)
    body: tuple[Stmt, ...] = (Store(out, column * _FLOATS + block * q.block + place, value),)
    zero = const(0, "i64")
    for i in reversed(range(len(digits))):
        kind = "vector" if i == len(digits) - 1 else "unrolled"
        body = (Loop(digits[i], zero, const(q.digits[i], "i64"), kind, body),)
    rows = Loop(block, zero, blocks, "serial", body)
    kernel = Kernel(
        (u8, f16, out), (stride, blocks), (Loop(column, zero, blocks, "parallel", (rows,)),)
    )
    emit_kernel(module, kernel, _decode_name(quant), lanes)
