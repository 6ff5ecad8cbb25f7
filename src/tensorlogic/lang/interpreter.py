"""Runs the syntax tree of a text program.

Each kind of node has a method here. One that needs the values of other nodes is a generator: it
yields the node and is sent its value. `_drive` keeps these generators on a stack of its own, so
neither deep nesting nor recursion of the program reaches Python's stack, and when something fails
it knows the node.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

from tensorlogic.dims import Binding, TensorType
from tensorlogic.errors import LanguageError, LanguageRuntimeError
from tensorlogic.graph import text_site
from tensorlogic.lang import builtins, calls, compiled, tree, values
from tensorlogic.lang.builtins import Builtin
from tensorlogic.lang.calls import Function, Returned
from tensorlogic.lang.parser import parse
from tensorlogic.lang.source import Source, Span
from tensorlogic.lang.values import Fault
from tensorlogic.tensor import Tensor

MAX_CALLS = 1000
_SHOWN_CALLS = 3

Steps = Generator["tree.Node | _Enter", Any, Any]


@dataclass(slots=True, eq=False)
class Scope:
    """The names that a body sees: its own, then those of its file; and for which call it runs.

    A file that is imported has a call, but no function. loops: how many loops the statement at hand
    stands in. traced: while a compiled function is traced, what stands for the values of its files.
    """

    names: dict[str, Any]
    globals: dict[str, Any]
    function: Function | None = None
    call: Span | None = None
    caller: Scope | None = None
    depth: int = 0
    binding: Binding = field(default_factory=lambda: Binding(""))
    traced: compiled.Globals | None = None
    loops: int = 0


@dataclass(slots=True, eq=False)
class _Enter:
    """A node to be run in another scope than that of the node that asks for it."""

    node: tree.Node
    scope: Scope


@dataclass(slots=True, eq=False)
class _Left:
    """A `break` or `continue` on its way out of the blocks of its loop."""

    word: str


class Interpreter:
    """Runs programs in one environment.

    out: takes each line that a program prints. environment: the names that the program binds. dry:
    nothing is printed or saved, so that nothing has to be computed for it.
    """

    def __init__(
        self, out: Callable[[str], None], environment: dict[str, Any], dry: bool = False
    ) -> None:
        self.environment = environment
        self.last: Tensor | None = None
        """The tensor that the program itself bound, stated or printed last."""
        self._out = out
        self._builtins = {**builtins.builtins(), "print": Builtin("print", self._print)}
        if dry:
            self._builtins |= {n: Builtin(n, self._note) for n in ("print", "save_model")}
        self._importing: dict[str, str] = {}  # files being run, the program first: path by identity
        self._imported: dict[str, dict[str, Function]] = {}

    def run(self, source: Source) -> Any:
        """Run a program; raises LanguageSyntaxError or LanguageRuntimeError.

        Returns the value of its last statement, if that is an expression, else None.
        """
        self._importing = {os.path.realpath(source.path): source.path}
        scope = Scope(self.environment, self.environment)
        value = None
        for statement in parse(source).statements:
            value = self._drive(statement, scope)
            self._note(value)
        return value

    def call(self, function: Function, positional: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a function from Python; the place of the call is where the function stands."""
        span = function.definition.span
        call = tree.Call(
            span,
            tree.Literal(span, function),
            [tree.Literal(span, value) for value in positional],
            {name: tree.Literal(span, value) for name, value in named.items()},
        )
        return self._drive(call, Scope(self.environment, self.environment))

    def _print(self, *items: Any) -> None:
        self._out(" ".join(values.show(item) for item in items))

    def _note(self, *items: Any) -> None:
        for item in items:
            if isinstance(item, Tensor):
                self.last = item

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

    def _body(self, function: Function, arguments: dict[str, Any], traced: compiled.Globals) -> Any:
        """The result of a function for stand-ins of its arguments and of the values of its file."""
        span = function.definition.span
        binding = calls.bind_dims(function, arguments, span)
        scope = Scope(arguments, function.names, function, span, binding=binding, traced=traced)
        return calls.returned_value(function, self._drive(function.definition.body, scope))

    # ---- expressions -----------------------------------------------------------------------

    def _literal(self, node: tree.Literal, scope: Scope) -> Any:
        return node.value

    def _name(self, node: tree.Name, scope: Scope) -> Any:
        tables = (scope.names, scope.globals, self._builtins)
        for names in tables:
            if node.name in names:
                value = names[node.name]
                if names is not scope.globals or isinstance(value, Function | Builtin):
                    return value
                # A traced body that takes from its file what the look took for local fails here.
                return value if scope.traced is None else scope.traced[id(names), node.name]
        known = [name for names in tables for name in names]
        raise Fault(f"`{node.name}` is not defined{values.nearest(node.name, known)}")

    def _list(self, node: tree.ListOf, scope: Scope) -> Steps:
        return (yield from _values(node.items))

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
        return builtins.attribute((yield node.target), node.name)

    def _slice(self, node: tree.Slice, scope: Scope) -> Steps:
        start = yield node.start
        stop = yield node.stop
        return slice(start, stop, (yield node.step))

    def _index(self, node: tree.Index, scope: Scope) -> Steps:
        target = yield node.target
        keys = yield from _values(node.indices)
        return values.index(target, keys[0] if len(keys) == 1 else tuple(keys))

    def _call(self, node: tree.Call, scope: Scope) -> Steps:
        callee = yield node.callee
        positional = yield from _values(node.positional)
        named = dict(zip(node.named, (yield from _values(node.named.values())), strict=True))
        if isinstance(callee, Builtin):
            return callee(*positional, **named)
        if not isinstance(callee, Function):
            raise Fault(f"{values.kind(callee)} cannot be called")
        if scope.depth == MAX_CALLS:
            raise Fault(f"more than {MAX_CALLS} calls inside one another")
        arguments = calls.assign(callee, positional, named)
        for parameter in callee.definition.parameters:
            if parameter.name not in arguments:
                assert parameter.default is not None
                default = _Enter(parameter.default, Scope(callee.names, callee.names))
                arguments[parameter.name] = yield default
        calls.check(callee, arguments)
        binding = calls.bind_dims(callee, arguments, node.span)
        plan = None
        if scope.traced is None:
            plan = compiled.plan(callee, self._builtins, self._body)
        if plan is not None:
            with contextlib.suppress(Exception):  # if it fails, the interpreter says at which line
                return plan(arguments)
        depth = scope.depth + 1
        inner = Scope(
            arguments, callee.names, callee, node.span, scope, depth, binding, scope.traced
        )
        value = calls.returned_value(callee, (yield _Enter(callee.definition.body, inner)))
        if plan is not None:
            plan.give_up()  # it needs values, though it does not look like it
        return value

    # ---- statements ------------------------------------------------------------------------

    def _block(self, node: tree.Block, scope: Scope) -> Steps:
        """Runs statements up to one that leaves the block, whose value is then the block's."""
        for statement in node.statements:
            done = yield statement
            if isinstance(done, Returned | _Left):
                return done
        return None

    def _bind(self, node: tree.Bind, scope: Scope) -> Steps:
        scope.names[node.name] = value = yield node.value
        if scope.names is self.environment:
            self._note(value)

    def _if(self, node: tree.If, scope: Scope) -> Steps:
        branch = node.then if values.truth("if", (yield node.condition)) else node.otherwise
        return (yield branch) if branch else None

    def _while(self, node: tree.While, scope: Scope) -> Steps:
        scope.loops += 1
        while values.truth("while", (yield node.condition)):
            done = yield node.body
            if isinstance(done, Returned):
                return done
            if isinstance(done, _Left) and done.word == "break":
                break
        scope.loops -= 1

    def _for(self, node: tree.For, scope: Scope) -> Steps:
        items = values.iterate("`for`", (yield node.items))
        scope.loops += 1
        for item in items:
            scope.names[node.name] = item
            done = yield node.body
            if isinstance(done, Returned):
                return done
            if isinstance(done, _Left) and done.word == "break":
                break
        scope.loops -= 1

    def _leave(self, node: tree.Leave, scope: Scope) -> _Left:
        if not scope.loops:
            raise Fault(f"`{node.word}` stands outside a loop")
        return _Left(node.word)

    def _return(self, node: tree.Return, scope: Scope) -> Steps:
        function = scope.function
        if function is None:
            raise Fault("`return` stands outside a function")
        value = yield node.value
        if isinstance(function.result, TensorType):
            scope.binding.result(function.result, value)
        elif function.result is not None:
            value = calls.check_scalar(function, "the result", function.result, value)
        return Returned(value)

    def _function(self, node: tree.Function, scope: Scope) -> None:
        scope.names[node.name] = Function.of(node, scope.names, self.call)

    def _import(self, node: tree.Import, scope: Scope) -> Steps:
        """Runs a file once; the functions that it defines become names of this one."""
        path = os.path.normpath(os.path.join(os.path.dirname(node.span.source.path), node.path))
        identity = os.path.realpath(path)
        if identity in self._importing:
            files = list(self._importing)
            chain = [self._importing[f] for f in files[files.index(identity) :]]
            raise Fault(f"files import each other: {' -> '.join([*chain, chain[0]])}")
        if identity not in self._imported:
            program = parse(Source.read(path))
            names: dict[str, Any] = {}
            self._importing[identity] = path
            yield _Enter(program, Scope(names, names, call=node.span, caller=scope))
            del self._importing[identity]
            own = {n: f for n, f in names.items() if isinstance(f, Function) and f.names is names}
            self._imported[identity] = own
        for name, function in self._imported[identity].items():
            if scope.names.setdefault(name, function) is not function:
                raise Fault(f"`{name}` of {path} has a name that something else here has already")


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
    tree.If: Interpreter._if,
    tree.While: Interpreter._while,
    tree.For: Interpreter._for,
    tree.Leave: Interpreter._leave,
    tree.Return: Interpreter._return,
    tree.Function: Interpreter._function,
    tree.Import: Interpreter._import,
}


def _values(nodes: Iterable[tree.Node]) -> Steps:
    found = []
    for node in nodes:
        found.append((yield node))
    return found


# ---- errors ---------------------------------------------------------------------------------


def _located(error: Exception, span: Span, scope: Scope) -> LanguageRuntimeError:
    """The error with its place, its line and the calls that led to it."""
    message = str(error) or "failed"
    if isinstance(error, RecursionError):
        message = "a value is nested too deep"
    elif not isinstance(error, Fault):
        message = f"{type(error).__name__}: {message}"
    chain = []
    file = span.source.path
    inner: Scope | None = scope
    while inner is not None and inner.call is not None:
        if inner.function is None:
            chain.append(f"\n  in {file}, imported at {inner.call.place}")
        else:
            from_python = inner.call is inner.function.definition.span
            place = "from Python" if from_python else f"at {inner.call.place}"
            chain.append(f"\n  in {inner.function.name}, called {place}")
        file = inner.call.source.path
        inner = inner.caller
    hidden = len(chain) - 2 * _SHOWN_CALLS
    if hidden > 1:
        chain[_SHOWN_CALLS:-_SHOWN_CALLS] = [f"\n  ... {hidden} more calls"]
    return LanguageRuntimeError(span.report(message, "".join(chain)))
