"""Real model files, SmolLM2 (GGUF) and MiniLM (SafeTensors), against other readers of them."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

import tensorlogic as tl
from tensorlogic.testing.models import fetch


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return fetch("smollm2")


@pytest.fixture(scope="module")
def minilm() -> Path:
    return fetch("minilm")


def test_smollm2_says_what_it_is(smollm2: Path) -> None:
    model = tl.load_model(smollm2)
    assert repr(model) == f"Model({smollm2.name}: GGUF, llama, Q4_1, 272 tensors)"
    metadata = model.metadata
    assert metadata["llama.block_count"] == 30
    assert len(metadata["tokenizer.ggml.tokens"]) == 49_152
    assert metadata["tokenizer.ggml.tokens"][1] == "<|im_start|>"
    assert metadata["tokenizer.chat_template"].startswith("{% for message in messages %}")
    storages = [model._entries[n].storage for n in model]
    counts = {s: storages.count(s) for s in set(storages)}
    assert counts == {"q4_1": 210, "float32": 61, "q8_0": 1}
    assert model.summary().splitlines()[-1] == "272 tensors, 134,515,008 values, 96,576,768 bytes"


def test_smollm2_opens_in_no_time_and_memory(smollm2: Path) -> None:
    tl.load_model(smollm2)
    began = time.perf_counter()
    tl.load_model(smollm2)
    assert time.perf_counter() - began < 0.25
    tracemalloc.start()
    model = tl.load_model(smollm2)
    tensors = list(model.values())
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tensors) == 272
    assert grown < 4 << 20


def test_smollm2_values_are_those_of_the_gguf_package(smollm2: Path) -> None:
    model = tl.load_model(smollm2)
    wanted = ("token_embd.weight", "blk.0.attn_q.weight", "blk.29.ffn_down.weight")
    for name in (*wanted, "output_norm.weight"):
        entry = model._entries[name]
        kind = gguf.GGMLQuantizationType[entry.storage.upper().replace("FLOAT", "F")]
        expected = gguf.quants.dequantize(entry.view(), kind).reshape(entry.shape)
        tensor = model[name]
        assert tensor.dtype is tl.float16
        assert tensor.shape == entry.shape
        found = tensor.dequantize().numpy()
        np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_minilm_values_are_those_of_the_safetensors_package(minilm: Path) -> None:
    model = tl.load_model(minilm)
    arrays = safetensors.numpy.load_file(minilm)
    assert set(model) == set(arrays)
    for name, array in arrays.items():
        tensor = model[name]
        assert tensor.shape == array.shape
        if array.dtype == np.int64:
            assert tensor.storage == "int64"
            np.testing.assert_array_equal(tensor.numpy(), array)
        else:
            assert tensor.dtype is tl.float16
            np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float16))
    report = model.summary(check=True).splitlines()
    assert report[-1] == "104 tensors, 22,713,728 values, 90,856,960 bytes"


def test_minilm_as_a_folder_knows_its_configuration(minilm: Path) -> None:
    model = tl.load_model(minilm.parent)
    assert model.metadata.architecture == "bert"
    assert model.metadata["config.json"]["hidden_size"] == 384


def test_minilm_is_saved_and_read_back(minilm: Path, tmp_path: Path) -> None:
    path = tmp_path / "minilm.safetensors"
    model = tl.load_model(minilm)
    tl.save_model(model, path)
    before, after = safetensors.numpy.load_file(minilm), safetensors.numpy.load_file(path)
    assert set(before) == set(after)
    for name, array in before.items():
        expected = array if array.dtype == np.int64 else array.astype(np.float16)
        assert after[name].dtype == expected.dtype
        np.testing.assert_array_equal(after[name], expected)
    assert dict(tl.load_model(path).metadata) == dict(model.metadata) == {"format": "pt"}
