"""What schedules have to know of the device that will run them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensorlogic.quants import QUANTS


@dataclass(frozen=True)
class Traits:
    """`gpu`: whether threads of a group share out vector loops (Metal, CUDA) or lanes of a core.

    `borders`: whether products over windows read them beyond the borders of what is stored, so that
    nothing padded is; for others a padded operand is stored.
    `library`: whether large plain products are left to one, which stores rows as they are.
    `block_operands` are the quantized types of which the device's product kernels take b as blocks.
    `fold_rows`: products of so many rows at most with weights along their depth are folds over the
    weights, fused like any reduction; what has more rows is left to the product kernels.
    `shared_dots`: whether the parts of a launch share the text of rows of blocks times halfs.
    `pivot`: how many elements of a row its mean and variance are summed about, in one loop; 0: in
    two.
    `parts`: those of a long reduction, whatever the number of threads.
    """

    gpu: bool = False
    borders: bool = False
    library: bool = False
    block_operands: frozenset[str] = frozenset()
    fold_rows: int = 4
    shared_dots: bool = False
    pivot: int = 0
    parts: int = 64


CPU = Traits(block_operands=frozenset(QUANTS), fold_rows=1, pivot=64)
GPU = Traits(gpu=True, borders=True, block_operands=frozenset(QUANTS), parts=512)
CUDA = replace(GPU, library=True, shared_dots=True, pivot=4)
