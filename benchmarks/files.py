"""Model files that rows read: written once into a folder, the same bytes everywhere."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
POOL = 16_777_213
"""Random bytes that blocks are repeated from; a prime."""


@dataclass(frozen=True)
class Block:
    """A quantized type: weights in a block and its bytes, where float16 scales lie, and what they
    are for weights of standard deviation 1 if all other bits are random."""

    length: int
    size: int
    scales: tuple[tuple[int, float], ...] = ()


BLOCKS = {
    "F16": Block(1, 2),
    "Q4_0": Block(32, 18, ((0, 1 / 4.6),)),
    "Q8_0": Block(32, 34, ((0, 1 / 73.9),)),
    "Q4_K": Block(256, 144, ((0, 1 / 258), (2, 7.5 / 258))),
    "Q6_K": Block(256, 210, ((208, 1 / 166),)),
}


@cache
def _pool() -> Array:
    return np.random.default_rng(7).integers(0, 256, POOL, dtype=np.uint8)


def blocks(type_: str, rows: int, columns: int, deviation: float, seed: int) -> Array:
    """Rows of random blocks, uint8 [rows, bytes], or float16 numbers [rows, columns]."""
    size = rows * columns
    if type_ == "F16":
        pool = np.random.default_rng(8).standard_normal(1_048_573, dtype=np.float32)
        start = seed * 7919 % len(pool)
        numbers = np.resize(np.roll(pool, start) * np.float32(deviation), size)
        return numbers.astype(np.float16).reshape(rows, columns)
    block = BLOCKS[type_]
    count = size // block.length
    data = np.resize(np.roll(_pool(), seed * 7919 % POOL), count * block.size)
    data = data.reshape(count, block.size)
    if type_ == "Q6_K":
        data[:, 192:208] = data[:, 192:208] & 15 | 1  # scales: of one sign, so that d is not tiny
    for at, value in block.scales:
        scale = np.array([value * deviation], np.float16).view(np.uint8)
        data[:, at : at + 2] = scale
    return data.reshape(rows, -1)


def folder() -> Path:
    """Where files are kept: BENCHMARKS_FOLDER, or a folder among the temporary files."""
    path = Path(os.environ.get("BENCHMARKS_FOLDER") or Path(tempfile.gettempdir()) / "benchmarks")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _written(name: str, write: Any) -> str:
    """The path of a file, which `write(path)` makes where it is missing."""
    path = folder() / name
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        write(part)
        part.replace(path)
    return str(path)


def _writer(path: Path, architecture: str) -> Any:
    import gguf

    return gguf.GGUFWriter(path, architecture)


def _add(writer: Any, type_: str, name: str, data: Array) -> None:
    import gguf

    if data.dtype == np.uint8:
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[type_])
    else:
        writer.add_tensor(name, data)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def products_file(type_: str, n: int, k: int, count: int) -> str:
    """A GGUF file with `count` matrices [n, k]: w0, and w1, ... with its rows turned."""

    def write(path: Path) -> None:
        writer = _writer(path, "benchmark")
        first = blocks(type_, n, k, k**-0.5, 1)
        for i in range(count):
            _add(writer, type_, f"w{i}", np.roll(first, turned(i), axis=0))
        _finish(writer)

    return _written(f"products_{type_}_{n}_{k}_{count}.gguf", write)


def tensors_of(path: str) -> dict[str, Any]:
    """The tensors of a GGUF file as the format's own reader shows them."""
    import gguf

    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def turned(i: int) -> int:
    """How many rows matrix i of a file of products is turned by."""
    return 7919 * i


def decoded(path: str) -> Array:
    """The first matrix of a file of products in float32, decoded by the format's own package."""
    from gguf.quants import dequantize

    tensor = tensors_of(path)["w0"]
    return dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder of the Llama kind; those of TinyLlama-1.1B unless given."""

    name: str = "TinyLlama shape"
    width: int = 2048
    hidden: int = 5632
    heads: int = 32
    kv: int = 4
    layers: int = 22
    vocabulary: int = 32000

    @classmethod
    def small(cls) -> Shape:
        return cls("small decoder", 256, 512, 4, 2, 2, 512)

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def weights(self) -> int:
        """Weights that a token is multiplied with."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv * self.head
        layer = attention + 3 * self.width * self.hidden
        return layer * self.layers + self.vocabulary * self.width


def decoder_file(shape: Shape, type_: str) -> str:
    """A GGUF file of the "llama" architecture with random weights."""
    name = f"decoder_{shape.layers}_{shape.width}_{type_}.gguf"
    return _written(name, lambda path: _write_decoder(path, shape, type_))


def _write_decoder(path: Path, shape: Shape, type_: str) -> None:
    w = _writer(path, "llama")
    w.add_context_length(2048)
    w.add_embedding_length(shape.width)
    w.add_block_count(shape.layers)
    w.add_feed_forward_length(shape.hidden)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv)
    w.add_rope_dimension_count(shape.head)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(shape.vocabulary)
    _add_tokens(w, shape.vocabulary)
    seed = 0

    def weight(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        nonlocal seed
        seed += 1
        _add(w, type_, f"{name}.weight", blocks(type_, rows, columns, gain * columns**-0.5, seed))

    def norm(name: str) -> None:
        w.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))

    width, keys = shape.width, shape.kv * shape.head
    weight("token_embd", shape.vocabulary, width)
    for i in range(shape.layers):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        weight(f"blk.{i}.attn_q", width, width)
        weight(f"blk.{i}.attn_k", keys, width)
        weight(f"blk.{i}.attn_v", keys, width)
        weight(f"blk.{i}.attn_output", width, width, 0.2)
        weight(f"blk.{i}.ffn_gate", shape.hidden, width)
        weight(f"blk.{i}.ffn_up", shape.hidden, width)
        weight(f"blk.{i}.ffn_down", width, shape.hidden, 0.2)
    norm("output_norm")
    weight("output", shape.vocabulary, width)
    _finish(w)


def _add_tokens(w: Any, count: int) -> None:
    """A vocabulary without meaning that llama.cpp accepts."""
    bytes_ = [f"<0x{i:02X}>".encode() for i in range(256)]
    rest = [f"\u2581t{i}".encode() for i in range(count - 259)]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([b"<unk>", b"<s>", b"</s>", *bytes_, *rest])
    w.add_token_scores([0.0] * 259 + [-float(i) for i in range(count - 259)])
    w.add_token_types([2, 3, 3, *[6] * 256, *[1] * (count - 259)])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)


@cache
def _tensor_of_file(side: int) -> Array:
    pool = np.random.default_rng(9).standard_normal(1_048_573, dtype=np.float32)
    return np.resize(pool * np.float32(0.5) + np.float32(0.1), side * side).astype(np.float16)


def tensor_of_file(sizes: dict[str, Any]) -> Array:
    """The values of every tensor of `tensors_file`, each time begun elsewhere."""
    return _tensor_of_file(sizes["side"])


def tensors_file(sizes: dict[str, Any]) -> str:
    """A SafeTensors file of float16 matrices."""
    side, count = sizes["side"], sizes["tensors"]

    def write(path: Path) -> None:
        from safetensors.numpy import save_file

        values = tensor_of_file(sizes)
        rolled = {f"t{i:02}": np.roll(values, i * 977).reshape(side, side) for i in range(count)}
        save_file(rolled, path)

    return _written(f"tensors_{side}_{count}.safetensors", write)


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose sizes name the file that it reads, made where it is missing."""
    sizes = dict(row["sizes"])
    if row["kind"] == "quantized":
        sizes["file"] = products_file(*(sizes[k] for k in ("type", "n", "k", "count")))
    elif row["kind"] in ("open_file", "sum_file"):
        sizes["file"] = tensors_file(sizes)
    elif row["kind"] in ("decode", "prefill"):
        sizes["file"] = decoder_file(Shape.small() if sizes["quick"] else Shape(), sizes["type"])
    return {**row, "sizes": sizes}
