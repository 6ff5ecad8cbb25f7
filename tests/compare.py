"""Comparing results: by ulps against float64, and float16 by its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tensorlogic.devices.reference import Reference

Array = NDArray[Any]
_INTEGER = {"float16": (np.int16, 1 << 15), "float32": (np.int32, 1 << 31)}
_SMALLEST_NORMAL = {"float16": 2.0**-14, "float32": 2.0**-126}
_DIGITS = {"float16": 10, "float32": 23}


def rank(a: Array) -> Array:
    """Floats as integers in their order: neighbours differ by one, -0 equals 0."""
    integer, half = _INTEGER[a.dtype.name]
    bits = a.view(integer).astype(np.int64)
    return np.where(bits < 0, -half - bits, bits)


def rounded(want: Array, dtype: Any) -> Array:
    """float64 rounded once to `dtype`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(want, np.float64).astype(dtype)


def ulp_error(got: Array, want: Array) -> Array:
    """|got - want| in units of the last place of `want` in got's dtype; inf where only one is
    finite, where the infinities differ, or where only one is NaN; 0 where both are the same."""
    exact = np.asarray(want, np.float64)
    target = rounded(exact, got.dtype)
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
    """How many float16 values lie between got and `want` rounded; huge where only one is NaN."""
    target = rounded(want, got.dtype)
    distance = np.abs(rank(target) - rank(got)).astype(np.int64)
    nan_got, nan_want = np.isnan(got), np.isnan(target)
    return np.where(nan_got & nan_want, 0, np.where(nan_got ^ nan_want, 1 << 20, distance))


def assert_close(got: Array, want: Any, ulps: float = 4, scale: Any = None, what: str = "") -> None:
    """float16: `want` correctly rounded or a neighbour; float32: within `ulps`; others: equal.

    scale: the size of the sums behind the result, where they may cancel; an error of `ulps` float32
    ulps of it is allowed too.
    """
    want = np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    if got.dtype.kind != "f":
        bad = got != want
        size: Array = bad.astype(np.float64)
    elif got.dtype == np.float16:
        size = neighbour_distance(got, want)
        bad = size > 1
    else:
        size = ulp_error(got, want)
        bad = size > ulps
    if scale is not None:
        with np.errstate(invalid="ignore"):
            bad &= ~(np.abs(got.astype(np.float64) - want) <= ulps * 2.0**-23 * np.asarray(scale))
    if np.any(bad):
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} values differ, the worst by "
            f"{size[bad].max()}; first at {list(at)}: {got[at]!r}, not {want[at]!r}"
        )


def assert_same(got: Array, want: Array, what: str = "") -> None:
    """The same dtype, shape and values, NaN equal to NaN."""
    assert got.dtype == want.dtype, f"{what}: {got.dtype}, not {want.dtype}"
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    if not np.array_equal(got, want, equal_nan=got.dtype.kind == "f"):
        raise AssertionError(f"{what}: {got!r} is not {want!r}")


def _forbidden(*args: Any) -> None:
    raise AssertionError("the reference was asked while the CPU has to compute by itself")


@contextmanager
def reference_forbidden(device: str) -> Iterator[None]:
    """While the CPU computes, the reference raises: nothing may fall back in silence."""
    with pytest.MonkeyPatch.context() as patch:
        if device != "reference":
            patch.setattr(Reference, "run", _forbidden)
            patch.setattr(Reference, "compute", _forbidden)
        yield
