"""The dtype in which two operands meet, for every pair and for Python numbers on either side."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.dtypes import DTYPES
from tests.conformance.harness import compute, numbers

COMPUTING = ("bool", "int32", "float16", "float32")
MEET = {
    frozenset(["bool"]): "bool",
    frozenset(["bool", "int32"]): "int32",
    frozenset(["int32"]): "int32",
    frozenset(["float16"]): "float16",
    frozenset(["float16", "float32"]): "float32",
    frozenset(["float32"]): "float32",
    frozenset(["bool", "float16"]): "float16",
    frozenset(["bool", "float32"]): "float32",
}
NUMBERS = {True: "bool", 2: "int32", 2.5: "float", np.int64(3): "int32", np.float32(0.5): "float"}


def of(dtype: str, device: str | None = None) -> Any:
    return tl.tensor([1, 0], dtype, device)


@pytest.mark.parametrize("a", COMPUTING)
@pytest.mark.parametrize("b", COMPUTING)
def test_every_pair(a: str, b: str, device: str) -> None:
    meet = MEET.get(frozenset([a, b]))
    x, y = of(a, device), of(b, device)
    if meet is None:
        with pytest.raises(tl.DTypeError, match=f"add: {a} and {b} do not mix"):
            x + y
        return
    assert (x == y).dtype is tl.bool
    assert tl.where(x == y, x, y).dtype.name == meet
    if meet == "bool":
        with pytest.raises(tl.DTypeError, match="add takes float or int values, not bool"):
            x + y
        return
    assert (x + y).dtype.name == meet
    assert (x * y).tolist() == [1, 0]
    assert tl.concat([x, y]).dtype.name == meet
    rng = np.random.default_rng(15)
    arrays = [numbers(rng, 9, d) for d in (a, b)]
    got = compute(operator.sub, *arrays, device=device)
    wide = arrays[0].astype(np.float64) - arrays[1].astype(np.float64)
    np.testing.assert_allclose(got, wide, 1e-3)


@pytest.mark.parametrize("dtype", COMPUTING)
@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_numbers_widen_nothing(dtype: str, number: Any, device: str) -> None:
    kind = NUMBERS[number]
    x = of(dtype, device)
    if kind == "float" and dtype == "int32":
        for call in (lambda: x + number, lambda: number + x):
            with pytest.raises(tl.DTypeError, match="add: int32 and a float number do not mix"):
                call()
        return
    if dtype == "bool" and kind == "bool":
        assert (x == number).tolist() == [True, False]
        return
    want = {"float": "float16", "int32": "int32"}[kind] if dtype == "bool" else dtype
    for got in (x * number, number * x, tl.maximum(x, number)):
        assert got.dtype.name == want
    assert (x * number).tolist() == (number * x).tolist() == [float(number), 0]
    assert (number - x).tolist() == [float(number) - 1, float(number)]
    assert ((x <= number).dtype, (x <= number).tolist()) == (tl.bool, [float(number) >= 1, True])
    assert ((number < x).dtype, (number < x).tolist()) == (tl.bool, [float(number) < 1, False])


def test_a_number_keeps_the_precision_of_its_partner(device: str) -> None:
    x = tl.tensor([1.0], "float32", device)
    assert (x * 0.1).item() == np.float32(0.1)
    assert (tl.tensor([1.0], device=device) * 0.1).item() == np.float16(0.1)
    assert tl.where(x > 0, 1, 2).dtype is tl.int32
    assert tl.exp(1).dtype is tl.float32


@pytest.mark.parametrize("name", sorted(set(DTYPES) - set(COMPUTING)))
def test_storage_dtypes_compute_nothing(name: str) -> None:
    x = tl.tensor([1, 2], name)
    target = "float16" if x.dtype.kind == "float" else "int32"
    with pytest.raises(tl.DTypeError) as caught:
        x + x
    assert str(caught.value) == (
        f"add: {name} is a storage dtype; convert first with `.to(tl.{target})`"
    )
    assert x.tolist() == [1, 2]
    assert x[::-1].to(target).tolist() == [2, 1]


def test_conversions(device: str) -> None:
    x = tl.tensor([-1.9, 1.9, np.nan, 3e9, -3e9], "float32", device)
    assert x.to("int32").tolist() == [-1, 1, 0, 2**31 - 1, -(2**31)]
    assert x.to(bool).tolist() == [True] * 5
    assert tl.tensor([0, 3], "int32", device).to(bool).tolist() == [False, True]
    assert tl.tensor([True, False], bool, device).to(tl.float16).tolist() == [1, 0]
    assert tl.tensor([2**24 + 1], "int32", device).to("float32").item() == 2**24
