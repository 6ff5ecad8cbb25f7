"""Statements under other names, so that those of several kernels can stand in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from tensorlogic.kernels.ir import Buffer, Expr, nodes_of, rebuilt

T = TypeVar("T")


class Renaming:
    """Puts other buffers, params and indices in place of those of a kernel.

    `buffers` and `leaves` (params and indices by name) say what stands for what; all other indices
    and vars get `prefix` before their names.
    """

    def __init__(
        self, buffers: Mapping[Buffer, Buffer], leaves: Mapping[str, Expr], prefix: str = ""
    ):
        self._buffers, self._leaves, self._prefix = buffers, leaves, prefix
        self._memo: dict[Expr, Expr] = {}

    def __call__(self, thing: T) -> T:
        """An expression, buffer, statement, or a tuple of such, renamed all through."""
        renamed: Any = self._renamed(thing)
        return renamed  # type: ignore[no-any-return]

    def _renamed(self, thing: Any) -> Any:
        if isinstance(thing, Expr):
            return self._expr(thing)
        if isinstance(thing, Buffer):
            return self._buffers.get(thing, thing)
        if isinstance(thing, tuple):
            return tuple(self._renamed(x) for x in thing)
        if is_dataclass(thing) and not isinstance(thing, type):
            return type(thing)(*(self._renamed(getattr(thing, f.name)) for f in fields(thing)))
        return thing

    def _expr(self, e: Expr) -> Expr:
        memo = self._memo
        for n in nodes_of(e):
            if n not in memo:
                memo[n] = self._node(n)
        return memo[e]

    def _node(self, n: Expr) -> Expr:
        if n.op in ("param", "index", "var"):
            found = self._leaves.get(n.attr)
            if found is not None:
                return found
            named = n.op != "param" and self._prefix
            return Expr(n.op, n.dtype, (), self._prefix + n.attr) if named else n
        args = tuple(self._memo[a] for a in n.args)
        if n.op == "load" and n.attr in self._buffers:
            return Expr("load", n.dtype, args, self._buffers[n.attr])
        return rebuilt(n, args)
