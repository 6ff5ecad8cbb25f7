"""An update in place: one kernel that stores the new rows where the old ones lay."""

from __future__ import annotations

from tensorlogic.graph import Node
from tensorlogic.schedule.affine import Affine, dot
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.lower import Lowering
from tensorlogic.schedule.rules import position
from tensorlogic.storage import contiguous_strides


def updated_place(low: Lowering, node: Node, at: list[Affine]) -> Affine:
    """Where the element of the new rows at these indices belongs."""
    (axis,) = node.attrs
    strides = contiguous_strides(node.shape)
    return dot(at, strides) + Affine(0, {position(low, node): strides[axis]})


def take_over(node: Node, step: Step, needed: list[Node]) -> None:
    """The step writes into the memory of the tensor that the node consumes."""
    old = node.args[0]
    step.in_place = [(node, old)]
    if old.op is not None:
        needed.append(old)
