"""Comparing results as the tables of tests say it: `tensorlogic.testing` with their tolerances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tensorlogic import testing
from tensorlogic.devices.reference import Reference

Array = NDArray[Any]


def assert_close(got: Array, want: Any, ulps: float = 4, scale: Any = None, what: str = "") -> None:
    """float16: `want` correctly rounded or a neighbour; float32: within `ulps`; others: equal. With
    0 ulps all are equal.

    scale: the size of the sums behind the result, where they may cancel; an error of `ulps` float32
    ulps of it is allowed too.
    """
    atol = None if scale is None else ulps * 2.0**-23 * np.asarray(scale)
    limit = ulps if not ulps or got.dtype == np.float32 else None
    testing.assert_close(got, want, ulps=limit, atol=atol, what=what)


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
