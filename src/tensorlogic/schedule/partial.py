"""Long reductions in two stages: parts that run in parallel, then a fold over their results, with
what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorlogic import ops
from tensorlogic.dtypes import float32, int32
from tensorlogic.graph import Node, apply
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Store, binary
from tensorlogic.schedule.affine import LoopVar
from tensorlogic.schedule.emit import Emitter, Step
from tensorlogic.schedule.loops import Loops
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.records import BufferRef


def _extent(group: Sequence[LoopVar]) -> int:
    return math.prod(v.extent for v in group)


def first_stage(node: Node, low: Lowering) -> tuple[Step, list[Node]]:
    """The launch for the parts of a long reduction, and what it stores: one node for each
    accumulator, [*shape, parts]."""
    _, at = low.axes(node, node.shape)
    low.identity = at
    low.value(node, at)
    *inner, record = low.folds
    count, parts = low.traits.parts, []
    for e in record.init:
        dtype = int32 if e.dtype == "i32" else float32
        parts.append(apply(ops.PARTIAL, (), (), (*node.shape, count), dtype))
    emitter = Emitter()
    row = ir.index("r")
    number = emitter.number(count)
    rows = [[v] for i in at for v in sorted(i.variables, key=lambda v: v.origin[2])]
    emitter.digits(rows, binary("idiv", row, number))
    emitter.name_scalars(low)
    loops = Loops(low, []).fold_groups
    groups = loops[id(record)]
    longest = max((g for g in groups if not g[-1].static), key=_extent)
    size = emitter.number(_extent(longest))
    share = emitter.number(-(-_extent(longest) // count))
    start = binary("min", binary("irem", row, number) * share, size)
    stop = binary("min", start + share, size)
    stmts = [s for f in inner for s in emitter.fold(f, loops[id(f)], True)]
    stmts += emitter.fold(record, groups, True, (longest, start, stop))
    targets = [BufferRef(p, p.dtype.ir, True) for p in parts]
    stmts += [Store(emitter.buffer(t), row, v) for t, v in zip(targets, record.result, strict=True)]
    return emitter.rows(row, node.size * count, stmts, node.args[0].size), parts
