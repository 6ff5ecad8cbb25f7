"""Which functions of a text program are compiled, and how they are called.

A function is compiled as `@tl.function` is if a look at its body, and at the functions that it
calls, finds nothing that has to happen at each call or depends on the values of tensors: no `print`
or file, no condition on a tensor, no tensor turned into a number; and no recursion. Its body is
then traced once for shapes, dtypes and fixed values; a call is one node of the graph. Where tracing
fails all the same, the interpreter runs the body, and says what is wrong.

Tensors and lists that the function finds in its file are passed to the trace as further arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

from tensorlogic.dims import TensorType
from tensorlogic.function import MAX_TRACES
from tensorlogic.function import Function as Traced
from tensorlogic.functions import FUNCTIONS
from tensorlogic.lang import tree
from tensorlogic.lang.builtins import OWN, Builtin
from tensorlogic.lang.calls import Function
from tensorlogic.model import Model
from tensorlogic.tensor import Tensor

Globals = dict[tuple[int, str], Any]
"""Values of files: by the identity of a file's names, and the name."""
Body = Callable[[Function, dict[str, Any], Globals], Any]

_FIXED = frozenset({"shape", "dtype", "ndim", "size", "storage", "device", "name", "nbytes"})
"""Attributes of tensors that a trace knows."""
_ASKING = frozenset({"item", "tolist", "format", "explain", "summary"})
"""Methods that need values."""
_MAKERS = frozenset({"tensor", "full", "zeros", "ones", "eye", "arange"})
"""Functions that may be traced, but whose arguments may not."""
_WITH_NUMBERS = frozenset({"+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!="})
"""Operators whose number may come with each call, if the other side is a tensor."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """known: the same in every call of a trace. tensor: certainly a tensor."""

    known: bool = True
    tensor: bool = False

    def __and__(self, other: _Fact) -> _Fact:
        return _Fact(self.known and other.known, self.tensor and other.tensor)


@dataclass(eq=False)
class _Look:
    """What a look at the body of one function finds.

    fits: nothing in it speaks against compiling. globals: the names that it takes from its file.
    calls: the functions of the program that it calls. numbers: parameters that are numbers of each
    call, since they only meet tensors or go to functions of tensors; others are fixed in a trace.
    """

    function: Function
    builtins: dict[str, Any]
    fits: bool = True
    globals: set[str] = field(default_factory=set)
    calls: set[Function] = field(default_factory=set)
    numbers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        nodes = list(_inputs_first(self.function.definition.body))
        types = self.function.types
        bound = {n.name for n in nodes if isinstance(n, tree.Bind | tree.For)}
        self._local = {name: _Fact(tensor=True) for name in bound}
        for name, declared in types.items():
            is_tensor = isinstance(declared, TensorType)
            self._local[name] = _Fact(not is_tensor and declared != "list", is_tensor)
        known: dict[str, _Fact] | None = None
        while known != self._local:  # until what loops carry round has settled
            known = dict(self._local)
            self._facts: dict[int, _Fact] = {}
            self._callees = {id(n.callee) for n in nodes if isinstance(n, tree.Call)}
            for node in nodes:
                self._facts[id(node)] = self._fact(node)
        self.numbers = self._run_time_numbers(nodes)

    def _fact(self, node: tree.Node) -> _Fact:
        below = [self._facts[id(n)] for n in tree.children(node)]
        known = all(f.known for f in below)
        match node:
            case tree.Name():
                return self._name(node)
            case tree.Bind():
                self._local[node.name] &= self._facts[id(node.value)]
            case tree.For():
                self._local[node.name] &= self._facts[id(node.items)]
            case tree.If() | tree.While():
                self.fits &= self._facts[id(node.condition)].known
            case tree.Unary() | tree.Index():
                return _Fact(known, below[0].tensor)
            case tree.Binary() | tree.Logic():
                return _Fact(known, any(f.tensor for f in below))
            case tree.Attribute():
                self.fits &= node.name not in _ASKING
                return _Fact(known or node.name in _FIXED, node.name == "T")
            case tree.Call():
                return self._call(node, known)
        return _Fact(known)

    def _name(self, node: tree.Name) -> _Fact:
        if node.name in self._local:
            return self._local[node.name]
        self.globals.add(node.name)
        value = self._named(node)
        if isinstance(value, Function):
            self.fits &= id(node) in self._callees
        return _Fact(not isinstance(value, Tensor | list | Function), isinstance(value, Tensor))

    def _named(self, node: tree.Node) -> Any:
        """What a name of the file or of the language stands for."""
        if not isinstance(node, tree.Name) or node.name in self._local:
            return None
        return self.function.names.get(node.name, self.builtins.get(node.name))

    def _call(self, node: tree.Call, known: bool) -> _Fact:
        callee = node.callee
        if isinstance(callee, tree.Attribute):
            methods = (getattr(owner, callee.name, None) for owner in (Tensor, Model))
            return _Fact(known, any(map(_gives_tensor, methods)))
        value = self._named(callee)
        if isinstance(value, Function):
            self.calls.add(value)
            return _Fact(False, isinstance(value.result, TensorType))
        self.fits &= isinstance(value, Builtin) and (
            value.name in FUNCTIONS
            or value.name in ("len", "append")
            or (known and (value.name in OWN or value.name in _MAKERS))
        )
        is_length = isinstance(value, Builtin) and value.name == "len"
        return _Fact(known or is_length, _gives_tensor(getattr(value, "function", None)))

    def _run_time_numbers(self, nodes: list[tree.Node]) -> frozenset[str]:
        bound = {n.name for n in nodes if isinstance(n, tree.Bind | tree.For)}
        numbers = {n for n, t in self.function.types.items() if t in ("int", "float")} - bound
        fine: set[int] = set()
        for node in nodes:
            if isinstance(node, tree.Binary) and node.operator in _WITH_NUMBERS:
                for one, other in ((node.left, node.right), (node.right, node.left)):
                    if self._facts[id(other)].tensor:
                        fine.add(id(one))
            elif isinstance(node, tree.Call) and self._takes_tensors(node.callee):
                fine.update(id(a) for a in (*node.positional, *node.named.values()))
        fixed = {n.name for n in nodes if isinstance(n, tree.Name) and id(n) not in fine}
        return frozenset(numbers - fixed)

    def _takes_tensors(self, callee: tree.Node) -> bool:
        if isinstance(callee, tree.Attribute):
            return self._facts[id(callee.target)].tensor
        value = self._named(callee)
        return isinstance(value, Builtin) and value.name in FUNCTIONS


def _gives_tensor(function: Any) -> bool:
    annotations = getattr(function, "__annotations__", {})
    return str(annotations.get("return", "")).startswith("Tensor")


def _inputs_first(root: tree.Node) -> Iterator[tree.Node]:
    """All nodes under a node; those below come before it."""
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        else:
            stack.append((node, True))
            stack += [(n, False) for n in reversed(list(tree.children(node)))]


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A number that is fixed in a trace, told apart by how it is written."""

    text: str
    value: float = field(compare=False)


def _close(value: Any) -> Any:
    """A value with its numbers fixed."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Fixed(repr(value), value)
    return [_close(item) for item in value] if isinstance(value, list) else value


def _open(value: Any) -> Any:
    if isinstance(value, _Fixed):
        return value.value
    return [_open(item) for item in value] if isinstance(value, list) else value


class Plan:
    """How a function is called: compiled, as long as that works and its names mean the same."""

    __slots__ = ("_builtins", "_meanings", "_names", "_numbers", "_traced")

    def __init__(self, function: Function, builtins: dict[str, Any], body: Body):
        self._builtins = builtins
        looks = {function: _Look(function, builtins)}
        ahead = [function]
        while ahead:
            for callee in looks[ahead.pop()].calls - looks.keys():
                looks[callee] = _Look(callee, builtins)
                ahead.append(callee)
        self._names = [(l.function.names, n) for l in looks.values() for n in sorted(l.globals)]
        self._meanings = [self._meaning(*name) for name in self._names]
        self._numbers = looks[function].numbers
        takes_tensors = any(isinstance(t, TensorType) for t in function.types.values())
        self._traced: Traced | None = None
        if takes_tensors and all(l.fits for l in looks.values()) and _ends(looks):

            def traced(arguments: dict[str, Any], values: Globals) -> Any:
                opened = {name: _open(value) for name, value in arguments.items()}
                return body(function, opened, {key: _open(value) for key, value in values.items()})

            traced.__name__ = traced.__qualname__ = function.name
            self._traced = Traced(cast(FunctionType, traced), {})

    @property
    def traces(self) -> int:
        return self._traced.traces if self._traced else 0

    @property
    def compiles(self) -> bool:
        return self._traced is not None and self._traced.traces <= MAX_TRACES

    def holds(self) -> bool:
        """Whether every name that the look met still has the meaning that it had."""
        return all(
            self._meaning(*name) is meaning
            for name, meaning in zip(self._names, self._meanings, strict=True)
        )

    def _meaning(self, names: dict[str, Any], name: str) -> Any:
        value = names.get(name, self._builtins.get(name))
        return value if isinstance(value, Function | Builtin) else type(value)

    def give_up(self) -> None:
        self._traced = None

    def __call__(self, arguments: dict[str, Any]) -> Any:
        """The result, recorded; raises what tracing raises."""
        assert self._traced is not None
        values = {
            (id(names), name): _close(names[name])
            for names, name in self._names
            if name in names and not isinstance(names[name], Function | Builtin)
        }
        try:
            return self._traced(self._closed(arguments), values)
        except Exception:
            if not self._numbers:
                raise
            self._numbers = frozenset()  # a function may need one of them as a number
            return self._traced(self._closed(arguments), values)

    def _closed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {n: v if n in self._numbers else _close(v) for n, v in arguments.items()}


def _ends(looks: dict[Function, _Look]) -> bool:
    """Whether no function calls itself, directly or by way of others."""
    left = dict(looks)
    while done := [f for f in left if not left[f].calls & left.keys()]:
        for function in done:
            del left[function]
    return not left


def plan(function: Function, builtins: dict[str, Any], body: Body) -> Plan | None:
    """The plan by which a call of the function runs, or None if it is interpreted."""
    if function.compiled is None or not function.compiled.holds():
        function.compiled = Plan(function, builtins, body)
    found: Plan = function.compiled
    return found if found.compiles else None
