"""The graph that tensors record: nodes, leaves, and the order in which to visit them."""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tensorlogic.dtypes import DType, bool_, float32, int32
from tensorlogic.errors import DeviceError, ShapeError
from tensorlogic.storage import contiguous_strides, serials

if TYPE_CHECKING:
    from tensorlogic.ops import Op
    from tensorlogic.storage import Strided

Shape = tuple[int, ...]


class Node:
    """One recorded value.

    op: the `Op` that makes it (None for a leaf or placeholder); args: its inputs; attrs: hashable
    settings of the op. `data` says where the values lie once they are there; `number` is the value
    of a Python number. `weak` numbers do not widen their partner. `traced` nodes depend on a
    placeholder of a function that is being traced. `pending` counts the ops on the longest path
    that are not evaluated yet; `uses` counts the nodes that were recorded with this one as input;
    `consumed` nodes were replaced by an update and must not be named again.
    `serial` numbers the nodes in the order of their making. `layout` is kept for ready
    calls; `made` is set for what one of them computed: the traced output that it is.
    """

    __slots__ = (
        "__weakref__",
        "args",
        "attrs",
        "consumed",
        "data",
        "device",
        "dtype",
        "layout",
        "made",
        "name",
        "number",
        "op",
        "pending",
        "serial",
        "shape",
        "site",
        "traced",
        "uses",
        "weak",
    )
    device: str | None
    pending: int
    traced: bool

    def __init__(
        self,
        op: Op | None,
        args: tuple[Node, ...],
        attrs: tuple[Any, ...],
        shape: Shape,
        dtype: DType,
    ):
        self.op = op
        self.args = args
        self.attrs = attrs
        self.shape = shape
        self.dtype = dtype
        self.data: Strided | None = None
        self.number: float | int | bool | None = None
        self.name = ""
        self.site = ""
        self.weak = False
        self.uses = 0
        self.consumed = False
        self.layout: object | None = None
        self.made: Node | None = None
        self.serial = next(serials)
        device: str | None = None
        traced = False
        pending = 0
        for a in args:
            a.uses += 1
            if a.traced:
                traced = True
            if a.pending > pending:
                pending = a.pending
            if a.device is not None and a.device != device:
                if device is not None:
                    raise DeviceError(
                        f"{op}: one tensor is on {device!r}, another on {a.device!r}; "
                        f"move one with `.to(...)`"
                    )
                device = a.device
        self.device = device
        self.traced = traced
        self.pending = pending + 1 if op is not None else 0

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def is_leaf(self) -> bool:
        return self.op is None

    def realise(self, data: Strided) -> None:
        """The values are there: drop the graph."""
        self.data = data
        self.op = None
        self.args = ()
        self.attrs = ()
        self.pending = 0


_new = object.__new__


def _leaf(
    shape: Shape, dtype: DType, data: Strided | None, number: float | int | bool | None, weak: bool
) -> Node:
    """What `Node` makes without an op, but without its detours: leaves are made by the million."""
    node: Node = _new(Node)
    node.op = None
    node.args = node.attrs = ()
    node.shape = shape
    node.dtype = dtype
    node.data = data
    node.number = number
    node.name = node.site = ""
    node.weak = weak
    node.uses = node.pending = 0
    node.consumed = node.traced = False
    node.layout = node.made = node.device = None
    node.serial = next(serials)
    return node


def leaf(
    data: Strided, shape: Shape, dtype: DType, device: str | None = None, name: str = ""
) -> Node:
    """A node whose values are there."""
    node = _leaf(shape, dtype, data, None, False)
    node.device = device
    node.name = name
    return node


def like(kind: Node, data: Strided) -> Node:
    """A leaf with the facts of the result of a ready call."""
    node = _leaf(kind.shape, kind.dtype, data, None, kind.weak)
    node.made = kind.made
    node.device = kind.device
    return node


_BEYOND_FLOAT32 = (2 - 2.0**-24) * 2.0**127
"""From here on, a number rounds to infinity in float32."""


def number(value: float | int | bool) -> Node:
    """A Python number as a weak 0-d node; its value is a run-time parameter of kernels."""
    if isinstance(value, bool):
        return _leaf((), bool_, None, value, True)
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return _leaf((), int32, None, value, True)
    value = float(value)
    if not -_BEYOND_FLOAT32 < value < _BEYOND_FLOAT32:
        value = value if math.isnan(value) else math.copysign(math.inf, value)
    return _leaf((), float32, None, value, True)


def placeholder(
    shape: Shape,
    dtype: DType,
    *,
    weak: bool = False,
    device: str | None = None,
    storage: str | None = None,
) -> Node:
    """An input of a function that is being traced. Weak ones stand for Python numbers."""
    node = Node(None, (), (storage or dtype.name,), shape, dtype)
    node.weak = weak
    node.device = device
    node.traced = True
    return node


class TracedFunction:
    """What tracing a function gave: outputs as a graph over placeholders.

    `updated` are the inputs, by index, that an update consumes; `plans` what devices keep with it.
    """

    __slots__ = ("inputs", "name", "outputs", "plans", "updated")

    def __init__(self, name: str, inputs: tuple[Node, ...], outputs: tuple[Node, ...]):
        from tensorlogic.ops import UPDATE

        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.plans: dict[Any, Any] = {}
        consumed = {id(n.args[0]) for n in topological(outputs) if n.op is UPDATE}
        self.updated = tuple(i for i, n in enumerate(inputs) if id(n) in consumed)


class Call:
    """One call of a traced function; it knows those of its results that somebody still holds."""

    __slots__ = ("_results", "traced")

    def __init__(self, traced: TracedFunction):
        self.traced = traced
        self._results: list[weakref.ref[Node]] = []

    def add(self, node: Node) -> None:
        self._results.append(weakref.ref(node))

    def results(self) -> list[Node]:
        """The results that are held and not computed yet, in order."""
        held = [ref() for ref in self._results]
        return [n for n in held if n is not None and n.op is not None]


def record_call(traced: TracedFunction, args: Sequence[Node]) -> tuple[Node, ...]:
    """The outputs of a traced function for other inputs, recorded but not run."""
    from tensorlogic.ops import CALL

    out = []
    inputs = tuple(args)
    call = Call(traced)
    for i, o in enumerate(traced.outputs):
        if not i:
            first = node = Node(CALL, inputs, (call, 0), o.shape, o.dtype)
            device = first.device
        else:  # the call is one use of its inputs, however many results it has
            node = _leaf(o.shape, o.dtype, None, None, False)
            node.op, node.args, node.attrs = CALL, inputs, (call, i)
            node.device, node.traced, node.pending = device, first.traced, first.pending
        if node.device is None:
            node.device = o.device
        call.add(node)
        out.append(node)
    return tuple(out)


def may_overwrite(x: Node) -> bool:
    """Whether the memory of a leaf is ours, whole, and read by its one consumer only."""
    data = x.data
    return (
        data is not None
        and data.memory.owned
        and not data.memory.shared
        and x.uses <= 1
        and data.offset == 0
        and data.strides == contiguous_strides(x.shape)
    )


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node under the roots, inputs first."""
    seen: set[Node] = set()
    order: list[Node] = []
    there: tuple[Node, ...] = ()
    stack: list[Node | None] = list(roots)
    stack.reverse()
    while stack:
        node = stack.pop()
        if node is None:  # what comes next has its inputs in the order
            done = stack.pop()
            assert done is not None
            order.append(done)
            there = done.args
        elif node not in seen:
            seen.add(node)
            args = node.args
            if args and args is not there:  # results of one call share theirs
                stack += (node, None)
                stack += args[::-1]
            else:
                order.append(node)
    return order


def inline_calls(roots: Sequence[Node]) -> list[Node]:
    """The same graph with every call of a traced function replaced by its body."""
    from tensorlogic.ops import CALL

    roots = list(roots)
    while True:
        order = topological(roots)
        if not any(n.op is CALL for n in order):
            return roots
        new: dict[int, Node] = {}
        bodies: dict[tuple[int, tuple[int, ...]], list[Node]] = {}
        for n in order:
            args = tuple(new[id(a)] for a in n.args)
            if n.op is CALL:
                call, i = n.attrs
                key = (id(call), tuple(id(a) for a in args))
                if key not in bodies:
                    for a in args:
                        a.uses -= 1  # the body's nodes use it from here on
                    bodies[key] = substitute(call.traced, args)
                new[id(n)] = bodies[key][i]
            else:
                new[id(n)] = _with(n, args)
        roots = [new[id(r)] for r in roots]


def _with(node: Node, args: tuple[Node, ...]) -> Node:
    """The node with other arguments; itself if they are its own."""
    if all(a is b for a, b in zip(args, node.args, strict=True)):
        return node
    copy = Node(node.op, args, node.attrs, node.shape, node.dtype)
    copy.weak, copy.name, copy.site = node.weak, node.name, node.site
    if copy.device is None:
        copy.device = node.device
    return copy


def substitute(traced: TracedFunction, args: Sequence[Node]) -> list[Node]:
    """The traced outputs with their placeholders replaced by `args`."""
    new = {id(p): a for p, a in zip(traced.inputs, args, strict=True)}
    for n in topological(traced.outputs):
        if id(n) not in new:
            new[id(n)] = _with(n, tuple(new[id(a)] for a in n.args))
    return [new[id(o)] for o in traced.outputs]


_PACKAGE = os.path.dirname(os.path.abspath(__file__))

text_site: ContextVar[Callable[[], str] | None] = ContextVar("text_site", default=None)
"""Set while a program of the text language runs: where in its file it is."""


def user_site() -> str:
    """`file:line` of the user's code that is calling into this package."""
    in_text = text_site.get()
    if in_text is not None:
        return in_text()
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def shape_text(shape: Shape) -> str:
    """A shape as users read it: [4, 2]."""
    return "[" + ", ".join(str(d) for d in shape) + "]"


def broadcast(op: str, *shapes: Shape) -> Shape:
    """The common shape of operands by NumPy's rule; raises ShapeError naming the axis."""
    if len(shapes) == 2:  # most often one is a number, or both are alike
        a, b = shapes
        if a == b or not b:
            return a
        if not a:
            return b
    rank = max((len(s) for s in shapes), default=0)
    out = [1] * rank
    for s in shapes:
        for i, d in enumerate(s):
            axis = rank - len(s) + i
            if d == 1 or out[axis] == d:
                continue
            if out[axis] != 1:
                shown = " and ".join(shape_text(t) for t in shapes)
                raise ShapeError(
                    f"{op}: shapes {shown} do not broadcast: "
                    f"axis {axis - rank} is {out[axis]} in one and {d} in another"
                )
            out[axis] = d
    return tuple(out)
