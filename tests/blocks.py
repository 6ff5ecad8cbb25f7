"""Blocks of quantized types for the tests: random bytes, as gguf cannot quantize to every type."""

from __future__ import annotations

import gguf
import numpy as np

from tensorlogic.kernels.ir import Buffer, Expr, index, load
from tensorlogic.quants import QUANTS
from tests.compare import Array

SPECIAL_HALVES = np.array(
    [1, 0x83FF, 0x7C00, 0xFC00, 0x7E00, 0, 0x8000, 0x7BFF], np.uint16
)  # subnormal, infinite, NaN, zero and the largest


def gguf_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def halves(name: str) -> list[int]:
    """At which bytes of a block its float16 numbers stand: where `decode` reads them."""
    found: list[int] = []
    row = QUANTS[name]

    def half(at: Expr) -> Expr:
        found.append(at.attr)
        return load(Buffer("half", "f16"), at)

    byte = Buffer("byte", "u8")
    row.decode(
        lambda at: load(byte, at), half, tuple(index(f"d{k}") for k in range(len(row.digits)))
    )
    return sorted(set(found))


def random_blocks(name: str, count: int) -> Array:
    """Blocks of random bytes; each half takes all the special values in some of them."""
    row = QUANTS[name]
    blocks = np.random.default_rng(7).integers(0, 256, (count, row.nbytes), dtype=np.uint8)
    for k, at in enumerate(halves(name)):
        some = blocks[k * len(SPECIAL_HALVES) : (k + 1) * len(SPECIAL_HALVES)]
        some[:, at : at + 2] = SPECIAL_HALVES.view(np.uint8).reshape(-1, 2)[: len(some)]
    return blocks


def ordinary_blocks(name: str, count: int) -> Array:
    """Blocks of random bytes whose halves are finite numbers of an ordinary size."""
    rng = np.random.default_rng(12)
    blocks = rng.integers(0, 256, (count, QUANTS[name].nbytes), dtype=np.uint8)
    for at in halves(name):
        scales = rng.uniform(0.01, 0.02, count).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def decoded(name: str, blocks: Array) -> Array:
    """What the gguf package decodes, [..., block], in float32."""
    with np.errstate(all="ignore"):
        return np.asarray(gguf.quants.dequantize(blocks, gguf_type(name)))
