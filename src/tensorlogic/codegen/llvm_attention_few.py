"""Attention for the CPU where few rows share their keys: lanes run along depth and width."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_attention_base import (
    FEW_KEYS,
    LOWEST,
    ZERO,
    Body,
    added,
    even_ranges,
    finite,
    folding,
    larger,
    loop_of,
)
from tensorlogic.kernels.ir import BYTES, Stmt, Store, binary, index, load, unary, var
from tensorlogic.kernels.spec import COL, QUERIES, Attention


class FewRows(Body):
    def write(self) -> None:
        f, spec = self.f, self.spec
        _dot_kernel(self.module, spec, self.lanes)
        _weigh_kernel(self.module, spec, self.lanes)
        with f.loop("%lo", "%hi") as unit:
            self._begin(unit.index)
            self._start()
            with f.loop(self.first_key, self.last_key, FEW_KEYS) as block:
                self.bound[self.start] = block.index
                left = f.sub(self.last_key, block.index)
                self.bound[self.count] = f.smin(left, FEW_KEYS)
                self._keys()
            i = index("i")
            acc = load(self.buffers["sums"], i * spec.width + COL)
            self.statements(loop_of(i, spec.few, "serial", *self.results(acc, i, i)))
        f.ret()

    def _start(self) -> None:
        i, e, b, spec = index("i"), index("e"), self.buffers, self.spec
        row = loop_of(index("d"), spec.depth, "vector", self.rows_of(i, i))
        zero = loop_of(e, spec.few * spec.width, "vector", Store(b["sums"], e, ZERO))
        seen = (Store(b["top"], i, LOWEST), Store(b["total"], i, ZERO))
        self.statements(loop_of(i, spec.few, "serial", row, *seen), zero)

    def _keys(self) -> None:
        """Scores of a block of keys, their weights, the weighted sum of their values."""
        f, spec, b = self.f, self.spec, self.buffers
        emitter = self.emitter()
        start, count = self.bound[self.start], self.bound[self.count]
        lines = []
        for x, at, stride in ((self.k, spec.k_at, "k_row"), (self.v, spec.v_at, "v_row")):
            first = f.add(emitter.scalar(at), f.mul(start, self.size[stride]))
            pointer = f.gep(STORED[x.dtype], self.pointers[x], first)
            lines.append([("ptr", pointer), ("i64", self.size[stride]), ("i64", count)])
        f.call("void", "dot", *lines[0], ("ptr", self.at["rows"]), ("ptr", self.at["scores"]))
        i, key = index("i"), index("key0")
        m, l = var("m", "f32"), var("l", "f32")
        at = i * (FEW_KEYS + 16) + key
        score = load(b["scores"], at)
        body: tuple[Stmt, ...] = ()
        if spec.mask is not None or spec.causal:
            head, row = binary("idiv", i, QUERIES), binary("irem", i, QUERIES)
            body = (Store(b["scores"], at, self.masked(score, self.start + key, head, row)),)
        (step,) = larger((m,), (score,))
        largest = folding(key, self.count, "vector", m, LOWEST, step, larger, body)
        top = finite(load(b["top"], i))
        weigh = Store(b["scores"], at, unary("exp", score - top))
        total = folding(key, self.count, "vector", l, ZERO, l + score, added, (weigh,))
        old = load(b["total"], i) * load(b["rescale"], i)
        row_stmts = [*self.softmax(i, [largest], m), total, Store(b["total"], i, old + l)]
        self.statements(loop_of(i, spec.few, "serial", *row_stmts))
        names = ("scores", "sums", "rescale")
        f.call("void", "weigh", *lines[1], *(("ptr", self.at[n]) for n in names))


def _vector_of(f: Function, dtype: str, pointer: Value, lanes: int) -> Value:
    raw = f.load(vector(STORED[dtype], lanes), pointer, BYTES[dtype])
    return loaded(f, dtype, raw, lanes)


def _dot_kernel(module: Module, spec: Attention, lanes: int) -> None:
    """scores[row][key] = rows[row] . keys[key]: each vector of a key is read once for all rows."""
    args = [("ptr noalias", "keys"), ("i64", "stride"), ("i64", "count")]
    f = module.function("dot", [*args, ("ptr noalias", "rows"), ("ptr noalias", "to")])
    rows, dtype, type_ = spec.few, spec.dtypes[1], vector("float", lanes)
    each = lanes >> (rows - 1).bit_length()  # keys at a time: a sum of each row in each lane
    last = f.sub("%count", 1)
    with f.loop(0, "%count", each) as k:
        keys = [
            f.gep(STORED[dtype], "%keys", f.mul(f.smin(f.add(k.index, i), last), "%stride"))
            for i in range(each)
        ]
        start = [(type_, "zeroinitializer")] * (rows * each)
        with f.loop(0, spec.depth, lanes, carry=start) as d:
            sums = list(d.carried)
            at = [_vector_of(f, dtype, f.gep(STORED[dtype], p, d.index), lanes) for p in keys]
            for r in range(rows):
                q = f.load(type_, f.gep("float", "%rows", f.add(d.index, r * spec.depth)), 4)
                for i in range(each):
                    sums[r * each + i] = f.intrinsic("fma", type_, at[i], q, sums[r * each + i])
            d.next = sums
        whole = [*d.carried, *[d.carried[0]] * (lanes - rows * each)]
        total = _sums_of_lanes(f, whole, lanes)
        for r in range(rows):
            to = f.gep("float", "%to", f.add(k.index, r * (FEW_KEYS + 16)))
            picked = range(r * each, (r + 1) * each)
            if each == 1:
                one = f.assign(f"extractelement {type_} {total}, i32 {r}")
                f.store("float", one, to, 4)
            elif each == lanes:
                f.store(type_, total, to, 4)
            else:
                f.store(vector("float", each), f.shuffle(type_, total, "poison", picked), to, 4)
    f.ret()


def _sums_of_lanes(f: Function, vectors: Sequence[Value], lanes: int) -> Value:
    """One vector with the sum of the lanes of each of `lanes` vectors, in their order."""
    type_ = vector("float", lanes)
    parts, size = list(vectors), lanes  # each vector holds lanes / size sums in the making
    while size > 1:
        half = size // 2
        starts = range(0, 2 * lanes, size)  # in both vectors of a pair
        low = [s + i for s in starts for i in range(half)]
        high = [s + half + i for s in starts for i in range(half)]
        parts = [
            f.op("fadd", type_, f.shuffle(type_, a, b, low), f.shuffle(type_, a, b, high))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        size = half
    return parts[0]


def _weigh_kernel(module: Module, spec: Attention, lanes: int) -> None:
    """sums[row] = sums[row] * rescale[row] + sum over keys of p[row][key] * values[key]."""
    args = [("ptr noalias", "values"), ("i64", "stride"), ("i64", "count")]
    f = module.function("weigh", [*args, *(("ptr noalias", n) for n in ("p", "sums", "rescale"))])
    rows, dtype, type_ = spec.few, spec.dtypes[2], vector("float", lanes)
    room = 8 if lanes == 8 else 16
    for cols in even_ranges(spec.width // lanes, max(1, room // rows)):
        places, start = [], []
        for r in range(rows):
            one = f.load("float", f.gep("float", "%rescale", r), 4)
            scale = f.splat("float", lanes, one)
            for c in cols:
                places.append(f.gep("float", "%sums", r * spec.width + c * lanes))
                start.append((type_, f.op("fmul", type_, f.load(type_, places[-1], 4), scale)))
        with f.loop(0, "%count", carry=start) as k:
            line = f.gep(STORED[dtype], "%values", f.mul(k.index, "%stride"))
            at = [_vector_of(f, dtype, f.gep(STORED[dtype], line, c * lanes), lanes) for c in cols]
            sums = list(k.carried)
            for r in range(rows):
                p = f.load("float", f.gep("float", "%p", f.add(k.index, r * (FEW_KEYS + 16))), 4)
                weight = f.splat("float", lanes, p)
                for i, x in enumerate(at):
                    n = r * len(at) + i
                    sums[n] = f.intrinsic("fma", type_, weight, x, sums[n])
            k.next = sums
        for x, p in zip(k.carried, places, strict=True):
            f.store(type_, x, p, 4)
    f.ret()
