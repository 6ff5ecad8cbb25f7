"""NumPy: float16 arrays, computed in float32 (it has no fast float16 arithmetic), and rounded back.

The competitor `numpy float32` has float32 arrays and casts nothing: another dtype, twice the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.kinds import chain
from benchmarks.peers.base import Array, Peer, Prepared, Sizes

F = np.float32


def _gelu(u: Array) -> Array:
    return F(0.5) * u * (F(1) + np.tanh(F(0.7978845608) * (u + F(0.044715) * (u * u * u))))


def _chain(s: Sizes) -> Callable[..., Array]:
    if s["tensors"]:
        return lambda x, a, b, c: _gelu(x * a + b) * c
    return lambda x: _gelu(x * F(1.5) + F(0.25)) * F(0.75)


def _softmax(x: Array, w: Array, b: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def _rms_norm(x: Array, w: Array, b: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + F(1e-5)) * w


def _layer_norm(x: Array, w: Array, b: Array) -> Array:
    d = x - x.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + F(1e-5)) * w + b


def _attention(s: Sizes) -> Callable[..., Array]:
    group, scale = s["heads"] // s["kv"], F(s["width"] ** -0.5)

    def attention(q: Array, k: Array, v: Array) -> Array:
        q = q.reshape(s["kv"], group * s["queries"], s["width"])
        scores = q @ k.transpose(0, 2, 1) * scale
        if s["causal"]:
            above = np.arange(s["keys"]) > np.arange(s["queries"])[:, None]
            scores[np.broadcast_to(np.tile(above, (group, 1)), scores.shape)] = -np.inf
        e = np.exp(scores - scores.max(-1, keepdims=True))
        e /= e.sum(-1, keepdims=True)
        return (e @ v).reshape(s["heads"], s["queries"], s["width"])

    return attention


class Numpy(Peer):
    name = "numpy"
    dtype: type = np.float16
    snippets: ClassVar = {
        "import": "import numpy",
        "script": "import numpy as np\n"
        "h = np.float16\n"
        "print((np.ones([4, 3], h) @ np.ones([3, 2], h) + np.zeros([2], h)).tolist())",
    }

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self.functions = {
            "matmul": lambda s: (lambda a, b: a @ b.T) if s["layout"] == "nk" else np.matmul,
            "gelu": _chain,
            "softmax": lambda s: _softmax,
            "rms_norm": lambda s: _rms_norm,
            "layer_norm": lambda s: _layer_norm,
            "sum": lambda s: lambda x: x.sum(s["axis"]),
            "transposed": lambda s: lambda x: x.T * F(2) + F(1),
            "odd": lambda s: lambda x: np.maximum(x[:, 1:] * F(2) + x[:, :-1], F(0)),
            "matvec": lambda s: lambda x, *ws: [x @ w.T for w in ws],
            "attention": _attention,
            "linear": lambda s: lambda x, w, b: x @ w + b,
            "chain": lambda s: chain,
        }
        if self.dtype is np.float16:
            self.special |= {"open_file": self._open_file, "sum_file": self._sum_file}

    @property
    def version(self) -> str:
        return np.__version__

    def tensor(self, array: Array) -> Array:
        return array.astype(self.dtype)

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        if self.dtype is np.float32 or "recorded" in sizes:  # small calls: no casts, they cost more
            return function

        def call(*arrays: Array) -> Any:
            value = function(*(a.astype(F) for a in arrays))
            if isinstance(value, list):
                return [v.astype(np.float16) for v in value]
            return value.astype(np.float16)

        return call

    @staticmethod
    def _open_file(s: Sizes) -> Prepared:
        from safetensors.numpy import load_file

        return Prepared(lambda: load_file(s["file"]))

    def _sum_file(self, s: Sizes) -> Prepared:
        from safetensors.numpy import load_file

        def sums(tensors: dict[str, Array]) -> list[Array]:
            return [v.sum(dtype=F) for v in tensors.values()]

        if s["again"]:
            tensors = load_file(s["file"])
            return Prepared(lambda: sums(tensors), self.result)
        return Prepared(lambda: sums(load_file(s["file"])), self.result)


class NumpyFloat32(Numpy):
    name = "numpy float32"
    dtype = np.float32
    snippets: ClassVar = {}
