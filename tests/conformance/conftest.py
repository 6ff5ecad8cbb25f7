"""What the conformance tests share."""

from __future__ import annotations

import pytest

import tensorlogic.functions  # noqa: F401  # completes Tensor, however a test makes its tensors


@pytest.fixture(params=["cpu", "reference"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)
