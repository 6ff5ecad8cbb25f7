"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlogic import record
from tensorlogic.creation import arange, tensor
from tensorlogic.dtypes import float32
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.functions.registry import floats, method
from tensorlogic.graph import broadcast, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


@method
def rope(x: Tensor, positions: Any = 0, base: float = 10000.0, layout: str = "halves") -> Tensor:
    """x [..., T, D] with pairs of the last axis turned by their position (Su et al. 2021).

    Pair i turns by position * base**(-2 i / D) radians, computed in float32. layout says which two
    make a pair: "halves" i and i + D/2 (Llama in Hugging Face files, NeoX), "pairs" 2 i and 2 i + 1
    (the paper, Llama in GGUF files). positions: int32 of shape [T] or one that broadcasts to
    [..., T]; an int, or an int32 tensor without axes, is the position of the first of T. base is
    fixed when a function is traced.

    >>> import tensorlogic as tl
    >>> tl.rope(tl.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.54052734375, 0.84130859375]]
    """
    node = floats("rope", x)
    if layout not in ("halves", "pairs"):
        raise ValueError(f'rope: layout is "halves" or "pairs", not {layout!r}')
    if len(node.shape) < 2 or node.shape[-1] % 2:
        raise ShapeError(f"rope takes [..., T, D] with D even, not {shape_text(node.shape)}")
    lead, width = node.shape[:-1], node.shape[-1]
    half = width // 2
    place = as_node(positions)
    if place.dtype.kind != "int":
        raise DTypeError(f"rope: positions are int32, not {place.dtype}")
    place = record.integer_index("rope", place)
    if not place.shape:
        place = record.elementwise(OPS["add"], arange(lead[-1])._node, place)
    if broadcast("rope", place.shape, lead) != lead:
        raise ShapeError(
            f"rope: positions {shape_text(place.shape)} do not broadcast to {shape_text(lead)}"
        )
    # The two of a pair stand along an axis of size 2; flipped along it, each meets the other.
    axis = -2 if layout == "halves" else -1
    pair, along = ((2, 1), (1, half)) if layout == "halves" else ((1, 2), (half, 1))
    both = (2, half) if layout == "halves" else (half, 2)
    wide = record.reshape(record.cast(node, float32), (*lead, *both))
    other = record.part(wide, axis, 1, 2, -1)
    rates = float(base) ** (-2 * np.arange(half) / width)
    rate = tensor(rates.reshape(along), float32)._node
    sign = tensor(np.array([-1.0, 1.0]).reshape(pair), float32)._node
    place = record.cast(record.reshape(place, (*place.shape, 1, 1)), float32)
    angle = record.elementwise(OPS["mul"], place, rate)
    cosine, sine = (record.elementwise(OPS[name], angle) for name in ("cos", "sin"))
    turned = record.elementwise(
        OPS["add"],
        record.elementwise(OPS["mul"], wide, cosine),
        record.elementwise(OPS["mul"], other, record.elementwise(OPS["mul"], sine, sign)),
    )
    return wrap(record.cast(record.reshape(turned, node.shape), node.dtype))
