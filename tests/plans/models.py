"""Small models of the shapes of the examples: MiniLM's encoder and a quantized Llama decoder."""

from __future__ import annotations

import gguf.quants
import numpy as np
from gguf import GGMLQuantizationType

import tensorlogic as tl
from examples import minilm
from tensorlogic.creation import from_storage
from tensorlogic.model import Metadata

WIDTH, HIDDEN, HEADS, GROUPS, HEAD, WORDS = 64, 96, 4, 2, 16, 50
TYPES = ("Q4_0", "Q4_1", "Q8_0")


def encoder(layers: int, seed: int = 0) -> tl.Model:
    """The tensors of MiniLM, its twelve heads 4 wide."""
    rng = np.random.default_rng(seed)
    width, hidden = minilm.HEADS * 4, 64
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(name: str, out: int, into: int) -> None:
        shapes.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    for name, rows in (("word", WORDS), ("position", 64), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, width)
    norm("embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{part}", width, width)
        dense(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", hidden, width)
        dense(f"{layer}.output.dense", width, hidden)
        norm(f"{layer}.output.LayerNorm")
    return tl.Model({n: tl.tensor(rng.standard_normal(s) * 0.2) for n, s in shapes.items()})


def quantized(values: np.ndarray, kind: str) -> tl.Tensor:
    blocks = gguf.quants.quantize(values.astype(np.float32), GGMLQuantizationType[kind])
    data = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
    return from_storage(data, values.shape, kind.lower(), "w")


def decoder(layers: int, device: str, seed: int = 0) -> tl.Model:
    """The tensors of SmolLM2, of several quantized types, and what its file says of it."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, tl.Tensor] = {}

    def dense(name: str, out: int, into: int, kind: str) -> None:
        values = rng.standard_normal((out, into)) * into**-0.5
        tensors[name] = quantized(values, kind).to(device)

    def norm(name: str) -> None:
        tensors[name] = tl.tensor(rng.uniform(0.5, 1.5, WIDTH), device=device)

    dense("token_embd.weight", WORDS, WIDTH, "Q8_0")
    norm("output_norm.weight")
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        for part, rows, kind in zip("qkv", (HEADS, GROUPS, GROUPS), TYPES, strict=True):
            dense(f"blk.{i}.attn_{part}.weight", rows * HEAD, WIDTH, kind)
        dense(f"blk.{i}.attn_output.weight", WIDTH, HEADS * HEAD, "Q4_0")
        dense(f"blk.{i}.ffn_gate.weight", HIDDEN, WIDTH, "Q4_0")
        dense(f"blk.{i}.ffn_up.weight", HIDDEN, WIDTH, "Q8_0")
        dense(f"blk.{i}.ffn_down.weight", WIDTH, HIDDEN, "Q4_1")
    model = tl.Model(tensors)
    model.metadata = Metadata(
        {
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.dimension_count": HEAD,
            "llama.rope.freq_base": 10000.0,
            "llama.attention.head_count_kv": GROUPS,
            "llama.block_count": layers,
        }
    )
    return model
