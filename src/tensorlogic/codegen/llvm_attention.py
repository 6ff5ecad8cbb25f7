"""Attention for the CPU: one function for each `Attention`, with two bodies.

Where many rows share their keys, a unit of the parallel range is a block of `Tile.nr` rows of one
batch. Rows stand in lanes: scores are kept as [key][row] and sums as [col][row], so that maximum,
sum and rescaling are those of whole vectors, a block of scores is in the very order in which the
second product reads it, and keys and values are read by broadcasts in the order in which memory has
them. Only q and the result are transposed, once for each unit. Keys are taken a block at a time.

Where `few` rows share their keys, reading these is the cost: a unit is a batch or a part of its
keys, each vector of which is read and converted once for all rows. Lanes run along depth and width.

Both use micro-kernels in registers for the two products and kernels of the IR for what lies
between: copies that convert, masks, the softmax, the stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_attention_base import TILES, scratch_of, shares_keys
from tensorlogic.codegen.llvm_attention_few import FewRows
from tensorlogic.codegen.llvm_attention_many import ManyRows
from tensorlogic.kernels.spec import Attention

_FLOAT = 4
_CHUNK = 4096
"""Vector operations in a chunk of work, at least: about a microsecond."""


def attention_units(
    spec: Attention, sizes: Mapping[str, float], lanes: int
) -> tuple[int, int, int]:
    """(work, chunk, scratch bytes) of a launch: a chunk is worth waking a thread for."""
    batches, rows = int(sizes["batches"]), int(sizes["heads"] * sizes["queries"])
    few, tile = shares_keys(spec, lanes), TILES[lanes]
    work = batches * int(sizes["parts"]) * (1 if few else ceil(rows / tile.nr))
    at_once = rows if few else tile.nr
    cost = at_once * int(sizes["keys"] // sizes["parts"]) * (spec.depth + spec.width) // lanes
    return work, max(1, _CHUNK // max(cost, 1)), _FLOAT * scratch_of(spec, lanes).end


def attention_kernel(spec: Attention, name: str, lanes: int) -> str:
    """A module with the kernel `name` (its arguments: see llvm.py).

    The argument words are those of the spec: the addresses of its buffers, then its parameters.
    """
    module = Module()
    body = FewRows if shares_keys(spec, lanes) else ManyRows
    body(module, spec, name, lanes).write()
    return module.text()
