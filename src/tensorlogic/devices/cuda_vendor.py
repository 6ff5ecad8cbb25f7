"""Large plain products through NVIDIA's own library, cuBLAS, where it is installed.

A product is plain if its kernel only stores the sums, in rows without gaps between their elements.
TENSORLOGIC_VENDOR=0 leaves all products to the package's own kernels.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from tensorlogic.errors import DeviceError
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import Store, nodes_of
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, Matmul

WORTH = 1 << 25
"""Multiplications at least: below, a launch within a graph is cheaper."""
NARROWEST = 32
"""Rows and columns at least."""

_R_32F, _R_16F = 0, 2
_TYPES = {"f32": _R_32F, "f16": _R_16F}
_COMPUTE_32F = 68
_DEFAULT = -1
_NO_TRANSPOSE, _TRANSPOSE = 0, 1


@dataclass(frozen=True)
class Product:
    """C[batch, m, n] = A[batch, m, k] B[batch, k, n]: sizes, types, and distances in elements.

    a and b: (step of a line, step of a batch, whether lines run along k for a, along n for b); c:
    the first element, the step of a line and of a batch, and which argument it is.
    """

    m: int
    n: int
    k: int
    batches: int
    types: tuple[str, str, str]
    a: tuple[int, int, bool]
    b: tuple[int, int, bool]
    c: tuple[int, int, int, int]


def plain_product(spec: Matmul, sizes: Mapping[str, float]) -> Product | None:
    """The product that a kernel computes, if it is plain and large enough; else None."""
    m, n, k, batches = (int(sizes[name]) for name in ("M", "N", "K", "batches"))
    large = m * n * k * batches >= WORTH and min(m, n) >= NARROWEST
    if not large or spec.a_dtype != spec.b_dtype or spec.a_dtype not in _TYPES:
        return None
    if len(spec.stores) != 1 or None in (spec.a_contiguous, spec.b_contiguous):
        return None
    (store,) = spec.stores
    if store.value is not ACC or store.where is not None or store.buffer.dtype not in _TYPES:
        return None
    c = _rows_of(store, sizes, m, n, batches)
    if c is None:
        return None
    step = {name: int(sizes[name]) for name in sizes if name[:2] in ("a_", "b_")}
    along_k, along_n = spec.a_contiguous == "k", spec.b_contiguous == "n"
    a = (step["a_m"] if along_k else step["a_k"], step["a_batch"], along_k)
    b = (step["b_k"] if along_n else step["b_n"], step["b_batch"], along_n)
    # A line that is not as long as what it holds (a broadcast axis) is none for the library.
    if a[0] < (k if along_k else m) or b[0] < (n if along_n else k) or max(a[0], b[0]) >= 2**31:
        return None
    which = spec.all_buffers.index(store.buffer)
    types = (spec.a_dtype, spec.b_dtype, store.buffer.dtype)
    return Product(m, n, k, batches, types, a, b, (*c, which))


def _rows_of(
    store: Store, sizes: Mapping[str, float], m: int, n: int, batches: int
) -> tuple[int, int, int] | None:
    """The first element of the result, the step of a row and of a batch, if rows have no gaps."""
    if any(e.op in ("load", "var") for e in nodes_of(store.at)):
        return None

    def at(batch: int, row: int, col: int) -> int:
        place = {BATCH.attr: batch, ROW.attr: row, COL.attr: col}
        return int(evaluate(store.at, {**sizes, **place}))

    try:
        first = at(0, 0, 0)
        steps = (at(1, 0, 0) - first, at(0, 1, 0) - first, at(0, 0, 1) - first)
        corner = at(batches - 1, m - 1, n - 1)
    except KeyError:  # a number of the run
        return None
    batch, row, col = steps
    even = corner == first + (batches - 1) * batch + (m - 1) * row + (n - 1) * col
    linear = all(e.op in ("index", "param", "const", "add", "mul") for e in nodes_of(store.at))
    return (first, row, batch) if even and linear and col == 1 and row >= n else None


class Vendor:
    """cuBLAS on one stream. Raises OSError where it is not installed."""

    def __init__(self, stream: int):
        try:
            finder: Any = import_module("cuda.pathfinder")
            path = finder.load_nvidia_dynamic_lib("cublas").abs_path
        except Exception as error:
            raise OSError(str(error)) from None
        self._library = ctypes.CDLL(path)
        self._handle = ctypes.c_void_p()
        self._do(self._library.cublasCreate_v2(ctypes.byref(self._handle)))
        self._do(self._library.cublasSetStream_v2(self._handle, ctypes.c_void_p(stream)))
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)

    @staticmethod
    def _do(status: int) -> None:
        if status:
            raise DeviceError(f"cuda: cuBLAS returned status {status}")

    def call(self, product: Product) -> VendorCall:
        """A product whose matrices are still to be named."""
        return VendorCall(self, product)


class VendorCall:
    """A product with its arguments, which are made once."""

    def __init__(self, vendor: Vendor, p: Product):
        self._do = vendor._do
        self._a, self._b, self._c = (ctypes.c_void_p() for _ in range(3))
        # Columns of the library are rows here: it computes the transposed product of B's and A's
        # transposes.
        self._launch = partial(
            vendor._library.cublasGemmStridedBatchedEx,
            vendor._handle,
            _NO_TRANSPOSE if p.b[2] else _TRANSPOSE,
            _NO_TRANSPOSE if p.a[2] else _TRANSPOSE,
            *(p.n, p.m, p.k),
            ctypes.byref(vendor._one),
            *_matrix(self._b, p.types[1], p.b[0], p.b[1]),
            *_matrix(self._a, p.types[0], p.a[0], p.a[1]),
            ctypes.byref(vendor._zero),
            *_matrix(self._c, p.types[2], p.c[1], p.c[2]),
            *(p.batches, _COMPUTE_32F, _DEFAULT),
        )

    def place(self, a: int, b: int, c: int) -> None:
        """The addresses of the matrices."""
        self._a.value, self._b.value, self._c.value = a, b, c

    def launch(self) -> None:
        """Queue the product."""
        self._do(self._launch())


def _matrix(address: ctypes.c_void_p, dtype: str, line: int, batch: int) -> tuple[Any, ...]:
    return address, _TYPES[dtype], line, ctypes.c_longlong(batch)


def wanted() -> bool:
    """Whether the library may be used at all."""
    return os.environ.get("TENSORLOGIC_VENDOR", "1") != "0"
