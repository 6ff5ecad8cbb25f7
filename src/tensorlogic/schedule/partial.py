"""Long reductions in two stages: parts that run in parallel, then one fold over their results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorlogic import ops
from tensorlogic.dtypes import float32, int32
from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Store, binary, fold_of, var
from tensorlogic.schedule.affine import LoopVar
from tensorlogic.schedule.emit import ZERO64, Emitter, Loops, Step
from tensorlogic.schedule.lower import BufferRef, Lowering

PARTS = 64


def _extent(group: Sequence[LoopVar]) -> int:
    return math.prod(v.extent for v in group)


def two_stage_steps(root: Node, node: Node, low: Lowering) -> tuple[list[Step], list[Node]]:
    """The two launches of a long reduction `node`, stored as `root`."""
    _, at = low.axes(node, node.shape)
    low.identity = at
    low.value(node, at)
    *inner, record = low.folds
    fold = record.fold
    parts = []
    for e in record.init:
        dtype = int32 if e.dtype == "i32" else float32
        parts.append(Node(ops.PARTIAL, (), (), (*node.shape, PARTS), dtype))

    first = Emitter()
    row = ir.index("r")
    count = first.number(PARTS)
    rows = [[v] for i in at for v in sorted(i.variables, key=lambda v: v.origin[2])]
    first.digits(rows, binary("idiv", row, count))
    first.name_scalars(low)
    loops = Loops(low, []).fold_groups
    groups = loops[id(record)]
    longest = max((g for g in groups if not g[-1].static), key=_extent)
    size = first.number(_extent(longest))
    share = first.number(-(-_extent(longest) // PARTS))
    start = binary("min", binary("irem", row, count) * share, size)
    stop = binary("min", start + share, size)
    stmts = [s for f in inner for s in first.fold(f, loops[id(f)], True)]
    stmts += first.fold(record, groups, True, (longest, start, stop))
    targets = [BufferRef(p, p.dtype.ir, True) for p in parts]
    stmts += [Store(first.buffer(t), row, v) for t, v in zip(targets, record.result, strict=True)]
    step = first.rows(row, node.size * PARTS, stmts, node.args[0].size)

    second = Emitter()
    count = second.number(PARTS)
    k = ir.index("k")
    loads = tuple(ir.load(second.buffer(BufferRef(p, p.dtype.ir)), row * count + k) for p in parts)
    acc = tuple(var(f"a{i}", e.dtype) for i, e in enumerate(record.init))
    both = fold.merge(acc, loads)
    folding = fold_of(k, (ZERO64, count), "vector", acc, record.init, both, fold.merge)
    target = BufferRef(root, low.memory_type(root), True)
    store = Store(second.buffer(target), row, acc[fold.pick])
    last = second.rows(row, node.size, (folding, store), node.size * PARTS)
    return [step, last], list(low.dependencies.values())
