"""Evaluation: from recorded nodes to values, on the device that they are committed to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate, ops
from tensorlogic.devices.base import open_device
from tensorlogic.devices.reference import array_data, leaf_array
from tensorlogic.dtypes import float16
from tensorlogic.errors import TraceError
from tensorlogic.graph import Node, inline_calls, topological, user_site


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
    for device, group in pending.items():
        bodies = inline_calls(group)
        convert_storage(bodies)
        open_device(device).run([b for b in bodies if b.op is not None])
        for node, body in zip(group, bodies, strict=True):
            if node is not body:
                assert body.data is not None
                node.realise(body.data)


def convert_storage(roots: Sequence[Node]) -> None:
    """Conversions of storage dtypes are done by the host, before anything else, and kept."""
    for n in topological(roots):
        if n.op is ops.CONVERT:
            (x,) = n.args
            evaluate([x])
            dtype, on_overflow = n.attrs
            result = gate.convert_array(leaf_array(x), dtype, on_overflow, n.name)
            n.realise(array_data(result, dtype))


def array_of(node: Node, export: bool = False) -> NDArray[Any]:
    """The values of an evaluated node, read-only; `export` when the array leaves the package."""
    array = leaf_array(node)
    if node.dtype is float16 and array.dtype != np.float16:
        with np.errstate(over="ignore"):
            array = array.astype(np.float16)
    if export and node.data is not None:
        node.data.memory.shared = True
    array = array.view()
    array.flags.writeable = False
    return array


def explain(roots: Sequence[Node], stage: str, device: str | None) -> str:
    raise NotImplementedError
