"""The table of a run, and its JSON."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Entry, Harness, Result
from benchmarks.rows import Row

COLUMNS = ("row", "time", "rate", "best peer", "its time", "ratio", "of limit",
           "errors", "note")  # fmt: skip

WIDTH = 160
"""Columns of the table in a file."""


def seconds_text(seconds: float | None) -> str:
    """A time with three digits."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def _rate(result: Result, seconds: float | None) -> str:
    """What the row is about: tokens, bytes or flops a second."""
    row = result.row
    if not seconds:
        return "-"
    if row.items:
        return f"{row.items / seconds:.1f} tokens/s"
    by_flops = row.flops and (not row.moved or _bound_by_flops(result))
    amount, unit = (row.flops, "FLOP/s") if by_flops else (row.moved, "B/s")
    if not amount:
        return "-"
    exponent = int(math.log10(max(amount / seconds, 1)) // 3)
    return f"{amount / seconds / 1000**exponent:.3g} {'_kMGTP'[exponent].strip('_')}{unit}"


def _bound_by_flops(result: Result) -> bool:
    row, rates = result.row, result.rates
    if not rates:
        return row.kind == "matmul" or row.sizes.get("rows", 1) > 1
    return row.flops / rates["peak"] > row.moved / rates["bandwidth"]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _errors(entry: Entry, best: Entry | None) -> str:
    """Our error and the best peer's, against float64."""
    pair = [e.error for e in (entry, best) if e is not None]
    return " / ".join("-" if e is None else f"{e:.1g}" for e in pair)


def _note(result: Result, entry: Entry) -> str:
    if entry.message:
        return f"{entry.status}: {entry.message}"
    notes = [] if result.reliable else ["unreliable"]
    if result.best_peer is None:
        notes.append("no peer")
    if entry.status == "unchecked":
        notes.append("unchecked")
    return ", ".join(notes)


def lines(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The cells of the table: a line for each row, and one for products of the vendor's library."""
    table = []
    for result in results:
        best = result.best_peer
        for name, suffix in ((OURS, ""), ("tensorlogic vendor", " (vendor)")):
            entry = result.entry(name)
            if entry is None:
                continue
            table.append((
                result.row.name.strip() + suffix,
                seconds_text(entry.seconds),
                _rate(result, entry.seconds),
                best.name if best else "-",
                seconds_text(best.seconds if best else None),
                _ratio(result.ratio(entry)),
                _ratio(result.of_limit(entry)),
                _errors(entry, best),
                _note(result, entry),
            ))  # fmt: skip
    return table


def markdown(results: Sequence[Result]) -> str:
    """The table as documents have it."""
    cells = [COLUMNS, ("---",) * len(COLUMNS), *lines(results)]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in cells)


def show(results: Sequence[Result], head: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(title=head, title_justify="left")
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if i in (0, 3, 8) else "right")
    group = ""
    for result in results:
        if group and result.row.group != group:
            table.add_section()
        group = result.row.group
        for cells in lines([result]):
            table.add_row(*cells)
    console.print(table)


def machine() -> dict[str, Any]:
    """What ran it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": name, "cores": os.cpu_count(), "system": platform.platform(),
            "load": load}  # fmt: skip


def as_json(results: Sequence[Result], harness: Harness) -> dict[str, Any]:
    """All that was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "device": harness.device,
        "threads": harness.threads,
        "rounds": harness.rounds,
        "versions": harness.versions,
        "missing": harness.missing,
        "rows": [_row(r) for r in results],
    }


def loaded(data: dict[str, Any]) -> list[Result]:
    """The results of a run from its JSON; of the samples, their median is what was kept."""
    names = [f.name for f in fields(Row)]
    results = []
    for row in data["rows"]:
        entries = [
            Entry(e["name"], e["status"], [e["seconds"]] if e["seconds"] is not None else [],
                  e["error"], e["message"])
            for e in row["entries"]
        ]  # fmt: skip
        own = Row(**{n: row[n] for n in names})
        results.append(Result(own, entries, row["rates"], row["reliable"]))
    return results


def _row(result: Result) -> dict[str, Any]:
    best = result.best_peer
    return {
        **result.row.as_dict(),
        "rates": result.rates,
        "limit": result.limit,
        "reliable": result.reliable,
        "counts": result.counts,
        "best_peer": best.name if best else None,
        "entries": [_entry(result, e) for e in result.entries],
    }


def _entry(result: Result, e: Entry) -> dict[str, Any]:
    return {
        "name": e.name,
        "status": e.status,
        "seconds": e.seconds,
        "samples": len(e.times),
        "least": min(e.times) if e.seconds is not None else None,
        "error": None if e.error is None or math.isinf(e.error) else e.error,
        "message": e.message,
        "ratio": result.ratio(e),
        "of_limit": result.of_limit(e),
    }
