"""Operands of products that are windows: which loops are channels, taps and positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorlogic.schedule.affine import Affine, LoopVar


def is_window(groups: Sequence[list[list[LoopVar]]]) -> bool:
    """Whether batches, columns and depth of b are those of windows: see `Matmul.windows`."""
    batch, cols, depth = groups
    several = len(cols) > 1 or len(depth) > 1
    return several and len(batch) <= 1 and len(cols) <= 2 and len(depth) <= 3


def window_numbers(groups: Sequence[list[list[LoopVar]]], at: Affine) -> list[int]:
    """WINDOW_PARAMS: what the inner digits of depth and columns count to, and their strides."""
    _, cols, depth = groups

    def inner(digits: list[list[LoopVar]], count: int) -> list[tuple[int, int]]:
        own = [(math.prod(v.extent for v in g), at.coefficient(g[-1])) for g in digits[1:]]
        return own + [(1, 0)] * (count - len(own))

    (k1, s1), (k2, s2) = inner(depth, 2)
    ((n1, t1),) = inner(cols, 1)
    return [k1, k2, s1, s2, n1, t1]
