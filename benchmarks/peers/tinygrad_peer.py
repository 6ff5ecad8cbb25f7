"""tinygrad in float16 on its CPU device, each call through a TinyJit."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any, ClassVar

from tinygrad import Device, Tensor, TinyJit, dtypes

from benchmarks.kinds import chain
from benchmarks.peers.base import Array, Peer, Sizes


def _gelu(s: Sizes) -> Callable[..., Any]:
    if s["tensors"]:
        return lambda x, a, b, c: (x * a + b).gelu() * c
    return lambda x: (x * 1.5 + 0.25).gelu() * 0.75


def _rms_norm(x: Any, w: Any, b: Any) -> Any:
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).half() * w


def _convolution(s: Sizes) -> Callable[..., Any]:
    settings = {"groups": s["groups"], "stride": s["stride"], "padding": s["taps"] // 2}
    return lambda x, w: x.conv2d(w, **settings)


class Tinygrad(Peer):
    name = "tinygrad"
    snippets: ClassVar = {
        "import": "import tinygrad",
        "script": "from tinygrad import Tensor, dtypes\nh = dtypes.half\n"
        "x, w, b = Tensor.ones(4, 3, dtype=h), Tensor.ones(3, 2, dtype=h), "
        "Tensor.zeros(2, dtype=h)\nprint((x @ w + b).tolist())",
    }

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self._device = Device["CPU"]
        self.functions = {
            "matmul": lambda s: (lambda a, b: a @ b.T) if s["layout"] == "nk" else Tensor.matmul,
            "gelu": _gelu,
            "softmax": lambda s: lambda x, w, b: x.softmax(-1),
            "rms_norm": lambda s: _rms_norm,
            "layer_norm": lambda s: lambda x, w, b: x.layernorm(eps=1e-5) * w + b,
            "sum": lambda s: lambda x: x.sum(s["axis"], dtype=dtypes.float).half(),
            "transposed": lambda s: lambda x: x.T * 2 + 1,
            "odd": lambda s: lambda x: (x[:, 1:] * 2 + x[:, :-1]).relu(),
            "matvec": lambda s: lambda x, *ws: [x @ w.T for w in ws],
            "convolution": _convolution,
            "linear": lambda s: lambda x, w, b: x @ w + b,
            "chain": lambda s: chain,
        }

    @property
    def version(self) -> str:
        return importlib.metadata.version("tinygrad")

    def tensor(self, array: Array) -> Any:
        return Tensor(array).contiguous().realize()

    def array(self, value: Any) -> Array:
        return value.numpy()

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        def realized(*tensors: Any) -> Any:
            value = function(*tensors)
            if isinstance(value, list):
                return Tensor.realize(*value) and value
            return value.contiguous().realize()

        jitted = TinyJit(realized)
        device = self._device

        def call(*tensors: Any) -> Any:
            value = jitted(*tensors)
            device.synchronize()
            return value

        return call
