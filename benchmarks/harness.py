"""Runs rows: starts the competitors, compares what they compute, and lets them take turns."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import files
from benchmarks.kinds import KINDS, error, picks
from benchmarks.rows import Row

ROOT = Path(__file__).parents[1]
OURS = "tensorlogic"
CPU_PEERS = (
    "numpy", "numpy float32", "torch", "torch.compile", "mlx", "mlx.compile", "tinygrad",
    "llama.cpp",
)  # fmt: skip
GPU_PEERS = ("tensorlogic vendor", "torch", "torch.compile")
UNCOUNTED = frozenset({"tensorlogic vendor", "numpy float32"})
"""Shown, but not what we are compared with: NVIDIA's library called by us, and another dtype."""
TURN = 0.15
"""Seconds that a competitor has in a round."""
SLOW = 4.0
"""Seconds of a call from which on it is timed once only."""
PAUSE = 0.02
"""Seconds before each turn: threads of the one before go to sleep."""


class Died(Exception):
    """A competitor's process ended."""


class Process:
    """A competitor in its own process; see worker.py."""

    def __init__(
        self, name: str, python: str, device: str, threads: int, extra: dict[str, str]
    ) -> None:
        self.name = name
        count = str(threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
            "MKL_NUM_THREADS": count, "TENSORLOGIC_THREADS": count, "NUM_CPU_THREADS": count,
            "DEV": "CPU", "CPU": "1", **extra,
        }  # fmt: skip
        paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
        command = [python, "-m", "benchmarks.worker", name, device, count]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip
        hello = self._read()
        self.version: str | None = hello.get("version")
        self.missing: str | None = hello.get("missing")

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Died(f"the process of {self.name} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Died(f"the process of {self.name} ended") from None
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Entry:
    """What a competitor did in a row. `status`: ok, wrong, failed, unchecked (nothing to compare
    its result with) or left out."""

    name: str
    status: str
    times: list[float] = field(default_factory=list)
    error: float | None = None
    message: str = ""

    @property
    def seconds(self) -> float | None:
        return median(self.times) if self.times and self.status in ("ok", "unchecked") else None


@dataclass
class Result:
    """A row that has run: an entry for each competitor, and the machine's rates meanwhile."""

    row: Row
    entries: list[Entry]
    rates: dict[str, float]
    reliable: bool

    def entry(self, name: str) -> Entry | None:
        return next((e for e in self.entries if e.name == name), None)

    @property
    def best_peer(self) -> Entry | None:
        """The fastest of the others whose result is right."""
        rivals = [e for e in self.entries if e.name != OURS and e.name not in UNCOUNTED]
        timed = [e for e in rivals if e.seconds is not None]
        return min(timed, key=lambda e: e.seconds or 0.0, default=None)

    def ratio(self, entry: Entry) -> float | None:
        """How often the entry fits into the best peer's time: above 1 it is faster."""
        best = self.best_peer
        if best is None or best.seconds is None or not entry.seconds:
            return None
        return best.seconds / entry.seconds

    @property
    def limit(self) -> float | None:
        """Seconds that the machine needs at least: bytes over bandwidth, flops over peak."""
        times = [
            amount / self.rates[rate]
            for amount, rate in ((self.row.moved, "bandwidth"), (self.row.flops, "peak"))
            if amount and rate in self.rates
        ]
        return max(times, default=None)

    def of_limit(self, entry: Entry) -> float | None:
        """The limit over the entry's time: 1 is all that the machine can do."""
        if self.limit is None or not entry.seconds:
            return None
        return self.limit / entry.seconds

    @property
    def counts(self) -> bool:
        """Whether a claim can rest on it: we and a peer are right, and the machine was as usual."""
        ours = self.entry(OURS)
        mine = ours is not None and ours.seconds is not None
        return mine and self.best_peer is not None and self.reliable


class Machine:
    """What the machine can do at best, measured anew in each round."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def sample(self) -> dict[str, float]:
        """Rates now: "peak" in flops and "bandwidth" in bytes a second, and what shows whether they
        can be believed."""
        return {}

    def rates(self, samples: Sequence[dict[str, float]]) -> dict[str, float]:
        names = {n for s in samples for n in s}
        return {n: median(s[n] for s in samples if n in s) for n in sorted(names)}

    def reliable(self, rates: dict[str, float]) -> bool:
        """Whether all threads together have about as many times the peak of one."""
        if self.threads == 1 or "peak of one" not in rates:
            return True
        return 0.9 <= rates["peak"] / rates["peak of one"] / self.threads <= 1.1


class Harness:
    """The competitors of one run. `pythons` names the interpreter of some of them."""

    def __init__(
        self, device: str, threads: int, peers: Sequence[str], pythons: dict[str, str],
        machine: Callable[[Harness], Machine], rounds: int, turn: float = TURN,
    ) -> None:  # fmt: skip
        self.device, self.threads = device, threads
        self.rounds, self.turn = rounds, turn
        self.processes: dict[str, Process] = {}
        self.missing: dict[str, str] = {}
        self._pythons = pythons
        self._spare: list[Process] = []
        for name in (OURS, *peers):
            self._start(name)
        self.machine = machine(self)

    def spare(self, name: str) -> Process:
        """One more process of a competitor, which takes no part in rows."""
        self._spare.append(self._process(name))
        return self._spare[-1]

    def _process(self, name: str) -> Process:
        family = name.split(".")[0].split()[0]
        python = self._pythons.get(name) or self._pythons.get(family) or sys.executable
        own = {"TENSORLOGIC_VENDOR": "0"} if name == OURS else {}
        return Process(name, python, self.device, self.threads, own)

    def _start(self, name: str) -> None:
        try:
            process = self._process(name)
        except (Died, OSError) as e:
            self.missing[name] = str(e)
            return
        if process.missing is not None:
            self.missing[name] = process.missing
            process.close()
        else:
            self.processes[name] = process

    @property
    def versions(self) -> dict[str, str]:
        return {name: str(p.version) for name, p in self.processes.items()}

    def close(self) -> None:
        for process in (*self.processes.values(), *self._spare):
            process.close()

    # ---- one row ----

    def run(self, row: Row) -> Result:
        work = files.prepare(row.as_dict())
        entries, values, firsts = [], {}, {}
        for name in list(self.processes):
            if name in row.without or (name == "tensorlogic vendor" and row.kind != "matmul"):
                continue
            entry, answer = self._prepare(name, work)
            if entry is not None:
                entries.append(entry)
                if entry.status == "ok":
                    firsts[name] = answer["first"]
                    if "values" in answer:
                        values[name] = answer
        self._check(row, work, entries, values)
        samples = self._rounds([e for e in entries if e.status in ("ok", "unchecked")], firsts)
        for name in list(self.processes):
            self._ask(name, do="drop")
        rates = self.machine.rates(samples)
        return Result(row, entries, rates, self.machine.reliable(rates))

    def _ask(self, name: str, **request: Any) -> dict[str, Any]:
        """An answer; a process that ended is started anew for the next row."""
        try:
            return self.processes[name].ask(**request)
        except Died as e:
            self.processes.pop(name).close()
            self._start(name)
            return {"failed": str(e)}

    def _prepare(self, name: str, work: dict[str, Any]) -> tuple[Entry | None, dict[str, Any]]:
        answer = self._ask(name, do="prepare", kind=work["kind"], sizes=work["sizes"])
        if "unsupported" in answer:
            return None, answer
        if "failed" in answer:
            return Entry(name, "failed", message=answer["failed"]), answer
        return Entry(name, "ok"), answer

    def _check(
        self, row: Row, work: dict[str, Any], entries: list[Entry], values: dict[str, Any]
    ) -> None:
        """Compare what was computed with the oracle, or where there is none with a peer's."""
        if not values:
            return
        kind = KINDS[row.kind]
        found = {name: _array(a) for name, a in values.items()}
        reference = None
        if kind.expected is not None and kind.length is not None:
            sizes = work["sizes"]
            expected = kind.expected(sizes, kind.inputs(sizes), picks(kind.length(sizes)))
        else:
            reference = next((n for n in found if n != OURS), None)
            expected = None if reference is None else found[reference]
        for e in entries:
            if e.name not in found or e.status != "ok":
                continue
            if expected is None:
                e.status = "unchecked"
            elif e.name != reference:
                e.error = error(found[e.name], expected)
                if not e.error <= row.tolerance:
                    e.status = "wrong"
                    e.message = f"error {e.error:.2g}, at most {row.tolerance:.2g} is allowed"

    def _rounds(self, entries: list[Entry], firsts: dict[str, float]) -> list[dict[str, float]]:
        samples = []
        for number in range(self.rounds):
            samples.append(self.machine.sample())
            turned = number % max(len(entries), 1)
            for e in entries[turned:] + entries[:turned]:
                if firsts[e.name] > SLOW and e.times:
                    continue
                time.sleep(PAUSE)
                answer = self._ask(e.name, do="time", seconds=self.turn)
                if "failed" in answer:
                    e.status, e.message = "failed", answer["failed"]
                    firsts[e.name] = float("inf")
                    e.times.append(float("inf"))
                else:
                    e.times += answer["times"]
        samples.append(self.machine.sample())
        return samples


def _array(answer: dict[str, Any]) -> Any:
    data = base64.b64decode(answer["values"])
    return np.frombuffer(data, np.float32).reshape(answer["shown"])
