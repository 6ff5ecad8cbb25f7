"""Expressions of the kernel IR as LLVM values: scalars where they are uniform, else vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tensorlogic.codegen.emit import Function, Value, constant, suffix, vector
from tensorlogic.codegen.instructions import STORED, TYPES, literal, loaded, operation, zero
from tensorlogic.codegen.interning import Interning
from tensorlogic.kernels.ir import BYTES, Buffer, Expr, binary, const


class Scope:
    """What is known at a point of the text: values by (expression, lanes), and what is bound.

    `varying` are the indices and vars that differ from lane to lane; of these, `steps` are indices
    that grow by one. A varying expression's value for one lane is that of lane 0. `active` is the
    mask of the lanes that take part, None for all; `whole` says (i1) that it is all of them, where
    that is likely and worth a branch around each mask.
    """

    def __init__(
        self,
        parent: Scope | None,
        lanes: int,
        varying: frozenset[Expr],
        steps: frozenset[Expr],
    ) -> None:
        self.parent, self.lanes, self.varying, self.steps = parent, lanes, varying, steps
        self.values: dict[tuple[Expr, int], Value] = {}
        self.bound: set[Expr] = set(parent.bound) if parent else set()
        self.known_steps: dict[Expr, int | Expr | None] = {}
        self.whole: Value | None = None
        self.active: Value | None = parent.active if parent and parent.lanes == lanes else None

    def find(self, e: Expr, lanes: int) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            value = scope.values.get((e, lanes))
            if value is not None:
                return value
            scope = scope.parent
        return None


class Values:
    """Writes expressions of the IR into a function, each once in a scope.

    `bind` gives indices and vars their values; in a `scope` of several lanes some are vectors.
    """

    def __init__(
        self, f: Function, lanes: int, pointers: dict[Buffer, Value], written: set[Buffer]
    ) -> None:
        self.f, self.full, self.pointers = f, lanes, dict(pointers)
        self.known = Interning(written, lanes)
        self.here = Scope(None, 1, frozenset(), frozenset())
        self._volatile: dict[tuple[Expr, int], Value] = {}
        self._constants: dict[tuple[Expr, int], Value] = {}

    # Scopes and names

    @contextmanager
    def scope(
        self, lanes: int = 0, varying: Sequence[Expr] = (), steps: Sequence[Expr] = ()
    ) -> Iterator[None]:
        """A scope inside the present one; with `lanes`, one where `varying` are vectors and `steps`
        are indices of which the value of lane 0 is bound."""
        outer = self.here
        intern = self.known.intern
        grown = frozenset(intern(e) for e in steps)
        self.here = Scope(
            outer,
            lanes or outer.lanes,
            outer.varying | {intern(e) for e in varying} | grown,
            outer.steps | grown,
        )
        self._volatile.clear()
        yield
        self._volatile.clear()
        self.here = outer

    def bind(self, name: Expr, value: Value, lanes: int = 1) -> None:
        """Give an index or var its value."""
        leaf = self.known.intern(name)
        self.here.values[leaf, lanes] = value
        self.here.bound.add(leaf)

    # Expressions

    def scalar(self, e: Expr) -> Value:
        """The value where it is uniform, else that of lane 0 (of what `step` knows)."""
        return self._emit(self.known.intern(e), 1)

    def vector(self, e: Expr) -> Value:
        """The value in all lanes of this scope."""
        return self._emit(self.known.intern(e), self.here.lanes)

    def varies(self, e: Expr) -> bool:
        return not self.here.varying.isdisjoint(self.known.free(e))

    def step(self, e: Expr) -> int | Expr | None:
        """By how much an i64 grows from lane to lane: a number, or a uniform expression; None if
        it does not grow evenly."""
        if not self.varies(e):
            return 0
        if e not in self.here.known_steps:
            self.here.known_steps[e] = self._find_step(e)
        return self.here.known_steps[e]

    def _find_step(self, e: Expr) -> int | Expr | None:
        if e in self.here.steps:
            return 1
        if e.dtype != "i64" or e.op not in ("add", "sub", "mul"):
            return None
        a, b = (self.step(x) for x in e.args)
        if a is None or b is None:
            return None
        if e.op != "mul":
            return self._combined(e.op, a, b)
        for factor, n in ((e.args[0], b), (e.args[1], a)):
            if not self.varies(factor):
                return self._combined("mul", n, factor.attr if factor.op == "const" else factor)
        return None

    def _combined(self, op: str, a: int | Expr, b: int | Expr) -> int | Expr:
        if isinstance(a, int) and isinstance(b, int):
            return a * b if op == "mul" else a + b if op == "add" else a - b
        if isinstance(a, int) and a == {"mul": 1, "add": 0}.get(op):
            return b
        x = a if isinstance(a, Expr) else const(a, "i64")
        return self.known.intern(binary(op, x, b))

    def _find(self, e: Expr, lanes: int) -> Value | None:
        if e.op == "const":
            known = self._constants.get((e, lanes))
            if known is None:
                known = constant(TYPES[e.dtype], lanes, literal(e))
                self._constants[e, lanes] = known
            return known
        if self.known.volatile(e):
            return self._volatile.get((e, lanes))
        return self.here.find(e, lanes)

    def _emit(self, root: Expr, lanes: int) -> Value:
        value = self._find(root, lanes)
        if value is not None:
            return value
        stack: list[tuple[Expr, int] | None] = [(root, lanes)]
        while stack:
            wanted = stack.pop()
            if wanted is None:  # what the next one needs is there
                wanted = stack.pop()
                assert wanted is not None
                target = self._volatile if self.known.volatile(wanted[0]) else self.here.values
                target[wanted] = self._write(*wanted)
            elif self._find(*wanted) is None:
                stack += (wanted, None, *reversed(self._needs(*wanted)))
        return self._value(root, lanes)

    def _needs(self, e: Expr, lanes: int) -> list[tuple[Expr, int]]:
        """What must be known before `_write` of it."""
        if lanes > 1:
            if not self.varies(e):
                return [(e, 1)]
            step = self._ramp(e)
            if step is not None:
                first = e if e.dtype == "i64" else e.args[0]
                return [(first, 1), *([(step, 1)] if isinstance(step, Expr) else [])]
            if e.op == "load":
                at, *where = e.args
                return [(at, 1 if self.step(at) == 1 else lanes), *((w, lanes) for w in where)]
        return [(a, lanes) for a in e.args]

    def _ramp(self, e: Expr) -> int | Expr | None:
        """The step of an i64 (or of one cast to i32) that is cheaper made from lane 0."""
        wide = e.args[0] if e.op == "cast" and e.dtype == "i32" else e
        return self.step(wide) if wide.dtype == "i64" else None

    def _write(self, e: Expr, lanes: int) -> Value:
        f = self.f
        if lanes > 1:
            element = TYPES[e.dtype]
            if not self.varies(e):
                return f.splat(element, lanes, self._value(e, 1))
            step = self._ramp(e)
            if step is not None:
                return self._write_ramp(e, step, lanes)
        if e.op == "load":
            return self._load(e, lanes)
        if e.op in ("index", "var", "param"):
            raise KeyError(f"{e} is not bound")
        return operation(f, e, lanes, [self._value(a, lanes) for a in e.args])

    def _write_ramp(self, e: Expr, step: int | Expr, lanes: int) -> Value:
        f, element = self.f, TYPES[e.dtype]
        type_ = vector(element, lanes)

        def narrow(x: Expr) -> Value:
            value = self._value(x, 1)
            return value if e.dtype == "i64" else f.cast("trunc", "i64", value, "i32")

        first = f.splat(element, lanes, narrow(e if e.dtype == "i64" else e.args[0]))
        scale = step if isinstance(step, int) else 1
        ramp = f"<{', '.join(f'{element} {scale * i}' for i in range(lanes))}>"
        if isinstance(step, Expr):
            ramp = f.op("mul", type_, f.splat(element, lanes, narrow(step)), ramp)
        return f.op("add", type_, first, ramp)

    def _value(self, e: Expr, lanes: int) -> Value:
        value = self._find(e, lanes)
        assert value is not None
        return value

    # Memory

    def _load(self, e: Expr, lanes: int) -> Value:
        f, buffer = self.f, e.attr
        at, *where = e.args
        element, size = STORED[buffer.dtype], BYTES[buffer.dtype]
        type_ = vector(element, lanes)
        base = self.pointers[buffer]
        guard = self._masked(self._value(where[0], lanes) if where else None, lanes)
        nothing = zero(element, lanes)
        if lanes == 1 and guard is not None:
            with f.when(guard) as branch:
                one = f.load(element, f.gep(element, base, self._value(at, 1)), size)
                branch.otherwise()
            raw = branch.merge(element, one, nothing)
        elif lanes == 1 or self.step(at) == 1:
            pointer = f.gep(element, base, self._value(at, 1))
            if guard is None:
                raw = f.load(type_, pointer, size)
            elif self.here.whole is not None and guard == self.here.active:
                with f.when(self.here.whole, likely=True) as branch:
                    whole = f.load(type_, pointer, size)
                    branch.otherwise()
                    some = self._masked_load(type_, pointer, size, guard)
                raw = branch.merge(type_, whole, some)
            else:
                raw = self._masked_load(type_, pointer, size, guard)
        else:
            places = self._scattered(buffer, at, guard, lanes)
            name = f"llvm.masked.gather.{suffix(type_)}.v{lanes}p0"
            raw = f.call(type_, name, *places, (type_, nothing))
        return loaded(f, buffer.dtype, raw, lanes)

    def _masked_load(self, type_: str, pointer: Value, size: int, mask: Value) -> Value:
        given = (("ptr", pointer), ("i32", str(size)), (vector("i1", self.here.lanes), mask))
        name = f"llvm.masked.load.{suffix(type_)}.p0"
        return self.f.call(type_, name, *given, (type_, "zeroinitializer"))

    def _masked(self, guard: Value | None, lanes: int) -> Value | None:
        """The guard of a load or store, of the lanes that take part."""
        active = self.here.active if lanes > 1 else None
        if guard is None or active is None:
            return guard or active
        return self.f.op("and", vector("i1", lanes), guard, active)

    def _scattered(
        self, buffer: Buffer, at: Expr, guard: Value | None, lanes: int
    ) -> tuple[tuple[str, str], ...]:
        """An address for each lane, its alignment and the mask, as gather and scatter take them."""
        indices = f"{vector('i64', lanes)} {self._value(at, lanes)}"
        text = (
            f"getelementptr inbounds {STORED[buffer.dtype]}, ptr {self.pointers[buffer]}, {indices}"
        )
        mask = guard or constant("i1", lanes, "true")
        return (
            (vector("ptr", lanes), self.f.assign(text)),
            ("i32", str(BYTES[buffer.dtype])),
            (vector("i1", lanes), mask),
        )
