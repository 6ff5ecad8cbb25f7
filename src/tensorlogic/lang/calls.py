"""Functions of text programs: their types, and how the arguments of a call are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorlogic.dims import Binding, TensorType, bind
from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import LanguageRuntimeError
from tensorlogic.lang import tree, values
from tensorlogic.lang.source import Span
from tensorlogic.lang.values import Fault
from tensorlogic.model import Model
from tensorlogic.tensor import Tensor

_SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "string": (str,),
    "list": (list,),
    "model": (Model,),
}


@dataclass(slots=True, eq=False, repr=False)
class Function:
    """A function of a text program; Python can call it as well.

    `names` are those of its file. `traces` counts how often its body was traced, if it is compiled.

    >>> import tensorlogic as tl
    >>> program = tl.lang.run("fn double(x: int) -> int { return x * 2 }")
    >>> program["double"](21)
    42
    """

    definition: tree.Function
    types: dict[str, TensorType | str]
    result: TensorType | str | None
    names: dict[str, Any]
    call: Callable[[Function, Sequence[Any], dict[str, Any]], Any]
    compiled: Any = field(default=None)

    @classmethod
    def of(
        cls,
        node: tree.Function,
        names: dict[str, Any],
        call: Callable[[Function, Sequence[Any], dict[str, Any]], Any],
    ) -> Function:
        """The function that a definition makes; raises LanguageRuntimeError for an unknown type."""
        types = {p.name: _type(p.type) for p in node.parameters}
        return cls(node, types, _type(node.result) if node.result else None, names, call)

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def traces(self) -> int:
        return self.compiled.traces if self.compiled else 0

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self.call(self, positional, named)

    def __repr__(self) -> str:
        return f"function {self.name}({', '.join(self.types)})"


@dataclass(slots=True, eq=False)
class Returned:
    """A `return` on its way out of the blocks of its function."""

    value: Any


def returned_value(function: Function, done: Any) -> Any:
    """The value of a call whose body ended with `done`."""
    if isinstance(done, Returned):
        return done.value
    if function.result is not None:
        raise Fault(f"{function.name}() ended without the {function.result} that it declares")
    return None


def assign(function: Function, positional: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of their parameters, without those left to their defaults."""
    parameters = function.definition.parameters
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


def check(function: Function, arguments: dict[str, Any]) -> None:
    """Checks the kind of every argument; an int for a float becomes one."""
    for name, declared in function.types.items():
        if isinstance(declared, str):
            arguments[name] = check_scalar(function, f"`{name}`", declared, arguments[name])
        elif not isinstance(arguments[name], Tensor):
            found = values.kind(arguments[name])
            raise Fault(f"{function.name}(): `{name}` is {found}, not {declared}")


def bind_dims(function: Function, arguments: dict[str, Any], call: Span) -> Binding:
    """Binds the dims of the tensors among the arguments."""
    types = {n: t for n, t in function.types.items() if isinstance(t, TensorType)}
    defined = function.definition.span
    where = f"{defined.line_place}, called from "
    where += "Python" if call is defined else call.line_place
    return bind(function.name, types, arguments, where)


def check_scalar(function: Function, label: str, declared: str, value: Any) -> Any:
    """A value that is no tensor, where `declared` is wanted; raises Fault."""
    if isinstance(value, Tensor) and _is_number(value):
        return value
    fits = isinstance(value, _SCALARS[declared])
    if not fits or (isinstance(value, bool) and declared != "bool"):
        raise Fault(f"{function.name}(): {label} is {values.kind(value)}, not {declared}")
    return float(value) if declared == "float" else value


def _is_number(value: Tensor) -> bool:
    """Whether it stands for a number of each call, in a body that is being traced."""
    node = value._node
    return node.traced and node.weak and node.is_leaf


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
