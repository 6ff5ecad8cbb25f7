"""Indexing: every key, and indices that are only known when they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.conformance.harness import compute

VERIFIES = ("take",)
X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
KEYS: list[Any] = [
    0,
    -1,
    (1, 2, 3),
    slice(None),
    slice(None, None, -1),
    (slice(1, None), slice(None, None, 2)),
    (..., 1),
    (0, ..., -1),
    (None, 1),
    (slice(None), None, 2),
    (slice(2, 0, -1), slice(-3, -1)),
    (slice(5, 9),),
    (slice(0, 0),),
    ...,
    (None, ..., None),
    np.int64(1),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("pending", [False, True])
def test_keys(key: Any, pending: bool, device: str) -> None:
    got = compute(lambda x: (x + 1)[key] if pending else x[key], X, device=device)
    np.testing.assert_array_equal(got, X[key] + pending)


@pytest.mark.parametrize("pending", [False, True])
def test_tensor_keys(pending: bool, device: str) -> None:
    index = np.array([[2, 0], [-1, -3]], np.int32)
    for of, want in (
        (lambda x, i: x[i], X[index]),
        (lambda x, i: x[:, i % 3 - 1], X[:, index % 3 - 1]),
        (lambda x, i: x[..., i], X[..., index]),
        (lambda x, i: x[0, :, i], np.take(X[0], index, 1)),
        (lambda x, i: x[::-1, None, i], np.take(X[::-1, None], index, 2)),
    ):
        call = lambda x, i, f=of: f(x * 1 if pending else x, i)  # noqa: E731
        np.testing.assert_array_equal(compute(call, X, index, device=device), want)
    np.testing.assert_array_equal(compute(lambda x: x[[2, 0]], X, device=device), X[[2, 0]])


def test_storage_ints_index_too(device: str) -> None:
    x = tl.from_numpy(X, device)
    assert x.take(tl.tensor([2], "int64", device))[0, 0, 0].item() == 40
    assert tl.embedding(tl.tensor([1, 0], "uint8", device), x[0]).tolist() == X[0][[1, 0]].tolist()


@pytest.mark.parametrize("index", [[3], [-4], [0, 5, 9], [2**31 - 1], [-(2**31)]], ids=repr)
def test_range_errors_come_at_evaluation(index: list[int], device: str) -> None:
    ids = tl.tensor(index, "int32", device)
    x = tl.from_numpy(X, device)
    taken = x.take(ids)  # recording raises nothing
    wrong = [i for i in index if not -3 <= i < 3]
    more = "" if len(wrong) == 1 else f" ({len(wrong)} such)"
    for pending in (taken, tl.tanh(taken).sum(), tl.embedding(ids, x[..., 0])):
        with pytest.raises(tl.IndexRangeError) as caught:
            pending.numpy()
        message = str(caught.value)
        assert message.startswith("test_indices.py:"), message
        assert message.endswith(f"take: index {wrong[0]} is outside an axis of size 3{more}")


def test_errors_when_recorded() -> None:
    x = tl.from_numpy(X)
    for key, error, text in (
        (3, tl.IndexRangeError, "index 3 is outside axis 0 of [3, 4, 5]"),
        ((0, 0, -6), tl.IndexRangeError, "index -6 is outside axis 2 of [3, 4, 5]"),
        ((0, 0, 0, 0), tl.IndexRangeError, "4 indices for a tensor of 3 dims"),
        ((..., ...), tl.IndexRangeError, "an index holds `...` at most once"),
        (
            "a",
            TypeError,
            "a tensor is indexed with ints, slices, ..., None and int32 tensors, not str",
        ),
        (
            x > 1,
            tl.DTypeError,
            "x[mask] would have a shape that depends on values; select with `tl.where(mask, x, 0)`"
            ", or outside of the program by `x.numpy()[mask.numpy()]`",
        ),
    ):
        with pytest.raises(error) as caught:
            x[key]
        assert str(caught.value) == text
