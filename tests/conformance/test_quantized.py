"""Quantized tensors: every view and product of one decodes what it needs, as gguf decodes it."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

import tensorlogic as tl
from tensorlogic.creation import from_storage
from tensorlogic.quants import QUANTS
from tests.compare import Array, assert_close, reference_forbidden

TYPES = {name: gguf.GGMLQuantizationType[name.upper()] for name in QUANTS}
ROWS, WIDTH = 6, 96


def weight(storage: str, shape: tuple[int, ...] = (ROWS, WIDTH)) -> tuple[Any, Array]:
    """A quantized tensor and its exact values."""
    values = np.random.default_rng(12).standard_normal(shape).astype(np.float32)
    blocks = quants.quantize(values, TYPES[storage])
    exact = quants.dequantize(blocks, TYPES[storage]).astype(np.float64).reshape(shape)
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
    w, _ = weight(storage)
    assert (w.shape, w.dtype, w.storage, w.name) == ((ROWS, WIDTH), tl.float16, storage, "w")
    assert w.nbytes == ROWS * WIDTH // QUANTS[storage].block * QUANTS[storage].nbytes


def test_dequantize(storage: str, device: str) -> None:
    w, exact = weight(storage)
    plain = w.to(device).dequantize()
    assert_close(value(plain, device), exact, what=storage)
    assert (plain.storage, plain.dtype) == ("float16", tl.float16)
    np.testing.assert_array_equal(w.numpy(), plain.numpy())
    assert_close(value(w.to(device).to("float32"), device), exact, 1)


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
    lambda w: w.reshape(ROWS * 3, 32),
    lambda w: w.reshape(-1),
    lambda w: w.reshape(4, -1),
    lambda w: w.reshape(2, 3, WIDTH).permute(2, 0, 1),
    lambda w: w.reshape(ROWS, 6, 16).permute(1, 0, 2).reshape(6, -1),
    lambda w: w.unsqueeze(0).expand(2, ROWS, WIDTH),
    lambda w: w.T[3:9].T,
]


class Mirror:
    """A NumPy array with the method names of a tensor."""

    def __init__(self, array: Array):
        self.array = array

    T = property(lambda self: Mirror(self.array.T))

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


@pytest.mark.parametrize("m", [1, 2, 4, 5, 17])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_linear(m: int, dtype: str, storage: str, device: str) -> None:
    w, exact = weight(storage)
    x = np.random.default_rng(13).standard_normal((m, WIDTH)).astype(dtype)
    b = np.arange(ROWS, dtype=dtype)
    tensor, bias = (tl.from_numpy(a, device=device) for a in (x, b))
    wide = x.astype(np.float64)
    scale = np.abs(wide) @ np.abs(exact.T) + 6
    assert_close(value(tl.linear(tensor, w, bias), device), wide @ exact.T + b, 4, scale)
    assert_close(value(tensor @ w.T, device), wide @ exact.T, 4, scale)
    other = tl.from_numpy(x[:, :ROWS], device=device) @ w
    assert_close(value(other, device), wide[:, :ROWS] @ exact, 4, np.full((m, WIDTH), 30))


def test_vector_products(storage: str, device: str) -> None:
    w, exact = weight(storage)
    x = np.random.default_rng(14).standard_normal(WIDTH).astype(np.float32)
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
    again = from_storage(odd, (ROWS, WIDTH), storage)
    assert_close(value(again.to(device) + 0, device), exact)
