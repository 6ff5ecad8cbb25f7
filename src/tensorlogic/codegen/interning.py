"""Expressions made unique: equal structure is one object, with what it depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

from tensorlogic.kernels.expand import BY_BITS, BY_LDEXP, expand
from tensorlogic.kernels.ir import Buffer, Expr


class _Facts(NamedTuple):
    free: frozenset[Expr]
    volatile: bool
    loads: bool


_NOTHING = _Facts(frozenset(), False, False)


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
        root = expand(e, self._table, self._expanded)
        unique = self._unique
        stack: list[Expr | None] = [root]
        while stack:
            n = stack.pop()
            if n is None:  # its arguments are done
                n = stack.pop()
                assert n is not None
                unique[n] = self._make(n)
            elif n not in unique:
                stack += (n, None, *n.args)
        unique[e] = unique[root]
        return unique[e]

    def _make(self, n: Expr) -> Expr:
        args = tuple([self._unique[a] for a in n.args])
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
        # the text tells -0.0 from 0.0, and knows one nan from another
        told = repr(attr) if op == "const" and type(attr) is float else attr
        key = (op, dtype, told, args)
        made = self._by_key.get(key)
        if made is None:
            made = self._by_key[key] = Expr(op, dtype, args, attr)
            self._unique[made] = made
            free, volatile, loads = _NOTHING
            for a in args:
                theirs, changes, reads = self._facts[a]
                if theirs is not free:
                    free = free | theirs if free else theirs
                volatile, loads = volatile or changes, loads or reads
            if op in ("index", "var"):
                free = frozenset((made,))
            elif op == "load":
                volatile, loads = volatile or attr in self._written, True
            self._facts[made] = _Facts(free, volatile, loads)
        return made

    def free(self, e: Expr) -> frozenset[Expr]:
        """The indices and vars under an interned expression."""
        return self._facts[e].free

    def volatile(self, e: Expr) -> bool:
        """Whether it reads memory that the kernel writes."""
        return self._facts[e].volatile

    def loads(self, e: Expr) -> bool:
        return self._facts[e].loads
