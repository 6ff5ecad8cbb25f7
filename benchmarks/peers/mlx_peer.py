"""MLX in float16 on its CPU device: as it is, and through mx.compile."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from benchmarks.kinds import chain
from benchmarks.peers.base import Array, Measured, Peer, Prepared, Sizes, novel

_FIRST = """
import time
import mlx.core as mx
x = mx.ones((64, 64), mx.float16)
mx.eval(x + 1)
f = mx.compile(lambda x: mx.softmax(mx.tanh(x * 2 + 1) * mx.exp(x), axis=-1))
start = time.perf_counter()
mx.eval(f(x))
print(time.perf_counter() - start)
"""


def _gelu(s: Sizes) -> Callable[..., Any]:
    if s["tensors"]:
        return lambda x, a, b, c: nn.gelu_approx(x * a + b) * c
    return lambda x: nn.gelu_approx(x * 1.5 + 0.25) * 0.75


def _convolution(s: Sizes) -> Callable[..., Any]:
    stride, padding, groups = s["stride"], s["taps"] // 2, s["groups"]

    def convolution(x: Any, w: Any) -> Any:  # channels last, as MLX has them
        y = mx.conv2d(x.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1), stride, padding, 1, groups)
        return y.transpose(0, 3, 1, 2)

    return convolution


def _attention(s: Sizes) -> Callable[..., Any]:
    mask = "causal" if s["causal"] else None
    scale = s["width"] ** -0.5
    attend = mx.fast.scaled_dot_product_attention
    return lambda q, k, v: attend(q[None], k[None], v[None], scale=scale, mask=mask)[0]


class Mlx(Peer):
    name = "mlx"
    snippets: ClassVar = {
        "import": "import mlx.core",
        "script": "import mlx.core as mx\nh = mx.float16\n"
        "print((mx.ones([4, 3], h) @ mx.ones([3, 2], h) + mx.zeros([2], h)).tolist())",
    }

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        mx.set_default_device(mx.cpu)
        self.functions = {
            "matmul": lambda s: (lambda a, b: a @ b.T) if s["layout"] == "nk" else mx.matmul,
            "gelu": _gelu,
            "softmax": lambda s: lambda x, w, b: mx.softmax(x, axis=-1),
            "rms_norm": lambda s: lambda x, w, b: mx.fast.rms_norm(x, w, 1e-5),
            "layer_norm": lambda s: lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
            "sum": lambda s: lambda x: mx.sum(x, axis=s["axis"]),
            "transposed": lambda s: lambda x: mx.contiguous(x.T * 2 + 1),
            "odd": lambda s: lambda x: mx.maximum(x[:, 1:] * 2 + x[:, :-1], 0),
            "matvec": lambda s: lambda x, *ws: [x @ w.T for w in ws],
            "attention": _attention,
            "convolution": _convolution,
            "linear": lambda s: lambda x, w, b: x @ w + b,
            "chain": lambda s: chain,
        }
        if type(self) is Mlx:
            self.special |= {
                "open_file": lambda s: Prepared(lambda: mx.load(s["file"])),
                "sum_file": self._sum_file,
            }

    @property
    def version(self) -> str:
        return importlib.metadata.version("mlx")

    def tensor(self, array: Array) -> Any:
        value = mx.array(array)
        mx.eval(value)
        return value

    def array(self, value: Any) -> Array:
        return np.array(value)

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        evaluate = mx.eval

        def call(*tensors: Any) -> Any:
            value = function(*tensors)
            evaluate(value)
            return value

        return call

    def _sum_file(self, s: Sizes) -> Prepared:
        def sums(tensors: dict[str, Any]) -> list[Any]:
            found = [mx.sum(v.astype(mx.float32)) for v in tensors.values()]
            mx.eval(found)
            return found

        if s["again"]:
            tensors = mx.load(s["file"])
            mx.eval(tensors)
            return Prepared(lambda: sums(tensors), self.result)
        return Prepared(lambda: sums(mx.load(s["file"])), self.result)


class MlxCompile(Mlx):
    name = "mlx.compile"
    snippets: ClassVar = {"first": _FIRST}

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self._novel = 0
        self.special["first_call"] = self._first_call

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        return super().ready(mx.compile(function), sizes)

    def _first_call(self, s: Sizes) -> Measured:
        x = self.tensor(np.ones((64, 64), np.float16))
        unary = {n: getattr(mx, n) for n in ("tanh", "sin", "cos", "abs", "sigmoid", "sqrt")}

        def measure() -> float:
            self._novel += 1
            function = mx.compile(novel(self._novel, unary))
            return self.timed(lambda: mx.eval(function(x)))

        return Measured(measure)
