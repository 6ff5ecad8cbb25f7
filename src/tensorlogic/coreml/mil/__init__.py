"""The operations of ML programs, written with tensorlogic's own: a row of a table for each."""

from __future__ import annotations

from tensorlogic.coreml.mil import (
    activations,
    arrange,
    boxes,
    chance,
    elementwise,
    images,
    lists,
    lookups,
    norms,
    order,
    products,
    quantized,
    recurrent,
    reductions,
    shapes,
    slices,
    windows,
)
from tensorlogic.coreml.mil.table import ROWS, Row

__all__ = [
    "ROWS",
    "Row",
    "activations",
    "arrange",
    "boxes",
    "chance",
    "elementwise",
    "images",
    "lists",
    "lookups",
    "norms",
    "order",
    "products",
    "quantized",
    "recurrent",
    "reductions",
    "shapes",
    "slices",
    "windows",
]
