"""Random graphs of shared nodes, views, products, concatenation and updates, of several roots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tensorlogic as tl

Rng = np.random.Generator
MAX_SIZE = 4096


def leaf(rng: Rng, shape: tuple[int, ...], device: str, dtype: str = "") -> tl.Tensor:
    dtype = dtype or str(rng.choice(["float16", "float32"]))
    return tl.tensor(rng.uniform(-1, 1, shape), dtype=dtype, device=device)


def shape_of(rng: Rng) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.choice([1, 2, 3, 5, 8, 24], size=rng.integers(1, 4)))


def bounded(x: tl.Tensor) -> tl.Tensor:
    return tl.tanh(x)


def binary(rng: Rng, x: tl.Tensor, pool: list[tl.Tensor], device: str) -> tl.Tensor:
    """With a tensor of the pool that broadcasts to it, else with a new leaf or a number."""
    fitting = [y for y in pool if _broadcasts(y.shape, x.shape)]
    other: tl.Tensor | float
    if fitting and rng.random() < 0.7:
        other = fitting[rng.integers(len(fitting))]
    elif rng.random() < 0.5:
        keep = rng.random(len(x.shape)) < 0.6
        other = leaf(rng, tuple(n if k else 1 for n, k in zip(x.shape, keep, strict=True)), device)
    else:
        other = float(rng.uniform(-2, 2))
    kind = rng.integers(4)
    if kind == 0:
        return x + other
    if kind == 1:
        return x * other
    if kind == 2:
        return x - other
    return tl.maximum(x, other)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    tail = large[len(large) - len(small) :]
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(small, tail, strict=True))


def unary(rng: Rng, x: tl.Tensor) -> tl.Tensor:
    return [tl.tanh, tl.exp, tl.silu, lambda t: t * 0.5, lambda t: t.to("float32")][
        rng.integers(5)
    ](tl.tanh(x))


def reduced(rng: Rng, x: tl.Tensor) -> tl.Tensor:
    axis = int(rng.integers(len(x.shape)))
    keep = bool(rng.random() < 0.7)
    kind = rng.integers(3)
    if kind == 0:
        return x.sum(axis=axis, keepdims=keep)
    return x.max(axis=axis, keepdims=keep) if kind == 1 else x.mean(axis=axis, keepdims=keep)


def normed(rng: Rng, x: tl.Tensor, device: str) -> tl.Tensor:
    kind = rng.integers(3)
    if kind == 0:
        return tl.softmax(x, axis=int(rng.integers(len(x.shape))))
    weight = leaf(rng, (x.shape[-1],), device)
    return tl.rms_norm(x, weight) if kind == 1 else tl.layer_norm(x, weight, weight)


def viewed(rng: Rng, x: tl.Tensor) -> tl.Tensor:
    kind = rng.integers(4)
    if kind == 0:
        return x.permute(*[int(i) for i in rng.permutation(len(x.shape))])
    if kind == 1:
        axis = int(rng.integers(len(x.shape)))
        return tl.flip(x, axis)
    if kind == 2:
        return x.reshape(-1, *x.shape[1:][1:]) if len(x.shape) > 1 else x.reshape(1, -1)
    step = int(rng.integers(1, 3))
    return x[int(rng.integers(x.shape[0])) :: step]


def product(rng: Rng, x: tl.Tensor, device: str) -> tl.Tensor:
    width = int(rng.choice([1, 4, 24]))
    weight = leaf(rng, (width, x.shape[-1]), device, "float16")
    return tl.linear(x, weight)


def joined(rng: Rng, x: tl.Tensor, pool: list[tl.Tensor]) -> tl.Tensor:
    fitting = [y for y in pool if y.shape == x.shape]
    axis = int(rng.integers(len(x.shape)))
    return tl.concat([x, fitting[rng.integers(len(fitting))] if fitting else x * 2], axis=axis)


def updated(rng: Rng, x: tl.Tensor, device: str) -> tl.Tensor:
    """A leaf, or a computed tensor, with x written somewhere."""
    axis = int(rng.integers(len(x.shape)))
    room = int(rng.integers(0, 4))
    shape = tuple(n + room if i == axis else n for i, n in enumerate(x.shape))
    old = leaf(rng, shape, device, str(x.dtype))
    if rng.random() < 0.5:
        old = old * 2
    elif rng.random() < 0.7:
        old = old + 0
        tl.eval(old)
    return old.update(int(rng.integers(room + 1)), x, axis=axis)


def taken(rng: Rng, x: tl.Tensor, device: str) -> tl.Tensor:
    where = rng.integers(0, x.shape[0], size=int(rng.integers(1, 6)))
    return x[tl.tensor(where, dtype="int32", device=device)]


def graph(seed: int, device: str, steps: int = 14) -> list[tl.Tensor]:
    """The roots of a random graph, the same for a seed on each device."""
    rng = np.random.default_rng(seed)
    pool = [leaf(rng, shape_of(rng), device) for _ in range(3)]
    makers: list[Callable[[tl.Tensor], tl.Tensor]] = [
        lambda x: binary(rng, x, pool, device),
        lambda x: binary(rng, x, pool, device),
        lambda x: unary(rng, x),
        lambda x: reduced(rng, x),
        lambda x: normed(rng, x, device),
        lambda x: viewed(rng, x),
        lambda x: viewed(rng, x),
        lambda x: product(rng, x, device),
        lambda x: product(rng, x, device),
        lambda x: joined(rng, x, pool),
        lambda x: updated(rng, x, device),
        lambda x: taken(rng, x, device),
        lambda x: tl.cumsum(x, axis=int(rng.integers(len(x.shape)))),
    ]
    for _ in range(steps):
        usable = [x for x in pool if x.shape and 0 < _size(x) <= MAX_SIZE]
        x = usable[-1 - int(rng.integers(min(4, len(usable))))]
        y = makers[rng.integers(len(makers))](x)
        if rng.random() < 0.5:
            y = bounded(y)
        pool.append(y)
    count = int(rng.integers(1, 5))
    return [pool[-1], *(pool[int(i)] for i in rng.integers(3, len(pool), size=count))]


def _size(x: tl.Tensor) -> int:
    n = 1
    for d in x.shape:
        n *= int(d)
    return n
