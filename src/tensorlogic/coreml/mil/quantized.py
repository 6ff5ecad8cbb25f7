"""Quantization of values at run time. Compressed weights are constants: see coreml/constexpr.py."""

from __future__ import annotations

import numpy as np

from tensorlogic.coreml.mil.table import row
from tensorlogic.coreml.mil.values import Array, like
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import float16, float32, int32
from tensorlogic.tensor import Tensor


def _along(values: Array, x: Tensor, axis: int | None) -> Tensor:
    """A scale or zero point laid along an axis of x, as float32."""
    shape = [1] * x.ndim
    if values.ndim and axis is not None:
        shape[axis] = -1
    return from_numpy(values.astype(np.float32).reshape(shape if values.ndim else ()))


@row()
def quantize(
    input: Tensor,
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: int | None = None,
) -> Tensor:
    """clip(round(input / scale) + zero_point), as an int8 or uint8 would hold it."""
    whole = (like(input, float32) / _along(scale, input, axis)).round()
    if zero_point is not None:
        whole = whole + _along(zero_point, input, axis)
    low, high = (0.0, 255.0) if output_dtype == "uint8" else (-128.0, 127.0)
    return like(whole.clip(low, high), int32)


@row()
def dequantize(
    input: Tensor, scale: Array, zero_point: Array | None = None, axis: int | None = None
) -> Tensor:
    """scale * (input - zero_point)"""
    values = like(input, float32)
    if zero_point is not None:
        values = values - _along(zero_point, input, axis)
    dtype = float16 if scale.dtype == np.float16 else float32
    return like(values * _along(scale, input, axis), dtype)
