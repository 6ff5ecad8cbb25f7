"""Every row of the op table by every dtype that it takes, against NumPy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tensorlogic.ops import OPS, Op
from tests.compare import Array, assert_close
from tests.conformance.harness import SPECIAL, compute, numbers, public, wide

TAKES = {
    "float": ("float16", "float32"),
    "number": ("float16", "float32", "int32"),
    "bool": ("bool",),
    "any": ("float16", "float32", "int32", "bool"),
}
EXTREMES = np.array([0, 1, -1, 2, -7, 100, 2**31 - 1, -(2**31)], np.int64)
ELEMENTWISE = [
    pytest.param(row, dtype, id=f"{row}-{dtype}")
    for row in OPS.values()
    if row.kind == "elementwise"
    for dtype in TAKES[row.accepts]
]
REDUCTIONS = [
    pytest.param(row, dtype, id=f"{row}-{dtype}")
    for row in OPS.values()
    if row.kind == "reduce"
    for dtype in TAKES[row.accepts]
]

SCANS = [
    pytest.param(row, dtype, id=f"{row}-{dtype}")
    for row in OPS.values()
    if row.kind == "scan"
    for dtype in TAKES[row.accepts]
]


def test_every_row_is_tested() -> None:
    assert {r.kind for r in OPS.values()} == {"elementwise", "reduce", "scan"}
    assert {r.accepts for r in OPS.values()} <= set(TAKES)


def inputs(row: Op, dtype: str) -> list[Array]:
    """Random values, those of float16 of every bit pattern, and all pairs of special ones."""
    rng = np.random.default_rng(2)
    n = 20_000
    count = row.arity - (row.name == "where")
    if dtype == "bool":
        parts = [rng.integers(0, 2, n).astype(bool) for _ in range(count)]
        special: Array = np.array([False, True])
    elif dtype == "int32":
        parts = [rng.integers(-(2**31), 2**31, n) >> int(rng.integers(0, 28)) for _ in range(count)]
        special = EXTREMES
    else:
        low, high = (float(np.clip(v, -1000, 1000)) for v in row.domain)
        parts = [rng.uniform(low, high, n) for _ in range(count)]
        if dtype == "float16" and np.isinf(row.domain[0]):
            parts = [rng.integers(0, 1 << 16, n).astype(np.uint16).view(np.float16) for _ in parts]
        special = SPECIAL
    corners = np.array(list(itertools.product(special, repeat=count))).T.reshape(count, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        arrays = [np.concatenate([p, c]).astype(dtype) for p, c in zip(parts, corners, strict=True)]
    if row.name == "where":
        arrays.insert(0, rng.integers(0, 2, arrays[0].shape).astype(bool))
    return arrays


def expected(row: Op, dtype: str, arrays: list[Array]) -> Array:
    assert row.numpy is not None
    with np.errstate(all="ignore"):
        want = np.asarray(row.numpy(*map(wide, arrays)))
        return want.astype(np.int32) if dtype == "int32" and row.result == "same" else want


@pytest.mark.parametrize(("row", "dtype"), ELEMENTWISE)
def test_elementwise(row: Op, dtype: str, device: str) -> None:
    arrays = inputs(row, dtype)
    got = compute(public(row), *arrays, device=device)
    assert got.dtype == ("bool" if row.result == "bool" else dtype)
    assert_close(got, expected(row, dtype, arrays), row.ulps, what=row.name)


def fold_axes(row: Op, rank: int) -> list[Any]:
    one = [None, *range(-rank, rank)]
    return one if row.result == "int32" or rank == 1 else [*one, (0, -1), tuple(range(rank))]


@pytest.mark.parametrize(("row", "dtype"), REDUCTIONS)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 1, 6), (2, 3, 65)], ids=str)
def test_reduction(row: Op, dtype: str, shape: tuple[int, ...], device: str) -> None:
    assert row.numpy is not None
    x = numbers(np.random.default_rng(3), shape, dtype)
    size = np.abs(wide(x).astype(np.float64))
    for axis, keep in itertools.product(fold_axes(row, len(shape)), (False, True)):
        call = lambda t, a=axis, k=keep: public(row)(t, axis=a, keepdims=k)  # noqa: E731
        got = compute(call, x, device=device)
        want = np.asarray(row.numpy(wide(x), axis=axis, keepdims=keep))
        want = want.astype(np.int32) if got.dtype == np.int32 else want  # int32 wraps
        scale = np.sum(size, axis=axis, keepdims=keep)
        assert got.dtype == ("int32" if row.result == "int32" or dtype == "bool" else dtype)
        assert_close(got, want, row.ulps, scale, f"{row.name} over {axis} of {shape}")


@pytest.mark.parametrize(("row", "dtype"), SCANS)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 1, 6), (2, 3, 65), (70, 3), (3, 0)], ids=str)
def test_scan(row: Op, dtype: str, shape: tuple[int, ...], device: str) -> None:
    assert row.numpy is not None
    x = numbers(np.random.default_rng(3), shape, dtype)
    size = np.abs(wide(x).astype(np.float64))
    for axis in (None, *range(-len(shape), len(shape))):
        got = compute(lambda t, a=axis: public(row)(t, axis=a), x, device=device)
        assert got.dtype == ("int32" if dtype == "bool" else dtype)
        want = np.asarray(row.numpy(wide(x), axis=axis))
        want = want.astype(np.int32) if got.dtype == np.int32 else want
        scale = row.numpy(size, axis=axis) * max(shape)
        assert_close(got, want, row.ulps, scale, f"{row.name} along {axis} of {shape}")
