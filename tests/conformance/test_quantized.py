"""Quantized tensors: every view and product of one decodes what it needs, as gguf decodes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.creation import from_storage
from tensorlogic.quants import QUANTS
from tests.blocks import decoded, ordinary_blocks, random_blocks
from tests.compare import Array, assert_close, assert_same, reference_forbidden

VERIFIES = ("matmul", "linear", "embedding")
ROWS = 6


def weight(storage: str, rows: int = ROWS) -> tuple[Any, Array]:
    """A quantized tensor, three blocks wide, and its exact values."""
    quant = QUANTS[storage]
    shape = (rows, 3 * quant.block)
    blocks = ordinary_blocks(storage, 3 * rows)
    exact = decoded(storage, blocks).astype(np.float64).reshape(shape)
    return from_storage(blocks.reshape(-1), shape, storage, "w"), exact


def value(x: Any, device: str) -> Array:
    """On the CPU the reference must not be asked; quantized leaves are uncommitted."""
    x = x.to(device)
    with reference_forbidden(device):
        return np.asarray(x.numpy())


@pytest.fixture(params=list(QUANTS))
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_facts(storage: str) -> None:
    w, exact = weight(storage)
    assert (w.shape, w.dtype, w.storage, w.name) == (exact.shape, tl.float16, storage, "w")
    assert w.nbytes == ROWS * 3 * QUANTS[storage].nbytes


def test_dequantize(storage: str, device: str) -> None:
    w, exact = weight(storage)
    plain = w.to(device).dequantize()
    assert_close(value(plain, device), exact, what=storage)
    assert (plain.storage, plain.dtype) == ("float16", tl.float16)
    np.testing.assert_array_equal(w.numpy(), plain.numpy())
    assert_close(value(w.to(device).to("float32"), device), exact, 1)


def test_special_scales(storage: str, device: str) -> None:
    quant = QUANTS[storage]
    blocks = random_blocks(storage, 48)
    w = from_storage(blocks.reshape(-1), (12, 4 * quant.block), storage).to(device)
    exact = decoded(storage, blocks).reshape(w.shape)
    assert np.isnan(exact).any()
    assert_same(value(w.to("float32") + 0, device), exact + 0, storage)
    ones = tl.ones([w.shape[1]], dtype="float32", device=device)
    with np.errstate(invalid="ignore"):
        sums, scale = exact.sum(1, dtype=np.float64), np.abs(exact).sum(1, dtype=np.float64)
    assert_close(value(w @ ones, device), sums, 4, scale, storage)


VIEWS: list[Any] = [
    lambda w: w[2],
    lambda w: w[-1, 5],
    lambda w: w[1:5:2],
    lambda w: w[::-1],
    lambda w: w[:, 7],
    lambda w: w[:, 3:40],
    lambda w: w[:, 32:64],
    lambda w: w[:, ::5],
    lambda w: w[:, ::-1],
    lambda w: w.T,
    lambda w: w.reshape(ROWS * 3, -1),
    lambda w: w.reshape(-1),
    lambda w: w.reshape(4, -1),
    lambda w: w.reshape(2, 3, -1).permute(2, 0, 1),
    lambda w: w.reshape(ROWS, 6, -1).permute(1, 0, 2).reshape(6, -1),
    lambda w: w.unsqueeze(0).expand(2, *w.shape),
    lambda w: w.T[3:9].T,
]


class Mirror:
    """A NumPy array with the method names of a tensor."""

    def __init__(self, array: Array):
        self.array = array

    T = property(lambda self: Mirror(self.array.T))
    shape = property(lambda self: self.array.shape)

    def __getitem__(self, key: Any) -> Mirror:
        return Mirror(self.array[key])

    def reshape(self, *shape: int) -> Mirror:
        return Mirror(self.array.reshape(shape))

    def permute(self, *axes: int) -> Mirror:
        return Mirror(self.array.transpose(axes))

    def unsqueeze(self, axis: int) -> Mirror:
        return Mirror(np.expand_dims(self.array, axis))

    def expand(self, *shape: int) -> Mirror:
        return Mirror(np.broadcast_to(self.array, shape))


@pytest.mark.parametrize("at", range(len(VIEWS)))
def test_views(at: int, storage: str, device: str) -> None:
    w, exact = weight(storage)
    got = value(VIEWS[at](w.to(device)) * 2, device)
    assert_close(got, VIEWS[at](Mirror(exact)).array * 2, what=f"view {at}")


def rounding(x: Array, exact: Array) -> Array:
    """How far products may be off where x is rounded to 15 bits in parts of 32 (or of 16)."""
    most = np.abs(x).reshape(len(x), -1, 32).max(-1) / 2**15
    return np.asarray(np.repeat(most, 32, -1) @ np.abs(exact.T))


def assert_near(got: Array, want: Array, scale: Array, off: Array) -> None:
    """Within `off` of what is wanted, but for 4 ulps."""
    inside = np.clip(got.astype(np.float64), want - off, want + off)
    assert_close((got - inside + want).astype(got.dtype), want, 4, scale)


@pytest.mark.parametrize("m", [1, 2, 4, 5, 17])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_linear(m: int, dtype: str, storage: str, device: str) -> None:
    w, exact = weight(storage)
    x = np.random.default_rng(13).standard_normal((m, exact.shape[1])).astype(dtype)
    b = np.arange(ROWS, dtype=dtype)
    tensor, bias = (tl.from_numpy(a, device=device) for a in (x, b))
    wide = x.astype(np.float64)
    want, scale = wide @ exact.T, np.abs(wide) @ np.abs(exact.T) + 6
    with tl.precision("exact"):
        assert_close(value(tl.linear(tensor, w, bias), device), want + b, 4, scale)
        assert_close(value(tensor @ w.T, device), want, 4, scale)
    off = rounding(wide, exact)
    assert_near(value(tl.linear(tensor, w, bias), device), want + b, scale, off)
    assert_near(value(tensor @ w.T, device), want, scale, off)
    other = tl.from_numpy(x[:, :ROWS], device=device) @ w
    scale = np.abs(wide[:, :ROWS]) @ np.abs(exact)
    assert_close(value(other, device), wide[:, :ROWS] @ exact, 4, scale)


def test_the_bound_of_rounding_rejects_a_wrong_product() -> None:
    _, exact = weight("q4_0")
    x = np.random.default_rng(15).standard_normal((2, exact.shape[1]))
    want, off = x @ exact.T, rounding(x, exact)
    assert_near((want + off).astype(np.float32), want, np.zeros(want.shape), off)
    with pytest.raises(AssertionError):
        assert_near((want + 1.1 * off).astype(np.float32), want, np.zeros(want.shape), off)


@pytest.mark.parametrize("m", [1, 3, 20])
def test_rows_that_are_not_numbers(m: int, storage: str, device: str) -> None:
    """NaN and infinities in one row leave the others alone, and are seen in their own."""
    w, exact = weight(storage)
    x = np.random.default_rng(16).standard_normal((m, exact.shape[1])).astype(np.float32)
    plain = value(tl.linear(tl.from_numpy(x, device=device), w), device)
    for bad in (np.nan, np.inf):
        x[-1, 40] = bad
        got = value(tl.linear(tl.from_numpy(x, device=device), w), device)
        np.testing.assert_array_equal(got[:-1], plain[:-1])
        assert not np.isfinite(got[-1][exact[:, 40] != 0]).any()


def test_vector_products(storage: str, device: str) -> None:
    w, exact = weight(storage)
    x = np.random.default_rng(14).standard_normal(exact.shape[1]).astype(np.float32)
    got = w @ tl.from_numpy(x, device=device)
    assert_close(value(got, device), exact @ x, 4, np.abs(exact) @ np.abs(x))


def test_embedding(storage: str, device: str) -> None:
    w, exact = weight(storage)
    ids = np.array([[0, 5, -1], [2, 2, -6]], np.int32)
    got = tl.embedding(tl.from_numpy(ids, device=device), w)
    assert_close(value(got, device), exact[ids])
    with pytest.raises(tl.IndexRangeError, match="index 6 is outside an axis of size 6"):
        tl.embedding(tl.tensor([6], dtype="int32", device=device), w).numpy()


def test_elementwise_and_reductions(storage: str, device: str) -> None:
    w, exact = weight(storage)
    w = w.to(device)
    assert_close(value(tl.where(w > 0, w, 0), device), np.maximum(exact, 0))
    assert_close(value(w.sum(axis=1), device), exact.sum(1), 4, np.abs(exact).sum(1))
    assert_close(value(w.max(axis=0), device), exact.max(0))
    for axis in (0, 1):
        size = np.cumsum(np.abs(exact), axis)
        assert_close(value(w.cumsum(axis), device), np.cumsum(exact, axis), 16, size)
    assert_close(value(tl.concat([w, w]), device), np.concatenate([exact, exact]))
    e = np.exp(exact - exact.max(1, keepdims=True))
    assert_close(value(tl.softmax(w), device), e / e.sum(1, keepdims=True), 8)


def test_misaligned_bytes_are_copied(storage: str, device: str) -> None:
    w, exact = weight(storage)
    memory = w._node.data.memory.base
    odd = np.concatenate([np.zeros(1, np.uint8), memory])[1:]
    again = from_storage(odd, exact.shape, storage)
    assert_close(value(again.to(device) + 0, device), exact)
