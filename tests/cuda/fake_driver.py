"""What `devices/cuda.py` asks of a driver, on host memory: launches are noted, not run."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Node:
    """A launch with the address of its arguments' addresses."""

    function: str
    groups: int
    threads: int
    arguments: int

    def words(self, count: int) -> list[int]:
        """The first word that each of its first `count` arguments points to."""
        places = (ctypes.c_void_p * count).from_address(self.arguments)
        return [ctypes.c_int64.from_address(p).value for p in places]  # type: ignore[arg-type]


@dataclass
class FakeGraph:
    nodes: Mapping[int, Node]
    changed: list[int] = field(default_factory=list)
    launches: int = 0

    def change(self, step: int) -> None:
        self.changed.append(step)

    def launch(self) -> None:
        self.launches += 1


@dataclass
class FakeSingle:
    node: Node
    given: list[list[int]] = field(default_factory=list)
    """The first two arguments of each launch."""

    def change(self, step: int) -> None: ...

    def launch(self) -> None:
        self.given.append(self.node.words(2))


class FakeDriver:
    name = "a card that is not there"
    capability = (9, 0)
    architecture = "90"
    compiler = "13.0"
    count = 1
    stream = 0

    def __init__(self) -> None:
        self.memory_of: dict[int, Any] = {}
        self.room = 1 << 40
        self.graphs: list[FakeGraph] = []
        self.singles: list[FakeSingle] = []
        self.compiled: list[tuple[str, Sequence[str]]] = []
        self.events: list[str] = []

    def make_current(self) -> None: ...

    def allocate(self, size: int) -> int:
        if size > self.room:
            raise MemoryError
        array = np.zeros(size, np.uint8)
        address: int = array.__array_interface__["data"][0]
        self.memory_of[address] = array
        return address

    allocate_pinned = allocate

    def free(self, buffer: int) -> None:
        del self.memory_of[buffer]

    def memory(self) -> tuple[int, int]:
        return self.room, 1 << 40

    def copy_in(self, to: int, source: int, nbytes: int) -> None:
        self.events.append(f"copy {nbytes}")
        ctypes.memmove(to, source, nbytes)

    def copy_out(self, to: int, source: int, nbytes: int) -> None:
        ctypes.memmove(to, source, nbytes)

    def new_event(self) -> int:
        return len(self.events)

    def record_event(self, event: int) -> None:
        self.events.append("record")

    def wait_event(self, event: int) -> None:
        self.events.append("wait")

    def compile(self, source: str, options: Sequence[str]) -> bytes:
        self.compiled.append((source, options))
        return source.encode()

    def load(self, image: bytes, name: str) -> str:
        return name

    def kernel_node(self, function: Any, groups: int, threads: int, arguments: int) -> Node:
        return Node(function, groups, threads, arguments)

    def graph(self, kernels: Mapping[int, Node]) -> FakeGraph:
        self.graphs.append(FakeGraph(kernels))
        return self.graphs[-1]

    def single(self, kernel: Node) -> FakeSingle:
        self.singles.append(FakeSingle(kernel))
        return self.singles[-1]
