"""A small Llama-like decoder in tl: the program on which the rules for plans are tested."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorlogic as tl

DIM, HEADS, GROUPS, HEAD, HIDDEN, LENGTH = 64, 4, 2, 16, 96, 32


def make_layers(count: int, seed: int = 0) -> list[dict[str, tl.Tensor]]:
    """Weights of `count` layers, as PyTorch keeps them: [out, in]."""
    rng = np.random.default_rng(seed)
    shapes = {
        "q": (HEADS * HEAD, DIM),
        "k": (GROUPS * HEAD, DIM),
        "v": (GROUPS * HEAD, DIM),
        "o": (DIM, HEADS * HEAD),
        "gate": (HIDDEN, DIM),
        "up": (HIDDEN, DIM),
        "down": (DIM, HIDDEN),
    }
    layers = []
    for _ in range(count):
        layer = {n: tl.tensor(rng.standard_normal(s) * s[1] ** -0.5) for n, s in shapes.items()}
        layer["norm1"] = tl.tensor(rng.uniform(0.5, 1.5, DIM))
        layer["norm2"] = tl.tensor(rng.uniform(0.5, 1.5, DIM))
        layers.append(layer)
    return layers


def make_caches(count: int) -> list[dict[str, tl.Tensor]]:
    return [{n: tl.zeros([GROUPS, LENGTH, HEAD]) for n in ("k", "v")} for _ in range(count)]


def rope(x: tl.Tensor, position: Any) -> tl.Tensor:
    """Rotary positions over x [H, T, D]: pairs are (d, d + D/2)."""
    t = (tl.arange(x.shape[1]) + position).to(tl.float32).reshape(-1, 1)
    step = tl.exp(tl.arange(HEAD // 2).to(tl.float32) * (-2 * 9.21 / HEAD))
    low, high = tl.split(x, 2, axis=2)
    cos, sin = tl.cos(t * step), tl.sin(t * step)
    return tl.concat([low * cos - high * sin, high * cos + low * sin], axis=2).to(tl.float16, "inf")


def decode(
    x: tl.Tensor,
    position: Any,
    layers: list[dict[str, tl.Tensor]],
    caches: list[dict[str, tl.Tensor]],
) -> tuple[tl.Tensor, list[dict[str, tl.Tensor]]]:
    """x [T, DIM] at `position` through all layers; the caches that came are consumed."""
    count = x.shape[0]
    new = []
    for w, cache in zip(layers, caches, strict=True):
        h = tl.rms_norm(x, w["norm1"])

        def heads(y: tl.Tensor, n: int) -> tl.Tensor:
            return y.reshape(count, n, HEAD).permute(1, 0, 2)

        q = rope(heads(tl.linear(h, w["q"]), HEADS), position)
        k = cache["k"].update(position, rope(heads(tl.linear(h, w["k"]), GROUPS), position), axis=1)
        v = cache["v"].update(position, heads(tl.linear(h, w["v"]), GROUPS), axis=1)
        new.append({"k": k, "v": v})
        a = tl.scaled_dot_product_attention(q, k, v, causal=True, length=position + count)
        x = x + tl.linear(a.permute(1, 0, 2).reshape(count, HEADS * HEAD), w["o"])
        h = tl.rms_norm(x, w["norm2"])
        x = x + tl.linear(tl.silu(tl.linear(h, w["gate"])) * tl.linear(h, w["up"]), w["down"])
    return x, new
