"""What the words that a plan hands to its kernels stand for, and what a run of it gives."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tensorlogic.graph import Node
from tensorlogic.storage import Memory, Strided, contiguous_strides

_FLOAT, _WORD = struct.Struct("<f").pack, struct.Struct("<I").unpack


def number_word(value: float | int | bool, dtype: str) -> int:
    """A Python number as an i32, f32, ...: the 64-bit word that kernels take."""
    if dtype == "f32":
        bits: int = _WORD(_FLOAT(value))[0]
        return bits
    return int(value)


def leaf_memory(order: Sequence[Node | None], place: int) -> Memory:
    """The memory of the leaf at a place."""
    node = order[place]
    assert node is not None
    assert node.data is not None
    return node.data.memory


def result_data(memory: Memory, node: Node) -> Strided:
    return Strided(memory, node.dtype.name, 0, contiguous_strides(node.shape))


class CheckFailed(Exception):
    """A value check failed; `place` is that of the node that it belongs to."""

    def __init__(self, place: int):
        super().__init__(place)
        self.place = place
