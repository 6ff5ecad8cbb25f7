"""`python -m benchmarks [GROUP...]`: measures, prints one table, writes JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import CPU_PEERS, GPU_PEERS, TURN, Harness, Result
from benchmarks.machines import Cpu, Gpu
from benchmarks.rows import GROUPS, Row, rows_of

QUICK_TURN = 0.02


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("groups", nargs="*", metavar="GROUP", default=["cpu"],
                   help=f"cpu (default: all but gpu), or some of: {', '.join(GROUPS)}")  # fmt: skip
    p.add_argument("--quick", action="store_true", help="tiny sizes: to try it out, not to measure")
    p.add_argument("--device", help="where rows of the group gpu run; cuda if not given")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON",
                   help="the interpreter that has a peer: torch=/path/to/python")  # fmt: skip
    p.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave a peer out"
    )
    p.add_argument("--rows", default="", help="only rows with this in their names")
    p.add_argument("--rounds", type=int, default=0, help="turns of each competitor; 5 (quick: 2)")
    p.add_argument("--threads", type=int, default=0, help="threads; all cores of this process")
    p.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="where JSON goes")
    p.add_argument("--markdown", type=Path, help="where the table goes as Markdown")
    p.add_argument("--of", action="append", default=[], type=Path, metavar="JSON",
                   help="measure nothing: show what runs wrote before")  # fmt: skip
    return p


def _shown(paths: Sequence[Path]) -> list[Result]:
    """The rows of runs that are over."""
    results: list[Result] = []
    for path in paths:
        for group, part in json.loads(path.read_text(encoding="utf-8")).items():
            done = report.loaded(part)
            report.show(done, f"{path}, {group}: {part['date']}, {part['machine']['processor']}")
            results += done
    return results


def _threads(given: int) -> int:
    if given:
        return given
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pythons(given: Sequence[str]) -> dict[str, str]:
    """The interpreter of each peer that was named, by its name or that of its library."""
    known = {*CPU_PEERS, *(name.split()[0].split(".")[0] for name in CPU_PEERS)}
    pairs = [g.split("=", 1) for g in given]
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in known:
            sys.exit(f"--peer takes NAME=PYTHON with one of {', '.join(sorted(known))}")
    return dict(pairs)


def _head(harness: Harness) -> str:
    rates = harness.machine.rates([harness.machine.sample() for _ in range(3)])
    shown = [
        f"{name} {value / 1e9:.4g} {'GB/s' if 'band' in name else 'GFLOP/s'}"
        for name, value in rates.items()
    ]
    versions = ", ".join(f"{n} {v}" for n, v in harness.versions.items())
    return f"{report.machine()['processor']}, {harness.threads} threads; {versions}\n" + "; ".join(
        shown
    )


def _run(
    rows: Sequence[Row], harness: Harness, save: Callable[[list[Result]], None]
) -> list[Result]:
    """Run rows; what there is so far is saved after each, for a run that is cut short."""
    results: list[Result] = []
    for row in rows:
        start = time.perf_counter()
        results.append(harness.run(row))
        save(results)
        cells = "  ".join(c for line in report.lines(results[-1:]) for c in line[1:7])
        print(f"{row.name}: {cells}  [{time.perf_counter() - start:.1f} s]", file=sys.stderr)
    return results


def _measure(
    group: str, rows: Sequence[Row], options: argparse.Namespace, parts: dict[str, Any]
) -> list[Result]:
    """Run the rows of one device, and print their table."""
    gpu = group == "gpu"
    peers = [p for p in (GPU_PEERS if gpu else CPU_PEERS) if p not in options.without]
    harness = Harness(
        (options.device or "cuda") if gpu else "cpu", _threads(options.threads), peers,
        _pythons(options.peer), Gpu if gpu else Cpu,
        options.rounds or (2 if options.quick else 5), QUICK_TURN if options.quick else TURN,
    )  # fmt: skip

    def save(done: list[Result]) -> None:
        parts[group] = report.as_json(done, harness)
        options.json.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")

    try:
        head = _head(harness)
        done = _run(rows, harness, save)
        report.show(done, head)
        for name, why in harness.missing.items():
            print(f"not here: {name}: {why}")
        return done
    finally:
        harness.close()


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    unknown = set(options.groups) - {*GROUPS, "cpu"}
    if unknown:
        sys.exit(f"no group {', '.join(sorted(unknown))}; there are cpu, {', '.join(GROUPS)}")
    rows = [r for r in rows_of(options.groups, options.quick) if options.rows in r.name]
    results = _shown(options.of)
    parts: dict[str, Any] = {}
    for group in ("cpu", "gpu"):
        own = [r for r in rows if (r.group == "gpu") == (group == "gpu")]
        if own and not options.of:
            results += _measure(group, own, options, parts)
    if options.markdown:
        options.markdown.write_text(report.markdown(results) + "\n", encoding="utf-8")
    wrong = [e for r in results for e in r.entries if e.status in ("wrong", "failed")]
    for e in wrong:
        print(f"{e.status}: {e.name}: {e.message}", file=sys.stderr)
    return int(any(e.name.startswith("tensorlogic") for e in wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
