"""What a competitor is: tensors of a library, and a function for each kind of work."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.kinds import KINDS

Array = Any
Sizes = dict[str, Any]


class Unsupported(Exception):
    """The competitor has no such work."""


@dataclass(frozen=True)
class Prepared:
    """Work that is ready: `call()` does it once, `sync()` waits until all calls are done, and
    `result(value)` shows what a call gave as one array."""

    call: Callable[[], Any]
    result: Callable[[Any], Array] | None = None
    sync: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Measured:
    """Work that measures itself: `measure()` gives seconds; `result()` is what it computed last."""

    measure: Callable[[], float]
    result: Callable[[], Array] | None = None


class Peer:
    """A library. `functions[kind](sizes)` is a function of tensors; `special[kind](sizes)` is work
    that needs more than that."""

    name = ""
    snippets: ClassVar[dict[str, str]] = {}
    """Programs for a process of their own: "import", "first" (prints the seconds of a first call),
    "script" (computes and prints something small)."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.functions: dict[str, Callable[[Sizes], Callable[..., Any]]] = {}
        self.special: dict[str, Callable[[Sizes], Prepared | Measured]] = {}
        if "import" in self.snippets:
            self.special |= {"import": self._import, "script": self._script}
        if "first" in self.snippets:
            self.special["cached_call"] = self._cached_call

    @property
    def version(self) -> str:
        raise NotImplementedError

    def tensor(self, array: Array) -> Any:
        return array

    def array(self, value: Any) -> Array:
        return np.asarray(value)

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        """The function as it is called: compiled, or with its result evaluated."""
        return function

    def sync(self) -> None:
        pass

    def prepare(self, kind: str, sizes: Sizes) -> Prepared | Measured:
        if kind in self.special:
            return self.special[kind](sizes)
        if kind not in self.functions:
            raise Unsupported(kind)
        tensors = [self.tensor(a) for a in KINDS[kind].inputs(sizes)]
        function = self.ready(self.functions[kind](sizes), sizes)
        return Prepared(partial(function, *tensors), self.result, self.sync)

    def result(self, value: Any) -> Array:
        if isinstance(value, list | tuple):
            return np.stack([self.array(v) for v in value])
        return self.array(value)

    # ---- processes of their own ----

    def _import(self, sizes: Sizes) -> Measured:
        text = self.snippets["import"]
        return Measured(lambda: max(_process(text) - _process("pass"), 0.0))

    def _script(self, sizes: Sizes) -> Measured:
        return Measured(lambda: _process(self.snippets["script"]))

    def _cached_call(self, sizes: Sizes) -> Measured:
        return Measured(lambda: float(_output(self.snippets["first"]).split()[-1]))

    def timed(self, work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - start


def _output(text: str) -> str:
    """What a program prints. Python may keep its bytecode, as for a package that is installed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True,
        cwd=tempfile.gettempdir(), env=environment,
    )  # fmt: skip
    return done.stdout


def _process(text: str) -> float:
    start = time.perf_counter()
    _output(text)
    return time.perf_counter() - start


def novel(number: int, unary: dict[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """A function of 12 elementwise ops that no process has seen: the number picks which."""
    names = sorted(unary)
    rng = np.random.default_rng([number, time.time_ns() & 0xFFFFFFFF])
    picked = [names[i] for i in rng.integers(0, len(names), 12)]

    def function(x: Any) -> Any:
        for name in picked:
            x = unary[name](x) * 0.5 + x
        return x

    return function
