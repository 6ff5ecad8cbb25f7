"""A function as a graph over its inputs, with the names of the tensors that it captures."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorlogic.creation import zeros
from tensorlogic.dims import TensorType
from tensorlogic.dtypes import DType
from tensorlogic.function import Function, function
from tensorlogic.functions.registry import OBSERVERS
from tensorlogic.graph import Node
from tensorlogic.ops import CALL
from tensorlogic.tensor import Tensor


@dataclass(frozen=True)
class PublicCall:
    """A call of a public function: what it was called with, by the names of its parameters."""

    function: str
    arguments: Mapping[str, Any]

    @property
    def nodes(self) -> list[Node]:
        return [v._node for v in self.arguments.values() if isinstance(v, Tensor)]


@dataclass
class Graph:
    """inputs: placeholders by name. outputs: nodes by name. calls: what a result is the result of,
    by the id of its node. names: of captured tensors, by the id of their node, and of their memory.
    """

    name: str
    inputs: dict[str, Node]
    outputs: dict[str, Node]
    calls: dict[int, PublicCall] = field(default_factory=dict)
    names: dict[int, tuple[Node, str]] = field(default_factory=dict)


def trace(fn: Callable[..., Any], inputs: Mapping[str, Any]) -> Graph:
    """Traces a function for inputs of these types, `{"x": tl.float16[1, 64]}`.

    Raises TypeError for inputs that are no tensor types of known sizes, or that the function does
    not take.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    given = {n: _example(n, t) for n, t in inputs.items()}
    leaves = {n: t._node for n, t in given.items()}  # the call may consume the tensors
    _check_parameters(name, fn, given)
    fresh, kept = _fresh(fn), []
    calls: dict[int, PublicCall] = {}

    def observe(
        public: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any], result: Any
    ) -> None:
        if isinstance(result, Tensor) and result._node.traced:
            bound = inspect.signature(public).bind(*args, **keywords)
            bound.apply_defaults()
            calls[id(result._node)] = PublicCall(public.__name__, dict(bound.arguments))
            kept.append(result._node)  # so that its id stays its own

    OBSERVERS.append(observe)
    try:
        results = _named(name, fresh(**given))
    finally:
        OBSERVERS.remove(observe)
    names = {id(node): (node, label) for node, label in _captured(fn)}
    placeholders: dict[int, Node] = {}
    outputs = {label: _traced(t._node, placeholders) for label, t in results.items()}
    own = {n: placeholders.get(id(node), node) for n, node in leaves.items()}
    passed = {id(node): own[n] for n, node in leaves.items()}  # results that are inputs
    outputs = {label: passed.get(id(node), node) for label, node in outputs.items()}
    return Graph(name, own, outputs, calls, names)


def _example(name: str, kind: Any) -> Tensor:
    if not isinstance(kind, TensorType) or not isinstance(kind.dtype, DType):
        raise TypeError(
            f"save_model: input {name!r} is {kind!r:.80}, not a tensor type such as "
            "tl.float16[1, 64]"
        )
    sizes = [d for d in kind.dims if isinstance(d, int)]
    if len(sizes) != len(kind.dims):
        raise TypeError(f"save_model: input {name!r} is {kind}; each of its sizes is a number")
    return zeros(sizes, kind.dtype)


def _check_parameters(name: str, fn: Callable[..., Any], given: Mapping[str, Any]) -> None:
    try:
        inspect.signature(fn).bind(**given)
    except TypeError as error:
        raise TypeError(f"save_model: {name}(): {error}; inputs= names its tensors") from None


def _fresh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that has not been traced yet: each public function in its body will be seen."""
    if isinstance(fn, types.MethodType) and isinstance(fn.__func__, Function):
        return types.MethodType(_fresh(fn.__func__), fn.__self__)
    if isinstance(fn, Function):
        return Function(fn.__wrapped__, fn._enclosing)
    plain: Any = fn
    if not isinstance(plain, types.FunctionType | types.MethodType):
        plain = plain.__call__
    fresh: Callable[..., Any] = function(plain)
    return fresh


def _named(name: str, result: Any) -> dict[str, Tensor]:
    """The results by name: a dict's keys, else output, or output_0, output_1 and on."""
    if isinstance(result, Tensor):
        named: dict[Any, Any] = {"output": result}
    elif isinstance(result, Mapping):
        named = dict(result)
    elif isinstance(result, tuple | list):
        named = {f"output_{k}": value for k, value in enumerate(result)}
    else:
        named = {"": result}
    for key, value in named.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise TypeError(
                f"save_model: {name}() returns a tensor, a tuple or list of tensors, or a dict of "
                f"them by name; this one returns {type(value).__name__}"
            )
    if not named:
        raise TypeError(f"save_model: {name}() returns no tensor")
    return named


def _traced(node: Node, placeholders: dict[int, Node]) -> Node:
    """The node in the traced graph; its placeholders are noted by the nodes they stand for."""
    if node.op is not CALL:
        return node
    call, index = node.attrs
    for argument, placeholder in zip(node.args, call.traced.inputs, strict=True):
        placeholders[id(argument)] = placeholder
    found: Node = call.traced.outputs[index]
    return found


MAX_NAMED = 1 << 20


def _captured(fn: Any) -> Iterator[tuple[Node, str]]:
    """The tensors that a function holds or names, each with the way to it, such as `layers.0.w`."""
    ahead: list[tuple[str, Any]] = [("", fn)]
    seen: set[int] = set()
    while ahead and len(seen) < MAX_NAMED:
        path, value = ahead.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value._node, value._node.name or path or "tensor"
            continue
        for key, item in reversed(list(_items(value))):
            part = "" if str(key).startswith("_") else str(key)
            ahead.append((".".join(p for p in (path, part) if p), item))


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a value holds, with the name or number of each."""
    if isinstance(value, types.MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, Function):
        yield "", value.__wrapped__
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((n, c.cell_contents) for n, c in cells if _is_filled(c))
        for code in (value.__code__, *value.__code__.co_consts):
            if isinstance(code, types.CodeType):
                known = value.__globals__
                yield from ((n, known[n]) for n in code.co_names if n in known)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()
    elif not isinstance(value, types.ModuleType):
        yield from getattr(value, "__dict__", {}).items()


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
