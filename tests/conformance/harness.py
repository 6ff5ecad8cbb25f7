"""Inputs, and the one way in which the tests compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tensorlogic as tl
from tensorlogic.ops import Op
from tests.compare import Array, reference_forbidden

FLOATS = ("float16", "float32")
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, -6e-8, 65504.0, np.inf, -np.inf, np.nan])


def public(op: Op) -> Callable[..., Any]:
    """The public function of a row: `gelu` stands for two rows, an operator for none of its own."""
    forms = {"gelu_erf": lambda x: tl.gelu(x), "gelu_tanh": lambda x: tl.gelu(x, "tanh")}
    return forms.get(op.name) or getattr(tl, op.name)


def compute(call: Callable[..., Any], *arrays: Array | None, device: str) -> Any:
    """call over tensors of the arrays (None stays None), as arrays; on the CPU by the CPU alone."""
    tensors = [None if a is None else tl.from_numpy(a, device=device) for a in arrays]
    out = call(*tensors)
    with reference_forbidden(device):
        tl.eval(*(out if isinstance(out, tuple) else (out,)))
        return tuple(t.numpy() for t in out) if isinstance(out, tuple) else out.numpy()


def wide(array: Array | None) -> Any:
    """Floats as float64, so that the oracle rounds nothing; ints as int64."""
    if array is None or array.dtype == bool:
        return array
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def numbers(rng: np.random.Generator, shape: Any, dtype: str) -> Array:
    """Ordinary values: normal floats, small ints, bools."""
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape).astype(bool))
    if dtype == "int32":
        return np.asarray(rng.integers(-20, 20, shape).astype(np.int32))
    return np.asarray(rng.standard_normal(shape).astype(dtype))
