"""Random tensors: the same bits on every device for a seed (Philox4x32-10, Salmon et al. 2011).

A call is a function of its seed: equal calls give equal values. `offset` numbers independent
streams of one seed, so that two calls can differ. Both are ints of up to 64 bits, or int32 tensors
of one element, which may change from run to run of a compiled function.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

from tensorlogic import ops, record
from tensorlogic.creation import sizes_of
from tensorlogic.devices.base import resolve
from tensorlogic.dtypes import as_dtype, float16, float32
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.functions.registry import floats
from tensorlogic.graph import Node, Shape, apply, number, shape_text
from tensorlogic.ops import OPS
from tensorlogic.philox import signed
from tensorlogic.tensor import Tensor, as_node, wrap

_HALF_OPEN = 23
"""Bits of a number strictly between 0 and 1: with one more bit, a 1, float32 holds it."""


def uniform(
    shape: Any,
    seed: Any,
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = float16,
    device: str | None = None,
    offset: Any = 0,
) -> Tensor:
    """Values spread evenly over [low, high), in steps of (high - low) / 2**24 (float16: 2**11).

    >>> import tensorlogic as tl
    >>> tl.random.uniform([3], seed=0).tolist()
    [0.39892578125, 0.97216796875, 0.01904296875]
    """
    wanted = _float_dtype("uniform", dtype)
    digits = 11 if wanted is float16 else 24
    scale = (high - low) * 2.0**-digits
    return wrap(
        record.cast(_floats(sizes_of(shape), seed, offset, device, digits, scale, low), wanted)
    )


def normal(
    shape: Any, seed: Any, dtype: Any = float16, device: str | None = None, offset: Any = 0
) -> Tensor:
    """Values of the standard normal distribution, of size below 5.8 (Box and Muller 1958).

    >>> import tensorlogic as tl
    >>> x = tl.random.normal([1000], seed=1, dtype=tl.float32)
    >>> abs(x.mean().item()) < 0.1 and abs((x * x).mean().item() - 1) < 0.1
    True
    """
    wanted, sizes = _float_dtype("normal", dtype), sizes_of(shape)
    size = _op("mul", _op("log", _open(sizes, seed, offset, device)), number(-2.0))
    angle = _floats(sizes, seed, offset, device, 24, 2 * math.pi * 2.0**-24, 0.0, word=1)
    return wrap(record.cast(_op("mul", _op("sqrt", size), _op("cos", angle)), wanted))


def bernoulli(p: Any, shape: Any, seed: Any, device: str | None = None, offset: Any = 0) -> Tensor:
    """Bools that are true with probability p, a number or a tensor that broadcasts to `shape`.

    >>> import tensorlogic as tl
    >>> tl.random.bernoulli(1.0, [2], seed=0).tolist(), tl.random.bernoulli(0.0, [1], 0).tolist()
    ([True, True], [False])
    """
    sizes = sizes_of(shape)
    chance = floats("bernoulli", p) if isinstance(p, Tensor) else as_node(float(p))
    drawn = _floats(sizes, seed, offset, device, 24, 2.0**-24, 0.0)
    return wrap(_op("less", drawn, record.expand(record.cast(chance, float32), sizes)))


def categorical(logits: Tensor, seed: Any, offset: Any = 0) -> Tensor:
    """Indices (int32) along the last axis, drawn with probability softmax(logits).

    By the largest of logits + Gumbel noise; an index whose logit is -inf is not drawn, unless all
    are.

    >>> import tensorlogic as tl
    >>> tl.random.categorical(tl.tensor([[0.0, float("-inf")], [float("-inf"), 0.0]]), 3).tolist()
    [0, 1]
    """
    node = floats("categorical", logits)
    if not node.shape or not node.shape[-1]:
        raise ShapeError(f"categorical: logits of shape {list(node.shape)} name no categories")
    waiting = _op("neg", _op("log", _open(node.shape, seed, offset, None)))
    noisy = _op("sub", record.cast(node, float32), _op("log", waiting))
    return wrap(record.reduce(ops.argmax, noisy, -1))


def _open(shape: Shape, seed: Any, offset: Any, device: str | None) -> Node:
    """Values strictly between 0 and 1, float32."""
    step = 2.0**-_HALF_OPEN
    return _floats(shape, seed, offset, device, _HALF_OPEN, step, step / 2)


def _floats(
    shape: Shape,
    seed: Any,
    offset: Any,
    device: str | None,
    digits: int,
    scale: float,
    shift: float,
    word: int = 0,
) -> Node:
    """Whole numbers of so many random bits, times scale plus shift (float32).

    word: which of the four words of a counter.
    """
    if math.prod(shape) > 2**32:
        raise ShapeError(f"random: {shape_text(shape)} has more than 2**32 values")
    words = (*_words("seed", seed), *_words("offset", offset))
    args = (*words, number(float(scale)), number(float(shift)))
    node = apply(ops.RANDOM, args, (word, digits), shape, float32)
    node.device = node.device or resolve(device)
    return node


def _words(name: str, value: Any) -> tuple[Node, Node]:
    """The low and the high 32 bits of an int of 64, as int32."""
    if isinstance(value, Tensor):
        node = as_node(value)
        if node.shape or node.dtype.name != "int32":
            given = f"{node.dtype}{shape_text(node.shape)}"
            raise DTypeError(f"random: the {name} is one int32, not {given}")
        return node, _op("where", _op("less", node, number(0)), number(-1), number(0))
    if not hasattr(value, "__index__"):
        raise TypeError(f"random: the {name} is an int, not {type(value).__name__}")
    whole = index(value)
    return number(signed(whole)), number(signed(whole >> 32))


def _op(name: str, *args: Node) -> Node:
    return record.elementwise(OPS[name], *args)


def _float_dtype(fn: str, dtype: Any) -> Any:
    wanted = as_dtype(dtype)
    if wanted not in (float16, float32):
        raise DTypeError(f"{fn}: values are float16 or float32, not {wanted}")
    return wanted
