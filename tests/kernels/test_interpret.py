"""The interpreter: what kernels mean, against NumPy written out, and its own checks."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_examples import (
    N,
    argmax,
    attention,
    flat,
    layer_norm,
    q4_0_matvec,
    softmax,
    triangle_sums,
)

from tensorlogic.kernels import interpret
from tensorlogic.kernels.ir import Buffer, Kernel, Store, const, index, load


def outcome(example):
    interpret.run(example.kernel, example.buffers, example.params)
    shaped = {n: a.astype(np.float64) for n, a in example.buffers.items()}
    return shaped, example.params


def test_softmax():
    a, p = outcome(softmax())
    x = a["x"].reshape(p["rows"], p["n"])
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(a["out"].reshape(x.shape), e / e.sum(1, keepdims=True), 1e-3, 1e-6)


def test_layer_norm():
    a, p = outcome(layer_norm())
    x = a["x"].reshape(p["rows"], p["n"])
    y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + p["eps"])
    np.testing.assert_allclose(a["out"].reshape(x.shape), y * a["w"] + a["b"], 1e-3, 1e-3)


def test_argmax_takes_the_first_nan_as_numpy_does():
    a, p = outcome(argmax())
    assert a["out"].tolist() == a["x"].reshape(p["rows"], p["n"]).argmax(1).tolist()


def test_attention():
    a, p = outcome(attention())
    q, k, v = (a[name].reshape(-1, p["n"]) for name in "qkv")
    e = np.exp(q @ k.T)
    np.testing.assert_allclose(
        a["out"].reshape(q.shape), e / e.sum(1, keepdims=True) @ v, 2e-3, 1e-3
    )


def test_q4_0():
    a, p = outcome(q4_0_matvec())
    blocks = q4_0_matvec().buffers["digits"].reshape(-1, 18)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    digits = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.float64) - 8
    weights = (scale * digits).reshape(p["rows"], -1)
    np.testing.assert_allclose(a["out"], weights @ a["x"], 2e-3)


def test_lanes_with_unlike_bounds_and_loops_without_turns():
    a, p = outcome(triangle_sums())
    expected = np.tril(a["x"].reshape(p["n"], -1), -1).sum(1) - 1.0
    np.testing.assert_allclose(a["out"], expected, 1e-5)


X, OUT, I = Buffer("x", "f16"), Buffer("out", "f16", True), index("i")


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (Store(OUT, I, load(X, I + 1)), r"x\[4\] of 4 elements"),
        (Store(OUT, I - 1, load(X, I)), r"out\[-1\] of 4 elements"),
        (Store(OUT, I, load(X, const(-1, "i64"))), r"x\[-1\] of 4 elements"),
    ],
)
def test_leaving_a_buffer_is_an_error(store, message):
    kernel = Kernel((X, OUT), (N,), flat(store))
    buffers = {"x": np.zeros(4, np.float16), "out": np.zeros(4, np.float16)}
    with pytest.raises(IndexError, match=message):
        interpret.run(kernel, buffers, {"n": 4})


def test_a_guarded_access_may_point_anywhere():
    guarded = Store(OUT, I - 1, load(X, I + 1, I < 3), I > 0)
    buffers = {"x": np.arange(4, dtype=np.float16), "out": np.zeros(4, np.float16)}
    interpret.run(Kernel((X, OUT), (N,), flat(guarded)), buffers, {"n": 4})
    assert buffers["out"].tolist() == [2, 3, 0, 0]


def test_arrays_of_another_type_are_refused():
    kernel = Kernel((X, OUT), (N,), flat(Store(OUT, I, load(X, I))))
    buffers = {"x": np.zeros(4, np.float32), "out": np.zeros(4, np.float16)}
    with pytest.raises(TypeError, match="x is f16, not float32"):
        interpret.run(kernel, buffers, {"n": 4})
