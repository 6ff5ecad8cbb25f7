"""Conversions on the host, and the overflow gate: nothing is lost in silence.

A value beyond ±65504 on its way into float16, or outside the range of an integer dtype, is an error
that names the tensor and counts the values, unless the caller chose what to do with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.dtypes import FLOAT16_MAX, DType, float16
from tensorlogic.errors import DTypeError, IndexRangeError, RangeError

ON_OVERFLOW = ("raise", "saturate", "inf", "float32")
CHUNK = 1 << 20


def check_on_overflow(value: str) -> str:
    if value not in ON_OVERFLOW:
        raise ValueError(f"on_overflow is one of {', '.join(ON_OVERFLOW)}, not {value!r}")
    return value


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"


def overflow_error(name: str, count: int, largest: float) -> RangeError:
    """The gate's error for a float16 tensor."""
    what = f"tensor `{name}`" if name else "the tensor"
    return RangeError(
        f"{what} has {_values(count)} beyond ±65504, which float16 cannot hold "
        f"(largest {largest:g}); "
        f'choose on_overflow="saturate", "inf" or "float32"'
    )


def count_overflow(array: NDArray[Any]) -> tuple[int, float]:
    """How many finite values lie beyond ±65504, and the largest magnitude; in bounded memory."""
    flat = array.reshape(-1)
    count, largest = 0, 0.0
    for i in range(0, flat.size, CHUNK):
        part = np.abs(flat[i : i + CHUNK].astype(np.float64))
        beyond = part[(part > FLOAT16_MAX) & np.isfinite(part)]
        if beyond.size:
            count += beyond.size
            largest = max(largest, float(beyond.max()))
    return count, largest


def to_float16(array: NDArray[Any], on_overflow: str, name: str) -> NDArray[np.float16]:
    """Values of a wider dtype as float16; NaN and infinities that are in the data are kept."""
    if array.dtype == np.float16:
        return array
    if on_overflow == "raise":
        count, largest = count_overflow(array)
        if count:
            raise overflow_error(name, count, largest)
    elif on_overflow == "saturate":
        finite = np.isfinite(array.astype(np.float64))
        array = np.where(finite, np.clip(array, -FLOAT16_MAX, FLOAT16_MAX), array)
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def convert_array(
    array: NDArray[Any], dtype: DType, on_overflow: str = "raise", name: str = ""
) -> NDArray[Any]:
    """`array` as `dtype`, range-checked; raises RangeError and DTypeError."""
    target = dtype.numpy
    if array.dtype == target:
        return array
    if array.dtype.kind not in "fiubV":
        kind = "text" if array.dtype.kind in "US" else array.dtype
        raise DTypeError(f"{kind} values do not convert to {dtype}")
    if dtype is float16:
        return to_float16(array, on_overflow, name)
    what = f"tensor `{name}`" if name else "the tensor"
    if dtype.kind == "int":
        info = np.iinfo(target)
        if array.dtype.kind not in "iub":
            array = array.astype(np.float64)
            if not np.all(array == np.trunc(array)):
                raise DTypeError(f"{what} has values that are not whole; round before {dtype}")
        outside = (array < info.min) | (array > info.max)
        if np.any(outside):
            raise RangeError(
                f"{what} has {_values(int(outside.sum()))} outside {dtype} "
                f"[{info.min}, {info.max}], first {array[outside].reshape(-1)[0]}"
            )
    with np.errstate(over="ignore"):
        return array.astype(target)


def check_index(indices: NDArray[Any], lowest: int, size: int, site: str, op: str) -> None:
    """Raises IndexRangeError naming the first index outside [lowest, size)."""
    outside = (indices < lowest) | (indices >= size)
    if np.any(outside):
        first = int(np.asarray(indices)[outside].reshape(-1)[0])
        count = int(outside.sum())
        more = "" if count == 1 else f" ({count} such)"
        raise IndexRangeError(
            f"{site}: {op}: index {first} is outside an axis of size {size}{more}"
        )


def check_length(length: int, size: int, site: str) -> None:
    """Raises IndexRangeError for an attention length that the keys do not have."""
    if not 0 <= length <= size:
        raise IndexRangeError(f"{site}: attention: length {length} is outside [0, {size}]")


def check_update(at: int, count: int, size: int, site: str) -> None:
    """Raises IndexRangeError for an update that would leave its axis."""
    if not 0 <= at <= size - count:
        rows = "1 row" if count == 1 else f"{count} rows"
        raise IndexRangeError(
            f"{site}: update: {rows} from {at} on would leave an axis of size {size}"
        )
