"""Results beyond the cache are stored past it, and columns are summed several vectors at a time."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm import emit_kernel, render
from tensorlogic.devices import cpu_kernels
from tensorlogic.devices.cpu import Cpu
from tensorlogic.devices.objects import compile_module, host
from tensorlogic.kernels.ir import Buffer, Kernel, Loop, Store, const, index, load, param


def spread(n: int) -> np.ndarray:
    return (np.arange(n) % 251 / 8).astype(np.float16)


@pytest.mark.parametrize("width", [64, 63, 1])
def test_results_that_go_past_the_cache_are_right(width, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "STREAMED", 1)
    device = Cpu()  # with kernels of its own
    x = spread(97 * width).reshape(97, width)
    y = tl.tensor(x) * 3 - 1
    z = tl.concat([tl.tensor(x).flatten()[1:], tl.tensor(x).flatten()]) + 1  # not aligned
    device.run([y._node, z._node])
    assert np.array_equal(y.numpy(), x * np.float16(3) - np.float16(1))
    flat = x.reshape(-1)
    assert np.array_equal(z.numpy(), np.concatenate([flat[1:], flat]) + np.float16(1))


def test_which_kernels_store_past_the_cache():
    x, out, n, i = Buffer("x", "f16"), Buffer("out", "f16", True), param("n", "i64"), index("i")
    loop = Loop(i, const(0, "i64"), n, "flat", (Store(out, i, load(x, i)),))
    kernel = Kernel((out, x), (n,), (loop,))
    streaming = Module()
    emit_kernel(streaming, kernel, "k", host().lanes, streams=True)
    assert "!nontemporal !0" in streaming.text()
    assert "fence" in streaming.text()
    assert "nontemporal" not in render(kernel, "k", host().lanes)
    assert compile_module(streaming.text(), ["k"])["k"]


@pytest.mark.parametrize("columns", [1, 15, 64, 65, 300, 1000])
def test_sums_down_columns(columns):
    x = spread(37 * columns).reshape(37, columns)
    t = tl.tensor(x)
    wide = x.astype(np.float64)
    assert np.allclose(t.sum(axis=0).numpy(), wide.sum(0), rtol=1e-3)
    assert np.array_equal(t.max(axis=0).numpy(), x.max(0))
    assert np.array_equal(t.argmax(axis=0).numpy(), x.argmax(0))
    assert np.allclose(t.var(axis=0).numpy(), wide.var(0), rtol=2e-3, atol=1e-3)
