"""`update`: functional to the user, in place where nobody else reads the old values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import reference_forbidden

VERIFIES = ("update",)


def cache(device: str, rows: int = 4, dtype: str = "float16") -> Any:
    x = tl.zeros([rows, 2], dtype, device)
    tl.eval(x)
    return x


def address(x: Any) -> int:
    return int(x._node.data.memory.address)


def row(device: str, value: float, dtype: str = "float16") -> Any:
    return tl.full([1, 2], value, dtype, device)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_values(dtype: str, device: str) -> None:
    at = tl.tensor(2, "int32", device)
    with reference_forbidden(device):
        x = (
            cache(device, dtype=dtype)
            .update(1, row(device, 5, dtype))
            .update(at, row(device, 7, dtype) * 2)
        )
        assert x.tolist() == [[0, 0], [5, 5], [14, 14], [0, 0]]
        y = tl.zeros([2, 3], dtype, device).update(1, tl.ones([2, 2], dtype, device), axis=1)
        assert y.tolist() == [[0, 1, 1], [0, 1, 1]]
        assert y.update(0, tl.zeros([0, 3], dtype, device)).tolist() == [[0, 1, 1], [0, 1, 1]]


def test_a_cache_that_fills_up_stays_where_it_is() -> None:
    x = cache("cpu")
    start = address(x)
    for i in range(4):
        x = x.update(i, row("cpu", i + 1))
        tl.eval(x)
        assert address(x) == start
    assert x.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_pending_readers_see_the_old_values(device: str) -> None:
    x = cache(device)
    before = x + 1
    after = x.update(0, row(device, 9))
    assert after.tolist()[0] == [9, 9]
    assert before.tolist()[0] == [1, 1]


@pytest.mark.parametrize("reader", ["numpy", "view", "moved", "alias"])
def test_who_holds_the_memory_is_not_overwritten(reader: str, device: str) -> None:
    x = cache(device)
    held = {
        "numpy": lambda: x.numpy(),
        "view": lambda: x[0],
        "moved": lambda: x.to("reference" if device == "cpu" else "cpu"),
        "alias": lambda: x.reshape(2, 4),
    }[reader]()
    y = x.update(0, row(device, 9))
    assert y.tolist()[0] == [9, 9]
    assert not np.asarray(held).any()


def test_memory_of_others_is_never_written(device: str) -> None:
    array = np.zeros((2, 2), np.float16)
    y = tl.from_numpy(array, device).update(0, row(device, 9))
    assert y.tolist() == [[9, 9], [0, 0]]
    assert not array.any()


def test_new_values_may_depend_on_the_old(device: str) -> None:
    x = cache(device) + 1
    y = x.update(0, x[1:2] * 3)
    assert y.tolist() == [[3, 3], [1, 1], [1, 1], [1, 1]]


def test_consumed_tensors_are_refused(device: str) -> None:
    x = cache(device)
    alias = x.reshape(4, 2)
    x.update(0, row(device, 1))
    text = "this tensor was consumed by `update`; use the tensor that it returned"
    for use in (lambda: x + 1, lambda: x.shape, lambda: x.numpy(), lambda: alias.sum()):
        with pytest.raises(tl.ConsumedError) as caught:
            use()
        assert str(caught.value) == text
    with pytest.raises(tl.ConsumedError):
        x.update(1, row(device, 1))
    assert repr(x) == "Tensor(consumed by update)"


@pytest.mark.parametrize("at", [-1, 3, 100])
def test_wrong_positions(at: int, device: str) -> None:
    new = tl.ones([2, 2], device=device)
    for where in (at, tl.tensor(at, "int32", device)):
        y = cache(device).update(where, new)
        with pytest.raises(tl.IndexRangeError) as caught:
            y.numpy()
        message = str(caught.value)
        assert message.startswith("test_update.py:")
        assert message.endswith(f"update: 2 rows from {at} on would leave an axis of size 4")


def test_wrong_arguments() -> None:
    x = tl.zeros([4, 2])
    with pytest.raises(tl.ShapeError, match=r"update: \[1, 3\] does not fit \[4, 2\] along axis 0"):
        x.update(0, tl.ones([1, 3]))
    with pytest.raises(tl.DTypeError, match="update: the tensor is float16, the new values are"):
        x.update(0, tl.ones([1, 2], "float32"))
    with pytest.raises(tl.DTypeError, match="position is one int32"):
        x.update(0.5, tl.ones([1, 2]))
    assert x.shape == (4, 2)  # a refused update consumes nothing
