"""What schedules have to know of the device that will run them."""

from __future__ import annotations

from dataclasses import dataclass

from tensorlogic.quants import QUANTS


@dataclass(frozen=True)
class Traits:
    """`gpu`: whether threads of a group share out vector loops (Metal, CUDA) or lanes of a core.

    `block_operands` are the quantized types of which the device's product kernels take b as blocks.
    """

    gpu: bool = False
    block_operands: frozenset[str] = frozenset()


CPU = Traits()
GPU = Traits(gpu=True, block_operands=frozenset(QUANTS))
