"""Ready calls: small calls of a traced function whose inputs are there run at once.

Recording a call, finding its plan again and evaluating it costs more than a small kernel does.
Where nothing can be gained by waiting (every input has its values, the plan is small and checks no
values, nothing is updated in place) the call is computed when it is made. What it returns is the
same either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tensorlogic import runtime, settings
from tensorlogic.devices.planned import Kept
from tensorlogic.graph import Node, like, number
from tensorlogic.storage import Strided, contiguous_strides
from tensorlogic.tensor import Tensor

MAX_LAYOUTS = 4096
"""Layouts that are told apart; beyond that they are numbered anew."""
_layouts: dict[Any, object] = {}


def layout_of(node: Node) -> object | None:
    """One object for all leaves of equal shape, dtype, storage, strides and device, kept with the
    node; None for a node whose values are not there."""
    data = node.data
    if data is None:
        return None
    key = (node.shape, node.dtype, data.storage, data.offset, data.strides, node.device, node.weak)
    found = _layouts.get(key)
    if found is None:
        if len(_layouts) >= MAX_LAYOUTS:
            _layouts.clear()
        found = _layouts[key] = object()
    node.layout = found
    return found


def key_of(args: Iterable[Any], nodes: list[Node]) -> tuple[Any, ...] | None:
    """What a ready call depends on; its tensors and numbers are added to `nodes`. None for a call
    that is recorded."""
    key: list[Any] = []
    for value in args:
        kind = type(value)
        if kind is Tensor:
            node = value._hold
            if node is None or node.consumed:
                return None  # to be refused where calls are recorded
            layout = node.layout or layout_of(node)
            if layout is None:
                return None
            nodes.append(node)
            key.append(layout)
        elif kind is float or kind is int:
            node = number(value)
            nodes.append(node)
            key.append(node.dtype)
        elif kind is bool or kind is str or value is None:
            key.append((kind, value))
        elif kind is tuple or kind is list or kind is dict:
            inner = key_of(value.values() if kind is dict else value, nodes)
            if inner is None:
                return None
            key.append((kind, tuple(value) if kind is dict else None, inner))
        else:
            return None
    return tuple(key)


class Ready:
    """The plan of a call, and what its results are."""

    __slots__ = ("_inputs", "_plan", "_results", "_settings")

    def __init__(self, kept: Kept, results: Sequence[Node], inputs: Sequence[int]):
        self._plan = kept.call.run
        given = list(inputs)
        self._inputs = None if given == list(range(len(given))) else given
        self._settings = settings.current()
        self._results = [(_like(n), n.dtype.name, contiguous_strides(n.shape)) for n in results]

    def run(self, nodes: Sequence[Node]) -> list[Node] | None:
        """The results for these inputs; None under other settings than it was made for."""
        if settings.current() is not self._settings:
            return None
        if self._inputs is not None:
            nodes = [nodes[i] for i in self._inputs]
        memories = self._plan(nodes)
        if len(memories) == 1:
            ((kind, name, strides),) = self._results
            return [like(kind, Strided(memories[0], name, 0, strides))]
        return [
            like(kind, Strided(memory, name, 0, strides))
            for memory, (kind, name, strides) in zip(memories, self._results, strict=True)
        ]


def _like(result: Node) -> Node:
    """A node with the facts of a call's result: what holds for each run of the plan."""
    call, i = result.attrs
    kind = Node(None, (), (), result.shape, result.dtype)
    kind.device, kind.weak, kind.made = result.device, result.weak, call.traced.outputs[i]
    return kind


def make_ready(results: Sequence[Node], inputs: Sequence[int]) -> Ready | None:
    """The ready call for recorded results of a call, of which argument i is input `inputs[i]`; None
    where it has to be recorded."""
    kept = runtime.plan_of_call(results)
    if kept is None or not kept.ready:
        return None
    return Ready(kept, results, inputs)
