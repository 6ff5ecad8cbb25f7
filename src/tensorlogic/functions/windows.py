"""Windows that slide along axes: what convolutions and pooling have in common.

An axis is padded and then seen as [positions, taps], which is a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from tensorlogic import record
from tensorlogic.errors import ShapeError
from tensorlogic.graph import Node, number, shape_text


@dataclass(frozen=True)
class Slide:
    """How a window of `taps` slides along an axis that is padded by (before, after)."""

    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def span(self) -> int:
        return self.dilation * (self.taps - 1) + 1

    def positions(self, size: int) -> int:
        return (size + self.before + self.after - self.span) // self.stride + 1


def ints_of(fn: str, name: str, value: Any, rank: int, low: int = 1) -> tuple[int, ...]:
    """An int for each spatial axis, from one int or several."""
    values = tuple(map(index, value if isinstance(value, list | tuple) else (value,) * rank))
    if len(values) != rank or any(v < low for v in values):
        raise ShapeError(f"{fn}: {name} is {rank} ints of at least {low}, or one, not {value!r}")
    return values


def _pads(fn: str, padding: Any, spans: Sequence[int], strides: Any) -> list[tuple[int, int]]:
    """(before, after) for each spatial axis."""
    rank = len(spans)
    if padding == "same":
        if any(s != 1 for s in strides):
            raise ShapeError(f'{fn}: padding="same" takes stride 1, not {strides}')
        return [((s - 1) // 2, s // 2) for s in spans]
    if isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f'{fn}: padding is ints, pairs, "same" or "valid", not {padding!r}')
        return [(0, 0)] * rank
    given = padding if isinstance(padding, list | tuple) else (padding,) * rank
    if rank == 1 and len(given) == 2:
        given = (given,)
    if len(given) != rank:
        raise ShapeError(f"{fn}: padding is for {rank} axes, not {padding!r}")
    pairs = [p if isinstance(p, list | tuple) else (p, p) for p in given]
    return [ints_of(fn, "padding", p, 2, 0) for p in pairs]  # type: ignore[misc]


def slides_of(
    fn: str, node: Node, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> list[Slide]:
    """The windows over the last axes; raises ShapeError where one does not fit."""
    rank = len(kernel)
    strides = ints_of(fn, "stride", stride, rank)
    dilations = ints_of(fn, "dilation", dilation, rank)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(fn, padding, spans, strides)
    each = zip(kernel, strides, dilations, pads, strict=True)
    found = [Slide(k, s, d, before, after) for k, s, d, (before, after) in each]
    for axis, s in enumerate(found, len(node.shape) - rank):
        if s.positions(node.shape[axis]) < 1 or s.taps < 1:
            raise ShapeError(
                f"{fn}: a window of {s.span} does not fit axis {axis} of "
                f"{shape_text(node.shape)}, padded by ({s.before}, {s.after})"
            )
    return found


def windows_of(x: Node, slides: Sequence[Slide], fill: float) -> Node:
    """[..., spatial] as [..., position, tap, position, tap, ...]."""
    first = len(x.shape) - len(slides)
    x = record.pad(x, [(0, 0)] * first + [(s.before, s.after) for s in slides], number(fill))
    for i, s in enumerate(slides):
        x = record.window(x, first + 2 * i, s.taps, s.stride, s.dilation)
    return x
