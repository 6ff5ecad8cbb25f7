"""The CPU: kernels become LLVM IR, tuned to this host, and run on all its cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorlogic import settings
from tensorlogic.devices import plancache
from tensorlogic.devices.library import Library, Object
from tensorlogic.devices.lines import Weights
from tensorlogic.devices.planned import PlannedDevice
from tensorlogic.devices.plans import CpuCall, CpuPlan, Facts
from tensorlogic.graph import Node
from tensorlogic.schedule.traits import CPU

if TYPE_CHECKING:
    from tensorlogic.schedule.fuse import Schedule


class Cpu(PlannedDevice):
    name = "cpu"
    description = "LLVM kernels on all cores"

    traits = CPU

    def __init__(self) -> None:
        super().__init__()
        self._library = Library()
        self._weights = Weights(self._library)

    def unavailable(self) -> None:
        return None

    @property
    def compiled(self) -> int:
        """How many kernels this process has compiled or loaded."""
        return len(self._library.kernels)

    def make_plan(self, roots: Sequence[Node], order: Sequence[Node]) -> CpuPlan:
        """A plan from the disk needs neither scheduler nor printer; one that is made is kept."""
        key = plancache.key_of(order, roots, settings.current(), self.traits)
        found = plancache.read(key)
        plan = None if found is None else self._restored(*found)
        if plan is None:
            plan = super().make_plan(roots, order)
            homes = {h.key: h for h in (self._library.home(n) for n, *_ in plan.facts.launches)}
            plancache.write(key, tuple(plan.facts), [h.plain() for h in homes.values()])
        return plan

    def _restored(
        self, facts: tuple[object, ...], objects: list[tuple[object, ...]]
    ) -> CpuPlan | None:
        homes = list(map(Object.of_plain, objects))
        if not all(map(self._library.load, homes)):
            return None
        for home in homes:
            self._library.add_kernels(home)
        kernels = self._library.kernels
        return CpuPlan(Facts(*facts), kernels, self._weights)  # type: ignore[arg-type]

    def plan(self, schedule: Schedule, order: Sequence[Node]) -> CpuPlan:
        from tensorlogic.devices.cpu_kernels import launches, scratch
        from tensorlogic.devices.facts import facts_of
        from tensorlogic.devices.interleaving import interleaved

        schedule = replace(schedule, steps=interleaved(schedule.steps))
        made = launches(self._library, schedule.steps)
        facts = facts_of(schedule, order, made, scratch(schedule.steps))
        return CpuPlan(facts, self._library.kernels, self._weights)

    def bind(
        self, plan: CpuPlan, order: Sequence[Node | None], spots: Sequence[tuple[int, int]]
    ) -> CpuCall:
        return plan.bind(order, spots)
