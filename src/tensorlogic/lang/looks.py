"""What a look at the body of a function, without running it, finds out about compiling it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tensorlogic.dims import TensorType
from tensorlogic.functions import FUNCTIONS
from tensorlogic.lang import tree
from tensorlogic.lang.builtins import OWN, RANDOM, Builtin
from tensorlogic.lang.calls import Function
from tensorlogic.lang.values import Module
from tensorlogic.model import Model
from tensorlogic.tensor import Tensor

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
class Look:
    """What a look at the body of one function finds.

    fits: nothing in it speaks against compiling. globals: the names that it takes from its file.
    calls: the functions of the program that it calls. numbers: parameters that can be numbers of
    each call, since they only meet tensors or go to functions of tensors; others are fixed in a
    trace. passed: which of them are handed on, to which parameter of which function.
    """

    function: Function
    builtins: dict[str, Any]
    fits: bool = True
    globals: set[str] = field(default_factory=set)
    calls: set[Function] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    passed: list[tuple[str, Function, str]] = field(default_factory=list)

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
        self.numbers = self._run_time_numbers(nodes) - bound

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
        """What a name of the file or of the language stands for, such as `random.uniform`."""
        if isinstance(node, tree.Attribute) and isinstance(node.target, tree.Name):
            owner = self._named(node.target)
            return owner.functions.get(node.name) if isinstance(owner, Module) else None
        if not isinstance(node, tree.Name) or node.name in self._local:
            return None
        return self.function.names.get(node.name, self.builtins.get(node.name))

    def _call(self, node: tree.Call, known: bool) -> _Fact:
        callee = node.callee
        value = self._named(callee)
        if value is None and isinstance(callee, tree.Attribute):
            methods = (getattr(owner, callee.name, None) for owner in (Tensor, Model))
            return _Fact(known, any(map(_gives_tensor, methods)))
        if isinstance(value, Function):
            self.calls.add(value)
            return _Fact(False, isinstance(value.result, TensorType))
        self.fits &= isinstance(value, Builtin) and (
            value.name in FUNCTIONS
            or value in RANDOM.functions.values()
            or value.name in ("len", "append")
            or (known and (value.name in OWN or value.name in _MAKERS))
        )
        is_length = isinstance(value, Builtin) and value.name == "len"
        return _Fact(known or is_length, _gives_tensor(getattr(value, "function", None)))

    def _run_time_numbers(self, nodes: list[tree.Node]) -> set[str]:
        fine: set[int] = set()
        for node in nodes:
            if isinstance(node, tree.Binary) and node.operator in _WITH_NUMBERS:
                for one, other in ((node.left, node.right), (node.right, node.left)):
                    if self._facts[id(other)].tensor:
                        fine.add(id(one))
            elif isinstance(node, tree.Call):
                fine.update(id(argument) for argument in self._open_arguments(node))
        fixed = {n.name for n in nodes if isinstance(n, tree.Name) and id(n) not in fine}
        return {n for n, t in self.function.types.items() if t in ("int", "float")} - fixed

    def _open_arguments(self, node: tree.Call) -> Iterator[tree.Node]:
        """The arguments of a call that may be numbers of each call."""
        value = self._named(node.callee)
        if isinstance(value, Function):
            given = list(zip(value.types, node.positional, strict=False))
            for parameter, argument in [*given, *node.named.items()]:
                name = argument.name if isinstance(argument, tree.Name) else ""
                declared = self.function.types.get(name)
                if declared in ("int", "float") and value.types.get(parameter) == declared:
                    self.passed.append((name, value, parameter))
                    yield argument
            return
        if isinstance(value, Builtin) and value in RANDOM.functions.values():
            names = inspect.signature(value.function).parameters
            arguments = dict(zip(names, node.positional, strict=False)) | node.named
            yield from (a for name, a in arguments.items() if name in ("seed", "offset"))
            return
        if isinstance(node.callee, tree.Attribute):
            takes_tensors = self._facts[id(node.callee.target)].tensor
        else:
            takes_tensors = isinstance(value, Builtin) and value.name in FUNCTIONS
        if takes_tensors:
            yield from (*node.positional, *node.named.values())


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


def look_at(function: Function, builtins: dict[str, Any]) -> dict[Function, Look]:
    """The looks at a function, which comes first, and at all that it calls, directly or not."""
    looks = {function: Look(function, builtins)}
    ahead = [function]
    while ahead:
        for callee in looks[ahead.pop()].calls - looks.keys():
            looks[callee] = Look(callee, builtins)
            ahead.append(callee)
    _settle(looks)
    return looks


def can_compile(looks: dict[Function, Look]) -> bool:
    """Whether the first of the functions works on tensors, and nothing speaks against it."""
    types = next(iter(looks)).types.values()
    takes_tensors = any(isinstance(t, TensorType) for t in types)
    return takes_tensors and all(look.fits for look in looks.values()) and _ends(looks)


def _settle(looks: dict[Function, Look]) -> None:
    """Takes away the numbers that are handed to a parameter which has to be fixed."""
    stuck = True
    while stuck:
        stuck = False
        for look in looks.values():
            fixed = {n for n, f, p in look.passed if p not in looks[f].numbers}
            stuck |= bool(look.numbers & fixed)
            look.numbers -= fixed


def _ends(looks: dict[Function, Look]) -> bool:
    """Whether no function calls itself, directly or by way of others."""
    left = dict(looks)
    while done := [f for f in left if not left[f].calls & left.keys()]:
        for function in done:
            del left[function]
    return not left
