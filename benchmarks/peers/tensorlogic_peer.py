"""This library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

import tensorlogic as tl
from benchmarks import ceilings, decoder
from benchmarks.kinds import KINDS, chain
from benchmarks.peers.base import Array, Measured, Peer, Prepared, Sizes, novel

_FIRST = """
import time
import tensorlogic as tl
x = tl.ones([64, 64])
tl.eval(x + 1)
f = tl.function(lambda x: tl.softmax(tl.tanh(x * 2 + 1) * tl.exp(x)))
start = time.perf_counter()
tl.eval(f(x))
print(time.perf_counter() - start)
"""


def _gelu(s: Sizes) -> Callable[..., Any]:
    if s["tensors"]:
        return lambda x, a, b, c: tl.gelu(x * a + b, approximate="tanh") * c
    return lambda x: tl.gelu(x * 1.5 + 0.25, approximate="tanh") * 0.75


def _convolution(s: Sizes) -> Callable[..., Any]:
    settings = {"stride": s["stride"], "padding": s["taps"] // 2, "groups": s["groups"]}
    return lambda x, w: tl.conv2d(x, w, **settings)


class Tensorlogic(Peer):
    name = "tensorlogic"
    snippets: ClassVar = {
        "import": "import tensorlogic",
        "first": _FIRST,
        "script": "import tensorlogic as tl\n"
        "print((tl.ones([4, 3]) @ tl.ones([3, 2]) + tl.zeros([2])).tolist())",
    }

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self._probe = tl.ones([1], device=device)
        self._novel = 0
        tl.eval(self._probe + 1)
        self.functions = {
            "matmul": lambda s: (lambda a, b: a @ b.T) if s["layout"] == "nk" else tl.matmul,
            "gelu": _gelu,
            "softmax": lambda s: lambda x, w, b: tl.softmax(x),
            "rms_norm": lambda s: lambda x, w, b: tl.rms_norm(x, w, eps=1e-5),
            "layer_norm": lambda s: lambda x, w, b: tl.layer_norm(x, w, b, eps=1e-5),
            "sum": lambda s: lambda x: x.sum(axis=s["axis"]),
            "transposed": lambda s: lambda x: x.T * 2 + 1,
            "odd": lambda s: lambda x: tl.relu(x[:, 1:] * 2 + x[:, :-1]),
            "matvec": lambda s: lambda x, *ws: [tl.linear(x, w) for w in ws],
            "attention": lambda s: (
                lambda q, k, v: tl.scaled_dot_product_attention(q, k, v, causal=s["causal"])
            ),
            "convolution": _convolution,
            "linear": lambda s: lambda x, w, b: x @ w + b,
            "chain": lambda s: chain,
        }
        self.special |= {
            "quantized": self._quantized,
            "open_file": lambda s: Prepared(lambda: tl.load_model(s["file"])),
            "sum_file": self._sum_file,
            "decode": decoder.decode,
            "prefill": decoder.prefill,
            "first_call": self._first_call,
            "fma": lambda s: ceilings.fma(s["threads"]),
            "read": lambda s: ceilings.read(s["threads"], s["size"]),
        }

    @property
    def version(self) -> str:
        return tl.__version__

    def tensor(self, array: Array) -> tl.Tensor:
        return tl.tensor(array, device=self.device)

    def array(self, value: tl.Tensor) -> Array:
        return value.numpy()

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        recorded = function if sizes.get("recorded") else tl.function(function)
        evaluate = tl.eval

        def call(*tensors: Any) -> Any:
            value = recorded(*tensors)
            if isinstance(value, list):
                evaluate(*value)
            else:
                evaluate(value)
            return value

        return call

    def sync(self) -> None:
        if self.device != "cpu":  # what is launched there runs in order: the last one is waited for
            (self._probe + 1).numpy()

    def _quantized(self, s: Sizes) -> Prepared:
        model = tl.load_model(s["file"])
        weights = [model[f"w{i}"].to(self.device) for i in range(s["count"])]
        (x,) = (self.tensor(a) for a in KINDS["quantized"].inputs(s))
        call = self.ready(lambda x, *ws: [tl.linear(x, w) for w in ws], s)
        return Prepared(lambda: call(x, *weights), self.result, self.sync)

    def _sum_file(self, s: Sizes) -> Prepared:
        @tl.function
        def sums(*tensors: tl.Tensor) -> Any:
            return [t.to(tl.float32).sum() for t in tensors]

        def open_and_sum(model: tl.Model) -> list[tl.Tensor]:
            found = sums(*(model[name] for name in model.names()))
            tl.eval(*found)
            return found

        if s["again"]:
            model = tl.load_model(s["file"])
            return Prepared(lambda: open_and_sum(model), self.result)
        return Prepared(lambda: open_and_sum(tl.load_model(s["file"])), self.result)

    def _first_call(self, s: Sizes) -> Measured:
        x = self.tensor(np.ones((64, 64), np.float16))
        unary = {n: getattr(tl, n) for n in ("tanh", "sin", "cos", "abs", "sigmoid", "relu")}

        def measure() -> float:
            self._novel += 1
            function = tl.function(novel(self._novel, unary))
            return self.timed(lambda: tl.eval(function(x)))

        return Measured(measure)
