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
from tensorlogic.forms import Kind, Layout, Recipe, kind_of, layout_of, recipe_of
from tensorlogic.storage import contiguous_strides, serials

if TYPE_CHECKING:
    from tensorlogic.ops import Op
    from tensorlogic.storage import Strided

Shape = tuple[int, ...]
Form = Recipe | Layout


class Node:
    """One recorded value.

    op: the `Op` that makes it (None for a leaf or placeholder); args: its inputs; attrs: hashable
    settings of the op. `data` says where the values lie once they are there; `number` is the value
    of a Python number. `weak` numbers do not widen their partner. `traced` nodes depend on a
    placeholder of a function that is being traced. `pending` counts the ops on the longest path
    that are not evaluated yet; `uses` counts the nodes that were recorded with this one as input;
    `consumed` nodes were replaced by an update and must not be named again.
    `serial` numbers the nodes in the order of their making. `form` is the recipe of a recorded node
    and, once it was asked for, the layout of a leaf; `kind` the kind, once it was asked for; `word`
    the address or number that native code is given of a leaf, once it was asked for; `made` is set
    for what a ready call computed: the traced output that it is.
    """

    __slots__ = (
        "__weakref__",
        "args",
        "attrs",
        "consumed",
        "data",
        "device",
        "dtype",
        "form",
        "kind",
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
        "word",
    )
    # Nodes are made by the functions below, which set all of these: a constructor would cost more.
    args: tuple[Node, ...]
    attrs: tuple[Any, ...]
    consumed: bool
    data: Strided | None
    device: str | None
    dtype: DType
    form: Form | None
    kind: Kind | None
    made: Node | None
    name: str
    number: float | int | bool | None
    op: Op | None
    pending: int
    serial: int
    shape: Shape
    site: str
    traced: bool
    uses: int
    weak: bool
    word: float | int | None

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
        self.form = None

    def consume(self) -> None:
        """An update has replaced it: from now on, to name it is an error."""
        self.consumed = True
        self.form = None  # so that a ready call refuses it


def record(recipe: Recipe, args: tuple[Node, ...]) -> Node:
    """A node made of its arguments as a recipe says."""
    node = Node()
    node.op = recipe.op
    node.args = args
    node.attrs = recipe.attrs
    node.shape = recipe.shape
    node.dtype = recipe.dtype
    node.weak = recipe.weak
    node.kind = recipe.kind
    node.form = recipe
    node.data = node.number = node.word = node.made = None
    node.name = node.site = ""
    node.uses = 0
    node.consumed = False
    node.serial = next(serials)
    device: str | None = None
    traced = False
    pending = 0
    for a in args:
        a.uses += 1
        if a.traced:
            traced = True
        if a.pending > pending:
            pending = a.pending
        if a.device is not device and a.device is not None and a.device != device:
            if device is not None:
                raise DeviceError(
                    f"{recipe.op}: one tensor is on {device!r}, another on {a.device!r}; "
                    f"move one with `.to(...)`"
                )
            device = a.device
    node.device = device
    node.traced = traced
    node.pending = pending + 1
    return node


def apply(
    op: Op, args: tuple[Node, ...], attrs: tuple[Any, ...], shape: Shape, dtype: DType
) -> Node:
    """A node that an op makes of its arguments."""
    node = record(recipe_of(op, attrs, shape, dtype, False), args)
    node.attrs = attrs  # as they are: those of the recipe are only equal, as 1 and 1.0 are
    return node


def _leaf(shape: Shape, dtype: DType, weak: bool) -> Node:
    """A node without an op, whose values are given next."""
    node = Node()
    node.op = node.data = node.number = node.word = node.made = node.device = None
    node.kind = node.form = None
    node.args = node.attrs = ()
    node.shape = shape
    node.dtype = dtype
    node.name = node.site = ""
    node.weak = weak
    node.uses = node.pending = 0
    node.consumed = node.traced = False
    node.serial = next(serials)
    return node


def leaf(
    data: Strided, shape: Shape, dtype: DType, device: str | None = None, name: str = ""
) -> Node:
    """A node whose values are there."""
    node = _leaf(shape, dtype, False)
    node.data = data
    node.device = device
    node.name = name
    return node


def kind_of_node(node: Node) -> Kind:
    """The kind of a node, from now on kept with it."""
    kind = node.kind = kind_of(node.shape, node.dtype, node.weak)
    return kind


def layout_of_leaf(node: Node) -> Layout:
    """The layout of a leaf, from now on kept with it unless it is consumed."""
    d = node.data
    facts: tuple[Any, ...] = (None, None, None)
    if d is not None:
        # What may be made of blocks depends on whether they stay as they are.
        strides = d.memory.constant if d.strides is None else d.strides
        facts = d.storage, d.offset, strides
    layout = layout_of(node.shape, node.dtype, node.weak, *facts, node.device)
    if not node.consumed:
        node.form = layout
    return layout


def word_of(leaf: Node) -> Any:
    """The number of a leaf, or the address of its memory; kept with it if it stays the same."""
    if leaf.data is None:
        return leaf.number
    memory = leaf.data.memory
    address = memory.address
    if memory.stays:
        leaf.word = address
    return address


GONE = _leaf((), bool_, False)
"""What a tensor holds after its update."""
GONE.consume()


_BEYOND_FLOAT32 = (2 - 2.0**-24) * 2.0**127
"""From here on, a number rounds to infinity in float32."""


_NUMBERS: dict[DType, tuple[Kind, Layout]] = {
    d: (kind_of((), d, True), layout_of((), d, True)) for d in (bool_, int32, float32)
}


def number(value: float | int | bool) -> Node:
    """A Python number as a weak 0-d node; its value is a run-time parameter of kernels."""
    if isinstance(value, bool):
        dtype: DType = bool_
    elif isinstance(value, int) and -(2**31) <= value < 2**31:
        dtype = int32
    else:
        dtype = float32
        value = float(value)
        if not -_BEYOND_FLOAT32 < value < _BEYOND_FLOAT32:
            value = value if math.isnan(value) else math.copysign(math.inf, value)
    node = _leaf((), dtype, True)
    node.number = node.word = value
    node.kind, node.form = _NUMBERS[dtype]
    return node


def placeholder(
    shape: Shape,
    dtype: DType,
    *,
    weak: bool = False,
    device: str | None = None,
    storage: str | None = None,
) -> Node:
    """An input of a function that is being traced. Weak ones stand for Python numbers."""
    node = _leaf(shape, dtype, weak)
    node.attrs = (storage or dtype.name,)
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

    inputs = tuple(args)
    call = Call(traced)
    out: list[Node] = []
    for i, o in enumerate(traced.outputs):
        recipe = Recipe(CALL, (call, i), o.shape, o.dtype, o.weak)
        if not out:
            first = node = record(recipe, inputs)
            device = first.device
        else:  # the call is one use of its inputs, however many results it has
            node = record(recipe, ())
            node.args, node.traced, node.pending = inputs, first.traced, first.pending
        node.device = o.device if device is None else device
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
    assert isinstance(node.form, Recipe)
    copy = record(node.form, args)
    copy.attrs, copy.name, copy.site = node.attrs, node.name, node.site
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
