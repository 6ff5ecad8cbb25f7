"""Random tensors. With a seed the values are the same at each call, without (-1) they are not.

They are tensorlogic's own: the distribution is what Core ML says, the bits are not Apple's.
"""

from __future__ import annotations

import secrets

from tensorlogic import random
from tensorlogic.coreml.mil.table import Ints, row
from tensorlogic.coreml.mil.values import DTYPES, like, wide
from tensorlogic.coreml.program import TensorType, ValueType
from tensorlogic.dtypes import DType, float32
from tensorlogic.tensor import Tensor


def _seed(seed: int) -> int:
    return secrets.randbits(62) if seed == -1 else seed


def _dtype(outputs: tuple[ValueType, ...]) -> DType:
    first = outputs[0]
    return DTYPES[first.dtype] if isinstance(first, TensorType) else float32


@row(fresh=True)
def random_normal(
    shape: Ints,
    mean: float = 0.0,
    stddev: float = 1.0,
    seed: int = -1,
    *,
    outputs: tuple[ValueType, ...],
) -> Tensor:
    drawn = random.normal(shape, _seed(seed), float32) * stddev + mean
    return like(drawn, _dtype(outputs))


@row(fresh=True)
def random_uniform(
    shape: Ints,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = -1,
    *,
    outputs: tuple[ValueType, ...],
) -> Tensor:
    return random.uniform(shape, _seed(seed), low, high, _dtype(outputs))


@row(fresh=True)
def random_bernoulli(
    shape: Ints, prob: float = 0.5, seed: int = -1, *, outputs: tuple[ValueType, ...]
) -> Tensor:
    return like(random.bernoulli(prob, shape, _seed(seed)), _dtype(outputs))


@row(fresh=True)
def random_categorical(
    x: Tensor,
    mode: str = "logits",
    size: int = 1,
    seed: int = -1,
    *,
    outputs: tuple[ValueType, ...],
) -> Tensor:
    """`size` labels for each row of x [N, K]: [N, size]."""
    logits = wide(x) if mode == "logits" else wide(x).log()
    each = logits.unsqueeze(1).expand(x.shape[0], size, x.shape[1])
    return like(random.categorical(each, _seed(seed)), _dtype(outputs))
