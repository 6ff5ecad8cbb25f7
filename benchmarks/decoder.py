"""A decoder of the Llama kind (Touvron et al. 2023) on a GGUF file, in this library."""

from __future__ import annotations

import time
from itertools import chain
from typing import Any

import numpy as np

import tensorlogic as tl
from benchmarks.peers.base import Measured, Sizes

CONTEXT = 512
Tensors = list[tl.Tensor]
Caches = list[Tensors]


def tokens_of(count: int) -> list[int]:
    """Tokens of a prompt, the same for every competitor."""
    return [int(t) for t in np.random.default_rng(1).integers(300, 500, count)]


class Decoder:
    """A model and its caches."""

    def __init__(self, path: str) -> None:
        self.model = tl.load_model(path)
        data = self.model.metadata
        self.layers = data["llama.block_count"]
        self.width = data["llama.rope.dimension_count"]
        self.base = data["llama.rope.freq_base"]
        self.eps = data["llama.attention.layer_norm_rms_epsilon"]
        self.kv = data["llama.attention.head_count_kv"]
        self._step = tl.function(self._forward)
        self.clear()

    def clear(self) -> None:
        shape = [self.kv, CONTEXT, self.width]
        self.at = 0
        self.caches: Caches = [[tl.zeros(shape) for _ in range(2)] for _ in range(self.layers)]
        tl.eval(*chain.from_iterable(self.caches))

    def step(self, tokens: list[int]) -> tl.Tensor:
        """The logits of the token after these, which come after all before."""
        ids = tl.tensor(tokens, dtype=tl.int32)
        logits, self.caches = self._step(self.model, ids, self.at, self.caches)
        tl.eval(logits, *chain.from_iterable(self.caches))
        self.at += len(tokens)
        return logits

    def _norm(self, model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
        return tl.rms_norm(x, model[f"{name}.weight"], eps=self.eps)

    def _heads(self, model: tl.Model, name: str, x: tl.Tensor) -> tl.Tensor:
        heads = tl.linear(x, model[f"{name}.weight"])
        return heads.reshape(len(x), -1, self.width).permute(1, 0, 2)

    def _attention(
        self, model: tl.Model, name: str, x: tl.Tensor, at: int, cache: Tensors
    ) -> Tensors:
        """What the tokens x at positions `at` and on see, and the grown cache."""
        q, k, v = (self._heads(model, f"{name}_{part}", x) for part in "qkv")
        q, k = (tl.rope(part, at, self.base, layout="pairs") for part in (q, k))
        keys, values = (old.update(at, new, axis=1) for old, new in zip(cache, (k, v), strict=True))
        seen = tl.scaled_dot_product_attention(q, keys, values, causal=True, length=at + len(x))
        seen = seen.permute(1, 0, 2).reshape(len(x), -1)
        return [tl.linear(seen, model[f"{name}_output.weight"]), keys, values]

    def _forward(
        self, model: tl.Model, ids: tl.Tensor, at: int, caches: Caches
    ) -> tuple[tl.Tensor, Caches]:
        x, grown = tl.embedding(ids, model["token_embd.weight"]), []
        for i, cache in enumerate(caches):
            name = f"blk.{i}"
            h = self._norm(model, f"{name}.attn_norm", x)
            seen, *cache = self._attention(model, f"{name}.attn", h, at, cache)
            x = x + seen
            h = self._norm(model, f"{name}.ffn_norm", x)
            gate, up = (tl.linear(h, model[f"{name}.ffn_{p}.weight"]) for p in ("gate", "up"))
            x = x + tl.linear(tl.silu(gate) * up, model[f"{name}.ffn_down.weight"])
            grown.append(cache)
        last = self._norm(model, "output_norm", x[-1]).to(tl.float32)
        return tl.linear(last, model["output.weight"]), grown


def decode(s: Sizes) -> Measured:
    """Seconds for a token, after the one that begins a text."""
    decoder, tokens = Decoder(s["file"]), tokens_of(s["tokens"])
    last: list[Any] = []

    def run() -> float:
        decoder.clear()
        decoder.step([1])
        start = time.perf_counter()
        for t in tokens:
            last[:] = [decoder.step([t])]
        return (time.perf_counter() - start) / len(tokens)

    return Measured(run, lambda: last[0].numpy())


def prefill(s: Sizes) -> Measured:
    """Seconds for all tokens of a prompt at once."""
    decoder, tokens = Decoder(s["file"]), tokens_of(s["tokens"])
    last: list[Any] = []

    def run() -> float:
        decoder.clear()
        start = time.perf_counter()
        last[:] = [decoder.step(tokens)]
        return time.perf_counter() - start

    return Measured(run, lambda: last[0].numpy())
