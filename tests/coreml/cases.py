"""Cases of the operations of MIL: what an operation gives for inputs, and who says so.

`expected` computes the results from the inputs as float32 (or int32, bool) arrays; where it is
None, coremltools' own value inference does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """`arguments` stay constants of the program. `half`: also run in float16. `ulps`: bound in
    units of the largest result. `build`: makes the operation of its inputs, where a call by its
    name with keywords would not do."""

    op: str
    inputs: dict[str, Array]
    arguments: dict[str, Any] = field(default_factory=dict)
    expected: Callable[..., Any] | None = None
    opset: int = 15
    half: bool = True
    ulps: float = 16.0
    name: str = ""
    build: Callable[..., Any] | None = None

    @property
    def label(self) -> str:
        shown = [str(v) for v in self.arguments.values() if isinstance(v, str | bool | int)]
        return "-".join([self.op, f"ios{self.opset}", self.name or "-".join(shown)]).rstrip("-")


CASES: list[Case] = []


def case(
    op: str,
    inputs: dict[str, Array],
    expected: Callable[..., Any] | None = None,
    *,
    opset: int = 15,
    half: bool = True,
    ulps: float = 16.0,
    name: str = "",
    build: Callable[..., Any] | None = None,
    **arguments: Any,
) -> None:
    CASES.append(Case(op, inputs, arguments, expected, opset, half, ulps, name, build))


_rng = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return _rng.standard_normal(shape).astype(np.float32)


def between(low: float, high: float, *shape: int) -> Array:
    return _rng.uniform(low, high, shape).astype(np.float32)


def ints(low: int, high: int, *shape: int) -> Array:
    return _rng.integers(low, high, shape).astype(np.int32)


def bools(*shape: int) -> Array:
    return np.asarray(_rng.random(shape) < 0.5)
