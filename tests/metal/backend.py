"""What runs the kernels that the stand-in for metalcompute is given: the emulator, or another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.metal.checker import lint
from tests.metal.emulator.library import EXACT, Library, Memory, Mode, Traffic
from tests.metal.recording import Recorder
from tests.metal.text import MetalError

ORDERS = (0, 1, 7)


class Backend(Protocol):
    name: str
    faults: list[str]

    def compile(self, text: str) -> dict[str, int]:
        """The threads of a group of each kernel of a text. Raises MetalError."""

    def memory(self, size: int) -> Any:
        """Memory that the host sees at its `address`."""

    def run(self, text: str, name: str, groups: int, slots: Mapping[int, Any]) -> None:
        """A launch; what goes wrong is added to `faults`."""


@dataclass(frozen=True)
class Launch:
    text: str
    name: str
    groups: int
    sizes: Mapping[int, int]
    traffic: Traffic | None


@dataclass
class Emulator:
    """Runs launches on the CPU: in `mode`, each in the next of several orders of its threads."""

    name: str = "emulated Metal GPU"
    mode: Mode = EXACT
    faults: list[str] = field(default_factory=list)
    launches: list[Launch] | None = None
    recorder: Recorder | None = None
    count: int = 0
    _libraries: dict[tuple[str, Mode], Library] = field(default_factory=dict)

    def library(self, text: str) -> Library:
        key = (text, self.mode)
        if key not in self._libraries:
            lint(text)
            self._libraries[key] = Library(text, self.mode)
        return self._libraries[key]

    def compile(self, text: str) -> dict[str, int]:
        return {k.name: k.threads for k in self.library(text).kernels.values()}

    def memory(self, size: int) -> Memory:
        return Memory(size)

    def run(self, text: str, name: str, groups: int, slots: Mapping[int, Memory]) -> None:
        order = ORDERS[self.count % len(ORDERS)]
        self.count += 1
        traffic, before = None, None
        if self.recorder is not None:
            before = self.recorder.before(text, slots)
        try:
            traffic = self.library(text).run(name, groups, slots, order)
        except MetalError as e:
            self.faults.append(f"{e}\nin a launch of {groups} groups of\n{text}")
        if self.recorder is not None and before is not None:
            self.recorder.after(text, name, groups, slots, before)
        if self.launches is not None:
            sizes = {i: m.size for i, m in slots.items()}
            self.launches.append(Launch(text, name, groups, sizes, traffic))


EMULATOR = Emulator()
CURRENT: Backend = EMULATOR


@contextmanager
def emulated(mode: Mode = EXACT) -> Iterator[list[Launch]]:
    """Launches within run in this mode, and are listed. Raises MetalError for what went wrong."""
    before = EMULATOR.mode, EMULATOR.launches
    EMULATOR.mode, EMULATOR.launches = mode, []
    EMULATOR.faults.clear()
    try:
        yield EMULATOR.launches
    finally:
        EMULATOR.mode, EMULATOR.launches = before
        faults = list(EMULATOR.faults)
        EMULATOR.faults.clear()
    if faults:
        raise MetalError("\n".join(faults))
