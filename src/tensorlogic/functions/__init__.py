"""The public functions: those of the op table, and those composed of it.

Within one function nothing is rounded to float16: intermediates are float32, the result is stored
in the dtype of the input. A function whose first argument is a tensor is also a method of `Tensor`.
"""

from __future__ import annotations

from tensorlogic import runtime
from tensorlogic.forms import Layout
from tensorlogic.functions import (
    arrange,
    convolution,
    einsum,
    lookups,
    losses,
    norms,
    pointwise,
    pooling,
    products,
    reductions,
    resampling,
    rotary,
    shapes,
)
from tensorlogic.functions.pointwise import add_elementwise
from tensorlogic.functions.registry import FUNCTIONS, METHODS, function
from tensorlogic.tensor import Tensor

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "add_elementwise",
    "arrange",
    "convolution",
    "einsum",
    "lookups",
    "losses",
    "norms",
    "pointwise",
    "pooling",
    "products",
    "reductions",
    "resampling",
    "rotary",
    "shapes",
]


@function
def eval(*tensors: Tensor) -> None:
    """Compute tensors now, together, so that common work is done once.

    >>> import tensorlogic as tl
    >>> x = tl.ones([2]); y, z = x + 1, x * 3
    >>> tl.eval(y, z)
    """
    for t in tensors:
        if type(t._hold.form) is not Layout:  # nobody knows yet how it lies in memory
            runtime.evaluate([t._node for t in tensors])
            break
