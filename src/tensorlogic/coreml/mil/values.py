"""The values of a running ML program: tensors, and what is known without computing them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import record
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import DType, bool_, float16, float32, int32
from tensorlogic.tensor import Tensor, wrap

Array = NDArray[Any]

DTYPES: dict[str, DType] = {
    "fp16": float16,
    "fp32": float32,
    "fp64": float32,
    "bf16": float32,
    "bool": bool_,
    **{f"{sign}int{bits}": int32 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": int32 for bits in (1, 2, 3, 4, 6)},
    "int4": int32,
}
"""In what the values of MIL's dtypes are computed."""


class Known:
    """A value that does not depend on the inputs of a call: an array in memory. As a tensor it is
    the same one each time, so that a device keeps its copy."""

    __slots__ = ("_tensor", "array")

    def __init__(self, array: Array):
        self.array = array
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        if self._tensor is None:
            self._tensor = from_numpy(_computing(self.array))
        return self._tensor


def _computing(array: Array) -> Array:
    """The array in a dtype that computes: float16 and bool stay, other floats and ints do not."""
    if array.dtype in (np.float16, np.float32, np.int32, np.bool_):
        return array
    return array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)


Value = Tensor | Known | str | tuple[Any, ...]


def like(x: Tensor, dtype: DType) -> Tensor:
    """x in another dtype, by the rules of Core ML: float16 overflows to infinity."""
    return wrap(record.cast(x._node, dtype))


def wide(x: Tensor) -> Tensor:
    """A float tensor as float32; an int stays what it is."""
    return like(x, float32) if x.dtype is float16 else x
