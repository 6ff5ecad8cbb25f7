"""The tables of the documents say what the package does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tensorlogic.dtypes import DTYPES, DType, promote
from tensorlogic.errors import DTypeError
from tensorlogic.quants import QUANTS
from tests.docs.markdown import table, tables

ROOT = Path(__file__).parents[2]


def test_tables_are_read() -> None:
    text = "x\n| | a |\n|---|:-:|\n| **`b`** | c d |\n\n| e |\n"
    assert tables(text) == [[["", "a"], ["b", "c d"]], [["e"]]]
    rows = [["a", "b"], ["1 | 2", ""]]
    assert tables(table(rows[0], rows[1:])) == [rows]


def _promoted(a: DType, b: DType) -> str:
    try:
        return promote("add", a, b).name
    except DTypeError:
        return "error"


def test_promotion() -> None:
    (head, *rows), *_ = tables((ROOT / "docs" / "dtypes.md").read_text("utf-8"))
    computing = [dtype.name for dtype in DTYPES.values() if dtype.computes]
    assert sorted(head[1:]) == sorted(row[0] for row in rows) == sorted(computing)
    for name, *cells in rows:
        assert cells == [_promoted(DTYPES[name], DTYPES[other]) for other in head[1:]], name


def test_storage_dtypes_are_listed() -> None:
    text = (ROOT / "docs" / "dtypes.md").read_text("utf-8")
    section = text.split("## Storage dtypes")[1].split("Tensors keep")[0]
    storage = [dtype.name for dtype in DTYPES.values() if not dtype.computes]
    assert sorted(re.findall("`(.*?)`", section)) == sorted(storage)


def test_quantized_types_are_listed() -> None:
    (row,) = (
        r for t in tables((ROOT / "README.md").read_text("utf-8")) for r in t if "GGUF" in r[0]
    )
    assert set(re.findall(r"\bQ\w+", row[1])) == {name.upper() for name in QUANTS}


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    always, extras = tables((ROOT / "docs" / "design" / "dependencies.md").read_text("utf-8"))
    named = sorted(row[0] for row in always[1:])
    assert named == sorted(_name(d) for d in project["dependencies"])
    told: dict[str, list[str]] = {}
    extra = ""
    for name, packages, reason in extras[1:]:
        extra = name or extra
        told.setdefault(extra, []).extend(packages.split(", "))
        assert reason or extra == "dev"
    declared = {
        name: [_name(d) for d in packages]
        for name, packages in project["optional-dependencies"].items()
    }
    assert declared.pop("dev") == ["tensorlogic"]
    assert told.pop("dev") == ["the test extra"]
    assert {n: sorted(p) for n, p in told.items()} == {n: sorted(p) for n, p in declared.items()}


def _name(requirement: str) -> str:
    """`gguf` of `gguf>=0.17`."""
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found[0]


@pytest.mark.parametrize(("requirement", "name"), [("a-b[c]>=1", "a-b"), ("d; x == 'y'", "d")])
def test_names_of_requirements(requirement: str, name: str) -> None:
    assert _name(requirement) == name
