"""Evaluation: from recorded nodes to values, on the device that they are committed to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate, ops, settings
from tensorlogic.devices.base import Device, open_device
from tensorlogic.devices.planned import Kept
from tensorlogic.devices.reference import array_data, leaf_array
from tensorlogic.dtypes import float16
from tensorlogic.errors import TraceError
from tensorlogic.graph import Node, inline_calls, topological, user_site
from tensorlogic.locks import COMPUTE


def evaluate(nodes: Sequence[Node]) -> None:
    """Compute nodes together, each on its device; afterwards they are leaves."""
    nodes = [n for n in nodes if n.op is not None or n.traced]
    if not nodes:
        return
    for n in nodes:
        if n.traced:
            raise TraceError(f"{user_site()}: a value was needed while a function was being traced")
    with COMPUTE:
        pending = [n for n in dict.fromkeys(nodes) if n.op is not None]
        order = topological(pending)
        found = {n.op for n in order}
        if not found.isdisjoint(_PREPARED) and _prepare(order, pending):
            pending = [n for n in pending if n.op is not None]
            order = topological(pending)
        labels = dict.fromkeys(n.device for n in pending)
        for label in labels:
            group = pending if len(labels) == 1 else [n for n in pending if n.device == label]
            whole = order if group is pending and found.isdisjoint(_HOST) else None
            _run(open_device(label), group, whole)


_PREPARED = (ops.CALL, ops.MATMUL)
"""Ops that may need something computed by itself."""
_HOST = (ops.CALL, ops.CONVERT)
"""Ops that no device computes: calls are inlined, conversions of storage dtypes done here."""


def _prepare(order: Sequence[Node], nodes: Sequence[Node]) -> bool:
    """What is computed by itself and kept: calls, and tensors of wider files that products take.
    Whether there was any."""
    found = False
    for n in order:
        if n.op is ops.CALL:
            _run_call(n)
            found = True
        elif n.op is ops.MATMUL:
            for a in n.args:
                while a.op is not None and a.op.kind in ops.VIEWS:
                    a = a.args[0]
                if a.op in (ops.NARROW, ops.CONVERT) and a.args[0].is_leaf and a not in nodes:
                    evaluate([a])
                    found = True
    return found


def _run_call(node: Node) -> None:
    """A call is computed as a whole: all results that somebody holds, from inputs that are there.

    So the plan kept with the function serves it, and a state that it returns is there with the
    first result that is asked for, not computed anew for each later one.
    """
    evaluate([a for a in node.args if a.op is not None])
    results = node.attrs[0].results()
    device = open_device(node.device)
    if settings.DEBUG or not device.run_call(results):
        _run(device, results)


def _run(device: Device, nodes: Sequence[Node], order: Sequence[Node] | None = None) -> None:
    """Compute nodes on one device; `order` are all nodes of a graph of no calls and no
    conversions."""
    bodies = nodes
    if order is None:
        bodies = inline_calls(nodes)
        _convert_storage(bodies)
    unique = [b for b in dict.fromkeys(bodies) if b.op is not None]
    if unique:
        if settings.DEBUG:
            from tensorlogic.explain import STAGES, explain

            for stage in STAGES[: settings.DEBUG]:
                print(explain(unique, stage, device.name), file=sys.stderr)
        device.run(unique, order)
    for node, body in zip(nodes, bodies, strict=True):
        if node is not body:
            assert body.data is not None
            node.realise(body.data)


def _convert_storage(roots: Sequence[Node]) -> None:
    """Conversions of storage dtypes are done by the host, before anything else, and kept."""
    for n in topological(roots):
        if n.op is ops.CONVERT:
            (x,) = n.args
            evaluate([x])
            dtype, on_overflow = n.attrs
            result = gate.convert_array(leaf_array(x), dtype, on_overflow, n.name)
            n.realise(array_data(result, dtype))


def plan_of_call(results: Sequence[Node]) -> Kept | None:
    """The plan kept for a call whose inputs are there, or None where it has none."""
    if settings.DEBUG:
        return None
    with COMPUTE:
        kept: Kept | None = open_device(results[0].device).plan_of_call(results)
    return kept


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
