"""The documents that are made from the code are those that the code would make."""

from __future__ import annotations

import pytest

import tensorlogic as tl
from tensorlogic import functions
from tests.conformance.table import NAMES, Evidence, Record
from tests.docs import api
from tests.docs.markdown import tables


def test_the_api_reference_is_current() -> None:
    """If not: `python -m tests.docs.generate`."""
    assert api.PATH.read_text(encoding="utf-8") == api.page()


def test_the_api_reference_names_everything() -> None:
    page = api.page()
    names = {row[0].split("(")[0] for t in tables(page) for row in t}
    assert {"random.uniform", "random.categorical"} <= names
    assert {*functions.FUNCTIONS, *dir(tl)} - names <= {
        *("__version__", "cpu", "gpu", "bool", "float16", "float32", "int32"),
        *(n for n in dir(tl) if isinstance(getattr(tl, n), tl.DType)),
    }
    assert all(
        cell for t in tables(page) if t[0] == ["name", "what it is"] for r in t for cell in r
    )


class _Item:
    """A test that passed, as the record sees it."""

    def __init__(self, **params: object) -> None:
        self.callspec = type("CallSpec", (), {"params": params})
        self.module = type("Module", (), {"VERIFIES": ("take",)})
        self.path = api.PATH.with_name("test_rows.py")


@pytest.mark.parametrize(
    ("params", "missing"),
    [
        ({"name": "exp", "dtype": "float32", "device": "cpu"}, []),
        ({"name": "exp", "dtype": "int32", "device": "cpu"}, ["exp"]),
        ({"name": "exp", "dtype": "float32", "device": "metal"}, ["exp"]),
        ({"row": tl.ops.OPS["log"], "dtype": "float32", "device": "cpu"}, ["log"]),
    ],
)
def test_what_a_table_lacks_is_found(params: dict[str, object], missing: list[str]) -> None:
    page = Record()
    page.found["exp"] = Evidence({"float32"}, {"cpu"}, {"rows"})
    page.found["take"] = Evidence({"float32", "int32"}, {"cpu", "metal"}, {"rows"})
    record = Record()
    record.add(_Item(**params))  # type: ignore[arg-type]
    assert record.missing_from(page.page()) == missing


def test_the_table_keeps_what_other_machines_found() -> None:
    first, second = Record(), Record()
    first.found["exp"] = Evidence({"float32"}, {"cpu", "cuda"}, {"rows"})
    second.found["exp"] = Evidence({"float32"}, {"cpu"}, {"rows"})
    assert second.page() != first.page()
    assert second.page(first.page()) == first.page()


def test_records_of_processes_are_joined() -> None:
    """As one of all tests; a table that says less, or more, is stale."""
    whole, joined = Record(), Record()
    for params in ({"dtype": "float32", "device": "cpu"}, {"dtype": "int32", "device": "metal"}):
        part = Record()
        for record in (whole, part):
            record.add(_Item(name="abs", **params))  # type: ignore[arg-type]
            for name in NAMES:
                record.found.setdefault(name, Evidence({"float32"}, {"cpu"}, {"rows"}))
        joined.merge(part.data())
    page = whole.page()
    assert joined.fault(page) == ""
    assert "stale" in joined.fault(page.replace("| abs | float32, int32 |", "| abs | float32 |"))
    assert "stale" in joined.fault(page.replace("| abs | float32", "| abs | float16, float32"))
    del joined.found["abs"]
    assert "no test is about abs" in joined.fault(page)
