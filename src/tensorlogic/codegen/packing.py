"""Which kernels move several elements at once: each thread takes neighbours of a vector loop."""

from __future__ import annotations

from tensorlogic.codegen.nests import nest_of
from tensorlogic.kernels.ir import BYTES, Expr, Fold, Kernel, Loop, Store, nodes_of, walk


def can_pack(kernel: Kernel, flat: bool) -> bool:
    """Whether every loop that threads share out walks over memory element by element.

    All of them or none: each thread must find in local memory what it put there itself.
    """
    if flat:
        loops = [s for s in kernel.body if isinstance(s, Loop) and s.kind == "flat"]
        return len(loops) == 1 and _walks(loops[0])
    shared = [s for s in walk(kernel.body) if isinstance(s, Loop | Fold) and s.kind == "vector"]
    return bool(shared) and all(_walks(s) or _is_nest(s) for s in shared)


def pack_width(kernel: Kernel) -> int:
    """How many elements move at once: 16 bytes of the smallest type of two bytes or more."""
    loops = [s for s in walk(kernel.body) if isinstance(s, Loop | Fold) and _walks(s)]
    moved = {n.attr for s in loops for n in packed_loads(s)}
    moved |= {x.buffer for s in loops for x in s.body if isinstance(x, Store)}
    nests = any(_is_nest(s) for s in walk(kernel.body))
    return 8 if nests or any(BYTES[b.dtype] <= 2 for b in moved if not b.local) else 4


def _is_nest(s: object) -> bool:
    return isinstance(s, Fold) and nest_of(s) is not None


def _walks(loop: Loop | Fold) -> bool:
    """Whether the loop can compute a pack of turns ahead of its bounds: it only loads and stores in
    steps of one, or what does not depend on the turn."""
    name = loop.index.attr
    stores = [s for s in loop.body if isinstance(s, Store)]
    if len(stores) != len(loop.body) or (isinstance(loop, Fold) and stores):
        return False
    if not all(in_steps_of_one(s.at, name) for s in stores):
        return False
    loaded = packed_loads(loop)
    for load in loaded:
        if len(load.args) > 1 or not in_steps_of_one(load.args[0], name):
            return False
    stored = {s.buffer for s in stores}
    return len(stores) < 2 or not any(load.attr in stored for load in loaded)


def packed_loads(loop: Loop | Fold) -> list[Expr]:
    """The loads of a loop's body that differ from turn to turn, each object once."""
    stores = [s for s in loop.body if isinstance(s, Store)]
    roots = [e for s in stores for e in (s.at, s.value, s.where) if e is not None]
    roots += loop.step
    return [n for n in nodes_of(*roots) if n.op == "load" and depends(n, loop.index.attr)]


def depends(e: Expr, index: str) -> bool:
    return any(n.op == "index" and n.attr == index for n in nodes_of(e))


def in_steps_of_one(e: Expr, index: str) -> bool:
    """Whether an address is the index plus something that does not depend on it."""
    if e.op == "index":
        return bool(e.attr == index)
    if e.op == "sub":
        return in_steps_of_one(e.args[0], index) and not depends(e.args[1], index)
    having = [a for a in e.args if depends(a, index)]
    return e.op == "add" and len(having) == 1 and in_steps_of_one(having[0], index)


def without_index(e: Expr, index: str, start: Expr) -> Expr:
    """An address that walks in steps of one, at the loop's first turn."""
    if e.op == "index":
        return start
    args = [without_index(a, index, start) if depends(a, index) else a for a in e.args]
    zero = [a.op == "const" and a.attr == 0 for a in args]
    if e.op == "add" and any(zero):
        return args[0] if zero[1] else args[1]
    return args[0] if zero[1] else Expr(e.op, e.dtype, tuple(args))
