"""The limits of a machine, asked of competitors in the run itself."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import OURS, Harness, Machine

READ = 256 << 20
"""Bytes read at a time: more than caches hold."""
COPY = 1 << 30
SIDE = 8192


class Probe:
    """A process of its own that measures, by preparing work that measures itself."""

    def __init__(self, harness: Harness, name: str) -> None:
        self._process = harness.spare(name)

    def seconds(self, kind: str, **sizes: Any) -> float:
        """The best of two measurements: what another process takes away is no limit."""
        return min(self._first(kind, sizes) for _ in range(2))

    def _first(self, kind: str, sizes: dict[str, Any]) -> float:
        answer = self._process.ask(do="prepare", kind=kind, sizes=sizes)
        if "first" not in answer:
            raise RuntimeError(f"{kind}: {answer}")
        seconds: float = answer["first"]
        return seconds


class Cpu(Machine):
    """Multiply-adds on one and on all threads, and reading from memory."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness.threads)
        self._probe = Probe(harness, OURS)

    def sample(self) -> dict[str, float]:
        from benchmarks.ceilings import fma_flops
        from tensorlogic.devices.native import host

        lanes, rates = host().lanes, {}
        for count, which in ((1, " of one"), (self.threads, "")):
            fma, read = (self._probe.seconds(k, threads=count, size=READ) for k in ("fma", "read"))
            rates["peak" + which] = fma_flops(count, lanes) / fma
            rates["bandwidth" + which] = READ / read
        return rates


class Gpu(Machine):
    """What PyTorch copies and multiplies in a second, by NVIDIA's own libraries."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(1)
        there = "torch" in harness.processes and harness.device != "cpu"
        self._probe = Probe(harness, "torch") if there else None

    def sample(self) -> dict[str, float]:
        if self._probe is None:
            return {}
        copy, product = self._probe.seconds("copy", size=COPY), self._probe.seconds("rate", n=SIDE)
        return {"bandwidth": 2 * COPY / copy, "peak": 2 * SIDE**3 / product}
