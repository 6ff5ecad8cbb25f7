"""What the public functions have in common: how they are exported, how arguments are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tensorlogic import record
from tensorlogic.creation import tensor
from tensorlogic.graph import Node
from tensorlogic.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])
FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Every public function by name."""
METHODS: list[str] = []
"""Names of the functions that are methods of Tensor too."""


def function(fn: F) -> F:
    """Export a function."""
    FUNCTIONS[fn.__name__] = fn
    return fn


def method(fn: F) -> F:
    """Export a function of a tensor, and make it a method."""
    METHODS.append(fn.__name__)
    setattr(Tensor, fn.__name__, fn)
    return function(fn)


def node_of(fn: str, value: Any) -> Node:
    """The node of a tensor argument of the function `fn`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{fn}: a tensor was expected, not {type(value).__name__}")
    return value._node


def indices_of(fn: str, value: Any) -> Node:
    """The node of an argument that holds indices: a tensor, or what makes one of int32."""
    return node_of(fn, value if isinstance(value, Tensor) else tensor(value, dtype="int32"))


def floats(fn: str, value: Any) -> Node:
    """The node of an argument that has to be float16 or float32."""
    node = node_of(fn, value)
    record.check_floats(fn, node)
    return node
