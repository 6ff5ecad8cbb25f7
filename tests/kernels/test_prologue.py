"""What stands before the parallel range fills local memory that all rows read."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_running import compiled, launch

from tensorlogic.codegen import clike, forms
from tensorlogic.devices.objects import host
from tensorlogic.kernels import interpret
from tensorlogic.kernels.check import KernelError, check_kernel
from tensorlogic.kernels.ir import Buffer, Kernel, Loop, Split, Store, const, index, load, walk
from tensorlogic.kernels.rename import Renaming
from tests.kernels.samples import SAMPLES, buffers_of

LANES = sorted({1, 4, 8, host().lanes})


def expected(buffers, params):
    n = params["n"]
    x = buffers["x"].astype(float)
    ahead = x / np.sqrt((x * x).sum()) * buffers["w"]
    y = buffers["a"].astype(float).reshape(-1, n) @ ahead
    z = buffers["b"].astype(float).reshape(-1, n) @ ahead[::-1]
    return y, z


def test_the_interpreter_keeps_it_for_each_part():
    sample = SAMPLES["prologue"]
    buffers, params = buffers_of(sample, np.random.default_rng(0))
    check_kernel(sample.kernel)
    interpret.run(sample.kernel, buffers, params)
    for name, want in zip("yz", expected(buffers, params), strict=True):
        np.testing.assert_allclose(buffers[name], want, 1e-2, 1e-2)


@pytest.mark.parametrize("lanes", LANES)
def test_the_first_rows_of_a_thread_compute_it(lanes):
    sample = SAMPLES["prologue"]
    buffers, params = buffers_of(sample, np.random.default_rng(1))
    function = compiled({f"prologue{lanes}": (sample.kernel, lanes)})[f"prologue{lanes}"]
    ranges = [(0, 5), (5, 21), (21, 26)]
    found = launch(function, sample.kernel, buffers, params, ranges)
    for name, want in zip("yz", expected(buffers, params), strict=True):
        np.testing.assert_allclose(found[name], want, 1e-2, 1e-2)


def test_a_group_of_a_gpu_takes_several_rows():
    kernel = SAMPLES["prologue"].kernel
    sizes = {"n": 300, "first": 19, "second": 7}
    form = forms.plain(kernel)
    each = forms.PROLOGUE_GROUP // 32
    assert 0 < forms.groups(kernel, sizes, form) <= -(-26 // each)
    assert forms.groups(kernel, {**sizes, "first": 0, "second": 0}, form) == 0


def test_a_store_into_device_memory_before_the_range_is_refused():
    x = Buffer("x", "f32", True)
    row = index("row")
    body = (
        Store(x, const(0, "i64"), const(1.0, "f32")),
        Loop(row, const(0, "i64"), const(4, "i64"), "parallel", (Store(x, row, load(x, row)),)),
    )
    with pytest.raises(KernelError, match="every group would make it"):
        clike.render(Kernel((x,), (), body), "k", "metal")


def test_renaming_reaches_everything():
    kernel = SAMPLES["prologue"].kernel
    buffers = {b: Buffer(f"{b.name}2", b.dtype, b.written, b.size) for b in kernel.buffers}
    leaves = {p.attr: const(3, "i64") for p in kernel.params}
    body = Renaming(buffers, leaves, "u_")(kernel.body)
    renamed = Kernel(tuple(buffers.values()), (), body)
    local = {b: Buffer("ahead", "f32", True, const(3, "i64")) for b in renamed.locals}
    renamed = Kernel(renamed.buffers, (), Renaming(local, {})(body))
    check_kernel(renamed)  # a buffer or a param that stayed would be no argument
    names = {s.index.attr for s in walk(renamed.body) if isinstance(s, Loop | Split)}
    assert names == {"u_j", "u_row"}
    rng = np.random.default_rng(2)
    sizes = {"x": 3, "w": 3, "a": 9, "b": 9, "y": 3, "z": 3}
    kinds = {"f16": np.float16, "f32": np.float32}
    given = {
        b.name: rng.uniform(0.5, 1, sizes[b.name]).astype(kinds[b.dtype]) for b in kernel.buffers
    }
    again = {f"{n}2": a.copy() for n, a in given.items()}
    interpret.run(kernel, given, {"n": 3, "first": 3, "second": 3})
    interpret.run(renamed, again, {})
    for name in "yz":
        np.testing.assert_array_equal(given[name], again[f"{name}2"])
