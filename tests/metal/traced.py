"""A device that runs each kernel of a schedule on its own, traced, in memory of the due size.

The Metal device keeps intermediates in one arena, so that a closed page is not always next to what
a kernel may touch. Here each node has memory of its own, every access is checked, and each launch
runs in several orders of its threads, which have to agree to the bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlogic import settings
from tensorlogic.codegen import clike
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.devices.base import REGISTRY
from tensorlogic.devices.errors import value_error
from tensorlogic.devices.reference import array_data
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import BYTES
from tensorlogic.schedule.emit import Number, Step
from tensorlogic.schedule.fuse import Schedule, schedule
from tensorlogic.schedule.records import CheckRecord
from tensorlogic.schedule.traits import GPU
from tests.compare import Array
from tests.metal.backend import EMULATOR, emulated
from tests.metal.emulator.library import TRACED, Memory, Traffic
from tests.metal.text import MetalError

ORDERS = (0, 1, 7)
_ARRAYS = {"f16": np.float16, "f32": np.float32, "i32": np.int32, "bool": np.bool_}


def memory_of(array: Array) -> Memory:
    """Memory with the bytes of an array; an empty one gets a byte."""
    memory = Memory(max(array.nbytes, 1))
    if array.nbytes:
        ctypes.memmove(memory.address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
    return memory


def content(memory: Memory) -> Array:
    """The bytes of a memory, as a view of it."""
    span = (ctypes.c_ubyte * memory.size).from_address(memory.address)
    span.memory = memory  # lives as long as any view of it
    return np.ctypeslib.as_array(span)


class Traced:
    name = "traced"
    description = "the emulator, with each access checked"

    def __init__(self) -> None:
        self.launches: list[Replay] = []

    def unavailable(self) -> None:
        return None

    def run_call(self, results: Sequence[Node]) -> bool:
        return False

    def run(self, roots: Sequence[Node], order: Sequence[Node] | None = None) -> None:
        plan = schedule(roots, settings.current(), GPU)
        memory: dict[int, Memory] = {}
        checks = [v for s in plan.steps for v in s.params if isinstance(v, CheckRecord)]
        status = memory_of(np.zeros(max(len(checks), 1), np.int32))
        for step in plan.steps:
            for written, old in step.in_place:
                memory[id(written)] = _place(old, plan, memory)
            self._launch(step, plan, memory, checks, status)
        for check, count in zip(checks, content(status).view(np.int32).tolist(), strict=False):
            if count:
                raise value_error(check.node)
        for root in roots:
            kind = np.dtype(_ARRAYS[plan.memory_types[id(root)]])
            values = content(_place(root, plan, memory))[: root.size * kind.itemsize].view(kind)
            root.realise(array_data(values.reshape(root.shape).copy(), root.dtype))

    def _launch(
        self,
        step: Step,
        plan: Schedule,
        memory: dict[int, Memory],
        checks: Sequence[CheckRecord],
        status: Memory,
    ) -> None:
        def value(number: Number) -> Any:
            if isinstance(number, CheckRecord):
                return next(i for i, c in enumerate(checks) if c is number)
            return number.number if isinstance(number, Node) else number

        params = {p.attr: value(v) for p, v in zip(step.all_params, step.params, strict=True)}
        slots: dict[int, Memory] = {}
        offsets = []
        for slot, (buffer, use) in enumerate(zip(step.all_buffers, step.buffers, strict=True)):
            node, start = (None, 0) if use is None else use
            slots[slot] = status if node is None else _place(node, plan, memory)
            offsets.append(start // BYTES[buffer.dtype])
        launch = gpu_launch(step.kernel, "compute", "metal", step.sizes())
        words = clike.pack_params(step.all_params, params, offsets)
        slots[len(slots)] = memory_of(np.frombuffer(words, np.uint8))
        if launch.groups:
            replay = run_in_orders(launch.source, launch.name, launch.groups, slots)
            self.launches.append(replay)


@dataclass(frozen=True)
class Replay:
    """A launch that can be made again: what its buffers hold before and after it."""

    text: str
    name: str
    groups: int
    same: Mapping[int, int]
    """Of each slot the first that has the same memory."""
    before: Mapping[int, Array]
    after: Mapping[int, Array]
    traffic: Traffic

    def fault(self, text: str, groups: int | None = None) -> str | None:
        """What another text does wrong, or None where it gives the same."""
        own = {slot: memory_of(array) for slot, array in self.before.items()}
        slots = {slot: own[first] for slot, first in self.same.items()}
        try:
            again = run_in_orders(text, self.name, groups or self.groups, slots)
        except MetalError as e:
            return str(e)
        wrong = [s for s in own if not np.array_equal(again.after[s], self.after[s])]
        return f"wrong bytes in buffer {wrong[0]}" if wrong else None


def run_in_orders(
    text: str, name: str, groups: int, slots: Mapping[int, Memory], orders: Sequence[int] = ORDERS
) -> Replay:
    """A traced launch in each order of its threads, from the same contents. Raises MetalError for
    what a thread does wrong, or where the orders give different bytes."""
    with emulated(TRACED):
        library = EMULATOR.library(text)
    firsts: dict[int, int] = {}
    same = {slot: firsts.setdefault(id(m), slot) for slot, m in slots.items()}
    before = {slot: content(slots[slot]).copy() for slot in firsts.values()}
    after: dict[int, Array] = {}
    for order in orders:
        for slot, array in before.items():
            content(slots[slot])[:] = array
        traffic = library.run(name, groups, slots, order)
        found = {slot: content(slots[slot]).copy() for slot in before}
        after = after or found
        for slot, array in found.items():
            if not np.array_equal(after[slot], array):
                raise MetalError(
                    f"{name}: buffer {slot} depends on the order of the threads\n{text}"
                )
    assert traffic is not None
    return Replay(text, name, groups, same, before, after, traffic)


def _place(node: Node, plan: Schedule, memory: dict[int, Memory]) -> Memory:
    if id(node) not in memory:
        if node.data is not None:
            memory[id(node)] = memory_of(node.data.memory.base)
        else:
            kind = plan.memory_types.get(id(node), node.dtype.ir)
            memory[id(node)] = memory_of(np.full(node.size * BYTES[kind], 0xA5, np.uint8))
    return memory[id(node)]


@contextmanager
def registered() -> Iterator[Traced]:
    """While `device="traced"` means it."""
    REGISTRY.register("traced", Traced)
    try:
        device = REGISTRY.get("traced")
        assert isinstance(device, Traced)
        yield device
    finally:
        REGISTRY._factories.pop("traced")
        REGISTRY._open.pop("traced")
