"""Where the threads of a group must wait for each other: one reads what another wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tensorlogic.codegen.packing import depends
from tensorlogic.kernels.ir import (
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    expr_text,
    exprs_of,
    nodes_of,
    walk,
)

Place = Buffer | str
"""Memory that threads share: a buffer, or the parts of a fold by name."""
Access = tuple[Place, str]
"""What is done with it: "read", or written by "one" thread or by "all"."""

_CONFLICT = {"read": {"one", "all"}, "one": {"read", "all"}, "all": {"read", "one", "all"}}


class Hazards:
    """What was read and written since the last barrier, statement by statement in printing order.

    Each method returns whether a barrier is due before what it records: None (no), False (for
    threadgroup memory) or True (for device memory too).
    """

    def __init__(self, kernel: Kernel):
        stores = {s.buffer for s in walk(kernel.body) if isinstance(s, Store)}
        self.shared = {b for b in stores if not _each_thread_its_own(kernel, b)}
        self.state: dict[Place, set[str]] = {}

    def statement(self, s: Stmt) -> bool | None:
        """A vector loop or fold as a whole, or a store by one thread."""
        return self.record(self.accesses((s,), False))

    def expressions(self, exprs: Iterable[Expr]) -> bool | None:
        """What all threads evaluate alike."""
        return self.record(self.reads(exprs))

    def record(self, accesses: Iterable[Access]) -> bool | None:
        accesses = list(accesses)
        met = {p for p, how in accesses if self.state.get(p, set()) & _CONFLICT[how]}
        device = any(isinstance(p, Buffer) and not p.local for p in met)
        if met:
            self.clear(device)
        for place, how in accesses:
            self.state.setdefault(place, set()).add(how)
        return device if met else None

    def clear(self, device: bool) -> None:
        """After a barrier; one for threadgroup memory leaves the device's memory unordered."""
        kept = {} if device else self.state
        self.state = {p: s for p, s in kept.items() if isinstance(p, Buffer) and not p.local}

    def enter(self, s: Loop | Fold) -> dict[Place, set[str]]:
        """At the head of a loop that all run alike, its last turn has just been."""
        before = {p: set(h) for p, h in self.state.items()}
        self.state = {p: set(h) for p, h in before.items()}
        for place, how in (*self.accesses(s.body, False), *self.reads(s.step)):
            self.state.setdefault(place, set()).add(how)
        if any(isinstance(x, Fold) and x.kind == "vector" for x in walk(s.body)):
            for place in ("parts 0", "parts 1"):
                self.state.setdefault(place, set()).update(("read", "all"))
        return before

    def leave(self, before: dict[Place, set[str]]) -> None:
        """The loop may have had no turn at all."""
        for place, how in before.items():
            self.state.setdefault(place, set()).update(how)

    def reads(self, exprs: Iterable[Expr]) -> Iterator[Access]:
        for n in nodes_of(*exprs):
            if n.op == "load" and n.attr in self.shared:
                yield n.attr, "read"

    def accesses(self, body: tuple[Stmt, ...], vector: bool) -> Iterator[Access]:
        for s in body:
            yield from self.reads(exprs_of(s))
            if isinstance(s, Store) and s.buffer in self.shared:
                yield s.buffer, "all" if vector else "one"
            if isinstance(s, Loop | Fold):
                yield from self.accesses(s.body, vector or s.kind == "vector")


def _each_thread_its_own(kernel: Kernel, buffer: Buffer) -> bool:
    """Whether each element of a buffer is touched by one thread of a group alone.

    So it is where each access stands in a vector loop with the same start, at the same address, to
    which the loop's index maps one to one and which else depends on the row and parameters alone.
    """
    last = kernel.body[-1]
    row = last.index.attr if isinstance(last, Loop | Split) else None
    seen: set[str | None] = set()

    def note(at: Expr, loop: Loop | Fold | None) -> None:
        indices = {n.attr for n in nodes_of(at) if n.op == "index"}
        moving = any(n.op in ("var", "load") for n in nodes_of(at))
        if loop is None or moving or not indices <= {loop.index.attr, row}:
            seen.add(None)
        else:
            known = _one_to_one(at, loop.index.attr)
            same = {id(n): "@" for n in nodes_of(at) if n.attr == loop.index.attr}
            seen.add(f"{expr_text(at, same)} from {loop.start}" if known else None)

    def loads(exprs: Iterable[Expr], loop: Loop | Fold | None) -> None:
        for n in nodes_of(*exprs):
            if n.op == "load" and n.attr is buffer:
                note(n.args[0], loop)

    def visit(body: tuple[Stmt, ...], loop: Loop | Fold | None) -> None:
        for s in body:
            if isinstance(s, Loop | Fold):
                inner = s if s.kind == "vector" else loop
                loads((s.start, s.stop), loop)
                loads(s.init, loop)
                loads(s.step, inner)
                visit(s.body, inner)
            elif isinstance(s, Split):
                for part in s.bodies:
                    visit(part, loop)
            else:
                loads(exprs_of(s), loop)
                if isinstance(s, Store) and s.buffer is buffer:
                    note(s.at, loop)
                if isinstance(s, Check) and s.status is buffer:
                    seen.add(None)

    visit(kernel.body, None)
    return len(seen) == 1 and None not in seen


def _one_to_one(e: Expr, name: str) -> bool:
    """Whether an address is the index plus or minus something that does not depend on it, or the
    other way round."""
    if e.op == "index":
        return bool(e.attr == name)
    having = [a for a in e.args if depends(a, name)]
    return e.op in ("add", "sub") and len(having) == 1 and _one_to_one(having[0], name)
