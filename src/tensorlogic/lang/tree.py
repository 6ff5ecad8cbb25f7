"""The syntax tree of a text program: what the parser builds and the interpreter walks.

`span` is the place that an error about a node points to: the whole node, or for operators,
attributes and indices the part that says what is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from tensorlogic.lang.source import Span


@dataclass(slots=True, eq=False)
class Node:
    span: Span


@dataclass(slots=True, eq=False)
class Literal(Node):
    value: object


@dataclass(slots=True, eq=False)
class Name(Node):
    name: str


@dataclass(slots=True, eq=False)
class ListOf(Node):
    items: list[Node]


@dataclass(slots=True, eq=False)
class Unary(Node):
    """`-x` or `not x`."""

    operator: str
    operand: Node


@dataclass(slots=True, eq=False)
class Binary(Node):
    operator: str
    left: Node
    right: Node


@dataclass(slots=True, eq=False)
class Logic(Node):
    """`and`, `or`: the right side runs only if the left one leaves it open."""

    operator: str
    left: Node
    right: Node


@dataclass(slots=True, eq=False)
class Attribute(Node):
    target: Node
    name: str


@dataclass(slots=True, eq=False)
class Slice(Node):
    start: Node
    stop: Node
    step: Node


@dataclass(slots=True, eq=False)
class Index(Node):
    target: Node
    indices: list[Node]


@dataclass(slots=True, eq=False)
class Call(Node):
    callee: Node
    positional: list[Node]
    named: dict[str, Node]


@dataclass(slots=True, eq=False)
class Bind(Node):
    """`let x = ...` or `x = ...`."""

    name: str
    value: Node


@dataclass(slots=True, eq=False)
class Return(Node):
    value: Node


@dataclass(slots=True, eq=False)
class Block(Node):
    statements: list[Node]


@dataclass(slots=True, eq=False)
class If(Node):
    """`otherwise` is the `else` block, or the `if` that follows `else`."""

    condition: Node
    then: Block
    otherwise: Block | If | None


@dataclass(slots=True, eq=False)
class While(Node):
    condition: Node
    body: Block


@dataclass(slots=True, eq=False)
class For(Node):
    name: str
    items: Node
    body: Block


@dataclass(slots=True, eq=False)
class Leave(Node):
    """`break` or `continue`."""

    word: str


@dataclass(slots=True, eq=False)
class Import(Node):
    path: str


@dataclass(slots=True, eq=False)
class TypeName(Node):
    """`int`, or with dims `float16[N, N*2]`."""

    name: str
    dims: list[str] | None


@dataclass(slots=True, eq=False)
class Parameter(Node):
    name: str
    type: TypeName
    default: Node | None


@dataclass(slots=True, eq=False)
class Function(Node):
    name: str
    parameters: list[Parameter]
    result: TypeName | None
    body: Block


def children(node: Node) -> Iterator[Node]:
    """The nodes right below a node, in the order of the text."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, dict):
            value = list(value.values())
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Node):
                yield item
