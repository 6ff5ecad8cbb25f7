"""The encoder of examples/minilm.py against embeddings by the transformers package, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tensorlogic as tl
from examples.minilm import embed
from tensorlogic.devices.base import REGISTRY
from tensorlogic.testing.models import fetch

DATA = Path(__file__).parent / "data"
GOLDEN: dict[str, Any] = json.loads((DATA / "minilm_transformers.json").read_text())
EMBEDDINGS: NDArray[np.float32] = np.load(DATA / "minilm_transformers.npz")["embeddings"]
GPUS = [d.name for d in tl.devices() if d.available and d.name in ("metal", "cuda")]


@pytest.fixture(scope="module")
def minilm() -> tl.Model:
    return tl.load_model(fetch("minilm"))


def _embedding(model: tl.Model, ids: list[int], device: str) -> NDArray[np.float64]:
    return embed(model, tl.tensor(ids, dtype=tl.int32, device=device)).numpy().astype(np.float64)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("i", range(len(EMBEDDINGS)), ids=GOLDEN["sentences"])
def test_embedding(minilm: tl.Model, i: int, device: str) -> None:
    found = _embedding(minilm, GOLDEN["ids"][i], device)
    assert found.shape == (384,)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-3)
    assert found @ EMBEDDINGS[i] / np.linalg.norm(found) > 0.9999


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("i", [0, 1])
def test_embedding_on_a_gpu(minilm: tl.Model, i: int, device: str) -> None:
    """Metal: on an Apple GPU, or on the emulator."""
    found = _embedding(minilm, GOLDEN["ids"][i], device)
    assert found @ EMBEDDINGS[i] / np.linalg.norm(found) > 0.9999


def test_other_sentences_are_told_apart(minilm: tl.Model) -> None:
    """The bound of test_embedding is one that no other sentence meets."""
    found = _embedding(minilm, GOLDEN["ids"][0], "cpu")
    assert (EMBEDDINGS[1:] @ found).max() < 0.9


def test_sentences_of_other_lengths_compile_nothing(minilm: tl.Model) -> None:
    cpu = REGISTRY.get("cpu")
    tokens = GOLDEN["ids"][-1]
    _embedding(minilm, tokens[:5], "cpu")
    compiled = cpu.compiled
    for length in (6, 7, 5, 29):
        _embedding(minilm, tokens[:length], "cpu")
    assert cpu.compiled == compiled
