"""The record of the conformance tests where pytest-xdist spreads them over processes.

Each worker hands over what it has found when it ends; the process that started them joins it, and
compares the document with it once all have ended. tests/conftest.py has these hooks, since that
process loads no conftest further down.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.table import PATH, Record

KEY = "conformance"
_JOINED = pytest.StashKey[Record]()
_FAULT = pytest.StashKey[str]()


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def hand_over(config: pytest.Config, record: Record) -> None:
    """To the process that started this one, if this is a worker and ran all of its share."""
    if is_worker(config):
        config.workeroutput[KEY] = record.data()  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended."""
    data = getattr(node, "workeroutput", {}).get(KEY)
    if data is not None:
        node.config.stash.setdefault(_JOINED, Record()).merge(data)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    joined = session.config.stash.get(_JOINED, None)
    if joined is not None and exitstatus == 0:
        fault = session.config.stash[_FAULT] = joined.fault(PATH.read_text(encoding="utf-8"))
        if fault:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if fault := config.stash.get(_FAULT, ""):
        terminalreporter.write_line(fault, red=True)
