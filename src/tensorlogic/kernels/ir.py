"""The kernel IR: the one form of every fused kernel, printed as LLVM, Metal and CUDA.

Its expressions are in a module of their own (`exprs.py`) and found here with the statements.

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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from tensorlogic.kernels.exprs import (
    ARITHMETIC,
    BYTES,
    COMPARE,
    INTEGER,
    LEAVES,
    LOADED_AS,
    MATH,
    MEMORY_TYPES,
    VALUE_TYPES,
    Expr,
    binary,
    bitcast,
    cast,
    const,
    either,
    expr_text,
    fma,
    index,
    load,
    node_text,
    nodes_of,
    param,
    rebuilt,
    replaced,
    select,
    unary,
    var,
)

__all__ = [
    "ARITHMETIC",
    "BYTES",
    "COMPARE",
    "INTEGER",
    "LEAVES",
    "LOADED_AS",
    "MATH",
    "MEMORY_TYPES",
    "VALUE_TYPES",
    "Expr",
    "binary",
    "bitcast",
    "cast",
    "const",
    "either",
    "expr_text",
    "fma",
    "index",
    "load",
    "node_text",
    "nodes_of",
    "param",
    "rebuilt",
    "replaced",
    "select",
    "unary",
    "var",
]

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
    """for index in [start, stop): body."""

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
    `blocks` (i64) blocks of a quantized type that stand in a row from byte `at` of `weights` on.

    `interleaved`: the weights lie in lines of sixteen rows (llvm_interleaved.py), `at` is what it
    is in the file. Then the fold can't be computed otherwise."""

    quant: str
    blocks: Expr
    weights: Buffer
    at: Expr
    x: Buffer
    x_at: Expr
    interleaved: bool = False


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
    """buffer[at] = value, where `where` holds."""

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


def bodies_of(kernel: Kernel) -> tuple[tuple[Stmt, ...], ...]:
    """What the rows of a kernel's range do: one body, or those of a split."""
    last = kernel.body[-1]
    if isinstance(last, Split):
        return last.bodies
    return (last.body,) if isinstance(last, Loop) else ()


def with_bodies(kernel: Kernel, bodies: tuple[tuple[Stmt, ...], ...]) -> Kernel:
    """The kernel with other `bodies_of` it."""
    *before, last = kernel.body
    if isinstance(last, Split):
        last = replace(last, bodies=bodies)
    elif isinstance(last, Loop):
        (body,) = bodies
        last = replace(last, body=body)
    return replace(kernel, body=(*before, last))


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


def kernel_text(kernel: Kernel) -> str:
    """The kernel as text, shared expressions named; equal text means the same kernel."""
    lines: list[str] = []
    names: dict[int, str] = {}
    by_text: dict[str, str] = {}

    def show(e: Expr, pad: str) -> str:
        """Name every compound expression, equal ones alike; the root stays as it is."""
        for n in nodes_of(e, known=names):
            if n is not e and id(n) not in names:
                text = node_text(n, [names[id(x)] for x in n.args])
                if n.args and text not in by_text:
                    by_text[text] = f"t{len(by_text)}"
                    lines.append(f"{pad}{by_text[text]}: {n.dtype} = {text}")
                names[id(n)] = by_text[text] if n.args else text
        return names.get(id(e)) or node_text(e, [names[id(x)] for x in e.args])

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
                    quant = f"interleaved {d.quant}" if d.interleaved else d.quant
                    lines.append(f"{pad}dot of {show(d.blocks, pad)} {quant} at {row} with {x}")
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
