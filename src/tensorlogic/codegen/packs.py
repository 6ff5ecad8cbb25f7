"""Loops whose threads move packs of neighbouring elements, several packs in flight.

Memory is read for all turns of a thread before any is computed, so that the loads overlap; where a
row fits into the registers of its team, what one loop has read is there for the next. A team that
works on several rows reads once what they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tensorlogic.codegen.c_text import LOAD, MEMORY, STORE, VALUE, KernelText, bare
from tensorlogic.codegen.forms import Form
from tensorlogic.codegen.packing import packed_loads, without_index
from tensorlogic.kernels.ir import Buffer, Expr, Fold, Loop, Store, index, nodes_of, replaced, var

_AT = index("@")


@dataclass(frozen=True)
class Source:
    """A load of a loop: the array of packs that it fills, and whether each row has its own."""

    load: Expr
    name: str
    own: bool


@dataclass(frozen=True)
class Plan:
    """What a loop reads, what of it is not kept from before, the flag that packs are aligned."""

    sources: tuple[Source, ...]
    new: tuple[Source, ...]
    fast: str


class Packs(KernelText):
    """Prints loops over packs, and what stands for each row of a team."""

    form: Form
    row: tuple[str, str, str] | None = None
    """Of a team with several rows: the index, the name of the first row, the end of the range."""

    turn_of_row = ""

    def start_rows(self) -> None:
        """A row begins: nothing is kept yet."""
        self.kept: dict[tuple[object, ...], str] = {}
        self.sums: dict[str, str] = {}
        self.plans: dict[Loop | Fold, tuple[Plan, str]] = {}

    @contextmanager
    def each_row(self, clamped: bool = False) -> Iterator[None]:
        """A block for each row of the team; `clamped`: rows beyond the end read the last one."""
        if self.row is None:
            yield
            return
        name, first, stop = self.row
        q = self.unique("q")
        with self.block(f"UNROLL\nfor (int {q} = 0; {q} < {self.form.rows}; {q}++)"):
            here = len(self.chain) - 1
            if self.form.inner:
                self.env["index", self.form.inner] = (f"index_t({q})", here)
            else:
                row = self.unique(name)
                at = f"{first} + {q}"
                value = f"{at} < {stop} ? {at} : {stop} - 1" if clamped else at
                self.line(f"const index_t {row} = {value};")
                self.env["index", name] = (row, here)
            for acc, array in self.sums.items():
                self.env["var", acc] = (f"{array}[{q}]", here)
            self.turn_of_row = q
            yield

    def own(self, e: Expr) -> bool:
        """Whether each row of the team has its own value of an expression."""
        if self.row is None:
            return False
        mine = {self.form.inner or self.row[0], *self.sums}
        return any(n.op in ("index", "var") and n.attr in mine for n in nodes_of(e))

    # -- one loop

    def plan(self, s: Loop | Fold) -> Plan:
        """What a loop moves; printed before it: whether all packs begin at multiples of their
        size."""
        table = self.kept if self.form.kept else {}
        before = set(table.values())
        sources = [self.source(s, n, table) for n in packed_loads(s)]
        new = tuple(x for x in sources if x.name not in before)
        places = [(x.load.attr, x.load.args[0]) for x in new]
        places += [(x.buffer, x.at) for x in s.body if isinstance(x, Store) and x.where is None]
        return Plan(tuple(sources), new, self.aligned(s, places) if places else "true")

    def turns(
        self, s: Loop | Fold, plan: Plan, first: str, step: int, stop: str, accs: Sequence[str]
    ) -> None:
        """The turns of a loop that a thread has from `first` on, `step` elements apart."""
        if plan.new and s not in self.plans:
            self.read(s, plan, first, step, stop)
        with self.each_turn(s, first, step, stop) as (i, turn):
            if isinstance(s, Fold) and self.row is not None:
                with self.each_row(clamped=True):
                    own = [self.env["var", v.attr][0] for v in s.acc]
                    self.compute(s, plan, i, turn, stop, own)
            else:
                self.compute(s, plan, i, turn, stop, accs)

    def source(self, s: Loop | Fold, n: Expr, table: dict[tuple[object, ...], str]) -> Source:
        """The array of packs for a load, the one that an earlier loop filled if that is kept."""
        at = replaced(n.args[0], {x: _AT for x in nodes_of(n) if x.attr == s.index.attr}, {})
        key: tuple[object, ...] = (n.attr, *(self._key(e) for e in (at, s.start, s.stop)))
        if n.attr in self.written:
            key = (*key, s)
        if key not in table:
            table[key] = self.unique(f"{self.c_names[n.attr]}_pack")
        return Source(n, table[key], self.own(n.args[0]))

    @contextmanager
    def each_turn(
        self, s: Loop | Fold, first: str, step: int, stop: str
    ) -> Iterator[tuple[str, str]]:
        """A block for each turn that is within the range: the index and which turn it is."""
        turns = self.form.turns
        if turns == 1 and not self.form.kept:
            self.env["index", s.index.attr] = (first, len(self.chain) - 1)
            yield first, ""
            return
        t, i = self.unique("t"), self.unique(s.index.attr)
        with self.block(f"UNROLL\nfor (int {t} = 0; {t} < {turns}; {t}++)"):
            self.line(f"const index_t {i} = {first} + {t} * {step};")
            with self.block(f"if ({i} < {stop})"):
                self.env["index", s.index.attr] = (i, len(self.chain) - 1)
                yield i, f"[{t}]"

    def read(self, s: Loop | Fold, plan: Plan, first: str, step: int, stop: str) -> None:
        """The loads of all turns: wide ones where addresses are aligned, else one by one."""
        new = plan.new
        each = self.form.pack
        declared: set[str] = set()
        array = f"[{self.form.turns}]" if self.form.turns > 1 or self.form.kept else ""
        for x in new:
            if x.name not in declared:
                rows = f"[{self.form.rows}]" if x.own else ""
                ctype = MEMORY[x.load.attr.dtype]
                self.line(f"PACK({ctype}, {each}) {x.name}{rows}{array};")
                declared.add(x.name)

        def loads(sources: Sequence[Source], i: str, turn: str, wide: bool) -> None:
            seen: set[str] = set()
            for x in sources:
                if x.name in seen:
                    continue
                seen.add(x.name)
                helper = "load_pack_local" if x.load.attr.local else "load_pack"
                at = f"{self.c_names[x.load.attr]} + {self.expr(x.load.args[0])}"
                left = str(each) if self.form.whole else f"{stop} - {i}"
                row = f"[{self.turn_of_row}]" if x.own else ""
                value = f"{helper}<{each}>({at}, {left}, {str(wide).lower()})"
                self.line(f"{x.name}{row}{turn} = {value};")

        for header, wide in ((f"if ({plan.fast})", True), ("else", False)):
            with self.block(header), self.each_turn(s, first, step, stop) as (i, turn):
                shared = [x for x in new if not x.own]
                loads(shared, i, turn, wide)
                if len(shared) < len(new):
                    with self.each_row(clamped=True):
                        loads([x for x in new if x.own], i, turn, wide)

    def compute(
        self,
        s: Loop | Fold,
        plan: Plan,
        i: str,
        turn: str,
        stop: str,
        accs: Sequence[str],
    ) -> None:
        """One pack of turns, from what was read to what is stored."""
        each = self.form.pack
        stores = [x for x in s.body if isinstance(x, Store)]
        whole = [x for x in stores if x.where is None]
        results = [self.unique(f"{self.c_names[x.buffer]}_pack") for x in whole]
        for x, pack in zip(whole, results, strict=True):
            self.line(f"PACK({MEMORY[x.buffer.dtype]}, {each}) {pack};")
        u = self.unique("u")
        with self.block(f"UNROLL\nfor (int {u} = 0; {u} < {each}; {u}++)"):
            self.epoch += 1
            inside = len(self.chain) - 1
            self.env["index", s.index.attr] = (f"({i} + {u})", inside)
            by: dict[Expr, Expr] = {}
            for source in plan.sources:
                row = f"[{self.turn_of_row}]" if source.own else ""
                element = f"AT({source.name}{row}{turn}, {u})"
                loaded = LOAD.get(source.load.attr.dtype, "{}").format(element)
                self.env["var", element] = (loaded, inside)
                by[source.load] = var(element, source.load.dtype)
            memo: dict[Expr, Expr] = {}
            guard = "" if self.form.whole else f"{i} + {u} < {stop}"
            if isinstance(s, Fold):
                for v, name in zip(s.acc, accs, strict=True):
                    self.env["var", v.attr] = (name, inside)  # they change with each turn of u
                steps = tuple(replaced(e, by, memo) for e in s.step)
                self.count(steps)
                self.assign(accs, steps, f"{guard} ? " if guard else "")
            for x in stores:
                at, stored = [replaced(e, by, memo) for e in (x.at, x.value)]
                self.count([stored])
                value_text = STORE.get(x.buffer.dtype, "{}").format(bare(self.expr(stored)))
                if x.where is None:
                    self.line(f"AT({results[whole.index(x)]}, {u}) = {value_text};")
                else:
                    where = self.expr(replaced(x.where, by, memo))
                    place = f"{self.c_names[x.buffer]}[{bare(self.expr(at))}]"
                    self.under([*([guard] if guard else []), where], f"{place} = {value_text}")
        for x, pack in zip(whole, results, strict=True):
            target = f"{self.c_names[x.buffer]} + {self.expr(x.at)}"
            write = "store_pack_local" if x.buffer.local else "store_pack"
            left = str(each) if self.form.whole else f"{stop} - {i}"
            self.line(f"{write}({target}, {pack}, {left}, {plan.fast});")

    # -- alignment

    def aligned(self, s: Loop | Fold, places: list[tuple[Buffer, Expr]]) -> str:
        """The name of a flag: all packs of a loop begin at multiples of their size."""
        fast = self.unique("fast")
        shared = [p for p in places if not self.own(p[1])]
        own = [p for p in places if self.own(p[1])]
        if not own:
            self.line(f"const bool {fast} = {self.mask(shared, s)};")
            return fast
        self.line(f"bool {fast} = {self.mask(shared, s) if shared else 'true'};")
        with self.each_row(clamped=True):
            self.line(f"{fast} = {fast} && {self.mask(own, s)};")
        return fast

    def mask(self, places: list[tuple[Buffer, Expr]], s: Loop | Fold) -> str:
        firsts = dict.fromkeys(self.first_address(b, at, s) for b, at in places)
        together = " | ".join(f for f in firsts if f != "0") or "0"
        return f"(({bare(together)}) & {self.form.pack - 1}) == 0"

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
            nexts = [self.unique("next") for _ in accs]
            for e, name, text in zip(values, nexts, texts, strict=True):
                self.line(f"const {VALUE[e.dtype]} {name} = {bare(text)};")
            texts = nexts
        for name, text in zip(accs, texts, strict=True):
            self.line(f"{name} = {bare(text)};")
