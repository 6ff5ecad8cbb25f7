"""What the public functions have in common: how they are exported, how arguments are taken."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from tensorlogic import record
from tensorlogic.creation import tensor
from tensorlogic.graph import Node
from tensorlogic.othernames import KEYWORDS
from tensorlogic.tensor import Tensor, kind_of

F = TypeVar("F", bound=Callable[..., Any])
FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Every public function by name."""
METHODS: list[str] = []
"""Names of the functions that are methods of Tensor too."""
OBSERVERS: list[Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any], None]] = []
"""Called with each public function, its arguments and its result: an export that has a name for
`softmax` writes that and not what it is composed of."""


def function(fn: F) -> F:
    """Export a function, whose error for an unknown keyword says which ones there are."""
    parameters = inspect.signature(fn).parameters.values()
    taken = [p.name for p in parameters]
    known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    @functools.wraps(fn)
    def exported(*args: Any, **keywords: Any) -> Any:
        if not keywords:
            result = fn(*args)
        elif keywords.keys() <= known:
            result = fn(*args, **keywords)
        else:
            name = next(k for k in keywords if k not in known)
            here = KEYWORDS.get(name, "")
            hint = f"it takes {', '.join(taken)}{'' if known else ', by position'}"
            if here in known:
                hint = f"it is `{here}=` here"
            raise TypeError(f"{fn.__name__}() has no keyword argument `{name}`: {hint}")
        if OBSERVERS:
            for observe in OBSERVERS:
                observe(fn, args, keywords, result)
        return result

    FUNCTIONS[fn.__name__] = exported
    return cast(F, exported)


def method(fn: F) -> F:
    """Export a function of a tensor, and make it a method."""
    METHODS.append(fn.__name__)
    exported = function(fn)
    setattr(Tensor, fn.__name__, exported)
    return exported


def node_of(fn: str, value: Any) -> Node:
    """The node of a tensor argument of the function `fn`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{fn}: a tensor was expected, not {kind_of(value)}")
    return value._node


def indices_of(fn: str, value: Any) -> Node:
    """The node of an argument that holds indices: a tensor, or what makes one of int32."""
    return node_of(fn, value if isinstance(value, Tensor) else tensor(value, dtype="int32"))


def floats(fn: str, value: Any) -> Node:
    """The node of an argument that has to be float16 or float32."""
    node = node_of(fn, value)
    record.check_floats(fn, node)
    return node
