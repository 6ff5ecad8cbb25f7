"""PyTorch in float16: eager, and through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.kinds import KINDS, chain
from benchmarks.peers.base import Array, Measured, Peer, Prepared, Sizes, Unsupported, novel

_FIRST = """
import time
import torch
torch.set_grad_enabled(False)
def f(x):
    return torch.softmax(torch.tanh(x * 2 + 1) * torch.exp(x), -1)
x = torch.ones(64, 64, dtype=torch.float16)
g = torch.compile(lambda x: x + 1)
g(x)
f = torch.compile(f)
start = time.perf_counter()
f(x)
print(time.perf_counter() - start)
"""


def _gelu(s: Sizes) -> Callable[..., Any]:
    if s["tensors"]:
        return lambda x, a, b, c: F.gelu(x * a + b, approximate="tanh") * c
    return lambda x: F.gelu(x * 1.5 + 0.25, approximate="tanh") * 0.75


def _attention(s: Sizes) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=s["causal"], enable_gqa=True
        )[0]

    return attention


def _convolution(s: Sizes) -> Callable[..., Any]:
    stride, padding, groups = s["stride"], s["taps"] // 2, s["groups"]
    return lambda x, w: F.conv2d(x, w, None, stride, padding, 1, groups)


class Torch(Peer):
    name = "torch"
    snippets: ClassVar = {
        "import": "import torch",
        "script": "import torch\nh = torch.float16\n"
        "x, w, b = torch.ones(4, 3, dtype=h), torch.ones(3, 2, dtype=h), torch.zeros(2, dtype=h)\n"
        "print((x @ w + b).tolist())",
    }

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._on_gpu = device.startswith("cuda")
        self.functions = {
            "matmul": lambda s: F.linear if s["layout"] == "nk" else torch.matmul,
            "gelu": _gelu,
            "softmax": lambda s: lambda x, w, b: torch.softmax(x, -1),
            "rms_norm": lambda s: lambda x, w, b: F.rms_norm(x, x.shape[-1:], w, 1e-5),
            "layer_norm": lambda s: lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
            "sum": lambda s: lambda x: x.sum(s["axis"]),
            "transposed": lambda s: lambda x: (x.T * 2 + 1).contiguous(),
            "odd": lambda s: lambda x: torch.relu(x[:, 1:] * 2 + x[:, :-1]),
            "matvec": lambda s: lambda x, *ws: [F.linear(x, w) for w in ws],
            "attention": _attention,
            "convolution": _convolution,
            "linear": lambda s: lambda x, w, b: x @ w + b,
            "chain": lambda s: chain,
        }
        if self._on_gpu:
            self.special |= {"copy": self._copy, "rate": self._rate}
        self.special["quantized"] = self._decoded
        if type(self) is Torch and not self._on_gpu:
            self.special |= {
                "open_file": lambda s: Prepared(lambda: _load(s["file"])),
                "sum_file": self._sum_file,
            }

    @property
    def version(self) -> str:
        return str(torch.__version__)

    def tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.device)

    def array(self, value: Any) -> Array:
        return value.cpu().numpy()

    def sync(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()

    def _sum_file(self, s: Sizes) -> Prepared:
        def sums(tensors: dict[str, Any]) -> list[Any]:
            return [v.sum(dtype=torch.float32) for v in tensors.values()]

        if s["again"]:
            tensors = _load(s["file"])
            return Prepared(lambda: sums(tensors), self.result)
        return Prepared(lambda: sums(_load(s["file"])), self.result)

    def _decoded(self, s: Sizes) -> Prepared:
        """PyTorch has no such blocks: the same weights, decoded to float16 beforehand."""
        from benchmarks.files import decoded, turned

        if not s["decoded"]:
            raise Unsupported("quantized weights")
        (x,) = (self.tensor(a) for a in KINDS["quantized"].inputs(s))
        first = self.tensor(decoded(s["file"]).astype(np.float16))
        weights = [torch.roll(first, turned(i), 0) for i in range(s["count"])]
        function = self.ready(lambda x, *ws: [F.linear(x, w) for w in ws], s)
        return Prepared(lambda: function(x, *weights), self.result, self.sync)

    # ---- what a GPU can do at best ----

    def _copy(self, s: Sizes) -> Measured:
        source = torch.empty(s["size"], dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return Measured(lambda: self._per_call(lambda: target.copy_(source)))

    def _rate(self, s: Sizes) -> Measured:
        n = s["n"]
        a, b = (torch.randn(n, n, device=self.device).half() for _ in range(2))
        return Measured(lambda: self._per_call(lambda: a @ b))

    def _per_call(self, work: Callable[[], Any], turns: int = 20) -> float:
        work()
        self.sync()

        def repeated() -> None:
            for _ in range(turns):
                work()

        return self.timed(repeated) / turns


class TorchCompile(Torch):
    name = "torch.compile"
    snippets: ClassVar = {"first": _FIRST}

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self._novel = 0
        self.special["first_call"] = self._first_call

    def ready(self, function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
        torch._dynamo.reset()
        return torch.compile(function, dynamic=False)

    def _first_call(self, s: Sizes) -> Measured:
        x = self.tensor(np.ones((64, 64), np.float16))
        unary = {n: getattr(torch, n) for n in ("tanh", "sin", "cos", "abs", "sigmoid", "relu")}

        def measure() -> float:
            torch._dynamo.reset()
            self._novel += 1
            function = torch.compile(novel(self._novel, unary))
            return self.timed(lambda: function(x))

        return Measured(measure)


def _load(path: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)
