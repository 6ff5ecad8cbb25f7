"""What the conformance tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["cpu", "reference"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)
