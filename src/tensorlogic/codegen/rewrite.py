"""Kernels rewritten before they are printed: rough functions; on GPUs equal numbers and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from tensorlogic.kernels.expand import ERF, expand
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
    bodies_of,
    exprs_of,
    index,
    nodes_of,
    rebuilt,
    replaced,
    walk,
)


def rewritten(body: tuple[Stmt, ...], f: Callable[[Expr], Expr]) -> tuple[Stmt, ...]:
    """The statements with `f` of each expression; what merges accumulators stays."""

    def each(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(f(e) for e in exprs)

    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Store):
            where = None if s.where is None else f(s.where)
            out.append(Store(s.buffer, f(s.at), f(s.value), where))
        elif isinstance(s, Check):
            out.append(Check(s.status, f(s.slot), f(s.ok)))
        elif isinstance(s, Split):
            bodies = tuple(rewritten(b, f) for b in s.bodies)
            out.append(Split(s.index, each(s.counts), bodies))
        elif isinstance(s, Barrier):
            out.append(s)
        else:
            parts = {"start": f(s.start), "stop": f(s.stop), "body": rewritten(s.body, f)}
            if isinstance(s, Fold):
                parts |= {"init": each(s.init), "step": each(s.step)}
            out.append(replace(s, **parts))  # type: ignore[arg-type]
    return tuple(out)


def _with_body(kernel: Kernel, f: Callable[[Expr], Expr]) -> Kernel:
    return Kernel(kernel.buffers, kernel.params, rewritten(kernel.body, f))


# -- equal numbers


def unified(kernel: Kernel, sizes: Mapping[str, float]) -> Kernel:
    """One name for parameters that must be equal for two vector loops to read the same memory.

    Schedules give each loop parameters of its own; where the loops of a row turn out to have equal
    bounds and equal addresses, a thread meets the same elements again and can keep them.
    """
    by: dict[Expr, Expr] = {}
    for part in bodies_of(kernel):
        loops = [s for s in part if isinstance(s, Loop | Fold) and s.kind == "vector"]
        for i, b in enumerate(loops):
            for a in loops[:i]:
                _unify_loops(a, b, sizes, by)
    memo: dict[Expr, Expr] = {}
    return _with_body(kernel, lambda e: replaced(e, by, memo)) if by else kernel


def _unify_loops(
    a: Loop | Fold, b: Loop | Fold, sizes: Mapping[str, float], by: dict[Expr, Expr]
) -> None:
    pairs: list[tuple[Expr, Expr]] = [(a.start, b.start), (a.stop, b.stop)]
    seen = differing_names(pairs, a, b, sizes)
    if seen is None:
        return
    first, second = (_loads(s) for s in (a, b))
    for x in first:
        for y in second:
            same = (
                differing_names([(x.args[0], y.args[0])], a, b, sizes) if x.attr is y.attr else None
            )
            for new, old in (*seen, *same) if same is not None else ():
                by.setdefault(old, by.get(new, new))


def unified_blocks(kernel: Kernel, sizes: Mapping[str, float]) -> Kernel:
    """One name for parameters of equal value in the addresses of a buffer, in kernels that read
    quantized blocks: then neighbouring bytes of a block are known as neighbours."""
    by: dict[Expr, Expr] = {}
    firsts: dict[tuple[object, float], Expr] = {}
    nodes = nodes_of(*(e for s in walk(kernel.body) for e in exprs_of(s)))
    loads = [n for n in nodes if n.op == "load"]
    if not any(n.attr.dtype == "u8" for n in loads):
        return kernel
    for n in loads:
        for p in nodes_of(n.args[0]):
            if p.op == "param" and p.attr in sizes:
                first = firsts.setdefault((n.attr, sizes[p.attr]), p)
                if first.attr != p.attr:
                    by[p] = first
    memo: dict[Expr, Expr] = {}
    return _with_body(kernel, lambda e: replaced(e, by, memo)) if by else kernel


def _loads(loop: Loop | Fold) -> list[Expr]:
    exprs = chain(loop.step, *(exprs_of(s) for s in loop.body))
    return [n for n in nodes_of(*exprs) if n.op == "load" and len(n.args) == 1]


def differing_names(
    roots: list[tuple[Expr, Expr]], a: Loop | Fold, b: Loop | Fold, sizes: Mapping[str, float]
) -> list[tuple[Expr, Expr]] | None:
    """The parameters that differ by name alone if the expressions are equal, else None."""
    out: list[tuple[Expr, Expr]] = []
    stack = list(roots)
    while stack:
        x, y = stack.pop()
        if x.op != y.op or x.dtype != y.dtype or len(x.args) != len(y.args):
            return None
        stack += zip(x.args, y.args, strict=True)
        if x.op == "index" and (x.attr == a.index.attr or y.attr == b.index.attr):
            if (x.attr, y.attr) != (a.index.attr, b.index.attr):
                return None
        elif x.attr != y.attr or type(x.attr) is not type(y.attr):
            known = x.op == "param" and x.attr in sizes and y.attr in sizes
            if not known or sizes[x.attr] != sizes[y.attr]:
                return None
            out.append((x, y))
    return out


# -- rough functions

_EXACT = ("floor", "ceil", "trunc", "rint", "eq", "ne", "lt", "le", "bitcast")
_SMALL = 2.0**100
"""Magnitudes that stay far from the ends of float32."""


def roughened(kernel: Kernel) -> Kernel:
    """With faster exponentials and quotients, where every result is rounded to a half.

    They are off by some units of the 22nd bit and results have 11. What goes through a step
    (floor, a comparison, the bits) is left as it is, since a step makes any error a large one.
    """
    stores = [s for s in walk(kernel.body) if isinstance(s, Store) and not s.buffer.local]
    if any(s.buffer.dtype != "f16" for s in stores):
        return kernel
    kernel = _chosen_forms(kernel)
    memo: dict[Expr, Expr] = {}
    kernel = _with_body(kernel, lambda e: expand(e, ERF, memo))
    exprs = [e for s in walk(kernel.body) for e in exprs_of(s)]
    nodes = nodes_of(*exprs)
    exact = set(nodes_of(*_steps(nodes))) | {s for s in nodes if s.dtype != "f32"}
    bounds = Bounds()
    by: dict[Expr, Expr] = {}
    for n in nodes:
        if n.op not in ("exp", "div") or n.dtype != "f32" or n in exact:
            continue
        args = tuple(by.get(a, a) for a in n.args)
        name = "rough_exp"
        if n.op == "div":
            small = any(bounds.largest(a) <= _SMALL for a in n.args)
            name = "rough_div_small" if small else "rough_div"
        by[n] = Expr(name, "f32", args)
    done: dict[Expr, Expr] = {}

    def rough(e: Expr) -> Expr:
        for n in nodes_of(e):
            if n not in done:
                args = tuple(done[a] for a in n.args)
                done[n] = Expr(by[n].op, "f32", args) if n in by else rebuilt(n, args)
        return done[e]

    return _with_body(kernel, rough)


def _steps(nodes: Sequence[Expr]) -> list[Expr]:
    return [n for n in nodes if n.op in _EXACT or (n.op == "cast" and n.dtype != "f32")]


def _chosen_forms(kernel: Kernel) -> Kernel:
    """With the rough one of two forms of a function, but for what goes through a step."""
    nodes = nodes_of(*(e for s in walk(kernel.body) for e in exprs_of(s)))
    pairs = [n for n in nodes if n.op == "either"]
    if not pairs:
        return kernel
    exact = set(nodes_of(*_steps(nodes)))
    by: dict[Expr, Expr] = {}
    for n in nodes:
        args = tuple(by[a] for a in n.args)
        by[n] = args[n not in exact] if n.op == "either" else rebuilt(n, args)
    return _with_body(kernel, by.__getitem__)


class Ids:
    """The ids of the keys of a table, for `nodes_of`."""

    def __init__(self, table: Mapping[Expr, object]) -> None:
        self.ids = {id(e) for e in table}

    def __contains__(self, key: object) -> bool:
        return key in self.ids


class Bounds:
    """Intervals of float expressions, NaN aside."""

    def __init__(self) -> None:
        self.known: dict[Expr, tuple[float, float]] = {}

    def largest(self, e: Expr) -> float:
        """The greatest magnitude that the value can have."""
        for n in nodes_of(e, known=Ids(self.known)):
            if n not in self.known:
                self.known[n] = self._of(n, [self.known[a] for a in n.args])
        return max(abs(x) for x in self.known[e])

    def _of(self, n: Expr, a: list[tuple[float, float]]) -> tuple[float, float]:
        op, free = n.op, (-math.inf, math.inf)
        if n.dtype == "i32":
            return -(2.0**31), 2.0**31
        if n.dtype != "f32":
            return free
        if op == "const" and not math.isnan(n.attr):
            return float(n.attr), float(n.attr)
        if op == "load" and n.attr.dtype == "f16":
            return -65504.0, 65504.0
        if op == "cast":
            return a[0] if n.args[0].dtype == "i32" else free
        if op == "abs":
            return (0.0, max(abs(x) for x in a[0])) if a[0][0] < 0 else a[0]
        if op == "neg":
            return -a[0][1], -a[0][0]
        if op in ("min", "max"):
            f = min if op == "min" else max
            return f(a[0][0], a[1][0]), f(a[0][1], a[1][1])
        if op == "add":
            return a[0][0] + a[1][0], a[0][1] + a[1][1]
        if op == "sub":
            return a[0][0] - a[1][1], a[0][1] - a[1][0]
        if op in ("mul", "fma"):
            low, high = _product(a[0], a[1])
            return (low + a[2][0], high + a[2][1]) if op == "fma" else (low, high)
        if op == "select":
            return min(a[1][0], a[2][0]), max(a[1][1], a[2][1])
        return free


def _product(x: tuple[float, float], y: tuple[float, float]) -> tuple[float, float]:
    """Of finite intervals."""
    if any(math.isinf(v) for v in (*x, *y)):
        return -math.inf, math.inf
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


# -- rows

INNER = "inner"
"""The index of the few rows that share weights, in a kernel that `paired` made."""
MOST_INNER = 4


def paired(kernel: Kernel, sizes: Mapping[str, float]) -> tuple[Kernel, int]:
    """Few rows of x times many of weights: the parallel range over the weights alone.

    Where all that a body asks of its row is the quotient and the remainder by one parameter, and
    the quotient has 2 to 4 values, rows of equal remainder form one row of the new kernel, whose
    index `INNER` is the quotient. Returns the kernel and the number of values, 1 if nothing fits.
    """
    last = kernel.body[-1]
    if not isinstance(last, Loop) or last.kind != "parallel" or len(kernel.body) > 1:
        return kernel, 1
    exprs = [e for s in walk(last.body) for e in exprs_of(s)]
    row, by, users = last.index, {}, set()
    for n in nodes_of(*exprs):
        if any(a.op == "index" and a.attr == row.attr for a in n.args):
            divides = n.op in ("idiv", "irem") and n.args[1].op == "param"
            users.add(n.args[1].attr if divides else None)
            by[n] = index(INNER) if n.op == "idiv" else row
    if len(users) != 1 or None in users or any(e.op == "index" and e is row for e in exprs):
        return kernel, 1
    name, count = str(users.pop()), str(last.stop.attr)
    begins = last.start.op == "const" and last.start.attr == 0
    if last.stop.op != "param" or not begins or name not in sizes or count not in sizes:
        return kernel, 1
    inner, rest = divmod(int(sizes[count]), int(sizes[name]) or 1)
    if rest or not 2 <= inner <= MOST_INNER:
        return kernel, 1
    memo: dict[Expr, Expr] = {}
    body = rewritten(last.body, lambda e: replaced(e, by, memo))
    divisor = next(p for p in kernel.params if p.attr == name)
    return Kernel(kernel.buffers, kernel.params, (replace(last, stop=divisor, body=body),)), inner
