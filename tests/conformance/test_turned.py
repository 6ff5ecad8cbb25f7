"""Tensors stored in another order of axes: squares of a transpose, and what lies at its rim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings
from tests.conformance.harness import compute, numbers

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "whole squares": ((128, 64), (1, 0)),
    "a rim": ((65, 131), (1, 0)),
    "one short axis": ((17, 300), (1, 0)),
    "rows of squares": ((40, 2100), (1, 0)),
    "squares beyond the rim": ((3000, 50), (1, 0)),
    "an axis before": ((3, 50, 70), (0, 2, 1)),
    "an axis between": ((40, 3, 60), (2, 1, 0)),
    "an axis after": ((40, 60, 3), (1, 0, 2)),
    "two axes as one": ((20, 9, 70), (2, 0, 1)),
    "wide squares": ((1030, 1100), (1, 0)),
    "images": ((2, 33, 9, 11), (0, 2, 3, 1)),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "bool"])
@pytest.mark.parametrize("name", SHAPES)
def test_permuted(name: str, dtype: str, device: str) -> None:
    shape, order = SHAPES[name]
    x = numbers(np.random.default_rng(1), shape, dtype)
    got = compute(
        lambda t: tl.where(t.permute(*order) == t.permute(*order), t.permute(*order), 0),
        x,
        device=device,
    )
    assert np.array_equal(got, x.transpose(order))


@pytest.mark.parametrize("name", SHAPES)
def test_with_other_operands(name: str, device: str) -> None:
    """Two tensors of the old order and one of the new, a number, a broadcast row."""
    shape, order = SHAPES[name]
    rng = np.random.default_rng(2)
    new = tuple(shape[i] for i in order)
    a, b = (numbers(rng, shape, "float32") for _ in range(2))
    c, row = numbers(rng, new, "float32"), numbers(rng, new[-1:], "float32")

    def call(a: Any, b: Any, c: Any, row: Any) -> Any:
        return (a.permute(*order) * b.permute(*order) + c) * 0.5 + row

    got = compute(call, a, b, c, row, device=device)
    want = (a.astype(float) * b).transpose(order) + c
    np.testing.assert_allclose(got, want * 0.5 + row, 1e-5, 1e-5)


def test_slices_and_pads(device: str) -> None:
    x = numbers(np.random.default_rng(3), (90, 100), "float16")
    got = compute(lambda t: t[::-1, 3:90:2].T + 0, x, device=device)
    assert np.array_equal(got, x[::-1, 3:90:2].T)
    got = compute(lambda t: tl.pad(t.T, [(1, 2), (3, 0)]), x, device=device)
    assert np.array_equal(got, np.pad(x.T, [(1, 2), (3, 0)]))


def test_squares_are_used_where_they_pay() -> None:
    def local(x: tl.Tensor) -> list[bool]:
        steps = schedule(inline_calls([x._node]), Settings()).steps
        return [isinstance(s.kernel, Kernel) and bool(s.kernel.locals) for s in steps]

    x = tl.zeros([128, 128]) + 0
    tl.eval(x)
    assert local(x.T + 0) == [True]
    assert local(x + 0) == local(x[:9].T + 0) == local(x[:, :9].T + 0) == [False]
