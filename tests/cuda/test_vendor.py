"""Which products go to NVIDIA's library, and with which sizes and steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import settings
from tensorlogic.devices.cuda_vendor import Product, plain_product
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import CUDA

M, N, K = 128, 640, 512


def product_of(t: tl.Tensor) -> Product | None:
    steps = schedule(inline_calls([t._node]), settings.current(), CUDA).steps
    (step,) = [s for s in steps if isinstance(s.kernel, Matmul)]
    assert isinstance(step.kernel, Matmul)
    return plain_product(step.kernel, step.sizes())


def ones(*shape: int, dtype: Any = "float16") -> tl.Tensor:
    return tl.from_numpy(np.ones(shape, dtype))


PLAIN: dict[str, tuple[Callable[[], tl.Tensor], Product]] = {
    "rows": (
        lambda: ones(M, K) @ ones(K, N),
        Product(M, N, K, 1, ("f16",) * 3, (K, 0, True), (N, 0, True), (0, N, 0, 2)),
    ),
    "a weight in rows of outputs": (
        lambda: ones(M, K) @ ones(N, K).T,
        Product(M, N, K, 1, ("f16",) * 3, (K, 0, True), (K, 0, False), (0, N, 0, 2)),
    ),
    "a turned left side": (
        lambda: ones(K, M).T @ ones(K, N),
        Product(M, N, K, 1, ("f16",) * 3, (M, 0, False), (N, 0, True), (0, N, 0, 2)),
    ),
    "float32": (
        lambda: ones(M, K, dtype="float32") @ ones(K, N, dtype="float32"),
        Product(M, N, K, 1, ("f32",) * 3, (K, 0, True), (N, 0, True), (0, N, 0, 2)),
    ),
    "a batch that shares b": (
        lambda: ones(3, 2, M, K) @ ones(K, N),
        Product(M, N, K, 6, ("f16",) * 3, (K, M * K, True), (N, 0, True), (0, N, M * N, 2)),
    ),
    "heads, copied to their places later": (
        lambda: (ones(M, K) @ ones(K, N)).reshape(M, 2, N // 2).permute(1, 0, 2),
        Product(M, N, K, 1, ("f16",) * 3, (K, 0, True), (N, 0, True), (0, N, 0, 2)),
    ),
    "part of a wider matrix": (
        lambda: ones(M, 2 * K)[:, K:] @ ones(K, N),
        Product(M, N, K, 1, ("f16",) * 3, (2 * K, 0, True), (N, 0, True), (0, N, 0, 2)),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_products(name: str) -> None:
    make, expected = PLAIN[name]
    assert product_of(make()) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: ones(M, K) @ ones(K, N) + 1,
        lambda: tl.relu(ones(M, K) @ ones(K, N)),
        lambda: ones(64, 64) @ ones(64, 64),
        lambda: ones(8, K) @ ones(K, 64 * N),
        lambda: ones(M, 2 * K)[:, ::2] @ ones(K, N),
        lambda: ones(1, K).expand(M, K) @ ones(K, N),
        lambda: ones(M, K) @ ones(K, N, dtype="float32"),
        lambda: tl.conv2d(ones(1, 64, 64, 64), ones(64, 64, 3, 3), padding=1),
        lambda: tl.conv2d(ones(1, 64, 64, 64), ones(64, 64, 3, 3)),
    ],
)
def test_other_products_stay_here(make: Callable[[], tl.Tensor]) -> None:
    assert product_of(make()) is None


class _Library:
    """What is asked of the library, computed as it defines it: columns first, from addresses."""

    def __init__(self, memory: dict[int, np.ndarray[Any, Any]]):
        self.memory = memory

    def cublasGemmStridedBatchedEx(self, _: Any, *args: Any) -> int:
        turn_a, turn_b, m, n, k, alpha, *rest = args
        a, b, beta, c = rest[0:4], rest[4:8], rest[8], rest[9:13]
        batches, _, _ = rest[13:]
        assert (alpha._obj.value, beta._obj.value) == (1, 0)

        def matrix(of: Any, batch: int, rows: int, columns: int) -> np.ndarray[Any, Any]:
            address, _, line, step = of
            flat = self.memory[address.value]
            size = flat.itemsize
            return np.lib.stride_tricks.as_strided(
                flat[batch * step.value :], (rows, columns), (size, line * size)
            )

        for i in range(batches):
            x = matrix(a, i, k, m).T if turn_a else matrix(a, i, m, k)
            y = matrix(b, i, n, k).T if turn_b else matrix(b, i, k, n)
            matrix(c, i, m, n)[:] = x @ y
        return 0


@pytest.mark.parametrize("name", ["rows", "a weight in rows of outputs", "a turned left side"])
def test_what_the_library_is_asked_for(name: str) -> None:
    from tensorlogic.devices.cuda_vendor import Vendor

    _, product = PLAIN[name]
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((M, K)), rng.standard_normal((K, N))
    memory = {
        1: (a if product.a[2] else a.T).ravel().copy(),
        2: (b if product.b[2] else b.T).ravel().copy(),
        3: np.zeros(M * N),
    }
    vendor = Vendor.__new__(Vendor)
    vendor._library = _Library(memory)  # type: ignore[assignment]
    vendor._handle, vendor._one, vendor._zero = None, *_constants()  # type: ignore[assignment]
    call = vendor.call(product)
    call.place(1, 2, 3)
    call.launch()
    np.testing.assert_allclose(memory[3].reshape(M, N), a @ b)


def _constants() -> tuple[Any, Any]:
    import ctypes

    return ctypes.c_float(1), ctypes.c_float(0)
