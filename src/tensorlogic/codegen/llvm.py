"""The LLVM printer: a kernel becomes one function that runs a part of its parallel range.

    define void @NAME(ptr %args, i64 %lo, i64 %hi, ptr %scratch, i64 %turn)

`args` are 64-bit words: the addresses of the kernel's buffers, then its params (i64 as they are,
i32 sign-extended, f32 as bits in the low half). [lo, hi) counts from the start of the range and is
not empty. `scratch` is 64-byte aligned memory of the calling thread for the local buffers
(`scratch_bytes`). `turn` is 0 in the first part of a launch that a thread runs: what fills that
memory for all rows is computed then.

Vector loops are written with `<lanes x T>` values, so no optimisation passes are needed. Each
expression is emitted once per scope, as far out as what it depends on allows. Only `contract` is
granted to float32 arithmetic: NaN, inf and the sign of zero are values here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tensorlogic.codegen.emit import KERNEL, Module, Value, constant, vector
from tensorlogic.codegen.instructions import TYPES
from tensorlogic.codegen.llvm_stores import Stores
from tensorlogic.codegen.llvm_turned import lines_of, tiles
from tensorlogic.kernels.ir import (
    BYTES,
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
    const,
    exprs_of,
    nodes_of,
    param,
    walk,
)

_ALIGN = 64
_MASKED = 16  # lanes from which on the processor has masked loads and stores of any type
_LONG = 64  # operations of a turn from which on it is written once, for whole vectors and the rest


class Emitter(Stores):
    """Writes statements of the IR into a function.

    A family that has values of its own binds them (`bind`), opens a scope of several lanes where
    they are vectors (`scope`), and writes its statements with `block`.
    """

    areas: Mapping[str, Value] = {}
    """Scratch memory beyond the local buffers, by name."""
    # Statements

    def bind_word(self, p: Expr, word: Value) -> None:
        """Give a param the value that an argument word holds."""
        if p.dtype != "i64":
            word = self.f.cast("trunc", "i64", word, "i1" if p.dtype == "bool" else "i32")
        if p.dtype == "f32":
            word = self.f.cast("bitcast", "i32", word, "float")
        self.bind(p, word)

    def block(self, body: Sequence[Stmt]) -> None:
        for s in body:
            self._volatile.clear()
            if isinstance(s, Store):
                self.store(s)
            elif isinstance(s, Check):
                self.check(s)
            elif isinstance(s, Loop | Fold):
                self.loop(s, self.scalar(s.start), self.scalar(s.stop))
            else:
                assert isinstance(s, Barrier)
        self._volatile.clear()

    def before(self, kernel: Kernel) -> None:
        """What a thread does before its first rows: it fills the local buffers."""
        self.block(kernel.body[:-1])

    def parallel(self, s: Stmt, lo: Value, hi: Value) -> None:
        """The part [lo, hi) of the kernel's parallel range."""
        f = self.f
        if isinstance(s, Loop):
            start = self.scalar(s.start)
            self.rows(s, f.add(lo, start), f.add(hi, start))
            return
        before = "0"
        for loop in row_loops(s):
            n = self.scalar(loop.stop)
            first = f.smax(f.sub(lo, before), 0)
            last = f.smin(f.sub(hi, before), n)
            self.rows(loop, first, last)
            before = f.add(n, before)

    def rows(self, s: Loop, first: Value, last: Value) -> None:
        """Some rows of the parallel range, which may be none."""
        self.loop(s, first, last)

    def loop(self, s: Loop | Fold, start: Value, stop: Value) -> None:
        """One loop, with what its turns share before it; a fold's results are bound after it."""
        f = self.f
        init = [self.vector(e) for e in s.init]
        shared = self._shared(s)
        sure = s.kind in ("parallel", "flat") or _constant_turns(s) > 0
        if sure or not any(self.known.loads(e) for e, _ in shared):
            for e, n in shared:
                self._emit(e, n)
            result = self._turns(s, start, stop, init)
        else:  # a load stands before the loop only if the loop runs at all
            with f.when(f.icmp("slt", "i64", start, stop)) as branch:
                with self.scope():
                    for e, n in shared:
                        self._emit(e, n)
                    inner = self._turns(s, start, stop, init)
                branch.otherwise()
            types = [vector(TYPES[v.dtype], self.here.lanes) for v in s.acc]
            result = [branch.merge(t, a, b) for t, a, b in zip(types, inner, init, strict=True)]
        for v, value in zip(s.acc, result, strict=True):
            if self.here.lanes > 1:
                self.here.varying |= {self.known.intern(v)}
                self.here.known_steps.clear()
            self.bind(v, value, self.here.lanes)

    def _shared(self, s: Loop | Fold) -> list[tuple[Expr, int]]:
        """Expressions in a loop that its turns share, with the lanes in which they are used. Loads
        of nested loops are left to those, which may not run."""
        own = [e for t in s.body for e in exprs_of(t)]
        own += s.step
        nested = [e for t in s.body if isinstance(t, Loop | Fold) for e in _inside(t)]
        inner_lanes = self._lanes(s) if s.kind in ("vector", "flat") else self.here.lanes
        out: list[tuple[Expr, int]] = []
        ready: set[Expr] = set()
        for roots, loads in ((own, True), (nested, False)):
            for e in nodes_of(*(self.known.intern(r) for r in roots)):
                if e in ready or e.op == "const":
                    continue
                bound = self.known.free(e) <= self.here.bound
                if bound and not self.known.volatile(e) and (loads or not self.known.loads(e)):
                    ready.add(e)
                    if not e.args:
                        continue
                    flat = not self.varies(e) or self.step(e) is not None
                    out.append((e, 1 if flat else self.here.lanes))
                elif s.kind in ("vector", "flat") and e.op != "load":
                    out += [(a, inner_lanes) for a in e.args if a in ready and a.dtype != "i64"]
        return out

    def _turns(self, s: Loop | Fold, start: Value, stop: Value, init: list[Value]) -> list[Value]:
        if s.kind == "unrolled":
            values = init
            for i in range(s.start.attr, s.stop.attr):
                values = self._turn(s, str(i), values)
            return values
        if s.kind in ("vector", "flat") and self.full > 1 and self._uniform_inside(s):
            return self._vector_turns(s, start, stop, init)
        line = lines_of(self, s) if self.here.lanes == 1 else None
        if line is not None:
            assert isinstance(s, Loop)
            return self._columns(s, line, start, stop)
        return self._serial_turns(s, start, stop, init)

    def _columns(self, s: Loop, line: Loop, start: Value, stop: Value) -> list[Value]:
        """Lines that are stored as columns: whole tiles, then what is left of lines and the rest of
        them."""
        last_line, last = tiles(self, s, line, start, stop)
        with self.scope():
            ends = param("tiles_end")
            self.bind(ends, last)
            left = Loop(line.index, ends, line.stop, "vector", line.body)
            body = (left,)
            self._serial_turns(replace(s, body=body), start, last_line, [])
        return self._serial_turns(s, last_line, stop, [])

    def _serial_turns(
        self, s: Loop | Fold, start: Value, stop: Value, init: list[Value]
    ) -> list[Value]:
        types = [vector(TYPES[v.dtype], self.here.lanes) for v in s.acc]
        with self.f.loop(start, stop, 1, list(zip(types, init, strict=True))) as loop:
            loop.next = self._turn(s, loop.index, loop.carried)
        return list(loop.carried)

    def _turn(
        self,
        s: Loop | Fold,
        index: Value,
        values: Sequence[Value],
        lanes: int = 0,
        active: Value | None = None,
        whole: Value | None = None,
    ) -> list[Value]:
        """One turn of a loop (`lanes` turns side by side); the accumulators' new values."""
        wide = lanes or self.here.lanes
        varying = s.acc if wide > 1 else ()
        with self.scope(lanes, varying, (s.index,) if lanes > 1 else ()):
            self.here.active = active or self.here.active
            self.here.whole = whole
            self.bind(s.index, index)
            for v, value in zip(s.acc, values, strict=True):
                self.bind(v, value, wide)
            self.block(s.body)
            following = [self.vector(e) for e in s.step]
            if active is None:
                return following
            return [
                self.f.select(active, vector(TYPES[v.dtype], wide), new, old, wide)
                for v, new, old in zip(s.acc, following, values, strict=True)
            ]

    def _uniform_inside(self, s: Loop | Fold) -> bool:
        """Whether all lanes go through the nested loops alike."""
        nested = [t for t in walk(s.body) if isinstance(t, Loop | Fold)]
        changing = {v for t in (s, *nested) for v in t.acc} | {s.index}
        leaves = {self.known.intern(v) for v in changing}
        bounds = (self.known.intern(e) for t in nested for e in (t.start, t.stop))
        return all(leaves.isdisjoint(self.known.free(e)) for e in bounds)

    def _vector_turns(
        self, s: Loop | Fold, start: Value, stop: Value, init: list[Value]
    ) -> list[Value]:
        """Lanes side by side, then what is left: with a mask where the processor has masks, else
        one by one. A fold keeps several vectors, because each turn waits for the one before."""
        f, lanes = self.f, self._lanes(s)
        values = [f.splat(TYPES[v.dtype], lanes, x) for v, x in zip(s.acc, init, strict=True)]
        copies = self._copies(s)
        if _constant_turns(s) in range(lanes, 8 * lanes + 1, lanes):
            turns = range(s.start.attr, s.stop.attr, lanes)
            parts = [values] * min(copies, 1 << (len(turns).bit_length() - 1))
            for n, i in enumerate(turns):
                parts[n % len(parts)] = self._turn(s, str(i), parts[n % len(parts)], lanes)
            return self._across(s, self._joined(s, parts, lanes), lanes)
        if self.streams and self._stores_halfs(s):
            start, _ = self._wide_loop(s, start, stop, [], 1, 2 * lanes)
        if self._sums_columns(s):
            for side_by_side in (self.full, 4):
                start, _ = self._wide_loop(s, start, stop, [], 1, side_by_side * lanes)
        if self.full >= _MASKED:
            if self._is_long(s):
                return self._across(s, self._masked_loop(s, start, stop, values, whole=True), lanes)
            at, values = self._wide_loop(s, start, stop, values, copies)
            return self._across(s, self._masked_loop(s, at, stop, values), lanes)
        at, values = self._wide_loop(s, start, stop, values, copies)
        if copies > 1:
            at, values = self._wide_loop(s, at, stop, values, 1)
        return self._serial_turns(s, at, stop, self._across(s, values, lanes))

    def _wide_loop(
        self,
        s: Loop | Fold,
        start: Value,
        stop: Value,
        values: list[Value],
        copies: int,
        lanes: int = 0,
    ) -> tuple[Value, list[Value]]:
        """Whole vectors, `copies` a turn with their own accumulators; where it ends."""
        f, n, lanes = self.f, len(values), lanes or self._lanes(s)
        types = [vector(TYPES[v.dtype], lanes) for v in s.acc]
        carry = list(zip(types, values, strict=True)) * copies
        with f.loop(start, f.sub(stop, lanes * copies - 1), lanes * copies, carry) as loop:
            loop.next = [
                value
                for c in range(copies)
                for value in self._turn(
                    s, f.add(loop.index, lanes * c), loop.carried[n * c : n * c + n], lanes
                )
            ]
        parts = [list(loop.carried[n * c : n * c + n]) for c in range(copies)]
        return loop.index, self._joined(s, parts, lanes)

    def _masked_loop(
        self, s: Loop | Fold, start: Value, stop: Value, values: list[Value], whole: bool = False
    ) -> list[Value]:
        """Vectors of which the last may be a part; with `whole`, those that are not take no
        masks."""
        f, lanes = self.f, self._lanes(s)
        types = [vector(TYPES[v.dtype], lanes) for v in s.acc]
        with f.loop(start, stop, lanes, list(zip(types, values, strict=True))) as loop:
            left = f.sub(stop, loop.index)
            full = f.icmp("sge", "i64", left, lanes) if whole else None
            if full is None:
                active = self._first_lanes(left, lanes)
            else:
                with f.when(full, likely=True) as branch:
                    branch.otherwise()
                    some = self._first_lanes(left, lanes)
                active = branch.merge(vector("i1", lanes), constant("i1", lanes, "true"), some)
            loop.next = self._turn(s, loop.index, loop.carried, lanes, active, full)
        return list(loop.carried)

    def _joined(self, s: Loop | Fold, parts: list[list[Value]], lanes: int) -> list[Value]:
        """Several vectors of each accumulator merged into one."""
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self._merged(s, a, b, lanes) for a, b in pairs]
        return parts[0]

    def _first_lanes(self, count: Value, lanes: int) -> Value:
        """The mask of the first `count` lanes."""
        f = self.f
        narrow = f.cast("trunc", "i64", f.smin(count, lanes), "i32")
        type_ = vector("i32", lanes)
        numbers = ", ".join(f"i32 {i}" for i in range(lanes))
        return f.icmp("sgt", type_, f.splat("i32", lanes, narrow), f"<{numbers}>")

    def _lanes(self, s: Loop | Fold) -> int:
        """How many turns of a vector loop go side by side: a short constant loop leaves no rest."""
        count = _constant_turns(s)
        return next((n for n in (16, 8, 4) if n <= self.full and count % n == 0 < count), self.full)

    def _sums_columns(self, s: Loop | Fold) -> bool:
        """Whether lanes are columns that each fold down the rows: then several vectors side by side
        take whole cache lines of a row, and wait for memory together."""
        nested = [t for t in walk(s.body) if isinstance(t, Loop | Fold)]
        if isinstance(s, Fold) or len(nested) != 1:
            return False
        (fold,) = nested  # a longer one would not fit into registers, and compile for long
        return isinstance(fold, Fold) and fold.kind == "serial" and self._ops(fold) <= 4

    def _stores_halfs(self, s: Loop | Fold) -> bool:
        """Whether two vectors fill a line of what goes past the caches: a line that is written in
        two pieces, with other memory between them, would be sent twice."""
        return isinstance(s, Loop) and any(
            isinstance(t, Store) and BYTES[t.buffer.dtype] == 2 and not t.buffer.local
            for t in s.body
        )

    def _ops(self, s: Loop | Fold) -> int:
        """How many operations a turn has, those of addresses apart."""
        roots = (self.known.intern(e) for t in s.body for e in exprs_of(t))
        steps = (self.known.intern(e) for e in s.step)
        return len([e for e in nodes_of(*roots, *steps) if e.args and e.dtype != "i64"])

    def _is_long(self, s: Loop | Fold) -> bool:
        """Whether a turn is so long that to compile it twice costs more than tests in it do."""
        return self._ops(s) >= _LONG and not any(isinstance(t, Loop | Fold) for t in s.body)

    def _copies(self, s: Loop | Fold) -> int:
        """How many vectors of accumulators a fold keeps: fewer where a turn is long in itself."""
        if not isinstance(s, Fold) or any(isinstance(t, Loop | Fold) for t in s.body):
            return 1
        work = self._ops(s)
        return 4 if work <= 8 else 2 if work <= 16 else 1

    def _across(self, s: Loop | Fold, values: list[Value], lanes: int) -> list[Value]:
        """The lanes of each accumulator merged into one."""
        f = self.f
        while s.acc and lanes > 1:
            lanes //= 2
            halves: list[list[Value]] = []
            for low in (0, lanes):
                pick = range(low, low + lanes)
                half = [
                    f.shuffle(vector(TYPES[v.dtype], 2 * lanes), x, "poison", pick)
                    if lanes > 1
                    else f.assign(f"extractelement {vector(TYPES[v.dtype], 2)} {x}, i32 {low}")
                    for v, x in zip(s.acc, values, strict=True)
                ]
                halves.append(half)
            values = self._merged(s, halves[0], halves[1], lanes)
        return values

    def _merged(
        self, s: Loop | Fold, left: list[Value], right: list[Value], lanes: int
    ) -> list[Value]:
        if not isinstance(s, Fold):
            return []
        with self.scope(lanes, (*s.left, *s.right) if lanes > 1 else ()):
            for names, values in ((s.left, left), (s.right, right)):
                for v, value in zip(names, values, strict=True):
                    self.bind(v, value, lanes)
            return [self.vector(e) for e in s.merge]


def row_loops(s: Stmt) -> list[Loop]:
    """The loops over rows of a kernel's last statement: itself, or the parts of a split."""
    if isinstance(s, Loop):
        return [s]
    assert isinstance(s, Split)
    parts = zip(s.counts, s.bodies, strict=True)
    return [Loop(s.index, const(0, "i64"), count, "serial", body) for count, body in parts]


def _inside(s: Loop | Fold) -> Iterator[Expr]:
    """The expressions of a nested loop's turns."""
    yield from s.step
    for t in walk(s.body):
        yield from exprs_of(t)


def _constant_turns(s: Loop | Fold) -> int:
    """How many turns a loop has, 0 if that is known at run time only."""
    constant_bounds = s.start.op == s.stop.op == "const"
    return max(s.stop.attr - s.start.attr, 0) if constant_bounds else 0


def scratch_bytes(kernel: Kernel, areas: Mapping[str, Expr] | None = None) -> Expr:
    """How much scratch memory each thread needs, in bytes: an i64 of the kernel's params. `areas`
    come after the local buffers, with their sizes."""
    return _layout(kernel, areas or {})[1]


def _layout(
    kernel: Kernel, areas: Mapping[str, Expr]
) -> tuple[list[tuple[Buffer | str, Expr]], Expr]:
    """The offset of each local buffer and area in the scratch memory, and the end of the last."""
    end: Expr = const(0, "i64")
    places: list[tuple[Buffer | str, Expr]] = []
    sizes: list[tuple[Buffer | str, Expr]] = [
        (b, b.size * BYTES[b.dtype]) for b in kernel.locals if b.size is not None
    ]
    for b, size in [*sizes, *areas.items()]:
        places.append((b, end))
        end = end + ((size + (_ALIGN - 1)) & -_ALIGN)
    return places, end


def emit_kernel(
    module: Module,
    kernel: Kernel,
    name: str,
    lanes: int,
    emitter_type: Callable[..., Emitter] = Emitter,
    areas: Mapping[str, Expr] | None = None,
    streams: bool = False,
) -> None:
    """Add the kernel's function to a module. `lanes` is the vector width in float32: 16 with
    AVX-512, 8 with AVX2, 4 with NEON; 1 makes scalar code. The emitter may want `areas`.
    With `streams` its stores go past the caches."""
    f = module.function(name, KERNEL)
    pointers = {b: f.load("ptr", f.gep("i64", "%args", i), 8) for i, b in enumerate(kernel.buffers)}
    written = {s.buffer for s in walk(kernel.body) if isinstance(s, Store)}
    emitter = emitter_type(f, lanes, pointers, written)
    emitter.streams = streams
    for i, p in enumerate(kernel.params, len(kernel.buffers)):
        emitter.bind_word(p, f.load("i64", f.gep("i64", "%args", i), 8))
    named: dict[str, Value] = {}
    for b, offset in _layout(kernel, areas or {})[0]:
        pointer = f.gep("i8", "%scratch", emitter.scalar(offset))
        if isinstance(b, Buffer):
            emitter.pointers[b] = pointer
        else:
            named[b] = pointer
    emitter.areas = named
    if kernel.body[:-1] or areas:
        with f.when(f.icmp("eq", "i64", "%turn", 0)), emitter.scope():
            emitter.before(kernel)
    emitter.parallel(kernel.body[-1], "%lo", "%hi")
    if streams:  # such stores are in no order with others: what says that they are done comes after
        f.line("fence seq_cst")
    f.ret()


def render(kernel: Kernel, name: str, lanes: int) -> str:
    """A module's text with this one kernel."""
    module = Module()
    emit_kernel(module, kernel, name, lanes)
    return module.text()
