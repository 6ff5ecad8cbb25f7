"""The emulated Metal device for all tests, and its faults as failures of the test they occur in."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.metal import session

session.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    faults = session.take_faults()
    if faults:
        report.outcome = "failed"
        report.longrepr = "\n\n".join(("a kernel did something wrong:", *faults))
    return report


def pytest_sessionfinish() -> None:
    session.record()
