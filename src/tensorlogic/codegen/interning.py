"""Expressions made unique: equal structure is one object, with what it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensorlogic.kernels.expand import BY_BITS, BY_LDEXP, expand
from tensorlogic.kernels.ir import Buffer, Expr


@dataclass(frozen=True)
class _Facts:
    free: frozenset[Expr]
    volatile: bool
    loads: bool


class Interning:
    """Expands functions that LLVM lacks and finds common subexpressions, for one kernel."""

    def __init__(self, written: set[Buffer], lanes: int) -> None:
        self._written = written
        self._table = BY_LDEXP if lanes >= 16 else BY_BITS  # AVX-512 has them
        self._expanded: dict[Expr, Expr] = {}
        self._unique: dict[Expr, Expr] = {}
        self._by_key: dict[tuple[object, ...], Expr] = {}
        self._facts: dict[Expr, _Facts] = {}

    def intern(self, e: Expr) -> Expr:
        found = self._unique.get(e)
        if found is not None:
            return found
        stack = [expand(e, self._table, self._expanded)]
        root = stack[0]
        while stack:
            n = stack[-1]
            missing = [a for a in n.args if a not in self._unique]
            if missing and n not in self._unique:
                stack += missing
                continue
            stack.pop()
            if n not in self._unique:
                self._unique[n] = self._make(n)
        self._unique[e] = self._unique[root]
        return self._unique[e]

    def _make(self, n: Expr) -> Expr:
        args = tuple(self._unique[a] for a in n.args)
        if n.op in ("rough_div", "rough_div_small"):
            return self._quotient(n.dtype, *args)
        return self._node(n.op, n.dtype, args, n.attr)

    def _quotient(self, dtype: str, x: Expr, y: Expr) -> Expr:
        """A rough quotient: by the result of a fold, which many share, it is a product."""
        ours, theirs = (self._facts[e].free for e in (x, y))
        shared = any(e.op == "index" for e in ours - theirs)
        if not (shared and any(e.op == "var" for e in theirs)):
            return self._node("div", dtype, (x, y))
        one = self._node("const", dtype, (), 1.0)
        return self._node("mul", dtype, (x, self._node("div", dtype, (one, y))))

    def _node(self, op: str, dtype: str, args: tuple[Expr, ...], attr: Any = None) -> Expr:
        told = repr(attr) if op == "const" else attr  # tells -0.0 from 0.0, nan from nan
        key = (op, dtype, told, args)
        made = self._by_key.get(key)
        if made is None:
            made = self._by_key[key] = Expr(op, dtype, args, attr)
            self._unique[made] = made
            facts = [self._facts[a] for a in args]
            free = frozenset[Expr]().union(*(x.free for x in facts))
            load = op == "load"
            self._facts[made] = _Facts(
                free | {made} if op in ("index", "var") else free,
                any(x.volatile for x in facts) or (load and attr in self._written),
                load or any(x.loads for x in facts),
            )
        return made

    def free(self, e: Expr) -> frozenset[Expr]:
        """The indices and vars under an interned expression."""
        return self._facts[e].free

    def volatile(self, e: Expr) -> bool:
        """Whether it reads memory that the kernel writes."""
        return self._facts[e].volatile

    def loads(self, e: Expr) -> bool:
        return self._facts[e].loads
