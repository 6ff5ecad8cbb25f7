"""Which functions of a text program are compiled, and how they are called.

A function is compiled as `@tl.function` is if a look at its body, and at the functions that it
calls, finds nothing that has to happen at each call or depends on the values of tensors: no `print`
or file, no condition on a tensor, no tensor turned into a number; and no recursion. Its body is
then traced once for shapes, dtypes and fixed values; a call is one node of the graph. Where tracing
fails all the same, the interpreter runs the body, and says what is wrong.

Tensors and lists that the function finds in its file are passed to the trace as further arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

from tensorlogic.function import MAX_TRACES
from tensorlogic.function import Function as Traced
from tensorlogic.lang.builtins import Builtin
from tensorlogic.lang.calls import Function
from tensorlogic.lang.looks import can_compile, look_at

Globals = dict[tuple[int, str], Any]
"""Values of files: by the identity of a file's names, and the name."""
Body = Callable[[Function, dict[str, Any], Globals], Any]


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
        looks = look_at(function, builtins)
        self._names = [(l.function.names, n) for l in looks.values() for n in sorted(l.globals)]
        self._meanings = [self._meaning(*name) for name in self._names]
        self._numbers = frozenset(looks[function].numbers)
        self._traced: Traced | None = None
        if can_compile(looks):

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


def plan(function: Function, builtins: dict[str, Any], body: Body) -> Plan | None:
    """The plan by which a call of the function runs, or None if it is interpreted."""
    if function.compiled is None or not function.compiled.holds():
        function.compiled = Plan(function, builtins, body)
    found: Plan = function.compiled
    return found if found.compiles else None
