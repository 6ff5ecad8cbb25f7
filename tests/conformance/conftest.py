"""What the conformance tests share, and the record of what they found."""

from __future__ import annotations

from collections.abc import Generator

import pytest

import tensorlogic.functions  # noqa: F401  # completes Tensor, however a test makes its tensors
from tensorlogic.testing.fixtures import tl_device as device  # noqa: F401
from tests.conformance.table import FOLDER, Record
from tests.conformance.workers import hand_over

RECORD = pytest.StashKey[Record]()
WHOLE = pytest.StashKey[bool]()
"""Whether all of these tests run, so that the record is complete."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/conformance.md")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORD] = Record()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The table is compared last, once the others have run."""
    items.sort(key=lambda item: item.path == FOLDER / "test_table.py")
    every = set(FOLDER.glob("test_*.py")) <= {item.path for item in items}
    named = any("::" in argument for argument in config.args)
    config.stash[WHOLE] = config.stash.get(WHOLE, True) and every and not named


def pytest_deselected(items: list[pytest.Item]) -> None:
    items[0].config.stash[WHOLE] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.passed and isinstance(item, pytest.Function):
        item.config.stash[RECORD].add(item)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(WHOLE, False):
        hand_over(session.config, session.config.stash[RECORD])
