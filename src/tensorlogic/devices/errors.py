"""Value errors: what the status word of a plan stands for, found again on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorlogic.devices.reference import Reference, leaf_array
from tensorlogic.errors import TensorLogicError
from tensorlogic.graph import Node, topological


def value_error(checks: Sequence[tuple[str, Node]], counts: Sequence[int]) -> TensorLogicError:
    """The error of the first check that counted something, with the very values that failed.

    A kernel counts only that something was wrong; the values are looked up by computing the input
    of the check once more on the reference, which then raises.
    """
    for (_, node), count in zip(checks, counts, strict=True):
        if count:
            try:
                _recompute(node)
            except TensorLogicError as e:
                return e
    raise AssertionError(f"a check failed that holds on the reference: {list(counts)}")


def _recompute(node: Node) -> None:
    values: dict[int, np.ndarray] = {}  # type: ignore[type-arg]
    for n in topological([node]):
        values[id(n)] = leaf_array(n) if n.op is None else Reference.compute(n, values)


