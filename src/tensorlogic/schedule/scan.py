"""Scans as one kernel: a row walks its axis once and stores every partial result."""

from __future__ import annotations

import math

from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Loop, Stmt, cast, fold_of, var
from tensorlogic.schedule.affine import dot
from tensorlogic.schedule.emit import ZERO64, Emitter, Output, Step
from tensorlogic.schedule.lower import Lowering, ir_type
from tensorlogic.storage import contiguous_strides


def scan_step(root: Node, node: Node, low: Lowering) -> tuple[list[Step], list[Node]]:
    """The launch for a scan node, stored as `root` (the node, or a reshape of it).

    Rows are the other axes; those along an axis after it are neighbours in memory and run in lanes.
    """
    assert node.op is not None
    fold = node.op.fold
    assert fold is not None
    (axis,) = node.attrs
    low.folds_allowed = False
    by_axis, at = zip(*(low.axis(node, i, n) for i, n in enumerate(node.shape)), strict=True)
    low.identity = list(at)
    rows = [[v] for i, axis_loops in enumerate(by_axis) if i != axis for v in axis_loops]
    lanes = rows.pop() if any(by_axis[axis + 1 :]) else None

    emitter = Emitter()
    row, lane, turn = ir.index("r"), ir.index("v"), ir.index("s")
    emitter.digits(rows, row)
    emitter.digits([[v] for v in by_axis[axis]], turn)
    if lanes is not None:
        emitter.place(lanes, lane)
    dtype = ir_type(node.dtype)
    value = cast(low.value(node.args[0], at), dtype)
    emitter.name_scalars(low)
    acc = (var("sum", dtype),)
    total = fold.merge(acc, (value,))
    out = Output(root, dot(at, contiguous_strides(node.shape)), total[0])
    body: tuple[Stmt, ...] = (
        *(emitter.check(c) for c in low.finish()),
        *emitter.stores(low, [out]),
    )
    length = emitter.number(node.shape[axis])
    step, init = (emitter.rewrite(total[0]),), fold.init(dtype)
    stmt: Stmt = fold_of(turn, (ZERO64, length), "serial", acc, init, step, None, body)
    if lanes is not None:
        stmt = Loop(lane, ZERO64, emitter.extent(lanes), "vector", (stmt,))
    count = math.prod(v.extent for group in rows for v in group)
    return [emitter.rows(row, count, (stmt,), 2 * node.size)], list(low.dependencies.values())
