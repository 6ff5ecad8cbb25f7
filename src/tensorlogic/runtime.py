"""Evaluation: from recorded nodes to values, on the device that they are committed to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate, ops, settings
from tensorlogic.devices.base import open_device
from tensorlogic.devices.reference import array_data, leaf_array
from tensorlogic.dtypes import float16
from tensorlogic.errors import TraceError
from tensorlogic.explain import STAGES, explain
from tensorlogic.graph import Node, inline_calls, topological, user_site

_VIEWS = ("reshape", "permute", "expand", "slice")


def evaluate(nodes: Sequence[Node]) -> None:
    """Compute nodes together, each on its device; afterwards they are leaves."""
    pending: dict[str | None, list[Node]] = {}
    for n in nodes:
        if n.traced:
            raise TraceError(f"{user_site()}: a value was needed while a function was being traced")
        if n.op is not None:
            group = pending.setdefault(n.device, [])
            if not any(n is m for m in group):
                group.append(n)
    for label, group in pending.items():
        device = open_device(label)
        _convert_weights(group)
        if not settings.DEBUG and _one_call(group) and device.run_call(group):
            continue
        bodies = inline_calls(group)
        _convert_storage(bodies)
        unique = {id(b): b for b in bodies if b.op is not None}
        if unique:
            for stage in STAGES[: settings.DEBUG]:
                print(explain(list(unique.values()), stage, device.name), file=sys.stderr)
            device.run(list(unique.values()))
        for node, body in zip(group, bodies, strict=True):
            if node is not body:
                assert body.data is not None
                node.realise(body.data)


def _one_call(group: Sequence[Node]) -> bool:
    """Whether the nodes are results of one call whose inputs are there."""
    first = group[0]
    return first.op is ops.CALL and all(
        n.op is ops.CALL and n.attrs[0] is first.attrs[0] and n.args == first.args for n in group
    )


def _convert_weights(roots: Sequence[Node]) -> None:
    """Tensors of wider files that calls and products take are converted once, and kept."""
    wanted: dict[str | None, dict[int, Node]] = {}
    for n in topological(roots):
        if n.op is ops.CALL or n.op is ops.MATMUL:
            for a in n.args:
                while a.op is not None and a.op.kind in _VIEWS:
                    a = a.args[0]
                if a.op in (ops.NARROW, ops.CONVERT) and a.args[0].is_leaf and not a.traced:
                    wanted.setdefault(a.device, {})[id(a)] = a
    for group in wanted.values():
        found = list(group.values())
        if len(found) < len(roots) or any(f is not r for f, r in zip(found, roots, strict=False)):
            evaluate(found)


def _convert_storage(roots: Sequence[Node]) -> None:
    """Conversions of storage dtypes are done by the host, before anything else, and kept."""
    for n in topological(roots):
        if n.op is ops.CONVERT:
            (x,) = n.args
            evaluate([x])
            dtype, on_overflow = n.attrs
            result = gate.convert_array(leaf_array(x), dtype, on_overflow, n.name)
            n.realise(array_data(result, dtype))


def share(node: Node) -> None:
    """A view of an evaluated node's memory leaves the package: nothing may write there any more."""
    if node.data is not None:
        node.data.memory.shared = True


def array_of(node: Node) -> NDArray[Any]:
    """The values of an evaluated node, read-only."""
    array = leaf_array(node)
    if node.dtype is float16 and array.dtype != np.float16:
        with np.errstate(over="ignore"):
            array = array.astype(np.float16)
    array = array.view()
    array.flags.writeable = False
    return array
