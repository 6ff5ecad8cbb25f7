"""The matmul family of the CPU against NumPy in float64."""

from __future__ import annotations

from itertools import product
from math import ceil

import ml_dtypes
import numpy as np
import pytest

from tensorlogic.codegen import llvm_matmul
from tensorlogic.codegen.llvm_matmul import libraries, matmul_kernel, shares, units
from tensorlogic.devices import native
from tensorlogic.kernels.ir import (
    Buffer,
    Store,
    binary,
    bitcast,
    const,
    load,
    param,
    select,
    unary,
)
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, M, Matmul, N

LANES = sorted({4, 8, native.host().lanes})
NUMPY = {"f16": np.float16, "f32": np.float32, "bf16": ml_dtypes.bfloat16}
OUT = Buffer("out", "f32", written=True)
PLAIN = (Store(OUT, (BATCH * M + ROW) * N + COL, ACC),)


def spec_of(a="f16", b="f16", a_axis="k", b_axis="n", stores=PLAIN, buffers=(OUT,), params=()):
    return Matmul(a, b, a_axis, b_axis, stores, buffers, params)


def run(spec, lanes, a, b, outputs, more=(), small=True):
    """Run a spec on arrays a[batch, m, k] and b[batch, k, n] of any strides."""
    imports = {}
    for text, names in libraries(spec, lanes):
        imports |= native.compile_module(text, names)
    text = matmul_kernel(spec, "matmul", lanes)
    function = native.compile_module(text, ["matmul"], imports)["matmul"]
    (batches, m, k), n = a.shape, b.shape[2]
    work, chunk, scratch = units(spec, (m, n, k), batches, lanes, native.threads())
    strides = [s // x.itemsize for x in (a, b) for s in x.strides]
    words = [a.ctypes.data, b.ctypes.data, *(x.ctypes.data for x in outputs)]
    words += [m, n, k, batches, *strides, *more]
    program = native.Program([native.Launch(function, len(words), work, chunk)], scratch, small)
    np.asarray(program.words)[:] = words
    native.run(program)


def numbers(rng, shape, dtype):
    return rng.standard_normal(shape).astype(NUMPY[dtype])


def laid_out(x, axis):
    """The same values with stride 1 along `axis`, or along none."""
    if axis is None:
        wide = np.zeros((*x.shape[:2], 2 * x.shape[2]), x.dtype)
        wide[:, :, ::2] = x
        return wide[:, :, ::2]
    if axis == 1:
        return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(x)


def close(got, a, b):
    """float32 sums: within their own error bound, the length times an epsilon of sum |a||b|."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bound = np.abs(wide_a) @ np.abs(wide_b) * (a.shape[2] * 2.0**-24) + 1e-30
    return bool((np.abs(got - wide_a @ wide_b) <= bound).all())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtypes", [("f16", "f16"), ("f32", "bf16"), ("bf16", "f32")])
def test_every_layout(lanes, dtypes):
    rng = np.random.default_rng(1)
    for a_axis, b_axis in product(("k", "m", None), ("n", "k", None)):
        for batches, m, k, n in ((1, 1, 1, 1), (2, 13, 37, 35), (1, 70, 300, 100)):
            a = laid_out(numbers(rng, (batches, m, k), dtypes[0]), {"k": 2, "m": 1}.get(a_axis))
            b = laid_out(numbers(rng, (batches, k, n), dtypes[1]), {"n": 2, "k": 1}.get(b_axis))
            got = np.full((batches, m, n), np.nan, np.float32)
            run(spec_of(*dtypes, a_axis, b_axis), lanes, a, b, [got])
            assert close(got, a, b), (a_axis, b_axis, m, k, n)


@pytest.mark.parametrize("lanes", LANES)
def test_sizes_around_the_tiles(lanes):
    rng = np.random.default_rng(2)
    tile = llvm_matmul.TILES[lanes]
    rows = (tile.mr - 1, tile.mr + 1, tile.strip + 1, tile.max_rows + tile.mr + 1)
    columns = (tile.nr - 1, tile.nr + 1, tile.nb + 1)
    for m, n in ((m, n) for m in rows for n in columns):
        a, b = numbers(rng, (1, m, 9), "f16"), numbers(rng, (1, 9, n), "f16")
        got = np.full((1, m, n), np.nan, np.float32)
        run(spec_of(), lanes, a, b, [got], small=False)
        assert close(got, a, b), (m, n)
    for k in (tile.kc - 1, tile.kc, tile.kc + 1, 3 * tile.kc + 5):
        a, b = numbers(rng, (1, 5, k), "f16"), numbers(rng, (1, k, 7), "f16")
        got = np.full((1, 5, 7), np.nan, np.float32)
        run(spec_of(), lanes, a, b, [got])
        assert close(got, a, b), k


def test_no_rows_no_columns_no_sum():
    for m, k, n, batches in ((0, 4, 4, 1), (4, 4, 0, 1), (4, 4, 4, 0), (3, 0, 5, 2)):
        a, b = np.ones((batches, m, k), np.float16), np.ones((batches, k, n), np.float16)
        got = np.full((batches, m, n), np.nan, np.float32)
        run(spec_of(), native.host().lanes, a, b, [got])
        assert not got.any()


def test_a_broadcast_batch_has_stride_zero():
    rng = np.random.default_rng(3)
    a = np.broadcast_to(numbers(rng, (1, 20, 30), "f16"), (5, 20, 30))
    b = numbers(rng, (5, 30, 40), "f16")
    got = np.full((5, 20, 40), np.nan, np.float32)
    run(spec_of(), native.host().lanes, a, b, [got], small=False)
    assert close(got, a, b)


def test_nothing_beyond_the_operands_is_read():
    """Operands that end where a page that must not be read begins."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    rng = np.random.default_rng(4)

    def at_the_edge(x):
        memory = mmap.mmap(-1, 4 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert protect(start + 3 * page, page, 0) == 0
        placed = np.frombuffer(memory, x.dtype, x.size, 3 * page - x.nbytes).reshape(x.shape)
        placed[...] = x
        return placed

    for a_axis, b_axis, m, k, n in product("km", "nk", (1, 13), (1, 17, 40), (5, 33)):
        a, b = numbers(rng, (1, m, k), "f16"), numbers(rng, (1, k, n), "f16")
        stored_a = at_the_edge(a if a_axis == "k" else a.transpose(0, 2, 1).copy())
        stored_b = at_the_edge(b if b_axis == "n" else b.transpose(0, 2, 1).copy())
        edge_a = stored_a if a_axis == "k" else stored_a.transpose(0, 2, 1)
        edge_b = stored_b if b_axis == "n" else stored_b.transpose(0, 2, 1)
        got = np.full((1, m, n), np.nan, np.float32)
        run(spec_of("f16", "f16", a_axis, b_axis), native.host().lanes, edge_a, edge_b, [got])
        assert close(got, a, b)


def test_an_epilogue_with_bias_activation_and_two_results():
    rng = np.random.default_rng(5)
    bias, half, mask = (
        Buffer("bias", "f16"),
        Buffer("half", "f16", True),
        Buffer("mask", "bool", True),
    )
    scale = param("scale", "f32")
    value = ACC * scale + load(bias, COL)
    silu = value / (unary("exp", -value) + const(1.0, "f32"))
    at = (BATCH * M + ROW) * N + COL
    stores = (
        Store(half, at, silu),
        Store(mask, at, select(COL.eq(ROW), True, const(0.0, "f32") < value)),
    )
    a, b = numbers(rng, (2, 50, 64), "f16"), numbers(rng, (2, 64, 45), "f16")
    shift = numbers(rng, 45, "f16")
    got, over = np.zeros((2, 50, 45), np.float16), np.zeros((2, 50, 45), np.bool_)
    bits = int(np.float32(0.125).view(np.int32))
    spec = spec_of(stores=stores, buffers=(bias, half, mask), params=(scale,))
    run(spec, native.host().lanes, a, b, [shift, got, over], [bits], small=False)
    wide = a.astype(np.float64) @ b.astype(np.float64) * 0.125 + shift.astype(np.float64)
    np.testing.assert_allclose(got, wide / (1 + np.exp(-wide)), rtol=2e-3, atol=1e-4)
    diagonal = np.arange(50)[:, None] == np.arange(45)
    sure = np.abs(wide) > 1e-3
    assert ((over == ((wide > 0) | diagonal)) | ~sure).all()


def test_an_epilogue_that_reads_a_residual_and_stores_where_it_may():
    residual = Buffer("residual", "f32")
    at = ROW * N + COL
    value = binary("max", ACC + load(residual, at), const(0.0, "f32"))
    store = Store(OUT, at, value, where=bitcast(value, "i32").ne(0))
    a, b = (
        np.eye(6, dtype=np.float16)[None],
        np.arange(-15.0, 15.0, dtype=np.float16).reshape(1, 6, 5),
    )
    extra = np.ones((6, 5), np.float32)
    got = np.full((6, 5), -1, np.float32)
    run(spec_of(stores=(store,), buffers=(residual, OUT)), native.host().lanes, a, b, [extra, got])
    expected = np.maximum(b[0].astype(np.float32) + 1, 0)
    assert (got == np.where(expected == 0, -1, expected)).all()


def test_infinities_and_nans_stay_where_they_are():
    a, b = np.zeros((1, 3, 40), np.float16), np.ones((1, 40, 50), np.float16)
    a[0, 1, 7], a[0, 2, 9] = np.inf, np.nan
    got = np.zeros((1, 3, 50), np.float32)
    run(spec_of(), native.host().lanes, a, b, [got])
    assert (got[0, 0] == 0).all()
    assert np.isinf(got[0, 1]).all()
    assert np.isnan(got[0, 2]).all()


def test_the_bound_of_these_tests_rejects_a_wrong_sum():
    a, b = np.ones((1, 2, 8), np.float16), np.ones((1, 8, 2), np.float16)
    got = np.full((1, 2, 2), 8, np.float32)
    assert close(got, a, b)
    got[0, 0, 1] = np.float32(8.0001)
    assert not close(got, a, b)


def test_units_are_even_and_cover_the_product():
    tile = llvm_matmul.TILES[16]
    for m, n, batches, threads in product((1, 128, 1024, 5000), (64, 4096), (1, 6), (1, 2, 16)):
        work, chunk = shares(m, n, batches, tile, threads)
        assert work == -(-m // tile.strip) * -(-n // tile.nb) * batches
        assert 1 <= chunk <= tile.strips
        turns = ceil(ceil(work / chunk) / threads)
        assert turns * chunk <= max(work / threads * 1.5, tile.strips)


def test_the_kernels_differ_only_in_their_epilogue():
    first, second = spec_of(), spec_of(stores=(Store(OUT, ROW * N + COL, -ACC),))
    assert libraries(first, 8) == libraries(second, 8)
    assert matmul_kernel(first, "f", 8) != matmul_kernel(second, "f", 8)
