"""Tensors that a traced function uses without being passed them, and how a rebinding is noticed.

A search starts at what the function's code can name (globals, closure, defaults, opaque arguments)
and goes through containers, objects and the functions named on the way. Each step is an edge, "this
container holds that object under this key"; the edges on the ways to a captured tensor, and all the
names themselves, are guards: as long as they hold, the trace stands for what the body would do.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tensorlogic.tensor import Tensor

Guard = tuple[Callable[[Any, Any], Any], Any, Any, Any]
"""read, container, key, expected: the guard holds while `read(container, key) is expected`."""

_PLAIN = (int, float, complex, str, bytes, type(None), types.BuiltinFunctionType)
_FOREIGN = {"tensorlogic", "numpy", *sys.stdlib_module_names}
"""Packages whose insides are not searched: their functions use no tensors of the user's."""
_NAME_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def hold(guards: Iterable[Guard]) -> bool:
    """Whether every name and container still has what it had."""
    for read, container, key, expected in guards:  # noqa: SIM110 - in each call: `all` costs more
        if read(container, key) is not expected:
            return False
    return True


def _read_cell(cell: types.CellType, _: None) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # deleted since
        return None


def _read_item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else None


def _read_length(container: Any, length: int) -> bool:
    return len(container) == length


def _read_slot(owner: Any, name: str) -> Any:
    return getattr(owner, name, None)


def _read_member(owner: Any, name: str) -> Any:
    return vars(owner).get(name)


class Reach:
    """All tensors that `fn` and the objects `roots` lead to; the edges are kept for `guards`."""

    def __init__(self, fn: types.FunctionType, roots: Iterable[Any]):
        self.tensors: dict[int, Tensor] = {}
        self._fn = fn
        self._into: dict[int, list[tuple[Any, Guard | None]]] = {}
        self._named: list[Guard] = []
        self._keep: list[Any] = []  # what is searched stays alive, so that its id stays its own
        names: set[str] = set()
        known = -1
        while known != len(names):  # an attribute counts once some code that was found names it
            known = len(names)
            self.tensors.clear()
            self._into.clear()
            self._named.clear()
            self._search([fn, *roots], names)

    def guards(self, captured: Iterable[Tensor]) -> tuple[Guard, ...]:
        """The names of the code, and every edge on a way to one of the captured tensors."""
        found = list(self._named)
        ahead: list[Any] = list(captured)
        seen = {id(t) for t in ahead}
        while ahead:
            for parent, guard in self._into.get(id(ahead.pop()), ()):
                if guard is not None:
                    found += guard, *_length(parent)
                if id(parent) not in seen:
                    seen.add(id(parent))
                    ahead.append(parent)
        return tuple({(g[0], id(g[1]), g[2]): g for g in found}.values())

    def _search(self, roots: list[Any], names: set[str]) -> None:
        seen = {id(r) for r in roots}
        ahead = deque(roots)
        while ahead:
            parent = ahead.popleft()
            self._keep.append(parent)
            if isinstance(parent, Tensor):
                self.tensors[id(parent)] = parent
                continue
            if isinstance(parent, types.FunctionType) and self._is_foreign(parent):
                continue
            for guard, child, is_named in _edges(parent, names):
                if is_named and guard is not None:
                    self._named += guard, *(g for g in _length(child) if not child)
                if isinstance(child, _PLAIN):
                    continue
                self._into.setdefault(id(child), []).append((parent, guard))
                if id(child) not in seen:
                    seen.add(id(child))
                    ahead.append(child)

    def _is_foreign(self, fn: types.FunctionType) -> bool:
        """Other people's code may be large; what it captures is an error, not a wrong result."""
        package = _package(fn)
        installed = "site-packages" in fn.__code__.co_filename and package != _package(self._fn)
        return fn is not self._fn and (installed or package in _FOREIGN)


def _length(container: Any) -> list[Guard]:
    """That a container which can grow has not."""
    grows = isinstance(container, list | dict | deque)
    return [(_read_length, container, len(container), True)] if grows else []


_Edge = tuple[Guard | None, Any, bool]  # guard, child, whether the code names the child


def _edges(parent: Any, names: set[str]) -> Iterator[_Edge]:
    """What `parent` holds; an edge that cannot change needs no guard."""
    if isinstance(parent, types.FunctionType):
        yield from _function_edges(parent, names)
    elif isinstance(parent, types.MethodType):
        yield from ((None, parent.__func__, False), (None, parent.__self__, False))
    elif isinstance(parent, functools.partial):
        yield from ((None, part, False) for part in (parent.func, parent.args, parent.keywords))
    elif isinstance(parent, tuple | frozenset):
        yield from ((None, item, False) for item in parent)
    elif isinstance(parent, list | deque):
        for i, item in enumerate(parent):
            yield (_read_item, parent, i, item), item, False
    elif isinstance(parent, dict):
        for key, item in list(parent.items()):
            yield (dict.get, parent, key, item), item, False
    elif isinstance(parent, types.ModuleType | type):
        if _package(parent) not in _FOREIGN:
            yield from _member_edges(parent, names)
    else:
        yield from _object_edges(parent, names)


def _function_edges(fn: types.FunctionType, names: set[str]) -> Iterator[_Edge]:
    for code in _codes(fn.__code__):
        names.update(code.co_names)
        used = {i.argval for i in dis.get_instructions(code) if i.opname in _NAME_LOADS}
        for name in used & fn.__globals__.keys():
            value = fn.__globals__[name]
            yield (dict.get, fn.__globals__, name, value), value, True
    for cell in fn.__closure__ or ():
        value = _read_cell(cell, None)
        yield (_read_cell, cell, None, value), value, True
    yield None, fn.__defaults__, False
    yield None, fn.__kwdefaults__, False


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _member_edges(owner: Any, names: set[str]) -> Iterator[_Edge]:
    """Attributes of a module or class that the code names, with what stands behind descriptors."""
    for name in names & vars(owner).keys():
        member = vars(owner)[name]
        guard = (_read_member, owner, name, member)
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        yield guard, member, True


def _object_edges(owner: Any, names: set[str]) -> Iterator[_Edge]:
    if hasattr(owner, "__wrapped__"):
        yield None, owner.__wrapped__, False
        return
    kind = type(owner)
    if _package(kind) in _FOREIGN - {"tensorlogic"} and kind is not types.SimpleNamespace:
        return
    for name, value in list(getattr(owner, "__dict__", {}).items()):
        yield (dict.get, owner.__dict__, name, value), value, name in names
    for base in kind.__mro__:
        if _package(base) not in _FOREIGN:
            slots = vars(base).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                value = _read_slot(owner, name)
                yield (_read_slot, owner, name, value), value, name in names
            yield from _member_edges(base, names | {"__call__"})


def _package(thing: Any) -> str:
    module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return str(module or "").partition(".")[0]
