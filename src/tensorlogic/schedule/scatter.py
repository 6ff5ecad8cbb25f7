"""Scatter: one kernel that writes into a copy of the tensor, in the order of the indices.

The axes before the scattered one are rows that run in parallel, those after it run in lanes, and
along it one turn follows another: no atomics, and the same bits on every device.
"""

from __future__ import annotations

import math

from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Stmt, Store
from tensorlogic.schedule.affine import LoopVar, dot
from tensorlogic.schedule.emit import Emitter, Step
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.records import BufferRef
from tensorlogic.schedule.rules import broadcast_index, checked_index
from tensorlogic.storage import contiguous_strides


def scatter_step(node: Node, low: Lowering) -> tuple[list[Step], list[Node]]:
    """The launch that writes into the memory of the copy, which the node takes over."""
    copy, indices, values = node.args
    axis, add = node.attrs
    low.folds_allowed = False
    parts: list[list[LoopVar]] = []
    low.identity = at = []
    for i, n in enumerate(values.shape):
        variables, own = low.axis(node, i, n)
        parts.append(variables)
        at.append(own)
    spot, ok = checked_index(low, node, broadcast_index(indices, at), None)
    value = low.value(values, at)
    emitter = Emitter()
    row = ir.index("r")
    emitter.digits([[v] for part in parts[:axis] for v in part], row)
    emitter.name_scalars(low)
    target = emitter.buffer(BufferRef(node, low.memory_type(node), True))
    place = dot([*at[:axis], spot, *at[axis + 1 :]], contiguous_strides(node.shape))
    lanes = [[v] for part in parts[axis + 1 :] for v in part]

    def final() -> list[Stmt]:
        checks = [emitter.check(c) for c in low.finish()]
        where = emitter.address(place)
        new = emitter.rewrite(value)
        new = ir.load(target, where, emitter.rewrite(ok)) + new if add else new
        return [*checks, Store(target, where, new, emitter.rewrite(ok))]

    turns = [[v] for v in parts[axis]]
    body = emitter.loops([*turns, *lanes], bool(lanes), final, "")
    rows = math.prod(node.shape[:axis])
    step = emitter.rows(row, rows, body, values.size)
    step.in_place = [(node, copy)]
    return [step], [*low.dependencies.values(), copy]
