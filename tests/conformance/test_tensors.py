"""Tensors as Python objects: making, reading, comparing, iterating, exchanging."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_same
from tests.conformance.harness import compute


def test_makers(device: str) -> None:
    more = {"device": device}
    for got, want in (
        (tl.tensor([[1, 2], [3, 4]], **more), np.array([[1, 2], [3, 4]], np.float16)),
        (tl.tensor(3, np.int32, **more), np.array(3, np.int32)),
        (tl.tensor([True], bool, **more), np.array([True])),
        (tl.tensor([], **more), np.zeros(0, np.float16)),
        (tl.tensor(range(3), "int32", **more), np.arange(3, dtype=np.int32)),
        (tl.zeros([2, 0], **more), np.zeros((2, 0), np.float16)),
        (tl.ones(3, "float32", **more), np.ones(3, np.float32)),
        (tl.full((1, 2), 7, tl.int32, **more), np.full((1, 2), 7, np.int32)),
        (tl.eye(2, **more), np.eye(2, dtype=np.float16)),
        (tl.arange(5, **more), np.arange(5, dtype=np.int32)),
        (tl.arange(5, 1, -2, **more), np.array([5, 3], np.int32)),
        (tl.arange(0.0, 1.0, 0.25, **more), np.arange(0, 1, 0.25, dtype=np.float16)),
        (tl.arange(3, dtype=tl.float32, **more), np.arange(3, dtype=np.float32)),
    ):
        assert_same(got.numpy(), want)
        assert got.device == device


def test_nested_data_and_tensors_in_lists() -> None:
    row = tl.tensor([1, 2])
    assert tl.tensor([row, row + 1]).tolist() == [[1, 2], [2, 3]]
    assert tl.tensor([[row[0], 5], (row[1], 6.5)]).tolist() == [[1, 5], [2, 6.5]]
    assert tl.tensor(row, "float32").dtype is tl.float32
    for data, error, text in (
        ([[1, 2], [3]], tl.ShapeError, "tensor: nested lists of unequal length"),
        ([1, None], tl.DTypeError, "tensor: the data holds values that are not numbers"),
        ("abc", tl.DTypeError, "text values do not convert to float16"),
    ):
        with pytest.raises(error) as caught:
            tl.tensor(data)
        assert str(caught.value) == text


def test_tensor_copies_and_from_numpy_aliases() -> None:
    array = np.zeros(2, np.float32)
    copy, alias = tl.tensor(array, "float32"), tl.from_numpy(array)
    array[:] = 5
    assert (copy.tolist(), alias.tolist(), (alias + 1).tolist()) == ([0, 0], [5, 5], [6, 6])
    assert np.shares_memory(alias.numpy(), array)


def odd_arrays() -> dict[str, np.ndarray]:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    fields = np.zeros(4, [("a", np.int8), ("b", np.float32)])
    fields["b"] = np.arange(4)
    return {
        "reversed": x[::-1, ::-2],
        "transposed": x.T,
        "broadcast": np.broadcast_to(x[:1], (3, 6)),
        "misaligned": fields["b"],
        "big endian": x.astype(">f4"),
        "fortran": np.asfortranarray(x),
        "0-d": np.array(3.0, np.float32),
        "empty": x[:0, ::-1],
        "read only": np.frombuffer(x.tobytes(), np.float32),
    }


@pytest.mark.parametrize("name", odd_arrays())
def test_from_numpy_takes_any_layout(name: str, device: str) -> None:
    array = odd_arrays()[name]
    got = compute(lambda t: t + 1, array, device=device)
    np.testing.assert_array_equal(got, array + 1)


def test_results_outlive_their_tensors() -> None:
    def made() -> np.ndarray:
        base = np.arange(2_000_000, dtype=np.float32)
        return np.asarray(tl.from_numpy(base[::-2]))[:3]

    held = made()
    gc.collect()
    np.zeros(2_000_000, np.float32)
    assert held.tolist() == [1999999, 1999997, 1999995]


def test_numpy_is_read_only_and_exchange_copies() -> None:
    x = tl.tensor([[1.0, 2.0]])
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0, 0] = 5
    other = np.from_dlpack(x)
    other[0, 0] = 5
    assert x.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="a tensor is immutable; DLPack exports a copy"):
        x.__dlpack__(copy=False)
    copy = np.array(x)
    copy[0, 0] = 7
    assert x.tolist() == [[1, 2]]
    assert np.asarray(x, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="needs a copy"):
        np.asarray(x, np.float64, copy=False)
    assert tl.tensor(np.from_dlpack(x)).tolist() == [[1, 2]]


def test_arrays_do_not_swallow_tensors() -> None:
    x, array = tl.ones([3]), np.ones(3, np.float32)
    for use in (lambda: array * x, lambda: x * array, lambda: array @ x, lambda: x @ array):
        with pytest.raises(tl.DTypeError, match="an ndarray does not mix with tensors by itself"):
            use()
    assert (np.float32(2) * x).tolist() == (x * np.float32(2)).tolist() == [2, 2, 2]
    with pytest.raises(TypeError):
        x + "1"
    with pytest.raises(TypeError):
        None * x


def test_python_protocols(device: str) -> None:
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    one = tl.tensor([2.5], device=device)
    assert (len(x), x.ndim, x.size, x.nbytes) == (2, 2, 4, 8)
    assert [r.tolist() for r in x] == [[1, 2], [3, 4]]
    assert (float(one), int(one), one.item(), bool(one)) == (2.5, 2, 2.5, True)
    assert [10, 20, 30][tl.tensor(1, "int32")] == 20
    assert list(range(tl.tensor(2, "int32"))) == [0, 1]
    assert hash(x) == hash(x)
    assert x in [x]
    assert {x: 1}[x] == 1
    assert (x == x).dtype is tl.bool
    assert (x == 2).tolist() == [[False, True], [False, False]]
    assert tl.Tensor.__array_ufunc__ is None
    assert x.T.tolist() == [[1, 3], [2, 4]]
    assert x[0].T.shape == (2,)


def test_what_is_no_single_value() -> None:
    x = tl.ones([2, 3])
    cases: list[tuple[Any, type[Exception], str]] = [
        (
            lambda: bool(x),
            tl.TensorLogicError,
            "the truth of a tensor of 6 elements is not one bool: compare with `.item()`, or "
            "select with `tl.where`",
        ),
        (lambda: x.item(), tl.ShapeError, "item() is for one element; this tensor is [2, 3]"),
        (lambda: float(x), tl.ShapeError, "item() is for one element; this tensor is [2, 3]"),
        (lambda: len(x.sum()), TypeError, "a 0-d tensor has no length"),
        (lambda: iter(x.sum()).__next__(), TypeError, "a 0-d tensor has no length"),
        (lambda: [1][x[0, 0]], TypeError, "only an int32 tensor is an index, not float16"),
        (lambda: tl.Tensor(), TypeError, "make tensors with tl.tensor(...), tl.zeros(...), "
         "tl.from_numpy(...), ..."),
    ]  # fmt: skip
    for call, error, text in cases:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == text


def test_assignment_shows_the_functional_form() -> None:
    x = tl.ones([2])
    with pytest.raises(TypeError) as caught:
        x[0] = 5
    assert str(caught.value) == (
        "a tensor is immutable: instead of `x[i] = v` write `x = x.update(i, v)` for a range of "
        "one axis, or `x = tl.where(mask, v, x)`"
    )


def test_repr() -> None:
    x = tl.tensor([[1.0, 2.5]])
    assert repr(x) == "Tensor([[1. , 2.5]], shape=[1, 2], dtype=float16, device=cpu)"
    assert str(x) == "[[1. , 2.5]]"
    assert "..." in repr(tl.zeros([500]))


def test_views_of_leaves_copy_nothing() -> None:
    base = np.zeros((4, 6), np.float32)
    x = tl.from_numpy(base)
    for y in (x[1:, ::2], x.T, x.reshape(2, 2, 6), x[2], x.unsqueeze(0).expand(3, 4, 6), x[::-1]):
        assert np.shares_memory(y.numpy(), base)
    assert not np.shares_memory(x.T.reshape(-1).numpy(), base)
