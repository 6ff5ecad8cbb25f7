"""examples/smollm2_linear.tl, the main job of README.md, against NumPy on the same weights."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import tensorlogic as tl
from tensorlogic.testing.models import fetch

ROOT = Path(__file__).parents[2]
TOKENS = [504, 3575, 282, 4649, 314]


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float64]:
    """The program's result by NumPy, with weights read and expanded by the gguf package."""
    tensors = {t.name: t for t in gguf.GGUFReader(fetch("smollm2")).tensors}

    def values(name: str) -> NDArray[np.float64]:
        tensor = tensors[name]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return found.astype(np.float16).astype(np.float64)

    x = values("token_embd.weight")[TOKENS]
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * values("blk.0.attn_norm.weight")
    return x @ values("blk.0.attn_q.weight").T


def test_tokens_are_those_of_the_sentence() -> None:
    words = tl.load_model(fetch("smollm2")).metadata["tokenizer.ggml.tokens"]
    assert "".join(words[i] for i in TOKENS).replace("Ġ", " ") == "The capital of France is"


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_program(expected: NDArray[np.float64], device: str) -> None:
    text = (ROOT / "examples" / "smollm2_linear.tl").read_text("utf-8")
    assert str(TOKENS) in text
    text = text.replace("dtype: int32)", f'dtype: int32, device: "{device}")')
    printed: list[str] = []
    names = tl.lang.run(text, out=printed.append, environment={"path": str(fetch("smollm2"))})
    assert printed[0] == "Output shape: [5, 576]"
    output = names["output"]
    assert output.device == device
    np.testing.assert_allclose(output.numpy(), expected, rtol=4e-3, atol=4e-3)


def test_readme_shows_what_the_program_prints(expected: NDArray[np.float64]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"```text\nOutput shape: \[5, 576\]\n(.*?)```", readme, re.DOTALL)
    numbers = np.array(re.findall(r"-?\d+\.\d+", shown), float).reshape(5, 6)
    np.testing.assert_allclose(numbers, expected[:, [0, 1, 2, -3, -2, -1]], rtol=4e-3, atol=4e-3)
