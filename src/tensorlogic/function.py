"""`@tl.function`: a Python function whose body is traced once per signature, and called lazily."""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, TypeVar

import numpy as np

from tensorlogic import calls, graph
from tensorlogic.captures import Guard, Reach, hold
from tensorlogic.dims import Binding, TensorType
from tensorlogic.errors import TraceError
from tensorlogic.graph import Node, TracedFunction
from tensorlogic.signature import Each, Signature, enclosing_names, signature_of, tensors
from tensorlogic.storage import serials
from tensorlogic.tensor import Tensor, as_node, wrap

_F = TypeVar("_F", bound=Callable[..., Any])

MAX_TRACES = 64
"""Traces that a function keeps; beyond that the oldest is dropped."""
_Parameter = inspect.Parameter


_tracing: list[int] = []
"""The threads in which traces are under way, one entry for each: within them, calls inline."""


def function(fn: _F) -> _F:
    """Make a function of tensors lazy: its body is traced once per signature, then only recorded.

    A small call that comes again, with inputs that have their values, runs at once: to record it
    would cost more.

    Tensors count by shape, dtype, storage and device; numbers are values of each call, so that a
    new one traces nothing; bool, str and None are fixed in a trace, other objects by their value or
    identity. Lists, tuples and dicts of these are taken and returned. The dims of its annotations
    bind at the call. Raises ShapeError or DTypeError for arguments that do not fit them, TraceError
    (while tracing) where the body asks a tensor or number for its value.

    >>> import tensorlogic as tl
    >>> @tl.function
    ... def forward(x: "tl.Tensor[tl.float16, N, D]", w: "tl.Tensor[tl.float16, D]", bias: float):
    ...     return (x * w).sum(axis=-1) + bias
    >>> forward(tl.ones([2, 3]), tl.ones([3]), 0.5).tolist()
    [3.5, 3.5]
    """
    plain = fn.__func__ if isinstance(fn, types.MethodType) else fn
    if not isinstance(plain, types.FunctionType):
        raise TypeError(f"tl.function takes a function, not {type(fn).__name__}: {fn!r}")
    made = Function(plain, enclosing_names(plain, sys._getframe(1)))
    bound = types.MethodType(made, fn.__self__) if isinstance(fn, types.MethodType) else made
    return bound  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Output:
    """Stands in a trace's result for the function's output of this index."""

    index: int


@dataclass(frozen=True, slots=True)
class _Given:
    """Stands in a trace's result for an argument that comes back as it went in."""

    index: int


@dataclass(frozen=True, slots=True)
class _Constant:
    """Stands in a trace's result for a tensor that depends on no argument."""

    node: Node


@dataclass(frozen=True, slots=True)
class _Trace:
    """What tracing the body for one signature gave.

    inputs: which leaves of the arguments the traced graph takes. consumed: which leaves `update`
    has used up. owners: the objects whose ids the signature holds.
    """

    graph: TracedFunction
    inputs: tuple[int, ...]
    result: Any
    guards: tuple[Guard, ...]
    consumed: tuple[int, ...]
    owners: list[Any]


class Function:
    """A traced function; `traces` counts how often its body was traced."""

    __name__: str

    def __init__(self, fn: types.FunctionType, enclosing: Mapping[str, Any]):
        functools.update_wrapper(self, fn)
        self.__wrapped__: types.FunctionType = fn
        self.traces = 0
        self._enclosing = enclosing
        self._signature: Signature | None = None
        self._traces: dict[Any, _Trace] = {}
        self._seen: dict[Any, _Trace] = {}
        self._ready: dict[Any, calls.Ready] = {}
        # A copy without annotations: looking at those of Python 3.14 would evaluate them.
        bare = types.FunctionType(
            fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
        )
        bare.__kwdefaults__ = fn.__kwdefaults__
        self._parameters = inspect.signature(bare)
        kinds = {p.kind for p in self._parameters.parameters.values()}
        self._plain = kinds <= {_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD}
        self._count = len(self._parameters.parameters) if self._plain else -1

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<tl.function {self.__wrapped__.__qualname__}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != self._count:
            args = self._arrange(args, kwargs)
        if _tracing and get_ident() in _tracing:
            return self._inline(args)
        given: list[Node] = []
        quick = calls.key_of(args, given)
        ready = self._ready.get(quick)
        if ready is not None:
            trace, run, kinds, inputs = ready
            if run is not None and (not trace.guards or hold(trace.guards)):
                results = run(given if inputs is None else inputs(given), kinds)
                template = trace.result
                if type(template) is _Output:
                    return wrap(results[0])
                return _fill(template, results, ())
        leaves: list[Tensor] = []
        key: list[Any] = []
        for value in args:
            _flatten(value, leaves, key)
        signature = tuple(key)
        trace = self._traces.get(signature)
        if trace is None or not hold(trace.guards):
            trace = self._trace(args, leaves)
            self._remember(signature, trace)
        nodes = graph.record_call(trace.graph, [leaves[i]._node for i in trace.inputs])
        if quick is not None and (ready is None or ready.trace is not trace):
            self._note(quick, trace, nodes, len(leaves))
        result = _fill(trace.result, nodes, leaves)
        for i in trace.consumed:
            leaves[i]._node.consume()  # the node, for other tensors may name it too
        return result

    def _note(self, quick: Any, trace: _Trace, nodes: Sequence[Node], count: int) -> None:
        """A call that comes a second time is made ready, if it can be."""
        if trace is not self._seen.pop(quick, None):
            self._seen[quick] = trace
            return
        simple = not trace.consumed and not _gives(trace.result)
        self._ready[quick] = calls.make_ready(trace, nodes if simple else (), trace.inputs, count)
        for kept in (self._seen, self._ready):
            while len(kept) > MAX_TRACES:
                kept.pop(next(iter(kept)), None)

    def _arrange(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """One value for each parameter, in their order."""
        try:
            bound = self._parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__wrapped__.__name__}(): {error}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def _run(self, values: tuple[Any, ...]) -> Any:
        if self._plain:
            return self.__wrapped__(*values)
        names = self._parameters.parameters
        bound = inspect.BoundArguments(self._parameters, dict(zip(names, values, strict=True)))
        return self.__wrapped__(*bound.args, **bound.kwargs)

    def _inline(self, args: tuple[Any, ...]) -> Any:
        binding = self._bind(args)
        result = self._run(args)
        self._check_result(binding, result)
        return result

    def _trace(self, args: tuple[Any, ...], leaves: list[Tensor]) -> _Trace:
        binding = self._bind(args)
        start = next(serials)
        inner = [wrap(_placeholder(leaf._node)) for leaf in leaves]
        inputs = [t._node for t in inner]
        stand_ins = iter(inner)
        opaque: list[Any] = []
        values = tuple(_replace(a, stand_ins, opaque) for a in args)
        _tracing.append(get_ident())
        try:
            result = self._run(values)
        finally:
            _tracing.remove(get_ident())
        self._check_result(binding, result)
        self.traces += 1

        outputs: list[Node] = []
        template = _template(result, {id(n): i for i, n in enumerate(inputs)}, outputs)
        guards = self._guards([*outputs, *_constants(template)], inputs, start, opaque)
        reached = {id(n) for n in graph.topological(outputs)}
        used = tuple(i for i, n in enumerate(inputs) if id(n) in reached)
        return _Trace(
            TracedFunction(self.__name__, tuple(inputs[i] for i in used), tuple(outputs)),
            used,
            template,
            guards,
            tuple(i for i, n in enumerate(inputs) if n.consumed),
            opaque,
        )

    def _remember(self, signature: Any, trace: _Trace) -> None:
        """Keep a trace for as long as the objects live whose ids its signature holds."""
        traces = self._traces

        def forget(_: Any) -> None:
            traces.pop(signature, None)

        for i, owner in enumerate(trace.owners):
            if type(owner).__weakrefoffset__:
                trace.owners[i] = weakref.ref(owner, forget)
        traces[signature] = trace
        while len(traces) > MAX_TRACES:
            traces.pop(next(iter(traces)), None)

    def _bind(self, args: Sequence[Any]) -> Binding:
        """Bind the dims of the annotations to the shapes of the arguments."""
        if self._signature is None:
            self._signature = signature_of(self.__wrapped__, self._enclosing)
        declared: dict[str, tuple[TensorType, Any]] = {}
        for parameter, value in zip(self._parameters.parameters.values(), args, strict=True):
            kind = self._signature.params.get(parameter.name)
            if kind and parameter.kind in (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD):
                kind = Each(kind)
            for label, tensor_type, tensor in tensors(parameter.name, kind, value):
                declared[label] = (tensor_type, tensor)
        binding = Binding(self.__name__, self._where)
        binding.add(declared)
        return binding

    def _check_result(self, binding: Binding, result: Any) -> None:
        assert self._signature is not None
        for label, tensor_type, tensor in tensors("result", self._signature.result, result):
            binding.result(tensor_type, tensor, label)

    def _where(self) -> str:
        return f"{_definition(self.__wrapped__.__code__)}, called from {graph.user_site()}"

    def _guards(
        self, nodes: Iterable[Node], inputs: list[Node], start: int, opaque: list[Any]
    ) -> tuple[Guard, ...]:
        """What must stay as it is for the trace to hold; `start` is when the trace began."""
        reach = Reach(self.__wrapped__, opaque)
        holders: dict[int, list[Tensor]] = {}
        for tensor in reach.tensors.values():
            node = tensor._hold
            holders.setdefault(id(node), []).append(tensor)
            if node.data is not None:
                holders.setdefault(id(node.data.memory), []).append(tensor)
        captured: list[Tensor] = []
        ahead = list(nodes)
        seen = {id(n) for n in inputs}
        while ahead:
            node = ahead.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            found = holders.get(id(node)) or (node.data and holders.get(id(node.data.memory)))
            age = min(node.serial, node.data.memory.serial) if node.data else node.serial
            if age < start and (node.traced or not (found or node.number is not None)):
                raise self._no_way_to(node)
            if found:
                captured += found
                continue
            ahead += node.args
        return reach.guards(captured)

    def _no_way_to(self, node: Node) -> TraceError:
        named = f"tensor {node.name!r}" if node.name else "a tensor"
        problem = "reaches in no way that can be watched for a rebinding"
        if node.consumed:
            problem = "captures and consumes, which only one call could do"
        return TraceError(
            f"{_definition(self.__wrapped__.__code__)}: {self.__name__}() uses {named} of shape "
            f"{graph.shape_text(node.shape)} that it {problem}; pass it as an argument"
        )


def _definition(code: types.CodeType) -> str:
    """`file:line` of a function's `def`; its code begins at the first decorator."""
    line = code.co_firstlineno
    for offset in range(100):
        if (
            linecache.getline(code.co_filename, line + offset)
            .lstrip()
            .startswith(("def ", "async "))
        ):
            line += offset
            break
    return f"{os.path.basename(code.co_filename)}:{line}"


def _flatten(value: Any, leaves: list[Tensor], key: list[Any]) -> None:
    """Add the tensors and numbers in `value` to `leaves`, and to `key` what a trace depends on."""
    kind = type(value)
    key.append(kind)
    if kind is Tensor:
        node = value._node
        leaves.append(value)
        key.append((node.shape, node.dtype, value.storage, node.device, node.weak))
    elif kind is bool or kind is str or value is None:
        key.append(value)
    elif isinstance(value, int | float | np.number):
        number = as_node(value)
        leaves.append(wrap(number))
        key[-1] = number.dtype
    elif isinstance(value, list | tuple):
        key.append(len(value))
        for item in value:
            _flatten(item, leaves, key)
    elif isinstance(value, dict):
        key.append(tuple(value))
        for item in value.values():
            _flatten(item, leaves, key)
    elif isinstance(value, np.ndarray):
        as_node(value)  # raises: it says what to do
    else:
        key.append(value if _is_value(value) else id(value))


def _is_value(value: Any) -> bool:
    """Whether an object is told apart by what it is and not by which it is."""
    hashing: Any = type(value).__hash__
    if hashing is None or hashing is object.__hash__:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _placeholder(node: Node) -> Node:
    storage = node.data.storage if node.data is not None else None
    return graph.placeholder(
        node.shape, node.dtype, weak=node.weak, device=node.device, storage=storage
    )


def _replace(value: Any, stand_ins: Iterator[Tensor], opaque: list[Any]) -> Any:
    """`value` with its leaves replaced, in the order of `_flatten`; other objects are listed."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Tensor | int | float | np.number):
        return next(stand_ins)
    if isinstance(value, list | tuple | dict):
        return _rebuild(value, lambda item: _replace(item, stand_ins, opaque))
    opaque.append(value)
    return value


def _rebuild(container: Any, change: Callable[[Any], Any]) -> Any:
    """A list, tuple or dict of the same kind with changed entries."""
    if isinstance(container, tuple):
        items = [change(item) for item in container]
        return type(container)(*items) if hasattr(container, "_fields") else tuple(items)
    changed = copy.copy(container)
    for key, item in list(
        container.items() if isinstance(container, dict) else enumerate(container)
    ):
        changed[key] = change(item)
    return changed


def _template(result: Any, given: Mapping[int, int], outputs: list[Node]) -> Any:
    """A result with its tensors replaced by where they come from; traced ones go to `outputs`."""
    if isinstance(result, Tensor):
        node = result._node
        if id(node) in given:
            return _Given(given[id(node)])
        if not node.traced:
            return _Constant(node)
        outputs.append(node)
        return _Output(len(outputs) - 1)
    if isinstance(result, list | tuple | dict):
        return _rebuild(result, lambda item: _template(item, given, outputs))
    if result is None or isinstance(result, bool | int | float | str):
        return result
    raise TypeError(
        f"a tl.function returns tensors, numbers, bools, strings, None, and tuples, lists and "
        f"dicts of them, not {type(result).__name__}"
    )


def _constants(template: Any) -> Iterator[Node]:
    if isinstance(template, _Constant):
        yield template.node
    elif isinstance(template, list | tuple | dict):
        for item in template.values() if isinstance(template, dict) else template:
            yield from _constants(item)


def _gives(template: Any) -> bool:
    """Whether an argument comes back as it went in."""
    if isinstance(template, list | tuple | dict):
        return any(map(_gives, template.values() if isinstance(template, dict) else template))
    return isinstance(template, _Given)


def _fill(template: Any, nodes: Sequence[Node], leaves: Sequence[Tensor]) -> Any:
    """The result of one call."""
    if isinstance(template, _Output):
        return wrap(nodes[template.index])
    if isinstance(template, _Given):
        return leaves[template.index]
    if isinstance(template, _Constant):
        return wrap(template.node)
    if isinstance(template, list | tuple | dict):
        return _rebuild(template, lambda item: _fill(item, nodes, leaves))
    return template
