"""Several tensor indices, scatter's order, sorting of special values and long rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import Array
from tests.conformance.harness import SPECIAL, compute, numbers
from tests.plans.printed import steps_of

X = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
I = np.array([[1, 0, -1]], np.int32)
J = np.array([[0], [-2]], np.int32)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize(
    "key",
    [
        lambda i, j: (i, j),
        lambda i, j: (slice(None), i, j),
        lambda i, j: (..., i, j),
        lambda i, j: (i, slice(None), j),
        lambda i, j: (slice(1, None), i, ..., j),
        lambda i, j: (i, j, i, j),
        lambda i, j: (slice(None), i, j, i),
        lambda i, j: (i, None, j),
        lambda i, j: (i, slice(0, 2), j, j),
    ],
)
def test_several_tensor_keys(key: Any, pending: bool, device: str) -> None:
    got = compute(lambda x, i, j: (x + 1 if pending else x)[key(i, j)], X, I, J, device=device)
    np.testing.assert_array_equal(got, X[key(I, J)] + pending)


def test_an_int_leaves_its_axis_out_before_tensors_index(device: str) -> None:
    got = compute(lambda x, i, j: x[0, i, ::-1, j], X, I, J, device=device)
    np.testing.assert_array_equal(got, X[0][I, ::-1, J])


def test_several_tensor_keys_make_one_kernel() -> None:
    x, i, j = (tl.from_numpy(a) for a in (X, I, J))
    assert len(steps_of((x * 2)[:, i, j] + 1)) == 1


def _range_errors(device: str) -> list[tuple[tl.Tensor, str]]:
    x, bad = tl.from_numpy(X[0, 0], device), tl.tensor([[9, 0, -6]], "int32", device)
    zeros = x * 0
    return [
        (
            x[tl.tensor([4], "int32"), tl.tensor([0], "int32")],
            "take: index 4 is outside an axis of size 4",
        ),
        (
            x[tl.tensor([0], "int32"), tl.tensor([5], "int32")],
            "gather: index 5 is outside an axis of size 5",
        ),
        (x.gather(bad, 1) + 1, "gather: index 9 is outside an axis of size 5 (2 such)"),
        (zeros.scatter(bad.T, 1, 0), "scatter: index 9 is outside an axis of size 4 (2 such)"),
        (tl.one_hot(bad, 9), "take: index 9 is outside an axis of size 9"),
    ]


def test_range_errors_come_at_evaluation(device: str) -> None:
    for pending, text in _range_errors(device):
        with pytest.raises(tl.IndexRangeError) as caught:
            pending.numpy()
        message = str(caught.value)
        assert message.startswith("test_lookups.py:"), message
        assert message.endswith(text), message


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "bool"])
def test_the_last_of_equal_indices_wins(dtype: str, device: str) -> None:
    rng = np.random.default_rng(3)
    x, v = numbers(rng, (7, 33), dtype), numbers(rng, (500, 33), dtype)
    i = rng.integers(-7, 7, (500, 1)).astype(np.int32)
    got = compute(lambda x, i, v: (x.scatter(i, v, 0), x), x, i, v, device=device)
    want = x.copy()
    for at, value in zip(i[:, 0], v, strict=True):
        want[at] = value
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(got[1], x)  # the argument is as it was


def test_sums_are_made_in_the_order_of_the_indices(device: str) -> None:
    """Bit for bit in float32, and rounded once to float16."""
    rng = np.random.default_rng(5)
    v = (rng.standard_normal(3000) * 10.0 ** rng.integers(-3, 3, 3000)).astype(np.float16)
    i = rng.integers(0, 3, 3000).astype(np.int32)
    for dtype in (np.float16, np.float32):
        want = np.ones(3, np.float32)
        for at, value in zip(i, v, strict=True):
            want[at] += np.float32(value)
        values = v.astype(dtype)
        got = compute(
            lambda i, v, dt=dtype: tl.ones([3], dt).scatter(i, v, 0, "add"),
            i,
            values,
            device=device,
        )
        np.testing.assert_array_equal(got, want.astype(dtype))


def test_scatter_into_what_is_pending_shared_and_quoted_twice(device: str) -> None:
    x = tl.from_numpy(X[0, 0], device)
    y = x + 1
    a, b = y.scatter([[0]], 9, 0), y.scatter([[1]], tl.sum(y) * 0, 0, reduce="add")
    tl.eval(a, b, y)
    one = X[0, 0] + 1
    np.testing.assert_array_equal(y.numpy(), one)
    np.testing.assert_array_equal(b.numpy(), one)
    one[0] = 9
    np.testing.assert_array_equal(a.numpy(), one)
    chain = x.scatter([[0]], 1, 0).scatter([[1]], 2, 0).scatter([[0]], 3, 0)
    assert chain[:2, 0].tolist() == [3, 2]
    assert x.scatter(tl.zeros([0, 5], "int32"), 1, 0).tolist() == x.tolist()
    with tl.precision("exact"):
        half = x.to("float16") * 1
        assert (half.scatter([[0]], 1, 0) + 1)[0, 0].item() == 2


@tl.function
def looked_up(x: tl.Tensor, i: tl.Tensor, start: int) -> tuple[tl.Tensor, ...]:
    y = tl.rope(x, start)
    return tl.sort(y), y.scatter(i, 0, 1), y.gather(i, 1)[i], tl.topk(y, 2)[1]


def test_within_a_traced_function(device: str) -> None:
    x, i = tl.from_numpy(X[0, 0, :, :4], device), tl.tensor([[1], [0], [3], [1]], "int32", device)
    before = looked_up.traces  # type: ignore[attr-defined]
    for start in (0, 5):
        body = looked_up.__wrapped__(x, i, start)  # type: ignore[attr-defined]
        for got, want in zip(looked_up(x, i, start), body, strict=True):
            np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert looked_up.traces == before + 1  # type: ignore[attr-defined]


# ---- sorting -------------------------------------------------------------------------------------


def by_pairs(x: Array, descending: bool = False) -> list[int]:
    """The order by Python's stable sort: NaN above all, -0 as 0."""
    key = [(bool(np.isnan(v)), 0.0 if np.isnan(v) else float(v)) for v in x]
    return sorted(range(len(x)), key=lambda i: key[i], reverse=descending)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_special_values_sort(dtype: str, descending: bool, device: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.choice(SPECIAL, 300).astype(dtype)
    order, values, top, places = compute(
        lambda x: (x.argsort(-1, descending), x.sort(-1, descending), *x.topk(100)),
        x,
        device=device,
    )
    want = by_pairs(x, descending)
    np.testing.assert_array_equal(order, want)
    np.testing.assert_array_equal(values, x[want])
    np.testing.assert_array_equal(places, by_pairs(x, True)[:100])
    np.testing.assert_array_equal(top, x[places])


def test_every_length_sorts_and_equal_values_keep_their_order(device: str) -> None:
    rng = np.random.default_rng(8)
    for n in (*range(10), 63, 64, 65, 127, 128, 129, 191, 257, 1000, 4097):
        x = rng.integers(-9, 9, (3, n)).astype(np.int32)
        up, down = compute(lambda x: (x.argsort(), x.argsort(descending=True)), x, device=device)
        np.testing.assert_array_equal(up, np.argsort(x, kind="stable"), str(n))
        np.testing.assert_array_equal(down, np.argsort(-x, kind="stable"), str(n))


def test_the_ends_of_int32_sort(device: str) -> None:
    x = np.array([2**31 - 1, -1, -(2**31), 0, 1, 2**31 - 1], np.int32)
    up, down = compute(lambda x: (x.sort(), x.sort(descending=True)), x, device=device)
    np.testing.assert_array_equal(up, np.sort(x))
    np.testing.assert_array_equal(down, np.sort(x)[::-1])


@pytest.mark.parametrize("pending", [False, True])
def test_strided_rows_sort(pending: bool, device: str) -> None:
    x = np.random.default_rng(9).standard_normal((4, 3, 300)).astype(np.float32)
    for axis in (0, 1, 2):
        got = compute(
            lambda x, a=axis: (x * 1 if pending else x)[::-1, :, ::2].permute(2, 0, 1).sort(a),
            x,
            device=device,
        )
        np.testing.assert_array_equal(got, np.sort(x[::-1, :, ::2].transpose(2, 0, 1), axis))


def test_a_longer_row_compiles_no_more_kernels() -> None:
    texts = [set(steps_of(tl.argsort(tl.zeros([2, n])))) for n in (10, 200, 100_000)]
    assert [len(t) for t in texts] == [1, 2, 2]
    assert texts[0] < texts[1] == texts[2]


# ---- results whose size depends on values --------------------------------------------------------


def test_unique_consecutive(device: str) -> None:
    x = np.array([[3, 3, 1], [1, 1, 3]], np.int32)
    values, inverse, counts = tl.from_numpy(x, device).unique_consecutive(True, True)
    assert (values.tolist(), counts.tolist()) == ([3, 1, 3], [2, 3, 1])
    assert inverse.tolist() == [[0, 0, 1], [1, 1, 2]]
    assert {values.device, inverse.device, counts.device} == {device}
    some = tl.tensor([1.0, np.nan, np.nan, 2.0], device=device)
    assert len(some.unique_consecutive()) == 4
    none = tl.unique_consecutive(tl.zeros([0, 2], device=device), True, True)
    assert [t.shape for t in none] == [(0,), (0, 2), (0,)]
    one = tl.unique_consecutive(tl.tensor(4.0, device=device), return_counts=True)
    assert [t.tolist() for t in one] == [[4.0], [1]]


@tl.function
def unique(x: tl.Tensor) -> tl.Tensor:
    return tl.unique_consecutive(x)


def test_unique_consecutive_is_not_traced() -> None:
    with pytest.raises(tl.TraceError, match="a value was asked for its values"):
        unique(tl.ones([3]))


def test_errors_when_recorded() -> None:
    x, i, f = tl.ones([2, 3]), tl.zeros([2, 1], "int32"), tl.ones([1])
    for call, error, text in (
        (
            lambda: x.gather(f, 0),
            tl.DTypeError,
            "gather: indices are int32, not float16; convert with `.to(tl.int32)`",
        ),
        (
            lambda: x.gather(i[0], 1),
            tl.ShapeError,
            "gather: indices [1] have as many axes as [2, 3]",
        ),
        (
            lambda: x.gather(tl.zeros([3, 1], "int32"), 1),
            tl.ShapeError,
            "gather: shapes [2, 1] and [3, 1] do not broadcast: axis -2 is 2 in one and 3 in "
            "another",
        ),
        (
            lambda: tl.zeros([2, 0]).gather(i, 1),
            tl.ShapeError,
            "gather from axis 1 of [2, 0], which is empty",
        ),
        (
            lambda: x.scatter(i, tl.ones([2, 2]), 1),
            tl.ShapeError,
            "scatter: indices [2, 1] and values [2, 2] do not fit [2, 3] along axis 1",
        ),
        (
            lambda: x.scatter(i, tl.ones([2, 1], "float32"), 1),
            tl.DTypeError,
            "scatter: the tensor is float16, the values are float32",
        ),
        (
            lambda: i.scatter(i, 0.5, 1),
            tl.DTypeError,
            "scatter: int32 and a float number do not mix; convert with `.to(tl.float16)`",
        ),
        (
            lambda: (x > 1).scatter(i, x[:, :1] > 1, 1, "add"),
            tl.DTypeError,
            "scatter: bool values are not added",
        ),
        (
            lambda: x.scatter(i, f, 1, "max"),
            ValueError,
            "scatter: reduce is None or \"add\", not 'max'",
        ),
        (lambda: x.topk(4), tl.ShapeError, "topk: 4 of axis -1 of [2, 3]"),
        (
            lambda: tl.tensor(1.0).sort(),
            tl.ShapeError,
            "sort: axis -1 is outside a tensor of 0 dims",
        ),
        (
            lambda: tl.argsort(tl.ones([2], "int64")),
            tl.DTypeError,
            "argsort: int64 is a storage dtype; convert first with `.to(...)`",
        ),
        (
            lambda: tl.one_hot(i, 3, "int8"),
            tl.DTypeError,
            "one_hot: int8 is a storage dtype; ask for float16 and convert",
        ),
        (lambda: x.diagonal(0, 1, -1), tl.ShapeError, "diagonal of one axis with itself: 1 and -1"),
        (lambda: f.tril(), tl.ShapeError, "tril takes matrices [..., N, M], not [1]"),
        (lambda: x.repeat(-1, 0), tl.ShapeError, "repeat: the count -1 is negative"),
        (lambda: x.tile([2, -1]), tl.ShapeError, "tile: a count is negative in [2, -1]"),
        (lambda: x.roll([1, 2], [0]), tl.ShapeError, "roll: 2 shifts for 1 axes"),
        (lambda: x.flatten(1, 0), tl.ShapeError, "flatten: axis 1 lies behind axis 0"),
        (lambda: x.rope(), tl.ShapeError, "rope takes [..., T, D] with D even, not [2, 3]"),
        (
            lambda: x[:, :2].rope(tl.arange(3)),
            tl.ShapeError,
            "rope: shapes [3] and [2] do not broadcast: axis -1 is 3 in one and 2 in another",
        ),
        (
            lambda: x[:, :2].rope(tl.zeros([4, 2], "int32")),
            tl.ShapeError,
            "rope: positions [4, 2] do not broadcast to [2]",
        ),
        (lambda: x[:, :2].rope(f), tl.DTypeError, "rope: positions are int32, not float16"),
        (
            lambda: x[:, :2].rope(layout="neox"),
            ValueError,
            'rope: layout is "halves" or "pairs", not \'neox\'',
        ),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == text
