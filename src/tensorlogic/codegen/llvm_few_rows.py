"""Products of a few rows: the weights are read once, in their order, and nothing of them is packed.

The rows become records first, once for each thread and batch entry: float32 for dense weights
(`widen`), integers for quantized ones (llvm_dots.py). Then some columns at a time are multiplied
with four rows, two, or one. Dense weights are read along K, several columns side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tensorlogic.codegen.emit import Function, Module, Value, f32, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_dots import SOON
from tensorlogic.kernels.ir import BYTES

FEW = 16
"""Products of so many rows at most are done this way."""
STRIP = 64
"""Columns that are multiplied at a time."""
COUNTS = (4, 2, 1)
"""Rows that one walk over the weights serves."""
_AHEAD = 256
"""How many bytes of a column are asked for in advance."""


@dataclass(frozen=True)
class FewRows:
    """The functions of a product: `record(x, to, depth)` makes the record of a row, `dots(count)`
    names the one that multiplies `count` of them. `depth` is K in their units, `stride` the bytes
    of a record, `kept` where the records are, `line` room for a row that is not contiguous."""

    record: str
    dots: Callable[[int], str]
    depth: Value
    stride: Value
    line: Value
    kept: Value


def few_shares(m: int, n: int, batches: int, threads: int) -> tuple[int, int]:
    """The strips of a launch, and how many a thread takes at a time: it makes records for them."""
    work = -(-n // STRIP) * batches if m else 0
    return work, max(1, -(-work // (8 * threads)))


def make_records(
    f: Function,
    few: FewRows,
    dtype: str,
    size: Mapping[str, Value],
    row_of: Callable[[Value], Value],
) -> None:
    """The records of all rows of a batch entry."""
    element = STORED[dtype]
    dense = f.icmp("eq", "i64", size["a_k"], 1)
    with f.loop(0, size["M"]) as m:
        source = row_of(m.index)
        with f.when(dense) as branch:
            branch.otherwise()
            with f.loop(0, size["K"]) as k:
                at = f.gep(element, source, f.mul(k.index, size["a_k"]))
                one = f.load(element, at, BYTES[dtype])
                f.store(element, one, f.gep(element, few.line, k.index), BYTES[dtype])
        x = f.select(dense, "ptr", source, few.line)
        to = f.gep("i8", few.kept, f.mul(m.index, few.stride))
        f.call("void", few.record, ("ptr", x), ("ptr", to), ("i64", few.depth))


def multiply_few(
    f: Function,
    few: FewRows,
    rows: Value,
    columns: tuple[Value, Value, Value],
    block: tuple[Value, int],
) -> None:
    """block[row, column] = the products of all rows with some columns: (address, bytes from one to
    the next, number). `block` is (address, floats from row to row)."""
    w, w_stride, n = columns
    to, ldc = block
    done = "0"
    for count in COUNTS:
        with f.loop(done, f.sub(rows, count - 1), count) as m:
            x = f.gep("i8", few.kept, f.mul(m.index, few.stride))
            out = f.gep("float", to, f.mul(m.index, ldc))
            given = [("ptr", w), ("i64", w_stride), ("i64", n), ("ptr", x)]
            given += [("i64", few.stride), ("i64", few.depth), ("ptr", out), ("i64", str(ldc))]
            f.call("void", few.dots(count), *given)
        done = m.index


# Dense weights


def widen_name(dtype: str) -> str:
    return f"widen_{dtype}"


def dense_name(dtype: str, count: int) -> str:
    return f"few{count}_{dtype}"


def dense_record_bytes(f: Function, k: Value) -> Value:
    return f.mul(f.op("and", "i64", f.add(k, 15), "-16"), 4)


def dense_library(a_dtype: str, b_dtype: str, lanes: int) -> list[tuple[str, tuple[str, ...]]]:
    """The modules with `widen` for a and the products with b."""
    module = Module()
    _widen(module, a_dtype, lanes)
    made = [(module.text(), (widen_name(a_dtype),))]
    module = Module()
    for count in COUNTS:
        _dense(module, b_dtype, count, lanes)
    return [*made, (module.text(), tuple(dense_name(b_dtype, count) for count in COUNTS))]


def _widen(module: Module, dtype: str, lanes: int) -> None:
    """widen(x, to, k): a row as float32, with zeros up to a whole vector."""
    args = [("ptr noalias", "x"), ("ptr noalias", "to"), ("i64", "k")]
    f = module.function(widen_name(dtype), args)
    element, size, type_ = STORED[dtype], BYTES[dtype], vector("float", lanes)
    whole = f.op("and", "i64", "%k", str(-lanes))
    with f.loop(0, whole, lanes) as k:
        raw = f.load(vector(element, lanes), f.gep(element, "%x", k.index), size)
        f.store(type_, loaded(f, dtype, raw, lanes), f.gep("float", "%to", k.index), 4)
    with f.when(f.icmp("slt", "i64", whole, "%k")):
        f.store(type_, "zeroinitializer", f.gep("float", "%to", whole), 4)
        with f.loop(whole, "%k") as k:
            raw = f.load(element, f.gep(element, "%x", k.index), size)
            f.store("float", loaded(f, dtype, raw, 1), f.gep("float", "%to", k.index), 4)
    f.ret()


def _dense(module: Module, dtype: str, count: int, lanes: int) -> None:
    """few(w, w_stride, columns, x, x_stride, k, out, out_stride): products of `count` records with
    columns that are `w_stride` bytes apart: out[c * out_stride + column]."""
    args = [("ptr noalias", "w"), ("i64", "w_stride"), ("i64", "columns"), ("ptr noalias", "x")]
    args += [("i64", "x_stride"), ("i64", "k"), ("ptr noalias", "out"), ("i64", "out_stride")]
    f = module.function(dense_name(dtype, count), args)
    # More columns at a time share what is read of x; one row is cheap to read, and memory is
    # read best in one stream.
    together = 1 if count == 1 else 4 if lanes >= 16 or count < 4 else 2
    done = "0"
    if together > 1:
        with f.loop(0, f.sub("%columns", together - 1), together) as c:
            _columns(f, dtype, (c.index, together), count, lanes)
        done = c.index
    with f.loop(done, "%columns") as rest:
        _columns(f, dtype, (rest.index, 1), count, lanes)
    f.ret()


def _columns(f: Function, dtype: str, columns: tuple[Value, int], count: int, lanes: int) -> None:
    first, n = columns
    element, size, real = STORED[dtype], BYTES[dtype], vector("float", lanes)
    w = [f.gep("i8", "%w", f.mul(f.add(first, i), "%w_stride")) for i in range(n)]
    x = [f.gep("i8", "%x", f.mul("%x_stride", r)) for r in range(count)]
    copies = max(1, 8 // (n * count))  # an addition waits for the one before
    whole = f.op("and", "i64", "%k", str(-lanes * copies))

    def step(sums: list[Value], starts: list[Value], k: Value) -> list[Value]:
        """One vector along K of each column and each row."""
        raw = [f.load(vector(element, lanes), p, size) for p in starts]
        weights = [loaded(f, dtype, v, lanes) for v in raw]
        given = [f.load(real, f.gep("float", p, k), 4) for p in x]
        pairs = [(a, b) for a in given for b in weights]
        return [f.intrinsic("fma", real, a, b, s) for s, (a, b) in zip(sums, pairs, strict=True)]

    each = n * count
    carry = [(real, "zeroinitializer")] * (each * copies)
    with f.loop(0, whole, lanes * copies, carry) as k:
        following: list[Value] = []
        for i in range(copies):
            at = f.add(k.index, i * lanes)
            starts = [f.gep(element, p, at) for p in w]
            if i * lanes * size % 64 == 0:
                for p in starts:
                    f.call("void", "llvm.prefetch.p0", ("ptr", f.gep("i8", p, _AHEAD)), *SOON)
            following += step(list(k.carried[i * each : (i + 1) * each]), starts, at)
        k.next = following
    sums = list(k.carried[:each])
    for i in range(1, copies):
        more = k.carried[i * each : (i + 1) * each]
        sums = [f.op("fadd", real, a, b) for a, b in zip(sums, more, strict=True)]
    if copies > 1:
        end = f.op("and", "i64", "%k", str(-lanes))
        with f.loop(whole, end, lanes, [(real, s) for s in sums]) as k:
            k.next = step(list(k.carried), [f.gep(element, p, k.index) for p in w], k.index)
        sums, whole = list(k.carried), end
    with f.when(f.icmp("slt", "i64", whole, "%k")) as branch:
        starts = [_tail(f, element, f.gep(element, p, whole), whole, lanes) for p in w]
        longer = step(sums, starts, whole)
        branch.otherwise()
    name = f"llvm.vector.reduce.fadd.v{lanes}f32"
    totals = [branch.merge(real, a, b) for a, b in zip(longer, sums, strict=True)]
    for i, total in enumerate(totals):
        one = f.call("float", name, ("float", f32(-0.0)), (real, total), flags="reassoc")
        row, column = divmod(i, n)
        place = f.add(f.mul("%out_stride", row), f.add(first, column))
        f.store("float", one, f.gep("float", "%out", place), 4)


def _tail(f: Function, element: str, source: Value, done: Value, lanes: int) -> Value:
    """The last elements of a column in stack memory, with zeros after them."""
    stack = f.alloca(element, lanes)
    f.store(vector(element, lanes), "zeroinitializer", stack, 4)
    with f.loop(0, f.sub("%k", done)) as i:
        one = f.load(element, f.gep(element, source, i.index), 2)
        f.store(element, one, f.gep(element, stack, i.index), 2)
    return stack
