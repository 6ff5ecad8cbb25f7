"""Ready calls: light calls of a traced function whose inputs are there run at once.

Recording a call, finding its plan again and evaluating it costs more than a small kernel does.
Where little can be gained by waiting (every input has its values, the plan is light and checks no
values, nothing is updated in place) the call is computed when it is made. What it returns is the
same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tensorlogic import runtime, settings
from tensorlogic.devices.arguments import result_data
from tensorlogic.forms import Layout
from tensorlogic.graph import Node, kind_of_node, layout_of_leaf, leaf, number
from tensorlogic.storage import Memory
from tensorlogic.tensor import Tensor


def key_of(args: Iterable[Any], nodes: list[Node]) -> tuple[Any, ...] | None:
    """What a ready call depends on; its tensors and numbers are added to `nodes`. None for a call
    that is recorded."""
    key: list[Any] = [settings.current()]
    for value in args:
        kind = type(value)
        if kind is Tensor:
            node = value._hold
            form = node.form
            if type(form) is not Layout:  # not computed yet, or consumed, or not looked at before
                if node.data is None or node.consumed:
                    return None
                form = layout_of_leaf(node)
            nodes.append(node)
            key.append(form)
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


class Ready(NamedTuple):
    """What a call that comes again needs: `run` gives results like `kinds` for those of its tensors
    and numbers that `inputs` picks (None: for all, as they come); None where it is recorded."""

    trace: Any
    run: Callable[[Sequence[Node], Sequence[Node]], Sequence[Node]] | None
    kinds: Sequence[Node]
    inputs: Callable[[Sequence[Node]], Sequence[Node]] | None


def _like(result: Node) -> Node:
    """A node with the facts of a call's result: what holds for each run of the plan."""
    call, i = result.attrs
    data = result_data(Memory.allocate(0), result)
    kind = leaf(data, result.shape, result.dtype, result.device)
    kind.weak, kind.made = result.weak, call.traced.outputs[i]
    kind.kind, kind.form = kind_of_node(kind), layout_of_leaf(kind)
    return kind


def make_ready(trace: Any, results: Sequence[Node], inputs: Sequence[int], count: int) -> Ready:
    """The ready call of a trace, for its recorded results, of which argument i is input `inputs[i]`
    of `count`."""
    kept = runtime.plan_of_call(results) if results else None
    if kept is None or not kept.ready:
        return Ready(trace, None, (), None)
    pick = None if list(inputs) == list(range(count)) else lambda given: [given[i] for i in inputs]
    return Ready(trace, kept.call.leaves, [_like(n) for n in results], pick)
