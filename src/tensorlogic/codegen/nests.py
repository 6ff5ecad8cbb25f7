"""Folds over the blocks of quantized weights: a nest of loops over digits seen as one range.

Schedules fold over a quantized row as a vector loop over the last digit of an element's index in
its block, around a serial loop over the blocks, around unrolled loops over the other digits. All
of them merge alike, so that the turns of all loops may be shared out and taken in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorlogic.kernels.ir import Expr, Fold, nodes_of


@dataclass(frozen=True)
class Nest:
    """The loops of a nest: `last` is the index of the last digit, `digits` its extent; `block` runs
    from `start` to `stop`; `others` are the further digits with their extents. Each element adds
    `x` times `decoded` to the sum, which is one element of a row and what its weight decodes to."""

    last: Expr
    digits: int
    block: Expr
    start: Expr
    stop: Expr
    others: tuple[tuple[Expr, int], ...]
    x: Expr
    decoded: Expr

    @property
    def simple(self) -> bool:
        """Whether an element's bits stand in one byte (the rest may stand in one for many)."""
        loads = [n for n in nodes_of(self.decoded) if n.op == "load"]
        return sum(self.last in nodes_of(n.args[0]) for n in loads) == 1


def nest_of(fold: Fold) -> Nest | None:
    """The fold as a nest over blocks, if it is one."""
    return _find(fold)


def _find(outer: Fold) -> Nest | None:
    if outer.kind != "vector" or len(outer.body) != 1 or _constant(outer) is None:
        return None
    chain = [outer]
    while chain[-1].body:
        inner = chain[-1].body[0]
        if len(chain[-1].body) != 1 or not isinstance(inner, Fold):
            return None
        if not _passes_on(chain[-1], inner):
            return None
        chain.append(inner)
    block, *others = chain[1:]
    if block.kind != "serial" or any(f.kind != "unrolled" for f in others):
        return None
    extents = [_constant(f) for f in (outer, *others)]
    (acc,), (step,) = chain[-1].acc, chain[-1].step
    if None in extents or step.op != "add" or step.args[0] is not acc:
        return None
    product = step.args[1]
    if product.op != "mul":
        return None
    blocks = [_reads_blocks(a) for a in product.args]
    if sorted(blocks) != [False, True]:
        return None
    decoded, x = product.args if blocks[0] else reversed(product.args)
    numbers = [n for n in extents if n is not None]
    pairs = tuple(zip([f.index for f in others], numbers[1:], strict=True))
    return Nest(outer.index, numbers[0], block.index, block.start, block.stop, pairs, x, decoded)


def _constant(f: Fold) -> int | None:
    """The extent of a loop from 0 to a constant."""
    known = f.start.op == f.stop.op == "const" and f.start.attr == 0
    return int(f.stop.attr) if known else None


def _passes_on(outer: Fold, inner: Fold) -> bool:
    """Whether the outer loop adds the inner loop's sum to its own."""
    if len(outer.acc) != 1 or len(inner.acc) != 1 or outer.acc[0].dtype != "f32":
        return False
    sums = all(f.merge[0].op == "add" for f in (outer, inner))
    zero = all(f.init[0].op == "const" and f.init[0].attr == 0 for f in (outer, inner))
    step = outer.step[0]
    return sums and zero and step.op == "add" and list(step.args) == [outer.acc[0], inner.acc[0]]


def _reads_blocks(e: Expr) -> bool:
    return any(n.op == "load" and n.attr.dtype == "u8" for n in nodes_of(e))
