"""docs/conformance.md, written from what the conformance tests themselves have found right."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tensorlogic as tl
from tensorlogic import functions
from tensorlogic.dtypes import DTYPES
from tensorlogic.ops import OPS, Op
from tests.conformance.cases import Case
from tests.docs.api import first_line, tolerance
from tests.docs.markdown import table, tables

FOLDER = Path(__file__).parent
PATH = FOLDER.parents[1] / "docs" / "conformance.md"
NAMES = [*OPS, *(f for f in functions.FUNCTIONS if f not in OPS and f != "eval"), "update"]

COMMAND = "python -m tests.docs.generate"
Data = dict[str, list[list[str]]]

HEAD = f"""\
# Conformance

Written by `{COMMAND}` from the tests that passed. For every op: on which dtypes
and devices its tests ran, how far a float32 result may be from the exact one, computed in float64
(in units in the last place, or in those of the size of the sums behind it; a float16 result is the
exact one, rounded, or a neighbour), and which tests found that it is so.

`metal` was emulated ([what that shows](design/metal.md)). Besides, every op of this table is
printed for Metal and CUDA with each of its dtypes, and the text is checked by a compiler
(`tests/plans/test_printed.py`).

"""


@dataclass
class Evidence:
    """What was found of one op."""

    dtypes: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)

    def cells(self) -> tuple[str, str, str]:
        dtypes = [d for d in DTYPES if d in self.dtypes]
        return ", ".join(dtypes), ", ".join(sorted(self.devices)), ", ".join(sorted(self.tests))


class Record:
    """The evidence of one run. A test is about an op if it is parametrised by its row, by a case of
    it, or by its name, or if its module says so: `VERIFIES = ("update",)`."""

    def __init__(self) -> None:
        self.found: dict[str, Evidence] = {}

    def add(self, item: pytest.Function) -> None:
        """A test that passed."""
        given = item.callspec.params if hasattr(item, "callspec") else {}
        for name in {*getattr(item.module, "VERIFIES", ()), *_ops(given.values())}:
            evidence = self.found.setdefault(name, Evidence())
            evidence.dtypes |= {str(given["dtype"])} & set(DTYPES) if "dtype" in given else set()
            evidence.devices |= {given["device"]} if "device" in given else set()
            evidence.tests.add(item.path.stem.removeprefix("test_"))

    def data(self) -> Data:
        """For another process: op → its dtypes, devices and tests."""
        return {
            name: [sorted(e.dtypes), sorted(e.devices), sorted(e.tests)]
            for name, e in self.found.items()
        }

    def merge(self, data: Data) -> None:
        """What another process has found."""
        for name, (dtypes, devices, tests) in data.items():
            evidence = self.found.setdefault(name, Evidence())
            evidence.dtypes.update(dtypes)
            evidence.devices.update(devices)
            evidence.tests.update(tests)

    def fault(self, page: str) -> str:
        """What is wrong with the document, by a run of all of the tests; "" if nothing is."""
        if unseen := sorted({*NAMES} - {*self.found}):
            return f"no test is about {', '.join(unseen)}: see tests.conformance.table.Record"
        return "" if page == self.page(page) else f"{PATH.name} is stale: {COMMAND}"

    def page(self, old: str = "") -> str:
        """The document that this run would write; of devices that this machine does not have, it
        keeps what the old one says."""
        here = {d.name for d in tl.devices() if d.available}
        for row in (tables(old) or [[]])[0][1:]:
            self.found.setdefault(row[0], Evidence()).devices |= {*row[2].split(", ")} - {*here, ""}
        head = ("op", "dtypes", "devices", "tolerance", "tests")
        rows = [(name, *_row(name, self.found.get(name, Evidence()))) for name in NAMES]
        used = sorted(set().union(*(e.tests for e in self.found.values())))
        return (
            HEAD + table(head, rows) + "\n" + table(("tests", "what they do"), map(_purpose, used))
        )

    def missing_from(self, page: str) -> list[str]:
        """What this run, of some of the tests, has found and the document does not say."""
        documented = {row[0]: row for row in tables(page)[0]}
        missing = []
        for name, evidence in self.found.items():
            if name in NAMES:
                said = documented.get(name, [""] * 5)
                pairs = zip(evidence.cells(), (said[1], said[2], said[4]), strict=True)
                if any(set(new.split(", ")) - {*old.split(", "), ""} for new, old in pairs):
                    missing.append(name)
        return missing


def _ops(values: Iterator[object]) -> Iterator[str]:
    for v in values:
        if isinstance(v, Op):
            yield v.name
        elif isinstance(v, Case):
            yield v.function
        elif isinstance(v, str) and v in NAMES:
            yield v


def _row(name: str, evidence: Evidence) -> tuple[str, str, str, str]:
    dtypes, devices, tests = evidence.cells()
    return dtypes, devices, tolerance(name), tests


def _purpose(module: str) -> tuple[str, str]:
    found = importlib.import_module(f"tests.conformance.test_{module}")
    return f"[{module}](../tests/conformance/test_{module}.py)", first_line(found)
