"""The GPU text of typical kernels, as a reader sees it."""

from __future__ import annotations

import pytest

from tensorlogic.codegen import clike, gpu_matmul
from tensorlogic.codegen.dialects import BODY_MARK
from tests.gpu_texts import matmul_text
from tests.kernels.samples import SAMPLES

SHARED = [
    "gelu_chain",
    "broadcast_pad",
    "softmax",
    "argmax",
    "cumsum",
    "split",
    "gather",
    "attention",
    "prologue",
]
WIDTH = {"split": 32}


@pytest.mark.parametrize("name", SHARED)
def test_bodies(name, golden):
    text = clike.render(SAMPLES[name].kernel, name, "metal", width=WIDTH.get(name, 256))
    golden(f"gpu/{name}.txt", text.split(BODY_MARK)[1])


@pytest.mark.parametrize("name", ["f16_k_k", "f16_padded"])
def test_matmul_body(name, golden):
    text = matmul_text(name, "metal", gpu_matmul.SMALL)
    golden(f"gpu/matmul_{name}.txt", text.split(BODY_MARK)[1])


@pytest.mark.parametrize("dialect", ["metal", "cuda"])
def test_preludes(dialect, golden):
    text = matmul_text("f16_k_k", dialect, gpu_matmul.SMALL)
    golden(f"gpu/prelude_{dialect}.txt", text.split(BODY_MARK)[0])
