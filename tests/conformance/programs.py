"""Random programs, written once for tensors and once for NumPy in float64.

Their ops are continuous and keep values of order one, so that errors stay near float32's own.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import tensorlogic as tl
from tests.compare import Array
from tests.conformance.cases import attention

Pair = tuple[Any, Array]
"""What the program does: a tensor, and the same in float64."""
LIMIT = 600
"""Elements that a value may have."""


def factors(random: Random, size: int) -> tuple[int, ...]:
    """A random shape of `size` elements."""
    if size == 0:
        return (0, random.choice([1, 2, 3]))
    shape: list[int] = []
    while size > 1:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        shape.append(random.choice(divisors))
        size //= shape[-1]
    for _ in range(random.randrange(2)):
        shape.insert(random.randint(0, len(shape)), 1)
    return tuple(shape)


def strided(random: Random, rng: np.random.Generator, dtype: str) -> Array:
    """An array that lies somehow: whole, a slice with steps, transposed, reversed, broadcast."""
    rank = random.randint(0, 3)
    shape = tuple(random.choice([0, 1, 2, 3, 5, 8, 17] if rank < 3 else [1, 2, 3, 5])
                  for _ in range(rank))  # fmt: skip
    base = np.asarray(rng.uniform(-2, 2, tuple(2 * n + 1 for n in shape)).astype(dtype))
    kind = random.randrange(5)
    if kind == 0 or not rank:
        return np.asarray(rng.uniform(-2, 2, shape)).astype(dtype)
    if kind == 1:
        return np.broadcast_to(base[:1], (random.randint(1, 4), *base.shape[1:]))
    cut = tuple(slice(None, None, random.choice([1, 2, -1, -2])) for _ in shape)
    part = base[cut][tuple(slice(0, n) for n in shape)]
    return part.transpose(random.sample(range(rank), rank)) if kind == 2 else part


def view(random: Random, x: Any, a: Array) -> Pair:
    """One op that moves values only; x and a have the same shape."""
    rank, shape = a.ndim, a.shape
    kind = random.randrange(12)
    if kind == 0:
        new = factors(random, a.size)
        return x.reshape(*new), a.reshape(new)
    if kind == 1 and rank:
        order = random.sample(range(rank), rank)
        return x.permute(*order), a.transpose(order)
    if kind == 2 and rank:
        cut = tuple(
            slice(*sorted(random.randint(0, n) for _ in range(2)))
            if random.randrange(2)
            else slice(None, None, random.choice([1, 2, -1, -3]))
            for n in shape
        )
        return x[cut], a[cut]
    if kind == 3 and rank and all(shape):
        at = random.randrange(rank)
        key = (*[slice(None)] * at, random.randrange(-shape[at], shape[at]))
        return x[key], a[key]
    if kind == 4:
        axis = random.randint(0, rank)
        return x.unsqueeze(axis), np.expand_dims(a, axis)
    if kind == 5 and a.size <= LIMIT // 4:
        n = random.randint(1, 3)
        wide = (n, *(random.randint(1, 3) if d == 1 else d for d in shape))
        if math.prod(wide) <= LIMIT:
            return x.expand(*wide), np.broadcast_to(a, wide)
    if kind == 6 and rank and a.size <= LIMIT // 2:
        widths = [(random.randint(0, 2), random.randint(0, 2)) for _ in shape]
        if math.prod(d + b + c for d, (b, c) in zip(shape, widths, strict=True)) <= LIMIT:
            fill = random.choice([0.0, -0.5])
            return x.pad(widths, fill), np.pad(a, widths, constant_values=fill)
    if kind == 7 and rank:
        axis = random.randrange(rank)
        if shape[axis]:
            n = [random.randrange(-shape[axis], shape[axis]) for _ in range(random.randint(0, 4))]
            index = np.array(n, np.int32)
            return x.take(index, axis=axis), np.take(a, index, axis)
    if kind == 8 and rank and a.size <= LIMIT // 2:
        axis = random.randrange(rank)
        return tl.concat([x, -x], axis), np.concatenate([a, -a], axis)
    if kind == 9 and rank and all(shape):
        axis = random.randrange(rank)
        start = random.randrange(shape[axis])
        cut = (*[slice(None)] * axis, slice(start, start + random.randint(1, 3)))
        new = a.copy()
        new[cut] = -a[cut]
        return (x * 1).update(start, -x[cut], axis), new
    if kind == 10 and rank and shape[0]:
        picked = np.arange(4) * 3 % shape[0]
        return x.take(tl.arange(4) * 3 % shape[0]), a[picked]
    if kind == 11 and rank and a.size <= LIMIT // 4:
        axis = random.randrange(rank)
        size, step, gap = (random.randint(1, 3) for _ in range(3))
        if gap * (size - 1) < shape[axis]:
            seen = sliding_window_view(a, gap * (size - 1) + 1, axis)[..., ::gap]
            seen = np.moveaxis(seen, -1, axis + 1)
            return x.window(axis, size, step, gap), seen[
                (*[slice(None)] * axis, slice(None, None, step))
            ]
    return x, a


def arranged(random: Random, x: Any, a: Array) -> Pair:
    """One op that puts values elsewhere, along one axis."""
    rank = a.ndim
    if not rank:
        return tl.tile(x, 2), np.tile(a, 2)
    axis = random.randrange(-rank, rank)
    size = a.shape[axis]
    beside = tuple(random.randint(1, 5) if i == axis % rank else n for i, n in enumerate(a.shape))
    index = np.random.default_rng(random.randrange(99)).integers(-size, max(size, 1), beside)
    i = tl.from_numpy(index.astype(np.int32))
    kind = random.randrange(8)
    if kind == 0:
        return x.flip(axis), np.flip(a, axis)
    if kind == 1:
        return x.roll(3, axis), np.roll(a, 3, axis)
    if kind == 2 and a.size <= LIMIT // 2:
        return x.repeat(2, axis), np.repeat(a, 2, axis)
    if kind == 3 and rank > 1:
        k, other = random.randint(-1, 1), axis - 1 if axis % rank else axis + 1
        return x.diagonal(k, axis, other), np.diagonal(a, k, axis, other)
    if kind == 4 and rank > 1:
        return x.tril(1), np.tril(a, 1)
    if kind == 5 and a.size:
        return x.gather(i, axis), np.take_along_axis(a, index, axis)
    if kind == 6 and a.size:
        new = a.copy()
        np.put_along_axis(new, index, 0.5, axis)
        return x.scatter(i, 0.5, axis), new
    if kind == 7:
        return x.sort(axis), np.sort(a, axis)
    return x, a


def unary(random: Random, x: Any, a: Array) -> Pair:
    kind = random.randrange(7)
    if kind == 0:
        return tl.tanh(x), np.tanh(a)
    if kind == 1:
        return tl.sigmoid(x), 1 / (1 + np.exp(-a))
    if kind == 2:
        return tl.relu(x), np.maximum(a, 0)
    if kind == 3:
        return 0.25 - x / 2, 0.25 - a / 2
    if kind == 4:
        return abs(x), np.abs(a)
    if kind == 5:
        return tl.sin(x), np.sin(a)
    return tl.clip(x, -1, 1.5), np.clip(a, -1, 1.5)


def binary(random: Random, x: Any, a: Array, y: Any, b: Array) -> Pair:
    try:
        if math.prod(np.broadcast_shapes(a.shape, b.shape)) > LIMIT:
            return x, a
    except ValueError:
        return x, a
    kind = random.randrange(5)
    if kind == 0:
        return (x + y) * 0.5, (a + b) * 0.5
    if kind == 1:
        return tl.tanh(x * y), np.tanh(a * b)
    if kind == 2:
        return tl.minimum(x, y), np.minimum(a, b)
    if kind == 3:
        return tl.where(x < y, y, x), np.maximum(a, b)
    return x / (y * y + 1), a / (b * b + 1)


def fold(random: Random, x: Any, a: Array) -> Pair:
    rank = a.ndim
    if not rank:
        return x, a
    axes = tuple(random.sample(range(rank), random.randint(1, rank)))
    keep = random.random() < 0.5
    full = all(a.shape[i] for i in axes)
    kind = random.randrange(10)
    if kind == 0 and full:
        return x.mean(axes, keepdims=keep), a.mean(axes, keepdims=keep)
    if kind == 1:
        return tl.tanh(x.sum(axes, keepdims=keep) / 8), np.tanh(a.sum(axes, keepdims=keep) / 8)
    if kind == 2 and full:
        return x.max(axes, keepdims=keep), a.max(axes, keepdims=keep)
    if kind == 3 and a.shape[axes[0]]:
        e = np.exp(a - a.max(axis=axes[0], keepdims=True))
        return tl.softmax(x, axes[0]), e / e.sum(axis=axes[0], keepdims=True)
    if kind == 4 and a.shape[-1]:
        return tl.rms_norm(x, eps=0.1), a / np.sqrt((a * a).mean(-1, keepdims=True) + 0.1)
    if kind == 5 and rank > 1 and a.size and a.size * a.shape[-2] <= 8 * LIMIT:
        scale = 1 / a.shape[-1]
        return (x @ x.T) * scale, (a @ a.swapaxes(-1, -2)) * scale
    if kind == 6 and rank > 1 and a.shape[-1] and (rank == 2 or a.shape[-3]):
        length = random.choice([None, a.shape[-2] // 2])
        causal = random.randrange(2) == 1
        keys = x if rank == 2 else x[..., :1, :, :]
        key = a if rank == 2 else a[..., :1, :, :]
        out = tl.scaled_dot_product_attention(x, keys, keys * 2, causal=causal, length=length)
        return out, attention(a, key, key * 2, causal=causal, length=length)
    if kind == 7:
        return tl.tanh(x.cumsum(axes[0]) / 8), np.tanh(a.cumsum(axes[0]) / 8)
    if kind == 8 and full:
        return x.var(axes, keepdims=keep) * 0.5, a.var(axes, keepdims=keep) * 0.5
    if kind == 9 and full:
        logs = np.log(np.exp(a).sum(axes, keepdims=keep))
        return x.logsumexp(axes, keepdims=keep) / 4, logs / 4
    return x, a


def program(random: Random, leaves: list[Pair], length: int) -> list[Pair]:
    """`length` ops over the leaves, each on values made so far, the latest most of all."""
    values = list(leaves)
    for _ in range(length):
        x, a = values[-1] if random.random() < 0.6 else random.choice(values)
        kind = random.randrange(10)
        if kind < 3:
            values.append(view(random, x, a))
        elif kind < 4:
            values.append(arranged(random, x, a))
        elif kind < 6:
            values.append(unary(random, x, a))
        elif kind < 8:
            y, b = random.choice(values)
            values.append(binary(random, x, a, y, b))
        else:
            values.append(fold(random, x, a))
    return values
