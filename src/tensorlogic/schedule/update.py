"""An update in place: one kernel that stores the new rows where the old ones lay."""

from __future__ import annotations

from tensorlogic.graph import Node
from tensorlogic.schedule.affine import Affine, dot
from tensorlogic.schedule.emit import Output, Step, kernel_step
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.rules import position
from tensorlogic.storage import contiguous_strides


def update_step(node: Node, low: Lowering) -> tuple[list[Step], list[Node]]:
    """The launch that writes `new` into the memory of the tensor that it consumes."""
    x, _, new = node.args
    (axis,) = node.attrs
    low.folds_allowed = False
    _, at = low.axes(new, new.shape)
    low.identity = at
    strides = contiguous_strides(node.shape)
    start = Affine(0, {position(low, node): strides[axis]})
    value = low.value(new, at)
    step = kernel_step(low, [Output(node, dot(at, strides) + start, value)])
    step.in_place = x
    needed = list(low.dependencies.values())
    if x.op is not None:
        needed.append(x)
    return [step], needed
