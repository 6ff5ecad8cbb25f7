"""Kernels as GPU text: one printer for Metal and CUDA, which differ in their preludes alone.

A kernel with a flat loop gives each element of the range a thread. A kernel with a parallel loop
gives each row of the range a team: one simdgroup of 32 lanes, or a threadgroup of 256 threads
(`width`). A team's threads share out the row's vector loops, run all else alike, and merge a vector
fold's accumulators with lane shuffles, then through threadgroup memory, so that each thread has
the result. What all run alike is stored by one of them. A parallel loop without vector loops and
local memory is printed as a flat one. What a kernel puts into local memory before its range (a
prologue) each team computes for itself, and then takes several rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from tensorlogic.codegen.barriers import Hazards
from tensorlogic.codegen.c_text import BYTES, LOAD, MEMORY, STORE, VALUE, KernelText, bare
from tensorlogic.codegen.dialects import GROUP_MEMORY, assemble
from tensorlogic.codegen.packing import PACK, can_pack, packed_loads, without_index
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    binary,
    exprs_of,
    nodes_of,
    replaced,
    var,
    walk,
)

FLAT_GROUP = 256
"""Threads of a group where each thread has an element of its own."""
SIMD = 32
TEAMS = 4
"""Rows that a group works on where a row has one simdgroup."""
TURNS = 8
"""Rows that a team works on one after another where something is computed before them all."""
_PARTS = 1024  # bytes of threadgroup memory kept for the merging of folds


def is_flat(kernel: Kernel) -> bool:
    """Whether each thread has an element (or a row) of its own."""
    alone = all(s.kind != "vector" for s in walk(kernel.body) if isinstance(s, Loop | Fold))
    return alone and not kernel.locals


def has_prologue(kernel: Kernel) -> bool:
    """Whether something is put into local memory before the parallel range, for all of its rows."""
    return any(isinstance(s, Store) for s in walk(kernel.body[:-1]))


def group_size(kernel: Kernel, width: int = 256) -> int:
    """Threads of a threadgroup."""
    if is_flat(kernel):
        return FLAT_GROUP
    return width * _teams(width)


def grid(kernel: Kernel, params: Mapping[str, float], width: int = 256) -> int:
    """Threads of a launch, a multiple of `group_size`; 0 where there is nothing to do."""
    last = kernel.body[-1]
    if isinstance(last, Split):
        count = sum(max(0, uniform(c, params)) for c in last.counts)
    else:
        assert isinstance(last, Loop)
        count = max(0, uniform(last.stop, params) - uniform(last.start, params))
    group = group_size(kernel, width)
    if not is_flat(kernel):
        teams = -(-count // TURNS) if has_prologue(kernel) else count
        return -(-teams * width // group) * group
    each = PACK if can_pack(kernel, True) else 1
    return -(-count // (each * group)) * group


def _teams(width: int) -> int:
    """Rows that a group works on."""
    return TEAMS if width == SIMD else 1


def local_capacity(kernel: Kernel, width: int = 256) -> dict[str, int]:
    """Elements that each local buffer holds in a kernel printed without `local_sizes`."""
    sizes = {b: int(b.size.attr) for b in kernel.locals if b.size and b.size.op == "const"}
    known = sum(n * BYTES[MEMORY[b.dtype]] + 16 for b, n in sizes.items())
    left = GROUP_MEMORY - _PARTS - known * _teams(width)
    unknown = [b for b in kernel.locals if b not in sizes]
    for b in unknown:
        share = max(0, left) // (len(unknown) * _teams(width)) // 16 * 16
        sizes[b] = share // BYTES[MEMORY[b.dtype]]
    return {b.name: n for b, n in sizes.items()}


def uniform(e: Expr, params: Mapping[str, float]) -> int:
    """The value of a bound that depends on parameters alone."""
    if any(n.op in ("index", "var", "load") for n in nodes_of(e)):
        raise KernelError(f"the bound of a grid depends on parameters alone: {e}")
    return int(evaluate(e, params))


def pack_params(
    params: tuple[Expr, ...], values: Mapping[str, float], offsets: Sequence[int]
) -> bytes:
    """The words of a launch: the parameters, then where each buffer begins (in elements)."""
    words = [
        struct.pack("<fi", values[p.attr], 0)
        if p.dtype == "f32"
        else struct.pack("<q", int(values[p.attr]))
        for p in params
    ]
    return b"".join((*words, struct.pack(f"<{len(offsets)}q", *offsets)))


def render(
    kernel: Kernel,
    name: str,
    dialect: str,
    *,
    width: int = 256,
    index: str = "i64",
    local_sizes: Mapping[str, int] | None = None,
) -> str:
    """The whole text of a kernel in a dialect ("metal" or "cuda").

    `width` threads share a row: 32 or 256. `index` is the type of addresses: "i32" where each
    address, extent and i64 value of a launch is below 2**31. `local_sizes` gives the elements of
    local buffers whose size is not constant; without it they share the memory that there is (see
    `local_capacity`). Raises KernelError for what a GPU cannot hold.
    """
    return assemble(dialect, body(kernel, name, width, local_sizes or {}), index)


def body(kernel: Kernel, name: str, width: int, local_sizes: Mapping[str, int]) -> str:
    """The text of a kernel below its prelude, the same in both dialects."""
    if width not in (SIMD, 256):
        raise KernelError(f"a row has a team of 32 or 256 threads, not {width}")
    printer = Printer(kernel, width)
    capacity = {**local_capacity(kernel, width), **local_sizes}
    for b in kernel.locals:
        printer.local(b, capacity[b.name], _teams(width))
    printer.top(kernel.body)
    return printer.text(name, group_size(kernel, width))


class Printer(KernelText):
    """Prints the statements of a kernel."""

    def __init__(self, kernel: Kernel, width: int, reserved: Iterable[str] = ()):
        super().__init__(kernel.buffers, kernel.params, reserved)
        self.kernel, self.width, self.flat = kernel, width, is_flat(kernel)
        self.alone = self.flat
        """Whether threads go their own ways here: within a vector loop, or everywhere."""
        self.packed = can_pack(kernel, self.flat)
        self.first_group_only = False
        """Whether what is printed is uniform over the grid: effects are for one thread of it."""
        self.hazards = Hazards(kernel)
        self.thread = "LANE" if width == SIMD else "THREAD"
        self._parts: dict[str, str] = {}
        self._folds = 0

    # -- statements

    def top(self, body: tuple[Stmt, ...]) -> None:
        """A kernel's body: what is uniform, then the range, of which this team takes one turn."""
        for s in walk(body):
            merge = s.merge if isinstance(s, Fold) else ()
            self.count(e for e in exprs_of(s) if e not in merge)
        if any(isinstance(s, Store) and not s.buffer.local for s in walk(body[:-1])):
            raise KernelError("a store before the parallel range: every group would make it")
        self.first_group_only = True
        self.statements(body[:-1])
        self.first_group_only = False
        last = body[-1]
        if self.flat:
            place = f"index_t(GROUP) * {FLAT_GROUP} + index_t(THREAD)"
        elif self.width == SIMD:
            place = f"index_t(GROUP) * {TEAMS} + SIMDGROUP"
        else:
            place = "index_t(GROUP)"
        if has_prologue(self.kernel):
            self.turns(last, place)
            return
        if isinstance(last, Split):
            self.split(last, place)
            return
        assert isinstance(last, Loop)
        start, stop = self.expr(last.start), self.expr(last.stop)
        if self.flat and self.packed:
            place = f"({place}) * {PACK}"
        row = self.unique(last.index.attr)
        self.line(f"const index_t {row} = {'' if start == '0' else f'{start} + '}{place};")
        self.line(f"if ({row} >= {stop}) return;")
        if self.flat and self.packed:
            self.pack(last, row, stop)
        else:
            self.env["index", last.index.attr] = (row, 0)
            self.statements(last.body)

    def turns(self, s: Stmt, place: str) -> None:
        """After a prologue a team takes several rows, so that the prologue is worth its while."""
        first = var(self.unique("first"), "i64")
        self.line(f"const index_t {first} = {TURNS} * ({place});")
        self.env["var", first.attr] = (first.attr, 0)
        assert isinstance(s, Loop | Split)
        counts = (s.stop,) if isinstance(s, Loop) else s.counts
        bodies = (s.body,) if isinstance(s, Loop) else s.bodies
        ahead: Expr = first  # of the rows of a part, where this team's begin
        for count, part in zip(counts, bodies, strict=True):
            low, high = binary("max", ahead, 0), binary("min", ahead + TURNS, count)
            if isinstance(s, Loop) and (s.start.op, s.start.attr) != ("const", 0):
                raise KernelError("rows after a prologue are counted from 0")
            self.count((low, high))
            with self.block(f"if ({bare(self.expr(low))} < {bare(self.expr(high))})"):
                self.load_floor = len(self.chain) - 1
                self.loop(Loop(s.index, low, high, "serial", part))
            ahead = ahead - count

    def split(self, s: Split, place: str) -> None:
        at, first = self.unique("at"), "0"
        self.line(f"const index_t {at} = {place};")
        for count, part in zip(s.counts, s.bodies, strict=True):
            end = self.unique("end")
            counted = self.expr(count)
            self.line(
                f"const index_t {end} = {counted if first == '0' else f'{first} + {counted}'};"
            )
            with self.block(f"if ({at} < {end})"):
                self.load_floor = len(self.chain) - 1
                row = self.unique(s.index.attr)
                self.line(f"const index_t {row} = {at if first == '0' else f'{at} - {first}'};")
                self.env["index", s.index.attr] = (row, self.load_floor)
                self.statements(part)
                self.line("return;")
            first = end

    def statements(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.epoch += 1
            if isinstance(s, Loop | Fold):
                self.loop(s)
            elif isinstance(s, Store | Check):
                self.effect(s)
            elif isinstance(s, Barrier):
                if self.alone:
                    raise KernelError("a barrier where threads go their own ways")
                self.hazards.clear(False)
                self.wait(False)
            else:
                raise KernelError("a split stands outermost")

    def effect(self, s: Store | Check) -> None:
        """A store or a check: by one thread, where all run alike."""
        self.guard(s)
        conditions = [] if self.alone else [f"{self.thread} == 0"]
        if self.first_group_only and not (isinstance(s, Store) and s.buffer.local):
            conditions = ["GROUP == 0", "THREAD == 0"]
        if isinstance(s, Store):
            self.store(s, conditions)
        else:
            action = f"COUNT({self.c_names[s.status]}, {bare(self.expr(s.slot))})"
            self.under([*conditions, f"!{self.expr(s.ok)}"], action)

    def loop(self, s: Loop | Fold) -> None:
        vector = s.kind == "vector" and not self.alone
        if vector:
            self.guard(s)
        elif isinstance(s, Fold):
            self.guard_exprs((s.start, s.stop, *s.init))
        start, stop = self.expr(s.start), self.expr(s.stop)
        inits = [self.expr(e) for e in s.init]
        accs = [self.unique(v.attr) for v in s.acc]
        for v, name, init in zip(s.acc, accs, inits, strict=True):
            self.line(f"{VALUE[v.dtype]} {name} = {bare(init)};")
        i = self.unique(s.index.attr)
        each = PACK if vector and self.packed else 1
        first, step = start, f"{i}++"
        if vector:
            mine = self.thread if each == 1 else f"index_t({self.thread}) * {each}"
            first = mine if start == "0" else f"{start} + {mine}"
            step = f"{i} += {self.width * each}"
        header = f"for (index_t {i} = {bare(first)}; {i} < {stop}; {step})"
        outer = self.alone
        self.alone = outer or vector
        before = None if self.alone else self.hazards.enter(s)
        with self.block(f"UNROLL\n{header}" if s.kind == "unrolled" else header):
            inside = len(self.chain) - 1
            for v, name in zip(s.acc, accs, strict=True):
                self.env["var", v.attr] = (name, inside)
            if each > 1:
                self.pack(s, i, stop, accs)
            else:
                self.env["index", s.index.attr] = (i, inside)
                self.statements(s.body)
                if isinstance(s, Fold):
                    self.epoch += 1
                    self.guard_exprs(s.step)
                    self.assign(accs, s.step)
        self.alone = outer
        if before is not None:
            self.hazards.leave(before)
        if isinstance(s, Fold):
            for v, name in zip(s.acc, accs, strict=True):
                self.env["var", v.attr] = (name, len(self.chain) - 1)
            if vector:
                self.merge(s, accs)

    def pack(self, s: Loop | Fold, i: str, stop: str, accs: Sequence[str] = ()) -> None:
        """Four turns of a loop from `i` on: memory is read before them and written after them."""
        here = len(self.chain) - 1
        self.env["index", s.index.attr] = (i, here)
        stores = [x for x in s.body if isinstance(x, Store)]
        whole = [x for x in stores if x.where is None]
        loads = packed_loads(s)
        places = [(n.attr, n.args[0]) for n in loads] + [(x.buffer, x.at) for x in whole]
        firsts = dict.fromkeys(self.first_address(b, at, s) for b, at in places)
        aligned = " | ".join(f for f in firsts if f != "0") or "0"
        outside = here if s.kind == "flat" else here - 1
        fast = self.unique("fast", outside)
        self.line(f"const bool {fast} = (({bare(aligned)}) & {PACK - 1}) == 0;", outside)
        packs: dict[str, str] = {}
        by: dict[Expr, Expr] = {}
        for n in loads:
            source = f"{self.c_names[n.attr]} + {self.expr(n.args[0])}"
            if source not in packs:
                packs[source] = pack = self.unique(f"{self.c_names[n.attr]}_pack")
                read = "load_pack_local" if n.attr.local else "load_pack"
                value = f"{read}({source}, {stop} - {i}, {fast})"
                self.line(f"const PACK({MEMORY[n.attr.dtype]}) {pack} = {value};")
            by[n] = var(packs[source], n.dtype)
        results = [self.unique(f"{self.c_names[x.buffer]}_pack") for x in whole]
        for x, pack in zip(whole, results, strict=True):
            self.line(f"PACK({MEMORY[x.buffer.dtype]}) {pack};")
        u = self.unique("u")
        with self.block(f"UNROLL\nfor (int {u} = 0; {u} < {PACK}; {u}++)"):
            self.epoch += 1
            inside = len(self.chain) - 1
            self.env["index", s.index.attr] = (f"({i} + {u})", inside)
            for n, v in by.items():
                element = LOAD.get(n.attr.dtype, "{}").format(f"{v.attr}[{u}]")
                self.env["var", v.attr] = (element, inside)
            memo: dict[Expr, Expr] = {}
            if isinstance(s, Fold):
                for v, name in zip(s.acc, accs, strict=True):
                    self.env["var", v.attr] = (name, inside)  # they change with each turn of u
                steps = tuple(replaced(e, by, memo) for e in s.step)
                self.count(steps)
                self.assign(accs, steps, f"{i} + {u} < {stop} ? ")
            for x in stores:
                parts = [replaced(e, by, memo) for e in (x.at, x.value)]
                self.count(parts[1:])
                value = STORE.get(x.buffer.dtype, "{}").format(bare(self.expr(parts[1])))
                if x.where is None:
                    self.line(f"{results[whole.index(x)]}[{u}] = {value};")
                else:
                    where = self.expr(replaced(x.where, by, memo))
                    at = f"{self.c_names[x.buffer]}[{bare(self.expr(parts[0]))}]"
                    self.line(f"if ({i} + {u} < {stop} && {where}) {at} = {value};")
        for x, pack in zip(whole, results, strict=True):
            target = f"{self.c_names[x.buffer]} + {self.expr(x.at)}"
            write = "store_pack_local" if x.buffer.local else "store_pack"
            self.line(f"{write}({target}, {pack}, {stop} - {i}, {fast});")

    def first_address(self, b: Buffer, at: Expr, s: Loop | Fold) -> str:
        """Where a loop's first turn finds an element, from the start of the buffer's memory."""
        first = self.expr(without_index(at, s.index.attr, s.start))
        if b.local:
            return first
        return self.offset(b) if first == "0" else f"({first} + {self.offset(b)})"

    def assign(self, accs: Sequence[str], values: tuple[Expr, ...], guard: str = "") -> None:
        """All accumulators at once; `guard` is a condition under which they change."""
        texts = [self.expr(e) for e in values]
        if guard:
            texts = [f"{guard}{t} : {name}" for t, name in zip(texts, accs, strict=True)]
        if len(accs) > 1:
            nexts = [self.unique(f"{name}_next") for name in accs]
            for e, name, text in zip(values, nexts, texts, strict=True):
                self.line(f"const {VALUE[e.dtype]} {name} = {bare(text)};")
            texts = nexts
        for name, text in zip(accs, texts, strict=True):
            self.line(f"{name} = {bare(text)};")

    def merge(self, s: Fold, accs: list[str]) -> None:
        """The threads' accumulators become one: across lanes, then across simdgroups."""
        self.merge_lanes(s, accs, SIMD // 2)
        if self.width == SIMD:
            return
        simds = self.width // SIMD
        self._folds += 1
        turn = self._folds % 2  # two sets of parts: one is read while the other is written
        parts = []
        for i, v in enumerate(s.acc):
            ordinal = sum(a.dtype == v.dtype for a in s.acc[:i])
            slot = f"part_{v.dtype}_{turn}" + (f"_{ordinal}" if ordinal else "")
            if slot not in self._parts:
                self._parts[slot] = self.array(VALUE[v.dtype], self.unique(slot, 0), simds)
            parts.append(self._parts[slot])
        self.wait(self.hazards.record([(f"parts {turn}", "all")]))
        stores = " ".join(f"{p}[SIMDGROUP] = {a};" for p, a in zip(parts, accs, strict=True))
        self.line(f"if (LANE == 0) {{ {stores} }}")
        self.wait(self.hazards.record([(f"parts {turn}", "read")]))
        for part, acc in zip(parts, accs, strict=True):
            self.line(f"{acc} = {part}[LANE & {simds - 1}];")
        self.merge_lanes(s, accs, simds // 2)

    def merge_lanes(self, s: Fold, accs: list[str], farthest: int) -> None:
        """A butterfly; the lower lane is always on the left, so that all lanes get equal bits."""
        d = self.unique("d")
        with self.block(f"UNROLL\nfor (uint {d} = {farthest}; {d} > 0; {d} >>= 1)"):
            inside = len(self.chain) - 1
            symmetric = all(_symmetric(*x) for x in zip(s.merge, s.left, s.right, strict=True))
            for left, right, acc in zip(s.left, s.right, accs, strict=True):
                ctype, other = VALUE[left.dtype], self.unique(f"{acc}_other")
                self.line(f"const {ctype} {other} = lane_xor({acc}, {d});")
                sides = (acc, other)
                if not symmetric:
                    sides = (self.unique(f"{acc}_left"), self.unique(f"{acc}_right"))
                    self.line(f"const {ctype} {sides[0]} = LANE & {d} ? {other} : {acc};")
                    self.line(f"const {ctype} {sides[1]} = LANE & {d} ? {acc} : {other};")
                self.env["var", left.attr] = (sides[0], inside)
                self.env["var", right.attr] = (sides[1], inside)
            self.epoch += 1
            self.assign(accs, s.merge)

    # -- barriers

    def guard(self, s: Stmt) -> None:
        if not self.alone:
            self.wait(self.hazards.statement(s))

    def guard_exprs(self, exprs: tuple[Expr, ...]) -> None:
        if not self.alone:
            self.wait(self.hazards.expressions(exprs))

    def wait(self, device: bool | None) -> None:
        """The barrier that is due, if one is; `device`: it orders device memory too."""
        if device is not None:
            scope = "SIMD" if self.width == SIMD else "GROUP"
            self.line(f"{scope}_BARRIER{'_DEVICE' if device else ''}();")


def _symmetric(e: Expr, left: Expr, right: Expr) -> bool:
    """Whether a merge gives the same bits with its sides swapped."""
    sides = {(left.attr, right.attr), (right.attr, left.attr)}
    plain = e.op in ("add", "mul", "min", "max", "and", "or", "xor")
    return plain and all(a.op == "var" for a in e.args) and tuple(a.attr for a in e.args) in sides
