"""docs/conformance.md says what these tests have found."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import RECORD, WHOLE
from tests.conformance.table import NAMES, PATH


def test_the_table_is_current(request: pytest.FixtureRequest) -> None:
    """If not: `python -m tests.docs.generate`."""
    record, stash = request.config.stash[RECORD], request.config.stash
    page = PATH.read_text(encoding="utf-8") if PATH.exists() else ""
    if not stash[WHOLE]:
        assert record.missing_from(page) == []
        return
    assert set(NAMES) <= set(record.found), "no test is about some ops: see table.Record"
    if request.config.getoption("--write-table", default=False):
        PATH.write_text(record.page(page), encoding="utf-8")
    else:
        assert page == record.page(page)
