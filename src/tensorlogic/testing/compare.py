"""Results against what was expected of them, with tolerances in units of the last place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.tensor import Tensor

Array = NDArray[Any]
DEFAULT_ULPS = {"float16": 1.0, "float32": 4.0, "float64": 4.0}
"""What `assert_close` allows by the dtype of the result; other dtypes have to be equal."""
_DIGITS = {"float16": 10, "float32": 23, "float64": 52}
_SMALLEST_NORMAL = {"float16": 2.0**-14, "float32": 2.0**-126, "float64": 2.0**-1022}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    ulps: float | None = None,
    rtol: float | None = None,
    atol: Any = None,
    what: str = "",
) -> None:
    """Raises AssertionError, with a report, unless each value is close to the expected one.

    actual, expected: tensors, arrays, lists or numbers of one shape; best is an `expected` in
    float64. A value is close if it is within `ulps`, or within atol + rtol * |expected|. NaN is
    close to NaN only, an infinity to the same one, unless it stands beside the largest float16.

    ulps: units in the last place of the dtype of `actual`. float16 is counted in values from the
    expected one rounded to float16: the default of 1 allows its neighbours. The default of float32
    is 4; ints and bools have none. rtol and atol: 0 if None; atol may be an array. what: the first
    words of the report.

    >>> import tensorlogic as tl
    >>> assert_close(tl.tensor([0.1, 0.2]) * 3, [0.3, 0.6])
    >>> assert_close(tl.tensor([1.0, 2.0, 4.0]), [1.0, 2.5, 4.0], what="halves")
    Traceback (most recent call last):
    AssertionError: halves: 1 of 3 values is not close
      actual:    float16[3]
      expected:  float64[3]
      allowed:   1 ulp
      the worst: 2.0 at [1], expected 2.5: 256 ulps away
    """
    got, want = _array(actual), _array(expected)
    title = f"{what}: " if what else ""
    sides = f"\n  actual:    {_facts(got)}\n  expected:  {_facts(want)}"
    if got.shape != want.shape:
        raise AssertionError(f"{title}the shapes differ{sides}")
    allowed = DEFAULT_ULPS.get(got.dtype.name, 0.0) if ulps is None else ulps
    error = ulps_apart(got, want)
    bad = error > allowed
    if rtol is not None or atol is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            away = np.abs(got.astype(np.float64) - want)
            bound = (0 if atol is None else np.asarray(atol)) + (rtol or 0) * np.abs(want)
            bad &= ~(np.isfinite(want) & (away <= bound))
    if not bad.any():
        return
    at = np.unravel_index(np.argmax(np.where(bad, error, -1)), got.shape)
    place = ", ".join(str(i) for i in at)
    count = int(bad.sum())
    bounds = [] if got.dtype.name not in _DIGITS else [f"{allowed:g} ulp{'s' * (allowed != 1)}"]
    bounds += [] if rtol is None else [f"rtol {rtol:g}"]
    bounds += [] if atol is None else [f"atol {np.max(atol, initial=0):g}"]
    distance = f": {error[at]:.6g} ulps away" if np.isfinite(error[at]) and bounds else ""
    raise AssertionError(
        f"{title}{count} of {bad.size} values {'is' if count == 1 else 'are'} not close{sides}"
        f"\n  allowed:   {' or '.join(bounds) or 'no difference'}"
        f"\n  the worst: {got[at]!s} at [{place}], expected {want[at]!s}{distance}"
    )


def ulps_apart(got: Array, want: Array) -> Array:
    """How far values are from those wanted, in units of the last place of got's dtype; of other
    than floats 0 where they are equal, else 1."""
    if got.dtype.name not in _DIGITS:
        return np.asarray(got != want, np.float64)
    return neighbour_distance(got, want) if got.dtype == np.float16 else ulp_error(got, want)


def ulp_error(got: Array, want: Array) -> Array:
    """|got - want| in units of the last place of `want` in got's dtype; inf where only one is
    finite, where the infinities differ, or where only one is NaN; 0 where both are the same."""
    exact = np.asarray(want, np.float64)
    target = _rounded(exact, got.dtype)
    name = got.dtype.name
    with np.errstate(invalid="ignore", over="ignore"):
        wide = got.astype(np.float64)
        size = np.maximum(np.abs(np.where(np.isfinite(target), target, 1)), _SMALLEST_NORMAL[name])
        ulp = 2.0 ** (np.floor(np.log2(size.astype(np.float64))) - _DIGITS[name])
        error = np.abs(wide - exact) / ulp
    both_nan = np.isnan(wide) & np.isnan(exact)
    same = both_nan | (np.isinf(target) & (got == target))
    odd = np.isnan(wide) | np.isnan(exact) | ~np.isfinite(target) | ~np.isfinite(wide)
    return np.where(same, 0.0, np.where(odd, np.inf, error))


def neighbour_distance(got: Array, want: Array) -> Array:
    """How many float16 values lie between got and `want` rounded; inf where only one is NaN."""
    target = _rounded(want, got.dtype)
    distance = np.abs(_rank(target) - _rank(got)).astype(np.float64)
    nan_got, nan_want = np.isnan(got), np.isnan(target)
    return np.where(nan_got & nan_want, 0.0, np.where(nan_got ^ nan_want, np.inf, distance))


def _rank(halves: Array) -> Array:
    """float16 values as integers in their order: neighbours differ by one, -0 equals 0."""
    bits = halves.view(np.int16).astype(np.int64)
    return np.where(bits < 0, -(1 << 15) - bits, bits)


def _rounded(want: Array, dtype: np.dtype[Any]) -> Array:
    """float64 rounded once to `dtype`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(want, np.float64).astype(dtype)


def _array(value: Any) -> Array:
    """A tensor or anything like an array; bfloat16 and float8 as the float32 that they are."""
    array = np.asarray(value.numpy() if isinstance(value, Tensor) else value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _facts(array: Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"
