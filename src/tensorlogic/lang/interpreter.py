"""Runs the syntax tree of a text program.

Each kind of node has a method here. One that needs the values of other nodes is a generator: it
yields the node and is sent its value. `_drive` keeps these generators on a stack of its own, so
neither deep nesting nor recursion of the program reaches Python's stack, and when something fails
it knows the node.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

from tensorlogic.dims import Binding, TensorType, bind
from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import LanguageError, LanguageRuntimeError
from tensorlogic.graph import text_site
from tensorlogic.lang import tree, values
from tensorlogic.lang.parser import parse
from tensorlogic.lang.source import Source, Span
from tensorlogic.lang.values import Builtin, Fault
from tensorlogic.model import Model
from tensorlogic.tensor import Tensor

MAX_CALLS = 1000
_SHOWN_CALLS = 3

_SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "string": (str,),
    "list": (list,),
    "model": (Model,),
}

Steps = Generator["tree.Node | _Enter", Any, Any]


@dataclass(eq=False, repr=False)
class Function:
    """A function of a text program; Python can call it as well.

    >>> import tensorlogic as tl
    >>> program = tl.lang.run("fn double(x: int) -> int { return x * 2 }")
    >>> program["double"](21)
    42
    """

    tree: tree.Function
    types: dict[str, TensorType | str]
    result: TensorType | str | None
    interpreter: Interpreter

    @property
    def name(self) -> str:
        return self.tree.name

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self.interpreter.call(self, positional, named)

    def __repr__(self) -> str:
        return f"function {self.name}({', '.join(self.types)})"


@dataclass(slots=True, eq=False)
class Scope:
    """The names that a function's body sees first, and the call that it runs for."""

    names: dict[str, Any]
    function: Function | None = None
    call: Span | None = None
    caller: Scope | None = None
    depth: int = 0
    binding: Binding = field(default_factory=lambda: Binding(""))


@dataclass(slots=True, eq=False)
class _Enter:
    """A node to be run in another scope than that of the node that asks for it."""

    node: tree.Node
    scope: Scope


@dataclass(slots=True, eq=False)
class _Returned:
    value: Any


class Interpreter:
    """Runs programs in one environment.

    out: takes each line that a program prints. environment: the names that the program binds.
    """

    def __init__(self, out: Callable[[str], None], environment: dict[str, Any]) -> None:
        self.environment = environment
        self._builtins = {**values.builtins(), "print": Builtin("print", self._print)}
        self._out = out

    def run(self, source: Source) -> None:
        """Run a program; raises LanguageSyntaxError or LanguageRuntimeError."""
        self._drive(parse(source), Scope(self.environment))

    def call(self, function: Function, positional: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a function from Python; the place of the call is where the function stands."""
        span = function.tree.span
        call = tree.Call(
            span,
            tree.Literal(span, function),
            [tree.Literal(span, value) for value in positional],
            {name: tree.Literal(span, value) for name, value in named.items()},
        )
        return self._drive(call, Scope(self.environment))

    def _print(self, *items: Any) -> None:
        self._out(" ".join(values.show(item) for item in items))

    def _drive(self, node: tree.Node | _Enter, scope: Scope) -> Any:
        stack: list[tuple[Steps, tree.Node, Scope]] = []
        site = text_site.set(lambda: stack[-1][1].span.line_place)
        try:
            while True:
                if isinstance(node, _Enter):
                    scope = node.scope
                    node = node.node
                value = _METHODS[type(node)](self, node, scope)
                if isinstance(value, GeneratorType):
                    stack.append((value, node, scope))
                    value = None
                while stack:  # send values up until a node asks for another one
                    steps, node, scope = stack[-1]
                    try:
                        node = steps.send(value)
                        break
                    except StopIteration as done:
                        value = done.value
                        stack.pop()
                else:
                    return value
        except (LanguageError, BrokenPipeError):  # the latter: who reads the prints has gone
            raise
        except Exception as error:
            assert not isinstance(node, _Enter)
            raise _located(error, node.span, scope) from (
                None if isinstance(error, Fault) else error
            )
        finally:
            text_site.reset(site)

    # ---- expressions -----------------------------------------------------------------------

    def _literal(self, node: tree.Literal, scope: Scope) -> Any:
        return node.value

    def _name(self, node: tree.Name, scope: Scope) -> Any:
        tables = (scope.names, self.environment, self._builtins)
        for names in tables:
            if node.name in names:
                return names[node.name]
        known = [name for names in tables for name in names]
        raise Fault(f"`{node.name}` is not defined{values.nearest(node.name, known)}")

    def _list(self, node: tree.ListOf, scope: Scope) -> Steps:
        items = []
        for item in node.items:
            items.append((yield item))
        return items

    def _unary(self, node: tree.Unary, scope: Scope) -> Steps:
        return values.unary(node.operator, (yield node.operand))

    def _binary(self, node: tree.Binary, scope: Scope) -> Steps:
        left = yield node.left
        return values.binary(node.operator, left, (yield node.right))

    def _logic(self, node: tree.Logic, scope: Scope) -> Steps:
        left = yield node.left
        if isinstance(left, bool) and left == (node.operator == "or"):
            return left
        return values.logic(node.operator, left, (yield node.right))

    def _attribute(self, node: tree.Attribute, scope: Scope) -> Steps:
        return values.attribute((yield node.target), node.name)

    def _slice(self, node: tree.Slice, scope: Scope) -> Steps:
        start = yield node.start
        stop = yield node.stop
        return slice(start, stop, (yield node.step))

    def _index(self, node: tree.Index, scope: Scope) -> Steps:
        target = yield node.target
        keys = []
        for key in node.indices:
            keys.append((yield key))
        return values.index(target, keys[0] if len(keys) == 1 else tuple(keys))

    def _call(self, node: tree.Call, scope: Scope) -> Steps:
        callee = yield node.callee
        positional = []
        for argument in node.positional:
            positional.append((yield argument))
        named = {}
        for name, argument in node.named.items():
            named[name] = yield argument
        if isinstance(callee, Builtin):
            return callee(*positional, **named)
        if not isinstance(callee, Function):
            raise Fault(f"{values.kind(callee)} cannot be called")
        if scope.depth == MAX_CALLS:
            raise Fault(f"more than {MAX_CALLS} calls inside one another")
        arguments = _assign_arguments(callee, positional, named)
        for parameter in callee.tree.parameters:
            if parameter.name not in arguments:
                assert parameter.default is not None
                default = _Enter(parameter.default, Scope(self.environment))
                arguments[parameter.name] = yield default
        binding = _check_arguments(callee, arguments, node.span)
        inner = Scope(arguments, callee, node.span, scope, scope.depth + 1, binding)
        returned = yield _Enter(callee.tree.body, inner)
        if isinstance(returned, _Returned):
            return returned.value
        if callee.result is not None:
            raise Fault(f"{callee.name}() ended without the {callee.result} that it declares")
        return None

    # ---- statements ------------------------------------------------------------------------

    def _block(self, node: tree.Block, scope: Scope) -> Steps:
        """Runs statements up to a `return`, which is the block's value."""
        for statement in node.statements:
            done = yield statement
            if isinstance(done, _Returned):
                return done
        return None

    def _bind(self, node: tree.Bind, scope: Scope) -> Steps:
        scope.names[node.name] = yield node.value

    def _return(self, node: tree.Return, scope: Scope) -> Steps:
        function = scope.function
        if function is None:
            raise Fault("`return` stands outside a function")
        value = yield node.value
        if isinstance(function.result, TensorType):
            scope.binding.result(function.result, value)
        elif function.result is not None:
            value = _check_scalar(function.name, "the result", function.result, value)
        return _Returned(value)

    def _function(self, node: tree.Function, scope: Scope) -> None:
        types = {p.name: _type(p.type) for p in node.parameters}
        result = _type(node.result) if node.result else None
        scope.names[node.name] = Function(node, types, result, self)


_METHODS: dict[type[tree.Node], Callable[[Interpreter, Any, Scope], Any]] = {
    tree.Literal: Interpreter._literal,
    tree.Name: Interpreter._name,
    tree.ListOf: Interpreter._list,
    tree.Unary: Interpreter._unary,
    tree.Binary: Interpreter._binary,
    tree.Logic: Interpreter._logic,
    tree.Attribute: Interpreter._attribute,
    tree.Slice: Interpreter._slice,
    tree.Index: Interpreter._index,
    tree.Call: Interpreter._call,
    tree.Block: Interpreter._block,
    tree.Bind: Interpreter._bind,
    tree.Return: Interpreter._return,
    tree.Function: Interpreter._function,
}


# ---- types of parameters and results --------------------------------------------------------


def _type(declared: tree.TypeName) -> TensorType | str:
    """A tensor type for `float16[N, 4]` and for `float16` (any shape), the name of other types."""
    name = declared.name
    try:
        if declared.dims is None and name in _SCALARS:
            return name
        if name in DTYPES or name == "tensor":
            sizes = (...,) if declared.dims is None else tuple(declared.dims)
            return TensorType.of(DTYPES.get(name), sizes)
        if name in _SCALARS:
            raise Fault(f"the type {name} has no dims")
        raise Fault(f"`{name}` is not a type{values.nearest(name, ['tensor', *DTYPES, *_SCALARS])}")
    except (Fault, TypeError) as error:
        raise LanguageRuntimeError(declared.span.report(str(error))) from None


def _assign_arguments(
    function: Function, positional: list[Any], named: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names of their parameters, without those left to their defaults."""
    parameters = function.tree.parameters
    if len(positional) > len(parameters):
        raise Fault(f"{function.name}() takes {len(parameters)} arguments, not {len(positional)}")
    arguments = {p.name: value for p, value in zip(parameters, positional, strict=False)}
    for name, value in named.items():
        if name not in function.types:
            close = values.nearest(name, function.types)
            raise Fault(f"{function.name}() has no parameter `{name}`{close}")
        if name in arguments:
            raise Fault(f"{function.name}(): `{name}` is given twice")
        arguments[name] = value
    missing = [p.name for p in parameters if p.name not in arguments and p.default is None]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise Fault(f"{function.name}() is called without {listed}")
    return arguments


def _check_arguments(function: Function, arguments: dict[str, Any], call: Span) -> Binding:
    """Checks every argument against its type; binds the dims of the tensors."""
    tensors = {}
    for name, declared in function.types.items():
        if isinstance(declared, str):
            arguments[name] = _check_scalar(function.name, f"`{name}`", declared, arguments[name])
        elif isinstance(arguments[name], Tensor):
            tensors[name] = declared
        else:
            found = values.kind(arguments[name])
            raise Fault(f"{function.name}(): `{name}` is {found}, not {declared}")
    defined = function.tree.span
    where = f"{defined.line_place}, called from "
    where += "Python" if call is defined else call.line_place
    return bind(function.name, tensors, arguments, where)


def _check_scalar(function: str, label: str, declared: str, value: Any) -> Any:
    fits = isinstance(value, _SCALARS[declared])
    if not fits or (isinstance(value, bool) and declared != "bool"):
        raise Fault(f"{function}(): {label} is {values.kind(value)}, not {declared}")
    return float(value) if declared == "float" else value


# ---- errors ---------------------------------------------------------------------------------


def _located(error: Exception, span: Span, scope: Scope) -> LanguageRuntimeError:
    """The error with its place, its line and the calls that led to it."""
    message = str(error) or "failed"
    if isinstance(error, RecursionError):
        message = "a value is nested too deep"
    elif not isinstance(error, Fault):
        message = f"{type(error).__name__}: {message}"
    calls = []
    inner: Scope | None = scope
    while inner is not None and inner.function is not None and inner.call is not None:
        from_python = inner.call is inner.function.tree.span
        place = "from Python" if from_python else f"at {inner.call.place}"
        calls.append(f"\n  in {inner.function.name}, called {place}")
        inner = inner.caller
    hidden = len(calls) - 2 * _SHOWN_CALLS
    if hidden > 1:
        calls[_SHOWN_CALLS:-_SHOWN_CALLS] = [f"\n  ... {hidden} more calls"]
    return LanguageRuntimeError(span.report(message, "".join(calls)))
