"""Products of many rows with quantized weights: the matmul family with b read from its blocks.

A few rows are multiplied straight from the blocks, which are read once for four of them
(llvm_dots.py). More rows share panels of decoded weights: words, multiplied as integers
(llvm_block_panels.py), or float32 and the micro-kernel of all products, where the product is exact
or the processor has no products of words.
"""

from __future__ import annotations

from math import ceil

from tensorlogic.codegen.emit import Module, Value
from tensorlogic.codegen.instructions import STORED
from tensorlogic.codegen.llvm import emit_kernel
from tensorlogic.codegen.llvm_block_panels import (
    ROW,
    SLICE,
    STEP,
    micro_kernel,
    multiply_name,
    pack_columns,
    pack_columns_name,
    pack_rows,
    pack_rows_name,
    panel_bytes,
)
from tensorlogic.codegen.llvm_blocks import BLOCKS, Target
from tensorlogic.codegen.llvm_dots import (
    dots_library,
    dots_name,
    quantize_library,
    quantize_name,
    record_bytes,
)
from tensorlogic.codegen.llvm_matmul import (
    TILES,
    Driver,
    Tile,
    ceil_div,
    heights,
    libraries,
    shares,
)
from tensorlogic.kernels.ir import (
    BYTES,
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

FEW = 16
"""Products of so many rows read the blocks for four rows at a time; more decode panels of them."""
STRIP = 64
"""Columns that a product of few rows takes at a time."""
COUNTS = (4, 2, 1)
"""Rows that one walk over the blocks serves."""
_FLOATS = SLICE + 16
"""float32 numbers between decoded columns."""

Libraries = list[tuple[str, tuple[str, ...]]]


def in_integers(spec: Matmul, target: Target | None) -> bool:
    return target is not None and not spec.exact


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
    tile = TILES[lanes]
    if target is None or not in_integers(spec, target):
        floats = tile.nr * _FLOATS
        return (*shares(m, n, batches, lanes, threads), tile.scratch_bytes + 4 * floats)
    if m > FEW:
        return (*shares(m, n, batches, lanes, threads), _Integers.scratch_bytes(spec, tile))
    work = ceil(n / STRIP) * batches
    chunk = max(1, ceil(work / (8 * threads)))
    return work, chunk, _few_bytes(spec, tile, m, k)


def _few_bytes(spec: Matmul, tile: Tile, m: int, k: int) -> int:
    t = BLOCKS[spec.b_dtype]
    records = ceil(k / t.unit) * record_bytes(t) * m
    return 4 * FEW * tile.ldc + _line_bytes(k) + records


def _line_bytes(k: int) -> int:
    return 4 * k + 64


def block_matmul_kernel(spec: Matmul, name: str, lanes: int, target: Target | None) -> str:
    """A module with `void name(ptr args, i64 lo, i64 hi, ptr scratch)`, which imports
    `block_libraries`. The argument words are those of the spec."""
    module = Module()
    if target is not None and in_integers(spec, target):
        _Integers(module, spec, name, TILES[lanes]).write()
    else:
        _Floats(module, spec, name, TILES[lanes]).write()
    return module.text()


def block_libraries(spec: Matmul, lanes: int, target: Target | None) -> Libraries:
    """The modules that a kernel imports, and their functions: the same for every epilogue."""
    tile, t = TILES[lanes], BLOCKS[spec.b_dtype]
    if target is None or not in_integers(spec, target):
        as_floats = Matmul(spec.a_dtype, "f32", spec.a_contiguous, "k", (), ())
        module = Module()
        _decode_kernel(module, spec.b_dtype, lanes)
        return [*libraries(as_floats, lanes), (module.text(), (_decode_name(spec.b_dtype),))]
    made: Libraries = []
    module = Module()
    for rows in heights(tile):
        micro_kernel(module, t, rows, tile, target)
    made.append((module.text(), tuple(multiply_name(t, rows) for rows in heights(tile))))
    module = Module()
    pack_rows(module, t, spec.a_dtype)
    made.append((module.text(), (pack_rows_name(t, spec.a_dtype),)))
    module = Module()
    pack_columns(module, t.name, tile.nr, target)
    made.append((module.text(), (pack_columns_name(t.name, tile.nr),)))
    made.append(quantize_library(t.name, spec.a_dtype, target))
    made += [dots_library(t.name, count, target) for count in COUNTS]
    return made


class _Blocks(Driver):
    """Slices of SLICE elements of K; b is addressed in bytes."""

    def _row_of_blocks(self, batch: Value, n: Value) -> Value:
        f, size = self.f, self.size
        at = f.add(f.mul(batch, size["b_batch"]), f.mul(n, size["b_n"]))
        return f.gep("i8", self.b, at)

    def _rows_of_a(self, batch: Value, m: Value) -> Value:
        return self._element(self.a, self.spec.a_dtype, "a", batch, ("a_m", m))

    def _products(self, batch: Value, m0: Value, m1: Value, n0: Value, n1: Value) -> None:
        """block[m1 - m0, n1 - n0] = the sums over all of K."""
        f, tile, size = self.f, self.tile, self.size
        quant = QUANTS[self.spec.b_dtype]
        slice_bytes = SLICE // quant.block * quant.nbytes
        rows = f.sub(m1, m0)
        a_panels = ceil_div(f, rows, tile.mr)
        b_panels = ceil_div(f, f.sub(n1, n0), tile.nr)
        a, b = self._rows_of_a(batch, m0), self._row_of_blocks(batch, n0)
        self._clear(f.mul(a_panels, tile.mr * tile.ldc))
        with f.loop(0, ceil_div(f, size["K"], SLICE)) as i:
            k0 = f.mul(i.index, SLICE)
            kc = f.smin(SLICE, f.sub(size["K"], k0))
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
    """Words and products of integers; few rows by dots."""

    def __init__(self, module: Module, spec: Matmul, name: str, tile: Tile) -> None:
        super().__init__(module, spec, name, tile)
        f, self.type = self.f, BLOCKS[spec.b_dtype]
        places, at = [], tile.max_rows * ROW
        for size in panel_bytes(self.type, tile.nr):
            places.append(f.gep("i8", "%scratch", at))
            at += size
        self.panel = places
        self.wide_block = f.gep("i8", "%scratch", at)

    @staticmethod
    def scratch_bytes(spec: Matmul, tile: Tile) -> int:
        panel = sum(panel_bytes(BLOCKS[spec.b_dtype], tile.nr))
        return tile.max_rows * ROW + panel + 4 * (tile.max_rows * tile.ldc + tile.lanes)

    def write(self) -> None:
        f = self.f
        few = f.icmp("sle", "i64", self.size["M"], FEW)
        with f.when(few) as branch:
            self.block = "%scratch"
            self._few_rows()
            branch.otherwise()
            self.block = self.wide_block
            self._strips()
        f.ret()

    def _pack_a(self, source: Value, rows: Value, panels: Value, kc: Value) -> None:
        f, size = self.f, self.size
        numbers = (size["a_m"], size["a_k"], f.sub(rows, 1), f.mul(panels, self.tile.mr), kc)
        given = [("i64", n) for n in numbers]
        name = pack_rows_name(self.type, self.spec.a_dtype)
        f.call("void", name, ("ptr", source), *given, ("ptr", self.packed_a))

    def _pack_b(self, source: Value, columns: Value, blocks: Value, kc: Value) -> None:
        f = self.f
        numbers = [("i64", n) for n in (self.size["b_n"], f.sub(columns, 1), blocks)]
        name = pack_columns_name(self.type.name, self.tile.nr)
        f.call("void", name, ("ptr", source), *numbers, *(("ptr", p) for p in self.panel))

    def _panel(self, panel: Value, left: Value, kc: Value, c: Value) -> None:
        f = self.f
        a = f.gep("i8", self.packed_a, f.mul(panel, self.tile.mr * ROW))
        words, scales, least, _ = self.panel
        steps = f.op("sdiv", "i64", kc, str(STEP))
        given = [("i64", steps), *(("ptr", p) for p in (a, words, scales, least, c))]
        self._lowest(left, lambda rows: multiply_name(self.type, rows), given)

    # Few rows

    def _few_rows(self) -> None:
        """The parallel range is made of strips of STRIP columns of each batch entry."""
        f, size = self.f, self.size
        strips = ceil_div(f, size["N"], STRIP)
        first = f.op("sdiv", "i64", "%lo", strips)
        last = f.op("sdiv", "i64", f.sub("%hi", 1), strips)
        blocks = f.op("sdiv", "i64", size["K"], str(self.type.block))
        records = f.mul(ceil_div(f, size["K"], self.type.unit), record_bytes(self.type))
        line = f.gep("float", "%scratch", FEW * self.tile.ldc)
        whole = f.op("and", "i64", f.add(f.mul(size["K"], 4), 63), "-64")
        kept = f.gep("i8", line, whole)
        with f.loop(first, f.add(last, 1)) as batch:
            before = f.mul(batch.index, strips)
            start = f.smax(f.sub("%lo", before), 0)
            stop = f.smin(f.sub("%hi", before), strips)
            self._records(batch.index, line, kept, records, blocks)
            with f.loop(start, stop) as s:
                n0 = f.mul(s.index, STRIP)
                n1 = f.smin(f.add(n0, STRIP), size["N"])
                w = self._row_of_blocks(batch.index, n0)
                done = "0"
                for count in COUNTS:
                    done = self._some_rows(count, done, (w, f.sub(n1, n0)), kept, records, blocks)
                self._epilogue(batch.index, "0", size["M"], n0, n1)

    def _records(
        self, batch: Value, line: Value, kept: Value, records: Value, blocks: Value
    ) -> None:
        """The records of all rows of a batch entry."""
        f, size, dtype = self.f, self.size, self.spec.a_dtype
        element = STORED[dtype]
        dense = f.icmp("eq", "i64", size["a_k"], 1)
        with f.loop(0, size["M"]) as m:
            source = self._rows_of_a(batch, m.index)
            with f.when(dense) as branch:
                branch.otherwise()
                with f.loop(0, size["K"]) as k:
                    at = f.gep(element, source, f.mul(k.index, size["a_k"]))
                    one = f.load(element, at, BYTES[dtype])
                    f.store(element, one, f.gep(element, line, k.index), BYTES[dtype])
            x = f.select(dense, "ptr", source, line)
            to = f.gep("i8", kept, f.mul(m.index, records))
            name = quantize_name(self.type.name, dtype)
            f.call("void", name, ("ptr", x), ("ptr", to), ("i64", blocks))

    def _some_rows(
        self,
        count: int,
        done: Value,
        columns: tuple[Value, Value],
        kept: Value,
        records: Value,
        blocks: Value,
    ) -> Value:
        """`count` rows at a time from `done` on, as long as there are so many; where it ends."""
        f = self.f
        with f.loop(done, f.sub(self.size["M"], count - 1), count) as m:
            x = f.gep("i8", kept, f.mul(m.index, records))
            out = f.gep("float", self.block, f.mul(m.index, self.tile.ldc))
            w, n = columns
            given = [("ptr", w), ("i64", self.size["b_n"]), ("i64", n), ("ptr", x)]
            given += [("i64", records), ("i64", blocks), ("ptr", out)]
            name = dots_name(self.type.name, count)
            f.call("void", name, *given, ("i64", str(self.tile.ldc)))
        return m.index


class _Floats(_Blocks):
    """Decoded columns, packed as float32."""

    def __init__(self, module: Module, spec: Matmul, name: str, tile: Tile) -> None:
        super().__init__(module, spec, name, tile)
        self.decoded = self.f.gep("float", "%scratch", tile.scratch_bytes // 4)

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
        bounds = (("i64", "0"), ("i64", count))
        f.call("void", _decode_name(self.spec.b_dtype), ("ptr", args), *bounds, ("ptr", "null"))
        given = [("i64", str(n)) for n in (_FLOATS, 1, count, 1, kc)]
        f.call("void", f"pack{nr}_f32_k", ("ptr", self.decoded), *given, ("ptr", self.packed_b))

    def _panel(self, panel: Value, left: Value, kc: Value, c: Value) -> None:
        f = self.f
        stride = f.add(f.mul(kc, self.tile.mr), 32)
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
    kernel = Kernel((u8, f16, out), (stride, blocks), (Loop(column, zero, blocks, "parallel", (rows,)),))
    emit_kernel(module, kernel, _decode_name(quant), lanes)
