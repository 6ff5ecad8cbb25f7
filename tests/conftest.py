"""The emulated Metal device for all tests, and its faults as failures of the test they occur in."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tensorlogic.devices import plancache
from tests.metal import session

pytest_plugins = ("tests.conformance.workers",)

session.install()
plancache.ENABLED = False  # what a test changes in the scheduler is no part of a kept plan's name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs on an NVIDIA card can be chosen by `-m cuda`."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("tl_device", call.params.get("device")) == "cuda":
            item.add_marker("cuda")


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
