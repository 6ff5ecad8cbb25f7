"""The matmul family for the CPU: one function for each `Matmul`, all extents and strides run-time.

The parallel range is made of strips: a few panels of rows of one block of `nb` columns of one batch
entry, rows fastest. A thread takes consecutive strips of a block together, `max_rows` rows at most.
For each slice of K it packs their part of A, then panel by panel that of B, into its scratch memory
as float32, in the order in which the micro-kernel reads them, and adds the products to a float32
block of C, also in scratch. After the last slice the epilogue runs over that block as a kernel of
the IR.

The blocking is that of K. Goto and R. van de Geijn, Anatomy of High-Performance Matrix
Multiplication, ACM TOMS 34(3), 2008: a micro-kernel keeps mr x nr accumulators in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from tensorlogic.codegen.emit import KERNEL, ArgType, Function, Module, Value, vector
from tensorlogic.codegen.instructions import STORED
from tensorlogic.codegen.llvm import Emitter
from tensorlogic.codegen.llvm_few_rows import (
    FEW,
    STRIP,
    FewRows,
    dense_library,
    dense_name,
    dense_record_bytes,
    few_shares,
    make_records,
    multiply_few,
    widen_name,
)
from tensorlogic.codegen.llvm_packing import PAD, operands, pack, pack_name
from tensorlogic.kernels.ir import (
    BYTES,
    Buffer,
    Expr,
    Loop,
    Stmt,
    Store,
    exprs_of,
    load,
    nodes_of,
    param,
    replaced,
)
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, Matmul

_FLOAT = 4


@dataclass(frozen=True)
class Tile:
    """The blocking for a vector width: `mr` rows x `nv` vectors in registers, strips of
    `strip_panels` x mr rows, at most `strips` of them taken together, blocks of `panels` x nr
    columns, `kc` of K packed at a time: a panel of B then fits in the L1, those of A in the L2."""

    lanes: int
    mr: int
    nv: int
    strip_panels: int
    strips: int
    panels: int
    kc: int = 256

    @property
    def nr(self) -> int:
        return self.nv * self.lanes

    @property
    def nb(self) -> int:
        return self.panels * self.nr

    @property
    def strip(self) -> int:
        return self.strip_panels * self.mr

    @property
    def max_rows(self) -> int:
        return self.strips * self.strip

    @property
    def ldc(self) -> int:
        """Floats from row to row of the block of C."""
        return self.nb + 16

    @property
    def a_floats(self) -> int:
        return self.strips * self.strip_panels * (self.kc * self.mr + PAD)

    @property
    def b_floats(self) -> int:
        return self.kc * self.nr + PAD

    @property
    def scratch_bytes(self) -> int:
        overrun = self.lanes  # a transposing store writes whole vectors
        return _FLOAT * (self.a_floats + self.b_floats + self.max_rows * self.ldc + overrun)


TILES = {
    16: Tile(16, mr=12, nv=2, strip_panels=4, strips=12, panels=16),
    8: Tile(8, mr=6, nv=2, strip_panels=8, strips=6, panels=32),
    4: Tile(4, mr=8, nv=3, strip_panels=6, strips=6, panels=32),
}
"""By lanes: AVX-512 has 32 registers of 16, AVX2 16 of 8, NEON 32 of 4."""


def units(
    spec: Matmul, problem: tuple[int, int, int], batches: int, lanes: int, threads: int
) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of a launch; `problem` is M, N, K."""
    m, n, k = problem
    if m <= FEW and reads_columns(spec):
        scratch = TILES[lanes].scratch_bytes + 4 * (m + 1) * (k + 16) + 128
        return (*few_shares(m, n, batches, threads), scratch)
    tile = TILES[lanes]
    return (*shares(m, n, batches, tile, threads), tile.scratch_bytes)


def reads_columns(spec: Matmul) -> bool:
    """Whether products of few rows read b as it is."""
    return spec.b_contiguous == "k" and not spec.windows


def shares(M: int, N: int, batches: int, tile: Tile, threads: int) -> tuple[int, int]:
    """The strips of a launch, and how many of them a thread takes at a time: as many as an even
    load allows."""
    strips = ceil(M / tile.strip)
    work = strips * ceil(N / tile.nb) * batches

    def cost(chunk: int) -> int:
        """Rows of products that the busiest thread does. A chunk packs B once for each block of
        columns that it meets, which costs as much as the products of 16 rows."""
        chunks = ceil(work / chunk)
        turns = ceil(chunks / threads)
        last = chunk if chunks - (turns - 1) * threads > 1 else work - (chunks - 1) * chunk
        blocks = 1 if strips % chunk == 0 else chunk // strips + (2 if chunk % strips else 0)
        return ((turns - 1) * chunk + last) * tile.strip + turns * blocks * 16

    costs = {chunk: cost(chunk) for chunk in range(1, tile.strips + 1)} if work else {1: 0}
    near = 1.03 * min(costs.values())  # of like chunks the smallest: a core may be taken away
    return work, next(c for c in costs if costs[c] <= near)


def matmul_kernel(spec: Matmul, name: str, lanes: int) -> str:
    """A module with the kernel `name` (its arguments: see llvm.py), which imports `libraries`.

    The argument words are those of the spec: the addresses of a, b and its buffers, then
    MATMUL_PARAMS and its params.
    """
    module = Module()
    Driver(module, spec, name, TILES[lanes]).write()
    return module.text()


def libraries(spec: Matmul, lanes: int) -> list[tuple[str, tuple[str, ...]]]:
    """The modules that a kernel imports, and their functions: the same for every epilogue."""
    made = packing_libraries(spec, lanes)
    if reads_columns(spec):
        made += dense_library(spec.a_dtype, spec.b_dtype, lanes)
    return made


def packing_libraries(spec: Matmul, lanes: int) -> list[tuple[str, tuple[str, ...]]]:
    """What products of many rows import."""
    tile = TILES[lanes]
    module = Module()
    for rows in heights(tile):
        _micro_kernel(module, rows, tile)
    made = [(module.text(), tuple(f"multiply{rows}" for rows in heights(tile)))]
    for operand, width in zip(operands(spec), (tile.mr, tile.nr), strict=True):
        module = Module()
        pack(module, operand, width, lanes)
        made.append((module.text(), (pack_name(operand, width),)))
    return made


def heights(tile: Tile) -> list[int]:
    """The micro-kernels: the last rows of a matrix take the lowest one that holds them."""
    return [rows for rows in (tile.mr // 3, 2 * tile.mr // 3) if rows] + [tile.mr]


def ceil_div(f: Function, a: Value, b: int) -> Value:
    return f.op("sdiv", "i64", f.add(a, b - 1), str(b))


def _micro_kernel(module: Module, rows: int, tile: Tile) -> None:
    """c[rows, nr] (+)= a[kc, mr] (its first rows) * b[kc, nr]; `more` is false for the first kc."""
    args = [("i64", "kc"), ("ptr noalias", "a"), ("ptr noalias", "b"), ("ptr noalias", "c")]
    f = module.function(f"multiply{rows}", [*args, ("i1", "more")])
    type_ = vector("float", tile.lanes)
    at = [
        f.gep("float", "%c", r * tile.ldc + v * tile.lanes)
        for r in range(rows)
        for v in range(tile.nv)
    ]
    with f.when("%more") as branch:
        old = [f.load(type_, p, 64) for p in at]
        branch.otherwise()
    start = [branch.merge(type_, x, "zeroinitializer") for x in old]
    carry = [*((type_, x) for x in start), ("ptr", "%a"), ("ptr", "%b")]
    with f.loop(0, "%kc", carry=carry) as k:
        *sums, a, b = k.carried
        columns = [f.load(type_, f.gep("float", b, v * tile.lanes), 64) for v in range(tile.nv)]
        for r in range(rows):
            one = f.splat("float", tile.lanes, f.load("float", f.gep("float", a, r), 4))
            for v, column in enumerate(columns):
                i = r * tile.nv + v
                sums[i] = f.intrinsic("fma", type_, one, column, sums[i])
        k.next = [*sums, f.gep("float", a, tile.mr), f.gep("float", b, tile.nr)]
    for x, p in zip(k.carried, at, strict=False):
        f.store(type_, x, p, 64)
    f.ret()


class Driver:
    """The kernel's own function: strips, slices of K, panels, and the epilogue."""

    def __init__(self, module: Module, spec: Matmul, name: str, tile: Tile) -> None:
        f = self.f = module.function(name, KERNEL)
        self.spec, self.tile = spec, tile
        count = len(spec.buffers) + 2
        words = [
            f.load("ptr" if i < count else "i64", f.gep("i64", "%args", i), 8)
            for i in range(count + len(spec.all_params))
        ]
        self.a, self.b, *others = words[:count]
        self.pointers = dict(zip(spec.buffers, others, strict=True))
        self.given = dict(zip(spec.all_params, words[count:], strict=True))
        self.size = {p.attr: word for p, word in self.given.items()}
        self.packed_a = "%scratch"
        self.packed_b = f.gep("float", self.packed_a, tile.a_floats)
        self.block = f.gep("float", self.packed_b, tile.b_floats)

    def few_rows(self) -> FewRows | None:
        """How a few rows are multiplied, where that is not by packing."""
        if not reads_columns(self.spec):
            return None
        f, k = self.f, self.size["K"]
        stride = dense_record_bytes(f, k)
        line = f.gep("i8", "%scratch", self.tile.scratch_bytes // 64 * 64 + 64)
        a_dtype, b_dtype = self.spec.a_dtype, self.spec.b_dtype
        names = widen_name(a_dtype), lambda count: dense_name(b_dtype, count)
        return FewRows(*names, k, stride, line, f.gep("i8", line, stride))

    def write(self) -> None:
        f, tile, size = self.f, self.tile, self.size
        few = self.few_rows()
        nb, is_few, anew = str(tile.nb), "false", "false"
        if few:
            is_few = f.icmp("sle", "i64", size["M"], FEW)
            # Records of one batch entry are there since the thread's first turn.
            several = f.icmp("ne", "i64", size["batches"], 1)
            anew = f.op("or", "i1", several, f.icmp("eq", "i64", "%turn", 0))
            nb = f.select(is_few, "i64", str(STRIP), nb)
        strips = ceil_div(f, size["M"], tile.strip)
        column_blocks = f.op("sdiv", "i64", f.add(size["N"], f.sub(nb, 1)), nb)
        first = f.op("sdiv", "i64", "%lo", strips)
        last = f.op("sdiv", "i64", f.sub("%hi", 1), strips)
        with f.loop(first, f.add(last, 1)) as c:
            before = f.mul(c.index, strips)
            start = f.smax(f.sub("%lo", before), 0)
            stop = f.smin(f.sub("%hi", before), strips)
            batch = f.op("sdiv", "i64", c.index, column_blocks)
            at = f.op("srem", "i64", c.index, column_blocks)
            n0 = f.mul(at, nb)
            n1 = f.smin(f.add(n0, nb), size["N"])
            if few:
                begins = f.op("and", "i1", anew, f.icmp("eq", "i64", c.index, first))
                new = f.op("or", "i1", begins, f.icmp("eq", "i64", at, 0))
                with f.when(f.op("and", "i1", is_few, new)):
                    make_records(f, few, self.spec.a_dtype, size, partial(self._row_of_a, batch))
            with f.loop(start, stop, tile.strips) as s:
                m0 = f.mul(s.index, tile.strip)
                end = f.smin(f.add(s.index, tile.strips), stop)
                m1 = f.smin(f.mul(end, tile.strip), size["M"])
                if few:
                    with f.when(is_few) as branch:
                        columns = (*self._column_of_b(batch, n0), f.sub(n1, n0))
                        multiply_few(f, few, size["M"], columns, (self.block, tile.ldc))
                        branch.otherwise()
                        self._products(batch, m0, m1, n0, n1)
                else:
                    self._products(batch, m0, m1, n0, n1)
                self._epilogue(batch, m0, m1, n0, n1)
        f.ret()

    def _row_of_a(self, batch: Value, m: Value) -> Value:
        return self._element(self.a, self.spec.a_dtype, "a", batch, ("a_m", m))

    def _column_of_b(self, batch: Value, n: Value) -> tuple[Value, Value]:
        """The address of a column, and the bytes to the next one."""
        dtype = self.spec.b_dtype
        at = self._element(self.b, dtype, "b", batch, ("b_n", n))
        return at, self.f.mul(self.size["b_n"], BYTES[dtype])

    def _products(self, batch: Value, m0: Value, m1: Value, n0: Value, n1: Value) -> None:
        """block[m1 - m0, n1 - n0] = the sums over all of K."""
        f, tile, size = self.f, self.tile, self.size
        rows = f.sub(m1, m0)
        a_panels = ceil_div(f, rows, tile.mr)
        b_panels = ceil_div(f, f.sub(n1, n0), tile.nr)
        a = self._element(self.a, self.spec.a_dtype, "a", batch, ("a_m", m0))
        b = self._first_of_b(batch, n0, n1)
        # K in even slices; of an empty K one empty slice, which sets the block to zero.
        slices = f.smax(ceil_div(f, size["K"], tile.kc), 1)
        even = f.op("sdiv", "i64", f.add(size["K"], f.sub(slices, 1)), slices)
        step = f.op("and", "i64", f.add(even, 31), "-32")
        with f.loop(0, slices) as i:
            k0 = f.mul(i.index, step)
            kc = f.smin(step, f.sub(size["K"], k0))
            more = f.icmp("ne", "i64", i.index, 0)
            a_slice = f.gep(STORED[self.spec.a_dtype], a, f.mul(k0, size["a_k"]))
            b_slice = f.gep(STORED[self.spec.b_dtype], b, f.mul(k0, size["b_k"]))
            a_rows, b_columns = f.sub(size["M"], m0), f.sub(size["N"], n0)
            self._pack("a", a_slice, a_rows, a_panels, kc, self.packed_a)
            self._before_panels(k0, kc)
            with f.loop(0, b_panels) as j:
                n = f.mul(j.index, tile.nr)
                self._pack_b_panel(b_slice, n, f.sub(b_columns, n), kc)
                with f.loop(0, a_panels) as r:
                    a_stride = f.add(f.mul(kc, tile.mr), PAD)
                    a_panel = f.gep("float", self.packed_a, f.mul(r.index, a_stride))
                    at = f.add(f.mul(r.index, tile.mr * tile.ldc), n)
                    c = f.gep("float", self.block, at)
                    left = f.sub(rows, f.mul(r.index, tile.mr))
                    self._multiply(left, kc, (a_panel, self.packed_b, c), more)

    def _first_of_b(self, batch: Value, n0: Value, n1: Value) -> Value:
        """Where b begins, for columns n0 to n1 and the first k."""
        return self._element(self.b, self.spec.b_dtype, "b", batch, ("b_n", n0))

    def _before_panels(self, k0: Value, kc: Value) -> None:
        """What the panels of a slice of K have in common."""

    def _pack_b_panel(self, b_slice: Value, n: Value, left: Value, kc: Value) -> None:
        """The panel of b that begins at column n of the block; `left` columns are there."""
        panel = self.f.gep(STORED[self.spec.b_dtype], b_slice, self.f.mul(n, self.size["b_n"]))
        self._pack("b", panel, left, 1, kc, self.packed_b)

    def _multiply(
        self, left: Value, kc: Value, pointers: tuple[Value, Value, Value], more: Value
    ) -> None:
        given = [("i64", kc), *(("ptr", p) for p in pointers), ("i1", more)]
        self._lowest(left, lambda rows: f"multiply{rows}", given)

    def _lowest(self, left: Value, name: Callable[[int], str], given: Sequence[ArgType]) -> None:
        """A call of the lowest micro-kernel that holds the rows that are left."""
        f = self.f
        done = f.fresh("done")
        for rows in heights(self.tile):
            fits, higher = f.fresh("fits"), f.fresh("higher")
            if rows < self.tile.mr:
                f.branch(f.icmp("sle", "i64", left, rows), fits, higher)
                f.start(fits)
            f.call("void", name(rows), *given)
            f.jump(done)
            if rows < self.tile.mr:
                f.start(higher)
        f.start(done)

    def _pack(
        self,
        operand: str,
        source: Value,
        rows: Value,
        panels: Value | int,
        kc: Value,
        to: Value,
    ) -> None:
        a, b = operands(self.spec)
        if operand == "a":
            name, strides = pack_name(a, self.tile.mr), (self.size["a_m"], self.size["a_k"])
        else:
            name, strides = pack_name(b, self.tile.nr), (self.size["b_n"], self.size["b_k"])
        given = [("i64", str(n)) for n in (*strides, rows, panels, kc)]
        self.f.call("void", name, ("ptr", source), *given, ("ptr", to))

    def _element(
        self, base: Value, dtype: str, operand: str, batch: Value, along: tuple[str, Value]
    ) -> Value:
        f = self.f
        at = f.add(
            f.mul(batch, self.size[f"{operand}_batch"]), f.mul(along[1], self.size[along[0]])
        )
        return f.gep(STORED[dtype], base, at)

    def _epilogue(self, batch: Value, m0: Value, m1: Value, n0: Value, n1: Value) -> None:
        """The spec's stores, with acc read from the block, as two loops of the kernel IR."""
        f, spec = self.f, self.spec
        written = {s.buffer for s in spec.stores}
        block = Buffer("block", "f32")
        emitter = Emitter(f, self.tile.lanes, {**self.pointers, block: self.block}, written)
        for p, word in self.given.items():
            emitter.bind_word(p, word)
        emitter.bind(BATCH, batch)
        top, bottom, left, right = (param(n) for n in ("top", "bottom", "left", "right"))
        for bound, value in zip((top, bottom, left, right), (m0, m1, n0, n1), strict=True):
            emitter.bind(bound, value)
        acc = load(block, (ROW - top) * self.tile.ldc + (COL - left))
        body: tuple[Stmt, ...] = tuple(_with_acc(s, acc) for s in spec.stores)
        columns = Loop(COL, left, right, "vector", body)
        emitter.block([Loop(ROW, top, bottom, "serial", (columns,))])


def _with_acc(s: Store, acc: Expr) -> Store:
    """A store whose `acc` is read from memory."""
    by = {e: acc for e in nodes_of(*exprs_of(s)) if e.op == "var" and e.attr == ACC.attr}
    memo: dict[Expr, Expr] = {}
    where = None if s.where is None else replaced(s.where, by, memo)
    return Store(s.buffer, replaced(s.at, by, memo), replaced(s.value, by, memo), where)
