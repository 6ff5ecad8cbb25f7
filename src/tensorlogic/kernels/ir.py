"""The kernel IR: the one form of every fused kernel, printed as LLVM, Metal and CUDA.

A kernel is a tree of statements over scalar expressions. Expressions are pure and shared (a DAG);
each is evaluated at most once per scope, as far out as its indices allow, but a load from a buffer
that the kernel writes is evaluated where its statement stands.

Loop kinds, and what they become (CPU | GPU):

    parallel   chunks of the range, claimed by worker threads   | threadgroups of the grid
    vector     SIMD lanes, with a scalar tail                   | threads of the group, strided
    flat       parallel and vector at once (the only loop)      | one thread of the grid each
    serial     a loop                                           | a loop
    unrolled   repeated text; the bounds are constants          | the same

A `Fold` is a loop that carries accumulators. Its initial values are identities of `merge`, so that
a vector fold may run lanes (or threads) apart and merge them at the end, in any order. After it,
its accumulators hold the result. A scan is a serial fold whose body stores; nested statements in a
fold's body (inner folds, loops) run before its `step` is evaluated, with the accumulators of the
last turn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

VALUE_TYPES = ("f32", "f64", "i32", "i64", "bool")
"""Types of expressions. f64 occurs only in CPU expansions of sin and cos."""
MEMORY_TYPES = ("f16", "bf16", "f32", "i32", "bool", "u8")
"""Element types of buffers; f16 and bf16 are f32 once loaded, u8 is i32, bool is a byte 0 or 1."""
BYTES = {"f16": 2, "bf16": 2, "f32": 4, "i32": 4, "bool": 1, "u8": 1}
LOADED_AS = {"f16": "f32", "bf16": "f32", "f32": "f32", "i32": "i32", "bool": "bool", "u8": "i32"}

MATH = ("sqrt", "exp", "log", "sin", "cos", "tanh", "erf", "floor", "ceil", "trunc", "rint")
ARITHMETIC = ("add", "sub", "mul", "div", "min", "max")  # min, max: NaN if either is NaN
INTEGER = ("idiv", "irem", "mulhi", "and", "or", "xor", "shl", "shr", "sar")
# idiv and irem truncate; a divisor of 0 (or of -1 under the lowest number) counts as 1. Shift
# amounts count modulo the width. mulhi is the high half of the product of unsigned i32.
COMPARE = ("eq", "ne", "lt", "le")  # of NaN: ne is true, the others are false
LEAVES = ("const", "param", "index", "var")


class Expr:
    """One scalar expression. `attr` is the value of a const, the name of a param, index or var,
    or the `Buffer` of a load, whose args are (index,) or (index, where): 0 where `where` is false.
    """

    __slots__ = ("args", "attr", "dtype", "op")

    def __init__(self, op: str, dtype: str, args: tuple[Expr, ...] = (), attr: Any = None):
        self.op, self.dtype, self.args, self.attr = op, dtype, args, attr

    def _with(self, op: str, other: Any, swap: bool = False) -> Expr:
        b = other if isinstance(other, Expr) else const(other, self.dtype)
        pair = (b, self) if swap else (self, b)
        return Expr(op, "bool" if op in COMPARE else self.dtype, pair)

    def __add__(self, o: Any) -> Expr:
        return self._with("add", o)

    def __radd__(self, o: Any) -> Expr:
        return self._with("add", o, True)

    def __sub__(self, o: Any) -> Expr:
        return self._with("sub", o)

    def __rsub__(self, o: Any) -> Expr:
        return self._with("sub", o, True)

    def __mul__(self, o: Any) -> Expr:
        return self._with("mul", o)

    def __rmul__(self, o: Any) -> Expr:
        return self._with("mul", o, True)

    def __truediv__(self, o: Any) -> Expr:
        return self._with("div", o)

    def __rtruediv__(self, o: Any) -> Expr:
        return self._with("div", o, True)

    def __neg__(self) -> Expr:
        return Expr("neg", self.dtype, (self,))

    def __and__(self, o: Any) -> Expr:
        return self._with("and", o)

    def __or__(self, o: Any) -> Expr:
        return self._with("or", o)

    def __xor__(self, o: Any) -> Expr:
        return self._with("xor", o)

    def __lshift__(self, o: Any) -> Expr:
        return self._with("shl", o)

    def __rshift__(self, o: Any) -> Expr:
        """Logical (unsigned) shift; `sar` is the arithmetic one."""
        return self._with("shr", o)

    def __lt__(self, o: Any) -> Expr:
        return self._with("lt", o)

    def __le__(self, o: Any) -> Expr:
        return self._with("le", o)

    def __gt__(self, o: Any) -> Expr:
        return self._with("lt", o, True)

    def __ge__(self, o: Any) -> Expr:
        return self._with("le", o, True)

    def eq(self, o: Any) -> Expr:
        return self._with("eq", o)

    def ne(self, o: Any) -> Expr:
        return self._with("ne", o)

    def __repr__(self) -> str:
        return expr_text(self)


def const(value: float | int | bool, dtype: str) -> Expr:
    return Expr("const", dtype, (), value)


def param(name: str, dtype: str = "i64") -> Expr:
    """A number that each launch supplies: an extent, a stride, an offset, a scalar."""
    return Expr("param", dtype, (), name)


def index(name: str) -> Expr:
    return Expr("index", "i64", (), name)


def var(name: str, dtype: str) -> Expr:
    return Expr("var", dtype, (), name)


def unary(op: str, x: Expr) -> Expr:
    return Expr(op, x.dtype, (x,))


def binary(op: str, x: Expr, y: Any) -> Expr:
    return x._with(op, y)


def _wrap(value: Any, dtype: str) -> Expr:
    return value if isinstance(value, Expr) else const(value, dtype)


def select(cond: Expr, a: Any, b: Any) -> Expr:
    dtype = a.dtype if isinstance(a, Expr) else b.dtype
    return Expr("select", dtype, (cond, _wrap(a, dtype), _wrap(b, dtype)))


def fma(a: Expr, b: Any, c: Any) -> Expr:
    """a*b + c, rounded once."""
    return Expr("fma", a.dtype, (a, _wrap(b, a.dtype), _wrap(c, a.dtype)))


def either(fine: Expr, rough: Expr) -> Expr:
    """The same function twice: `rough` serves where all results are rounded to float16. It may be
    off by some units of the 20th bit, and by anything where `fine` is far below a half."""
    return Expr("either", fine.dtype, (fine, rough))


def cast(x: Expr, dtype: str) -> Expr:
    """Between value types. Float to int truncates and saturates, NaN gives 0; to bool is `!= 0`."""
    return x if x.dtype == dtype else Expr("cast", dtype, (x,))


def bitcast(x: Expr, dtype: str) -> Expr:
    return Expr("bitcast", dtype, (x,))


def load(buffer: Buffer, at: Expr, where: Expr | None = None) -> Expr:
    args = (at,) if where is None else (at, where)
    return Expr("load", LOADED_AS[buffer.dtype], args, buffer)


Merge = Callable[[tuple[Expr, ...], tuple[Expr, ...]], tuple[Expr, ...]]
"""Of the accumulators of two parts of a range: those of both."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory of one element type. Global buffers are arguments; a local one (`size` elements) is
    on-chip: scratch of a worker thread on the CPU, threadgroup memory on a GPU."""

    name: str
    dtype: str
    written: bool = False
    size: Expr | None = None

    @property
    def local(self) -> bool:
        return self.size is not None


@dataclass(frozen=True, eq=False)
class Loop:
    index: Expr
    start: Expr
    stop: Expr
    kind: str
    body: tuple[Stmt, ...]
    acc: ClassVar[tuple[Expr, ...]] = ()
    init: ClassVar[tuple[Expr, ...]] = ()
    step: ClassVar[tuple[Expr, ...]] = ()
    """What only a fold has."""


@dataclass(frozen=True, eq=False)
class BlockDot:
    """What a fold computes: sum over k < K of x[x_at + k] * W[k], where W are the elements of
    `blocks` (i64) blocks of a quantized type that stand in a row from byte `at` of `weights` on."""

    quant: str
    blocks: Expr
    weights: Buffer
    at: Expr
    x: Buffer
    x_at: Expr


@dataclass(frozen=True, eq=False)
class Fold:
    """for index in [start, stop): body; acc = step. `merge` combines `left` and `right` vars.

    With a `dot`, the fold (of one sum, from 0) may be computed as that says instead, with x rounded
    to 16 bits in blocks. It is there only where the precision that was asked for allows it.
    """

    index: Expr
    start: Expr
    stop: Expr
    kind: str
    acc: tuple[Expr, ...]
    init: tuple[Expr, ...]
    step: tuple[Expr, ...]
    left: tuple[Expr, ...]
    right: tuple[Expr, ...]
    merge: tuple[Expr, ...]
    body: tuple[Stmt, ...] = ()
    dot: BlockDot | None = None


def fold_of(
    index: Expr,
    bounds: tuple[Expr, Expr],
    kind: str,
    acc: tuple[Expr, ...],
    init: tuple[Expr, ...],
    step: tuple[Expr, ...],
    merge: Merge | None,
    body: tuple[Stmt, ...] = (),
    dot: BlockDot | None = None,
) -> Fold:
    """A fold whose sides are named after its accumulators; without `merge` it is never merged."""
    left, right = (tuple(var(f"{v.attr}{s}", v.dtype) for v in acc) for s in "lr")
    merged = merge(left, right) if merge else left
    return Fold(index, *bounds, kind, acc, init, step, left, right, merged, body, dot)


@dataclass(frozen=True, eq=False)
class Store:
    buffer: Buffer
    at: Expr
    value: Expr
    where: Expr | None = None


@dataclass(frozen=True, eq=False)
class Check:
    """Counts in status[slot] how often `ok` is false. `status` is a global i32 buffer."""

    status: Buffer
    slot: Expr
    ok: Expr


@dataclass(frozen=True, eq=False)
class Barrier:
    """All threads of a group have finished their stores to local memory. Nothing on the CPU."""


@dataclass(frozen=True, eq=False)
class Split:
    """One parallel range over unlike bodies: part p has `count` rows, seen as index 0..count."""

    index: Expr
    counts: tuple[Expr, ...]
    bodies: tuple[tuple[Stmt, ...], ...]


Stmt = Loop | Fold | Store | Check | Barrier | Split


@dataclass(frozen=True, eq=False)
class Kernel:
    """`buffers` and `params` are the arguments in order. The body's last statement is the one
    parallel or flat loop, or the one Split; what stands before it is uniform."""

    buffers: tuple[Buffer, ...]
    params: tuple[Expr, ...]
    body: tuple[Stmt, ...]

    @property
    def locals(self) -> tuple[Buffer, ...]:
        seen: dict[Buffer, None] = {}
        for stmt in walk(self.body):
            if isinstance(stmt, Store) and stmt.buffer.local:
                seen[stmt.buffer] = None
        return tuple(seen)


def walk(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement of a body, outer ones first."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, Loop | Fold):
            yield from walk(stmt.body)
        elif isinstance(stmt, Split):
            for part in stmt.bodies:
                yield from walk(part)


def exprs_of(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that a statement itself holds (not those of its body)."""
    if isinstance(stmt, Loop):
        return (stmt.start, stmt.stop)
    if isinstance(stmt, Fold):
        return (stmt.start, stmt.stop, *stmt.init, *stmt.step, *stmt.merge)
    if isinstance(stmt, Store):
        return (stmt.at, stmt.value, *((stmt.where,) if stmt.where is not None else ()))
    if isinstance(stmt, Check):
        return (stmt.slot, stmt.ok)
    return stmt.counts if isinstance(stmt, Split) else ()


def nodes_of(*roots: Expr, known: Container[int] = ()) -> list[Expr]:
    """Every expression under the roots, arguments first, each object once; what lies under a node
    whose id is `known` is left out."""
    seen: set[Expr] = set()
    out: list[Expr] = []
    stack: list[Expr | None] = [*reversed(roots)]
    while stack:
        e = stack.pop()
        if e is None:  # its arguments are done
            out.append(stack.pop())  # type: ignore[arg-type]
        elif e not in seen:
            seen.add(e)
            if e.args and id(e) not in known:
                stack += (e, None, *reversed(e.args))
            else:
                out.append(e)
    return out


def rebuilt(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The expression with other arguments; itself if they are its own."""
    if args == e.args:  # expressions are equal to themselves alone
        return e
    return Expr(e.op, e.dtype, args, e.attr)


def replaced(e: Expr, by: Mapping[Expr, Expr], memo: dict[Expr, Expr]) -> Expr:
    """The expression with some of its nodes put in place of others."""
    for n in nodes_of(e):
        if n not in memo:
            memo[n] = by.get(n) or rebuilt(n, tuple(memo[a] for a in n.args))
    return memo[e]


_SYMBOL = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
}


def _text(n: Expr, a: list[str]) -> str:
    """One node as text, given that of its arguments."""
    if n.op == "const":
        return repr(n.attr) if n.dtype != "f32" else f"{n.attr!r}f"
    if n.op in LEAVES:
        return str(n.attr)
    if n.op == "load":
        guard = f" if {a[1]}" if len(a) > 1 else ""
        return f"{n.attr.name}[{a[0]}{guard}]"
    if n.op in _SYMBOL:
        return f"({a[0]} {_SYMBOL[n.op]} {a[1]})"
    if n.op in ("cast", "bitcast"):
        return f"{n.dtype if n.op == 'cast' else 'bits_' + n.dtype}({a[0]})"
    return f"{n.op}({', '.join(a)})"


def expr_text(e: Expr, names: Mapping[int, str] | None = None) -> str:
    """One expression as text; `names` stand for the nodes of those ids."""
    text = dict(names or {})
    for n in nodes_of(e, known=text):
        if id(n) not in text:
            text[id(n)] = _text(n, [text[id(x)] for x in n.args])
    return text[id(e)]


def kernel_text(kernel: Kernel) -> str:
    """The kernel as text, shared expressions named; equal text means the same kernel."""
    lines: list[str] = []
    names: dict[int, str] = {}
    by_text: dict[str, str] = {}

    def show(e: Expr, pad: str) -> str:
        """Name every compound expression, equal ones alike; the root stays as it is."""
        for n in nodes_of(e, known=names):
            if n is not e and id(n) not in names:
                text = _text(n, [names[id(x)] for x in n.args])
                if n.args and text not in by_text:
                    by_text[text] = f"t{len(by_text)}"
                    lines.append(f"{pad}{by_text[text]}: {n.dtype} = {text}")
                names[id(n)] = by_text[text] if n.args else text
        return names.get(id(e)) or _text(e, [names[id(x)] for x in e.args])

    def block(body: tuple[Stmt, ...], depth: int) -> None:
        pad = "  " * depth
        for s in body:
            if isinstance(s, Loop):
                head = f"for {s.index.attr} in {show(s.start, pad)} .. {show(s.stop, pad)}"
                lines.append(f"{pad}{s.kind} {head}")
                block(s.body, depth + 1)
            elif isinstance(s, Fold):
                bound = f"{show(s.start, pad)} .. {show(s.stop, pad)}"
                inits = ", ".join(
                    f"{v.attr} = {show(i, pad)}" for v, i in zip(s.acc, s.init, strict=True)
                )
                if s.dot is not None:
                    d = s.dot
                    row = f"{d.weights.name}[{show(d.at, pad)}]"
                    x = f"{d.x.name}[{show(d.x_at, pad)}]"
                    lines.append(f"{pad}dot of {show(d.blocks, pad)} {d.quant} at {row} with {x}")
                lines.append(f"{pad}{s.kind} fold {s.index.attr} in {bound} with {inits}")
                block(s.body, depth + 1)
                for v, e in zip(s.acc, s.step, strict=True):
                    lines.append(f"{pad}  {v.attr} <- {show(e, pad + '  ')}")
                left = ", ".join(str(x.attr) for x in (*s.left, *s.right))
                merged = ", ".join(expr_text(e) for e in s.merge)
                lines.append(f"{pad}  merge({left}) = {merged}")
            elif isinstance(s, Store):
                guard = "" if s.where is None else f" if {show(s.where, pad)}"
                target = f"{s.buffer.name}[{show(s.at, pad)}]"
                lines.append(f"{pad}{target} = {show(s.value, pad)}{guard}")
            elif isinstance(s, Check):
                lines.append(f"{pad}check {show(s.slot, pad)}: {show(s.ok, pad)}")
            elif isinstance(s, Barrier):
                lines.append(f"{pad}barrier")
            else:
                lines.append(f"{pad}split {s.index.attr}")
                for c, part in zip(s.counts, s.bodies, strict=True):
                    lines.append(f"{pad}  part of {show(c, pad)}")
                    block(part, depth + 2)

    args = [f"{b.name}: {'out ' if b.written else ''}{b.dtype}[]" for b in kernel.buffers]
    args += [f"{p.attr}: {p.dtype}" for p in kernel.params]
    lines.append(f"kernel({', '.join(args)})")
    for b in kernel.locals:
        assert b.size is not None
        lines.append(f"  local {b.name}: {b.dtype}[{expr_text(b.size)}]")
    block(kernel.body, 1)
    return "\n".join(lines) + "\n"
