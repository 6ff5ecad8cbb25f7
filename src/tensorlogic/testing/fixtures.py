"""Fixtures for pytest. Import them in a `conftest.py`, and its tests can take them:

from tensorlogic.testing.fixtures import tiny_gguf, tiny_safetensors, tl_device
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorlogic.devices.base import devices
from tensorlogic.testing.tiny import write_gguf, write_safetensors


@pytest.fixture(params=[d.name for d in devices() if d.available])
def tl_device(request: pytest.FixtureRequest) -> str:
    """The name of a device: a test runs once for each that this machine has."""
    return str(request.param)


@pytest.fixture
def tiny_safetensors(tmp_path: Path) -> Path:
    """A SafeTensors file: `layer.0.weight` [4, 32] and `layer.0.bias` [4], both float16."""
    return write_safetensors(tmp_path / "tiny.safetensors")


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A GGUF file: `layer.0.weight` [4, 32] in Q4_0 and `layer.0.bias` [4]."""
    return write_gguf(tmp_path / "tiny.gguf")
