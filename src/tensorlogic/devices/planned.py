"""Devices that run plans: which plan serves a graph or a call, and for how long it is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Container, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tensorlogic import settings
from tensorlogic.computed import computed
from tensorlogic.devices.arguments import CheckFailed, result_data
from tensorlogic.graph import Node, inline_calls, layout_of_leaf, may_overwrite, topological
from tensorlogic.locks import COMPUTE
from tensorlogic.ops import CONVERT, UPDATE
from tensorlogic.storage import Memory

if TYPE_CHECKING:
    from tensorlogic.errors import TensorLogicError
    from tensorlogic.schedule.fuse import Schedule
    from tensorlogic.schedule.traits import Traits

MAX_PLANS = 512
"""Plans kept; the one used longest ago goes first."""
MAX_CALL_PLANS = 64
"""Plans kept with one traced function: one for each layout of its inputs."""
_INLINE = object()
"""Kept in place of a plan for calls that have to be inlined."""


class Plan(Protocol):
    """A schedule made ready to run on a device.

    `ready`: it is light, checks no values and writes nothing in place.
    """

    ready: bool

    def run(self, order: Sequence[Node | None]) -> list[Memory]:
        """The memory of each root, computed from the leaves of `order` (places as in the key).

        Raises CheckFailed where a status word counted something.
        """


class Call(Protocol):
    """A plan of a call of a traced function, run anew for each of its inputs."""

    def run(self, inputs: Sequence[Node], /) -> list[Memory]:
        """The memory of each root. Raises CheckFailed as a plan does. Any thread may call it."""

    def leaves(self, inputs: Sequence[Node], kinds: Sequence[Node], /) -> list[Node]:
        """What `run` gives, as leaves with the facts of others."""


class Bound:
    """The leaves of a plan that stay, and at which places which inputs of a call stand."""

    __slots__ = ("_order", "_plan", "_spots")

    def __init__(self, plan: Plan, order: Sequence[Node | None], spots: Sequence[tuple[int, int]]):
        self._plan, self._order, self._spots = plan, order, spots

    def run(self, inputs: Sequence[Node], /) -> list[Memory]:
        order = list(self._order)
        for place, i in self._spots:
            order[place] = inputs[i]
        with COMPUTE:
            return self._plan.run(order)

    def leaves(self, inputs: Sequence[Node], kinds: Sequence[Node], /) -> list[Node]:
        return list(map(computed, kinds, self.run(inputs)))


class Kept(NamedTuple):
    """Whether a call's plan is `ready`, and the plan with what stays the same in each run."""

    ready: bool
    call: Call


def plan_key(order: Sequence[Node], roots: Sequence[Node], settings: object) -> tuple[Any, ...]:
    """Everything that a plan depends on; numbers and addresses are not part of it.

    Of each node its form and the places of its arguments; then what leaves share.
    """
    parts: list[Any] = [settings]
    add = parts.append
    leaves: list[Node] = []
    updated: list[Node] = []
    place: dict[Node, int] = {}
    for i, n in enumerate(order):
        place[n] = i
        args = n.args
        add(n.form or layout_of_leaf(n))
        if not args:
            if n.op is None:
                leaves.append(n)
        elif len(args) == 2:
            a, b = args
            add(place[a])
            add(place[b])
        else:
            parts += [place[a] for a in args]
        if n.op is UPDATE:
            updated.append(args[0])
    parts += [None, *[place[r] for r in roots]]
    parts += sharing(leaves, updated)
    return tuple(parts)


def sharing(leaves: Sequence[Node], updated: Container[Node]) -> list[Any]:
    """Which leaves share memory, and which of those that are `updated` may be written in place."""
    memories: dict[object, int] = {}
    parts: list[Any] = []
    for n in leaves:
        d = n.data
        parts.append(memories.setdefault(n if d is None else d.memory, len(memories)))
        if n in updated:
            parts.append(may_overwrite(n))
    return parts


class PlannedDevice(ABC):
    """A device that computes graphs and calls by plans that it keeps."""

    name: str
    description: str
    traits: Traits

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        self._lock = Lock()

    @abstractmethod
    def plan(self, schedule: Schedule, order: Sequence[Node]) -> Any:
        """A schedule of the graph with these nodes, made ready: a `Plan`."""

    def make_plan(self, roots: Sequence[Node], order: Sequence[Node]) -> Any:
        """The plan of a graph, of which `order` are the nodes."""
        from tensorlogic.schedule.fuse import schedule

        return self.plan(schedule(roots, settings.current(), self.traits), order)

    def bind(
        self, plan: Any, order: Sequence[Node | None], spots: Sequence[tuple[int, int]]
    ) -> Call:
        """A plan of a call: `order` are the leaves that stay, `spots` the places of its inputs."""
        return Bound(plan, order, spots)

    def run(self, roots: Sequence[Node], order: Sequence[Node] | None = None) -> None:
        """Compute the roots of a graph without calls, and realise them. `order`: its nodes, inputs
        first, where they are known."""
        if order is None:
            order = topological(roots)
        current = settings.current()
        key = plan_key(order, roots, current)
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = self.make_plan(roots, order)
                if len(self._plans) > MAX_PLANS:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(key)
        try:
            memories = plan.run(order)
        except CheckFailed as failed:
            raise _value_error(order[failed.place]) from None
        for root, memory in zip(roots, memories, strict=True):
            root.realise(result_data(memory, root))

    def run_call(self, results: Sequence[Node]) -> bool:
        """A call whose inputs are leaves runs by a plan that is kept with the traced function."""
        args = results[0].args
        kept = self.plan_of_call(results)
        if kept is None:
            return False
        try:
            memories = kept.call.run(args)
        except CheckFailed as failed:
            raise _value_error(topological(inline_calls(results))[failed.place]) from None
        for n, memory in zip(results, memories, strict=True):
            n.realise(result_data(memory, n))
        return True

    def plan_of_call(self, results: Sequence[Node]) -> Kept | None:
        """The plan of a call whose inputs are leaves, kept with the traced function; None for one
        that has to be inlined and run as a graph."""
        traced = results[0].attrs[0].traced
        args = results[0].args
        if any(a.op is not None for a in args):
            return None
        current = settings.current()
        updated = [args[i] for i in traced.updated]
        layouts = [a.form or layout_of_leaf(a) for a in args]
        key = (self, current, *[n.attrs[1] for n in results], *layouts, *sharing(args, updated))
        kept = traced.plans.get(key)
        if kept is None:
            with self._lock:
                if len(traced.plans) >= MAX_CALL_PLANS:
                    del traced.plans[next(iter(traced.plans))]
                kept = traced.plans[key] = self._prepare(results)
        return None if kept is _INLINE else kept

    def _prepare(self, results: Sequence[Node]) -> Any:
        """The plan of a call, its nodes in order, and which of them are which input."""
        args = results[0].args
        bodies = inline_calls(results)
        order = topological(bodies)
        dynamic = any(n.op is CONVERT for n in order) or len({id(b) for b in bodies}) < len(bodies)
        if dynamic or any(b.op is None for b in bodies):
            for a in args:
                a.uses += 1  # inlining gave the call's use back; it will be inlined once more
            return _INLINE
        inputs = {id(a): i for i, a in enumerate(args)}
        spots = [(place, inputs[id(n)]) for place, n in enumerate(order) if id(n) in inputs]
        plan = self.make_plan(bodies, order)
        # Only leaves are looked at again; what the call was given is let go.
        kept = [n if n.op is None and id(n) not in inputs else None for n in order]
        return Kept(plan.ready, self.bind(plan, kept, spots))


def _value_error(node: Node) -> TensorLogicError:
    from tensorlogic.devices.errors import value_error

    return value_error(node)
