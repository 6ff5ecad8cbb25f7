"""Quantized types against the reference of the gguf package, bit for bit."""

from __future__ import annotations

from math import prod

import gguf
import numpy as np
import pytest

from tensorlogic.kernels.check import check_expr
from tensorlogic.kernels.ir import Buffer, index, load, nodes_of
from tensorlogic.quants import QUANTS, dequantize
from tests.blocks import decoded, gguf_type, halves, random_blocks


@pytest.mark.parametrize("name", QUANTS)
def test_equals_the_gguf_package(name: str) -> None:
    row = QUANTS[name]
    kind = gguf_type(name)
    assert gguf.GGML_QUANT_SIZES[kind] == (row.block, row.nbytes)
    assert prod(row.digits) == row.block
    blocks = random_blocks(name, 20_000)
    expected = decoded(name, blocks)
    found = dequantize(row, blocks)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", QUANTS)
def test_decode_is_well_typed_ir(name: str) -> None:
    row = QUANTS[name]
    byte, half = Buffer("byte", "u8"), Buffer("half", "f16")
    digits = tuple(index(f"d{k}") for k in range(len(row.digits)))
    root = row.decode(lambda at: load(byte, at), lambda at: load(half, at), digits)
    for e in nodes_of(root):
        check_expr(e)
    assert root.dtype == "f32"


def test_leading_axes_are_kept() -> None:
    blocks = random_blocks("q4_0", 24)
    np.testing.assert_array_equal(
        dequantize(QUANTS["q4_0"], blocks.reshape(2, 3, 4, 18)).reshape(24, 32),
        dequantize(QUANTS["q4_0"], blocks),
    )


def test_blocks_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"q4_0 are uint8\[\.\.\., 18\], not uint8\[3, 20\]"):
        dequantize(QUANTS["q4_0"], np.zeros((3, 20), np.uint8))


def test_where_the_halves_of_a_block_stand() -> None:
    assert halves("q4_1") == [0, 2]
    assert halves("q6_K") == [208]
