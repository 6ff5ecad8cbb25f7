"""The fixtures that users get: devices that are there, and files that load."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tensorlogic as tl
from tensorlogic.testing import assert_close
from tensorlogic.testing.fixtures import tiny_gguf, tiny_safetensors, tl_device

__all__ = ["tiny_gguf", "tiny_safetensors", "tl_device"]

SEEN: list[str] = []


def test_a_device(tl_device: str) -> None:
    assert (tl.ones([2], device=tl_device) + 1).tolist() == [2, 2]
    SEEN.append(tl_device)


def test_all_devices_that_are_there_were_asked() -> None:
    assert {d.name for d in tl.devices() if d.available} == set(SEEN)


def test_tiny_models(tiny_gguf: Path, tiny_safetensors: Path, tl_device: str) -> None:
    outputs = []
    for path, storage in ((tiny_gguf, "q4_0"), (tiny_safetensors, "float16")):
        model = tl.load_model(path)
        weight, bias = model["layer.0.weight"], model["layer.0.bias"]
        assert (weight.storage, weight.dtype, bias.dtype) == (storage, tl.float16, tl.float16)
        outputs.append(tl.linear(tl.ones([2, 32], device=tl_device), weight, bias))
    assert_close(outputs[0], np.full((2, 4), 16.0) + np.arange(4.0))
    assert_close(outputs[1], outputs[0])
