"""The decoder of examples/smollm2.py against the model in float32, on weights expanded before.

The files in data/ hold the tokens of greedy decoding there, and the logarithms (as float16) of the
probabilities of the first.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tensorlogic as tl
from examples.smollm2 import QUESTION, empty, generate, step, text
from tensorlogic.devices.base import REGISTRY
from tensorlogic.testing.models import fetch

DATA = Path(__file__).parent / "data"
EXACT: dict[str, Any] = json.loads((DATA / "smollm2_exact.json").read_text("utf-8"))
EXPECTED: NDArray[np.float16] = np.load(DATA / "smollm2_exact.npz")["log_probabilities"]
BOUND = 1e-4
"""On the divergence of the probabilities from the exact ones, in nats."""


@pytest.fixture(scope="module")
def smollm2() -> tl.Model:
    return tl.load_model(fetch("smollm2"))


def _first(model: tl.Model, i: int, device: str, layers: int = 30) -> NDArray[np.float64]:
    """The logits of the token after a prompt."""
    ids = tl.tensor(EXACT["ids"][i], dtype=tl.int32, device=device)
    logits, _ = step(model, ids, 0, empty(model, device)[:layers])
    return logits.numpy().astype(np.float64)


def _divergence(logits: NDArray[np.float64], i: int) -> float:
    """The divergence of Kullback and Leibler of the softmax of logits from the exact one."""
    expected = EXPECTED[i].astype(np.float64)
    top = logits.max()
    found = logits - top - np.log(np.exp(logits - top).sum())
    return float((np.exp(expected) * (expected - found)).sum())


def test_the_question_is_the_first_prompt(smollm2: tl.Model) -> None:
    assert EXACT["ids"][0] == QUESTION
    shown = text(smollm2, QUESTION)
    assert shown.endswith(
        f"<|im_start|>user\n{EXACT['prompts'][0]}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_text_of_any_bytes(smollm2: tl.Model) -> None:
    ids = [27302, 7466, 34878, 85, 28, 649, 33777, 47526]
    assert text(smollm2, ids) == "Größe, emoji 🙂"


@pytest.mark.parametrize("i", range(2), ids=EXACT["prompts"])
def test_greedy_tokens(smollm2: tl.Model, i: int) -> None:
    expected = EXACT["tokens"][i]
    found = list(islice(generate(smollm2, EXACT["ids"][i]), len(expected) + (i == 0)))
    assert found == expected
    assert EXACT["texts"][i].startswith(text(smollm2, found).removesuffix("<|im_end|>"))


@pytest.mark.parametrize("i", range(2), ids=EXACT["prompts"])
def test_probabilities(smollm2: tl.Model, i: int) -> None:
    assert abs(_divergence(_first(smollm2, i, "cpu"), i)) < BOUND


def test_the_first_token_on_reference(smollm2: tl.Model) -> None:
    logits = _first(smollm2, 0, "reference")
    assert logits.argmax() == EXACT["tokens"][0][0]
    assert abs(_divergence(logits, 0)) < BOUND


def test_a_model_without_its_last_layer_is_told_apart(smollm2: tl.Model) -> None:
    assert _divergence(_first(smollm2, 0, "cpu", layers=29), 0) > 100 * BOUND


def test_a_later_token_compiles_nothing(smollm2: tl.Model) -> None:
    cpu = REGISTRY.get("cpu")
    answer = generate(smollm2, QUESTION)
    next(answer), next(answer)
    compiled, traces = cpu.compiled, step.traces
    assert [*answer] == EXACT["tokens"][0][2:]
    assert (cpu.compiled, step.traces) == (compiled, traces)
