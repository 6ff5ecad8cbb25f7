"""Model files of a few hundred bytes: a linear layer in each format that is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tensorlogic.creation import tensor
from tensorlogic.model import Model, save_model

WEIGHT, BIAS = "layer.0.weight", "layer.0.bias"


def _layer() -> tuple[np.ndarray, np.ndarray]:
    """A weight [4, 32] of 0.5, which every quantized type holds exactly, and the bias 0 1 2 3."""
    return np.full((4, 32), 0.5, np.float32), np.arange(4, dtype=np.float32)


def write_safetensors(path: Path) -> Path:
    """A SafeTensors file with `layer.0.weight` and `layer.0.bias`, both float16."""
    weight, bias = _layer()
    save_model(Model({WEIGHT: tensor(weight), BIAS: tensor(bias)}), path)
    return path


def write_gguf(path: Path) -> Path:
    """A GGUF file of a model "llama" with a Q4_0 `layer.0.weight` and an F32 `layer.0.bias`."""
    import gguf

    weight, bias = _layer()
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(WEIGHT, gguf.quantize(weight, q4_0), raw_dtype=q4_0)
    writer.add_tensor(BIAS, bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
