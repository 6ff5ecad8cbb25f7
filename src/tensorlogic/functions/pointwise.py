"""Elementwise functions: one for each row of the op table, and those with options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tensorlogic import ops, record
from tensorlogic.functions.registry import method, node_of
from tensorlogic.ops import OPS, Op
from tensorlogic.tensor import Tensor, as_node, wrap


def add_elementwise(op: Op) -> Callable[..., Any]:
    """Make the function and method of a row of the op table and return the function."""
    names = {1: ["x"], 2: ["a", "b"], 3: ["condition", "a", "b"]}[op.arity]

    def function(*args: Any) -> Tensor:
        if len(args) != op.arity:
            raise TypeError(f"{op.name}() takes {', '.join(names)}, not {len(args)} arguments")
        return wrap(record.elementwise(op, *[as_node(a) for a in args]))

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{op.doc} NaN and infinities: {op.special}."
    kind = inspect.Parameter.POSITIONAL_ONLY
    parameters = [inspect.Parameter(n, kind) for n in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return method(function)


for _op in list(OPS.values()):
    if _op.kind == "elementwise" and _op not in (ops.gelu_erf, ops.gelu_tanh):
        add_elementwise(_op)


@method
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x); approximate="tanh" takes the tanh form of Hendrycks and Gimpel (2016).

    >>> import tensorlogic as tl
    >>> tl.gelu(tl.tensor([0.0, 1.0])).tolist()
    [0.0, 0.84130859375]
    """
    forms = {"none": ops.gelu_erf, "tanh": ops.gelu_tanh}
    if approximate not in forms:
        raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    return wrap(record.elementwise(forms[approximate], node_of("gelu", x)))


@method
def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """x limited to [low, high]; None leaves a side open.

    >>> import tensorlogic as tl
    >>> tl.clip(tl.tensor([-2.0, 0.5, 3.0]), 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    node = node_of("clip", x)
    if low is not None:
        node = record.elementwise(ops.maximum, node, as_node(low))
    if high is not None:
        node = record.elementwise(ops.minimum, node, as_node(high))
    return wrap(node)
