"""docs/conformance.md says what these tests have found."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import RECORD, WHOLE
from tests.conformance.table import PATH
from tests.conformance.workers import is_worker


def test_the_table_is_current(request: pytest.FixtureRequest) -> None:
    """If not: `python -m tests.docs.generate`."""
    record, stash = request.config.stash[RECORD], request.config.stash
    page = PATH.read_text(encoding="utf-8") if PATH.exists() else ""
    if request.config.getoption("--write-table", default=False):
        assert stash[WHOLE], "the table is written by all of the conformance tests"
        PATH.write_text(record.page(page), encoding="utf-8")
    elif not stash[WHOLE] or is_worker(request.config):
        assert record.missing_from(page) == []
    else:
        assert record.fault(page) == ""
