"""Kernels as GPU text: one printer for Metal and CUDA, which differ in their preludes alone.

A kernel with a flat loop gives each element of the range a thread. A kernel with a parallel loop
gives each row of the range a team: one simdgroup of 32 lanes, or a whole threadgroup (`forms.py`
has the forms that a text can take). A team's threads share out the row's vector loops, run all else
alike, and merge a vector fold's accumulators with lane shuffles, then through threadgroup memory,
so that each thread has the result. What all run alike is stored by one of them. A parallel loop
without vector loops and local memory is printed as a flat one.

What stands before the range is computed by each group for itself; if it fills threadgroup memory,
groups are few and each takes many rows, one simdgroup a row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

from tensorlogic.codegen import forms
from tensorlogic.codegen.barriers import Hazards
from tensorlogic.codegen.c_text import VALUE, bare
from tensorlogic.codegen.dialects import assemble
from tensorlogic.codegen.forms import FLAT_GROUP, SIMD, TEAMS, Form
from tensorlogic.codegen.nest_text import NestText
from tensorlogic.codegen.nests import nest_of
from tensorlogic.codegen.packing import can_pack, packed_loads
from tensorlogic.codegen.packs import Plan
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.ir import (
    Barrier,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    exprs_of,
    nodes_of,
    walk,
)


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
    form: Form | None = None,
    local_sizes: Mapping[str, int] | None = None,
) -> str:
    """The whole text of a kernel in a dialect ("metal" or "cuda").

    `width` threads share a row (one of `forms.WIDTHS`). `index` is the type of addresses: "i32"
    where each address, extent and i64 value of a launch is below 2**31. `form` says both and more.
    `local_sizes` gives the elements of local buffers whose size is not constant; without it they
    share the memory that there is (see `forms.local_capacity`). Raises KernelError for what a GPU
    cannot hold.
    """
    form = form or forms.plain(kernel, width, index)
    return assemble(dialect, body(kernel, name, form, local_sizes or {}), form.index)


def body(kernel: Kernel, name: str, form: Form, local_sizes: Mapping[str, int]) -> str:
    """The text of a kernel below its prelude, the same in both dialects."""
    if form.width not in forms.WIDTHS:
        raise KernelError(f"a row has a team of 32 to 1024 threads, not {form.width}")
    printer = Printer(kernel, form)
    capacity = {**forms.local_capacity(kernel, form), **local_sizes}
    for b in kernel.locals:
        printer.local(b, capacity[b.name], forms.spans(kernel, form, b))
    printer.top(kernel.body)
    return printer.text(name, forms.group_size(kernel, form))


class Printer(NestText):
    """Prints the statements of a kernel."""

    def __init__(self, kernel: Kernel, form: Form, reserved: Iterable[str] = ()):
        super().__init__(kernel.buffers, kernel.params, reserved)
        self.form, self.flat = form, forms.is_flat(kernel)
        self.alone = self.flat
        """Whether threads go their own ways here: within a vector loop, or everywhere."""
        self.packed = form.pack > 1 and can_pack(kernel, self.flat)
        self.prologue = forms.has_prologue(kernel) and not self.flat
        self.thin = not self.flat and form.rows > 1
        self.first_group_only = False
        """Whether what is printed is uniform over the grid: effects are for one thread of it."""
        self.hazards = Hazards(kernel)
        self.share(form.width)
        self._parts: dict[str, str] = {}
        self._folds = 0
        self.start_rows()

    def share(self, width: int) -> None:
        """So many threads share what is printed from here on."""
        self.width = width
        self.thread = "LANE" if width == SIMD else "THREAD"

    # -- statements

    def top(self, body: tuple[Stmt, ...]) -> None:
        """A kernel's body: what is uniform, then the range, of which this team takes its turns."""
        for s in walk(body):
            merge = s.merge if isinstance(s, Fold) else ()
            self.count(e for e in exprs_of(s) if e not in merge)
        if any(isinstance(s, Store) and not s.buffer.local for s in walk(body[:-1])):
            raise KernelError("a store before the parallel range: every group would make it")
        self.first_group_only = True
        width = self.width
        if self.prologue:
            self.share(forms.PROLOGUE_GROUP)
        self.statements(body[:-1])
        self.first_group_only = False
        self.share(width)
        last = body[-1]
        if not self.prologue:
            self.range(last, self.place())
            return
        self.hazards.clear(True)
        self.line("GROUP_BARRIER();")
        each = forms.PROLOGUE_GROUP // SIMD
        count = self.team_count(last)
        team = self.unique("team")
        first = f"index_t(GROUP) * {each} + SIMDGROUP"
        with self.block(
            f"for (index_t {team} = {first}; {team} < {count}; {team} += index_t(GROUPS) * {each})"
        ):
            self.load_floor = len(self.chain) - 1
            if any(isinstance(s, Store) and s.buffer.local for s in walk((last,))):
                self.line("SIMD_BARRIER();")  # the row before may still be read
            self.range(last, team)

    def place(self) -> str:
        """Which team of the launch this is."""
        if self.flat:
            return f"index_t(GROUP) * {FLAT_GROUP} + index_t(THREAD)"
        return f"index_t(GROUP) * {TEAMS} + SIMDGROUP" if self.width == SIMD else "index_t(GROUP)"

    def team_count(self, last: Stmt) -> str:
        each = 1 if self.form.inner else self.form.rows
        if isinstance(last, Split):
            counts = [self.expr(c) for c in last.counts]
        else:
            assert isinstance(last, Loop)
            start, stop = self.expr(last.start), self.expr(last.stop)
            counts = [stop if start == "0" else f"({stop} - {start})"]
        if each > 1:
            counts = [f"({c} + {each - 1}) / {each}" for c in counts]
        return " + ".join(counts)

    def range(self, last: Stmt, place: str) -> None:
        """The parallel range, of which `place` is the team's turn."""
        if isinstance(last, Split):
            self.split(last, place)
            return
        assert isinstance(last, Loop)
        start, stop = self.expr(last.start), self.expr(last.stop)
        here = len(self.chain) - 1
        leave = "continue" if self.prologue else "return"
        if self.flat and self.packed:
            turns = self.form.turns
            if turns > 1:
                place = f"index_t(GROUP) * {FLAT_GROUP * turns} + index_t(THREAD)"
            place = f"({place}) * {self.form.pack}"
        if self.thin and not self.form.inner:
            place = f"({place}) * {self.form.rows}"
        row = self.unique(f"{last.index.attr}0" if self.thin else last.index.attr)
        self.line(f"const index_t {row} = {'' if start == '0' else f'{start} + '}{place};")
        if not self.prologue:
            self.line(f"if ({row} >= {stop}) {leave};")
        self.start_rows()
        if self.flat and self.packed:
            step = FLAT_GROUP * self.form.pack
            self.turns(last, self.plan(last), row, step, stop, ())
        elif self.thin:
            self.env["index", last.index.attr] = (row, here)
            self.rows(last.index.attr, row, stop, last.body)
        else:
            self.env["index", last.index.attr] = (row, here)
            if self.form.early:
                self.read_early(last.body)
            self.statements(last.body)

    def split(self, s: Split, place: str) -> None:
        at, first = self.unique("at"), "0"
        self.line(f"const index_t {at} = {place};")
        each = self.form.rows
        for count, part in zip(s.counts, s.bodies, strict=True):
            end = self.unique("end")
            counted = self.expr(count)
            sets = counted if each == 1 else f"({counted} + {each - 1}) / {each}"
            self.line(f"const index_t {end} = {sets if first == '0' else f'{first} + {sets}'};")
            with self.block(f"if ({at} < {end})"):
                self.load_floor = here = len(self.chain) - 1
                row = self.unique(f"{s.index.attr}0" if self.thin else s.index.attr)
                turn = at if first == "0" else f"{at} - {first}"
                if each > 1:
                    turn = f"({turn}) * {each}"
                self.line(f"const index_t {row} = {turn};")
                self.env["index", s.index.attr] = (row, here)
                self.start_rows()
                if self.thin:
                    self.rows(s.index.attr, row, counted, part)
                else:
                    if self.form.early:
                        self.read_early(part)
                    self.statements(part)
                self.line("continue;" if self.prologue else "return;")
            first = end

    def rows(self, name: str, first: str, stop: str, body: tuple[Stmt, ...]) -> None:
        """Several rows of one team: folds over what they share, then what each of them stores."""
        self.row = (name, first, stop)
        folds = [s for s in body if isinstance(s, Fold)]
        for s in folds:
            self.epoch += 1
            self.loop(s)
        with self.each_row():
            guard = nullcontext()
            if not self.form.inner:
                row = self.env["index", name][0]
                guard = self.block(f"if ({row} < {stop})")  # type: ignore[assignment]
            with guard:
                self.load_floor = len(self.chain) - 1
                self.statements(body[len(folds) :])
        self.row = None

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
        if self.first_group_only and isinstance(s, Check):
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
        accs = self.start(s)
        if vector:
            outer = self.alone
            self.alone = True
            self.shared(s, start, stop, accs)
            self.alone = outer
        else:
            self.alike(s, start, stop, accs)
        if isinstance(s, Fold):
            for v, name in zip(s.acc, accs, strict=True):
                self.env["var", v.attr] = (name, len(self.chain) - 1)
            if vector:
                with self.each_row(clamped=True):
                    own = [self.env["var", v.attr][0] for v in s.acc]
                    self.merge(s, own)
                    if self.packed and nest_of(s) is not None:
                        self.add_again(s, own)

    def add_again(self, s: Fold, accs: list[str]) -> None:
        """Scales are applied to sums, where an infinite one would hide that its elements have both
        signs: then the sum is made once more, element by element."""
        before = {p: set(h) for p, h in self.hazards.state.items()}
        with self.block(f"if (is_infinite({accs[0]}))"):
            inside, alone = len(self.chain) - 1, self.alone
            self.env["var", s.acc[0].attr] = (accs[0], inside)
            self.line(f"{accs[0]} = 0.0f;")
            stop = self.expr(s.stop)
            i = self.unique(s.index.attr)
            self.alone = True
            with self.block(
                f"for (index_t {i} = {self.thread}; {i} < {stop}; {i} += {self.width})"
            ):
                self.env["index", s.index.attr] = (i, inside + 1)
                self.env["var", s.acc[0].attr] = (accs[0], inside + 1)
                self.inside(s, accs)
            self.alone = alone
            self.merge(s, accs)
        self.hazards.leave(before)

    def start(self, s: Loop | Fold) -> list[str]:
        """The accumulators of a fold, one for each row of the team."""
        accs = [self.unique(v.attr) for v in s.acc]
        if self.row is not None and not self.alone:
            for v, name in zip(s.acc, accs, strict=True):
                self.line(f"{VALUE[v.dtype]} {name}[{self.form.rows}];")
                self.sums[v.attr] = name
            with self.each_row():
                for v, init in zip(s.acc, s.init, strict=True):
                    text = bare(self.expr(init))
                    self.line(f"{self.env['var', v.attr][0]} = {text};")
            return accs
        texts = [self.expr(e) for e in s.init]
        for v, name, text in zip(s.acc, accs, texts, strict=True):
            self.line(f"{VALUE[v.dtype]} {name} = {bare(text)};")
        return accs

    def shared(self, s: Loop | Fold, start: str, stop: str, accs: list[str]) -> None:
        """A vector loop: threads take turns, of packs where that can be."""
        nest = nest_of(s) if isinstance(s, Fold) and self.packed else None
        if nest is not None:
            assert isinstance(s, Fold)
            self.nest(s, nest, accs)
            return
        each = self.form.pack if self.packed else 1
        mine = self.thread if each == 1 else f"index_t({self.thread}) * {each}"
        first = mine if start == "0" else f"{start} + {mine}"
        if self.form.kept and self.packed:
            plan, at = self.plans.get(s) or self.planned(s, first)
            self.turns(s, plan, at, self.width * each, stop, accs)
            return
        i = self.unique(s.index.attr)
        moved = self.plan(s) if self.packed else None
        step = f"{i} += {self.width * each * self.form.turns}"
        with self.block(f"for (index_t {i} = {bare(first)}; {i} < {stop}; {step})"):
            inside = len(self.chain) - 1
            if self.row is None:
                for v, name in zip(s.acc, accs, strict=True):
                    self.env["var", v.attr] = (name, inside)
            if moved is not None:
                self.turns(s, moved, i, self.width * each, stop, accs)
            else:
                self.env["index", s.index.attr] = (i, inside)
                self.inside(s, accs)

    def planned(self, s: Loop | Fold, first: str) -> tuple[Plan, str]:
        at = self.unique(f"{s.index.attr}0")
        self.line(f"const index_t {at} = {bare(first)};")
        return self.plan(s), at

    def read_early(self, body: tuple[Stmt, ...]) -> None:
        """What the loops of a row read, before anything is computed."""
        for s in body:
            if not isinstance(s, Loop | Fold) or s.kind != "vector":
                continue
            loads = packed_loads(s)
            if any(n.attr in self.written for n in loads):
                continue
            places = [n.args[0] for n in loads]
            places += [x.at for x in s.body if isinstance(x, Store)]
            if any(n.op in ("var", "load") for n in nodes_of(s.start, s.stop, *places)):
                continue
            start, stop = self.expr(s.start), self.expr(s.stop)
            mine = f"index_t({self.thread}) * {self.form.pack}"
            plan, at = self.planned(s, mine if start == "0" else f"{start} + {mine}")
            if plan.new:
                self.read(s, plan, at, self.width * self.form.pack, stop)
            self.plans[s] = plan, at

    def alike(self, s: Loop | Fold, start: str, stop: str, accs: list[str]) -> None:
        """A loop that all threads run alike, or each on its own."""
        i = self.unique(s.index.attr)
        header = f"for (index_t {i} = {bare(start)}; {i} < {stop}; {i}++)"
        before = None if self.alone else self.hazards.enter(s)
        with self.block(f"UNROLL\n{header}" if s.kind == "unrolled" else header):
            inside = len(self.chain) - 1
            for v, name in zip(s.acc, accs, strict=True):
                self.env["var", v.attr] = (name, inside)
            self.env["index", s.index.attr] = (i, inside)
            self.inside(s, accs)
        if before is not None:
            self.hazards.leave(before)

    def inside(self, s: Loop | Fold, accs: list[str]) -> None:
        self.statements(s.body)
        if isinstance(s, Fold):
            self.epoch += 1
            self.guard_exprs(s.step)
            self.assign(accs, s.step)

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
