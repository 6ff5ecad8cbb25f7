"""Value errors: what a failed check of a plan stands for, found again on the host."""

from __future__ import annotations

from typing import Any

from tensorlogic.devices.reference import Reference, leaf_array
from tensorlogic.errors import TensorLogicError
from tensorlogic.graph import Node, topological


def value_error(node: Node) -> TensorLogicError:
    """The error of a node whose check counted something, with the very values that failed.

    A kernel counts only that something was wrong; the values are looked up by computing the node
    once more on the reference, which then raises.
    """
    values: dict[int, Any] = {}
    try:
        for n in topological([node]):
            values[id(n)] = leaf_array(n) if n.op is None else Reference.compute(n, values)
    except TensorLogicError as e:
        return e
    raise AssertionError(f"{node.op}: a check failed that holds on the reference")
