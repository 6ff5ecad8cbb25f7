"""What the annotations of a Python function say of its tensors, however Python keeps them.

Annotations come as values, as strings (`from __future__ import annotations`) or lazily (Python
3.14). Strings are read, never run: names are looked up where the function was written, and a dim
that no name stands for is a `Dim` of that name.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorlogic.dims import Dim, Size, TensorType, read_size
from tensorlogic.dtypes import DTYPES, DType
from tensorlogic.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Each:
    """Every entry of a list or dict, or of a tuple of any length, is of one type."""

    item: Typed


@dataclass(frozen=True, slots=True)
class Maybe:
    """Of one type, or None."""

    item: Typed


Typed = TensorType | tuple["Typed", ...] | Each | Maybe | None
"""An annotation as far as it speaks of tensors; None where it does not."""

ANY_TENSOR = TensorType(None, (...,))


@dataclass(frozen=True, slots=True)
class Signature:
    """The annotations of a function: parameter name to type, and the result's."""

    params: dict[str, Typed]
    result: Typed


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A name that stands for nothing where the function was written."""

    name: str


_OTHER = object()  # an annotation that says nothing of tensors
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_CONTAINERS = (tuple, list, dict, Sequence, Mapping)


def enclosing_names(fn: types.FunctionType, frame: types.FrameType) -> dict[str, Any]:
    """The values of those names in `fn`'s annotations that are local to where it is defined.

    frame: where `fn` is being defined; from a class body the search goes on outside of it.
    """
    wanted: set[str] = set()
    for annotation in _annotations(fn).values():
        if isinstance(annotation, str):
            wanted.update(_IDENTIFIER.findall(annotation))
    found: dict[str, Any] = {}
    scope: types.FrameType | None = frame
    while wanted and scope is not None and scope.f_locals is not scope.f_globals:
        found = {n: scope.f_locals[n] for n in wanted if n in scope.f_locals} | found
        in_class = not scope.f_code.co_flags & 0x02  # CO_NEWLOCALS: a function has it
        scope = scope.f_back if in_class else None
    return found


def signature_of(fn: types.FunctionType, enclosing: Mapping[str, Any]) -> Signature:
    """The tensor types of `fn`'s parameters and result; `enclosing` comes from `enclosing_names`.

    Raises TypeError for a tensor annotation that makes no sense, naming the parameter.
    """
    scope = _scope(fn, enclosing)
    params: dict[str, Typed] = {}
    for name, annotation in _annotations(fn).items():
        try:
            params[name] = _typed(annotation, scope)
        except TypeError as error:
            raise TypeError(f"{fn.__name__}(): annotation of `{name}`: {error}") from None
    result = params.pop("return", None)
    return Signature(params, result)


def tensors(label: str, kind: Typed, value: Any) -> Iterator[tuple[str, TensorType, Any]]:
    """(label, type, value) of each tensor that `kind` expects in `value`."""
    if isinstance(kind, Maybe):
        if value is not None:
            yield from tensors(label, kind.item, value)
    elif isinstance(kind, TensorType):
        yield label, kind, value
    elif isinstance(kind, Each):
        if not isinstance(value, list | tuple | Mapping):
            raise TypeError(f"`{label}` is {type(value).__name__}, not a list, tuple or dict")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from tensors(f"{label}[{key!r}]", kind.item, item)
    elif kind is not None:
        if not isinstance(value, tuple) or len(value) != len(kind):
            shown = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
            raise TypeError(f"`{label}` is declared as a tuple of {len(kind)}, but is {shown}")
        for i, (item_kind, item) in enumerate(zip(kind, value, strict=True)):
            yield from tensors(f"{label}[{i}]", item_kind, item)


def _annotations(fn: types.FunctionType) -> dict[str, Any]:
    if sys.version_info >= (3, 14) and fn.__annotate__ is not None:
        import annotationlib

        # As strings, so that none of the names has to stand for anything yet.
        strings = annotationlib.Format.STRING
        return annotationlib.call_annotate_function(fn.__annotate__, strings, owner=fn)
    return fn.__annotations__


def _scope(fn: types.FunctionType, enclosing: Mapping[str, Any]) -> dict[str, Any]:
    scope = fn.__globals__ | dict(enclosing)
    for function in (getattr(fn, "__annotate__", None), fn):
        for name, cell in zip(
            function.__code__.co_freevars if function else (),
            (function.__closure__ if function else None) or (),
            strict=True,
        ):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            scope |= value if name == "__classdict__" else {name: value}
    return scope | {p.__name__: p for p in getattr(fn, "__type_params__", ())}


def _typed(annotation: Any, scope: Mapping[str, Any]) -> Typed:
    """An annotation, as a value or as text, as far as it speaks of tensors."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = _read(_parse(annotation), scope)
    if sys.version_info >= (3, 12) and isinstance(annotation, typing.TypeAliasType):
        annotation = annotation.__value__
    if isinstance(annotation, TensorType):
        return annotation
    if annotation is Tensor:
        return ANY_TENSOR
    if isinstance(annotation, DType):
        return TensorType(annotation, (...,))
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _typed(args[0], scope)
    if origin in (typing.Union, types.UnionType):
        some = [_typed(a, scope) for a in args if a is not types.NoneType]
        return Maybe(some[0]) if len(some) == 1 < len(args) and some[0] else None
    if origin not in _CONTAINERS or not args:
        return None
    if origin is tuple and args[-1] is not ...:
        items = tuple(_typed(a, scope) for a in args)
        return items if any(items) else None
    item = _typed(args[1] if issubclass(origin, Mapping) else args[0], scope)
    return Each(item) if item else None


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise TypeError(f"{text!r} is no annotation") from None


def _read(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    """The value of an annotation's text, or `_OTHER` where it says nothing of tensors."""
    match node:
        case ast.Name(id=name):
            found = scope.get(name, getattr(builtins, name, _Unknown(name)))
            return _known(found) if isinstance(found, _Unknown) else found
        case ast.Attribute(value=base, attr=name):
            owner = _read(base, scope)
            if isinstance(owner, _Unknown):
                return _known(_Unknown(name))
            return getattr(owner, name, _OTHER)
        case ast.Constant(value=str() as text):
            return _read(_parse(text), scope)
        case ast.Constant(value=value):
            return value
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            sides = (_read(left, scope), _read(right, scope))
            return typing.Union[sides] if _OTHER not in sides else _OTHER  # noqa: UP007
        case ast.Subscript(value=base, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _subscript(_read(base, scope), parts, scope)
    return _OTHER


def _known(unknown: _Unknown) -> Any:
    """Names imported for type checkers only are known all the same."""
    if unknown.name == "Tensor":
        return Tensor
    return DTYPES.get(unknown.name, unknown)


def _subscript(base: Any, parts: list[ast.expr], scope: Mapping[str, Any]) -> Any:
    if base is Tensor:
        element = _read(parts[0], scope)
        if isinstance(element, _Unknown):
            raise TypeError(f"unknown dtype {element.name!r}")
        return TensorType.of(element, tuple(_read_dim(p, scope) for p in parts[1:]))
    if isinstance(base, DType):
        return TensorType.of(base, tuple(_read_dim(p, scope) for p in parts))
    if base not in (*_CONTAINERS, typing.Optional, typing.Union, typing.Annotated) and (
        typing.get_origin(base) not in _CONTAINERS
    ):
        return _OTHER
    if base is typing.Annotated:
        return _read(parts[0], scope)
    items = tuple(_read(p, scope) for p in parts)
    items = tuple(object if i is _OTHER or isinstance(i, _Unknown) else i for i in items)
    return base[items if len(items) > 1 else items[0]]


def _read_dim(node: ast.expr, scope: Mapping[str, Any]) -> Size:
    def resolve(node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):  # of no builtin: a dim may be called `len`
                return scope.get(name, Dim(name))
            case ast.Subscript(value=base, slice=inner):
                generic = _read(base, scope)
                if getattr(generic, "_name", "") == "Unpack":
                    return ...
                if generic is typing.Literal:
                    return _read_dim(inner, scope)
        found = _read(node, scope)
        if found is _OTHER or isinstance(found, _Unknown):
            raise TypeError(f"{ast.unparse(node)!r} is no dim")
        return found

    return read_size(node, resolve)
