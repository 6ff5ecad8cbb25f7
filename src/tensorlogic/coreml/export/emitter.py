"""From a graph to an ML program, value by value, with coremltools' builder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.export.graphs import Graph, PublicCall
from tensorlogic.dtypes import DType, bool_, float16, float32, int32
from tensorlogic.errors import FormatError
from tensorlogic.graph import Node
from tensorlogic.ops import VIEWS
from tensorlogic.tensor import wrap

MAX_RANK = 5
"""Core ML's tensors have at most five axes."""
NAMES: dict[DType, str] = {float16: "fp16", float32: "fp32", int32: "int32", bool_: "bool"}
"""What MIL calls our dtypes."""
_KEPT = ("cast", *VIEWS)
"""Kinds of ops that are written out where they change a captured tensor, which keeps its name."""
LOWEST = -60000.0
"""Where a mask forbids: exp of it is 0, and float16 holds it."""


class NotSaid(Exception):
    """An emitter finds that MIL can't say this; the primitives are tried, or the export fails."""


def _plain(names: list[str]) -> list[str]:
    """Names as MIL takes them: of letters, digits and underscores."""
    found = (re.sub(r"\W", "_", name, flags=re.ASCII) or "tensor" for name in names)
    return [f"_{name}" if name[0].isdigit() else name for name in found]


class _Named:
    """coremltools' builder, with names for operations that none of `taken` begins with: its own
    names could be those of tensors."""

    def __init__(self, builder: Any, taken: list[str]):
        self._builder = builder
        self._prefix = "op"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._count = 0

    def __getattr__(self, op: str) -> Any:
        def operation(**arguments: Any) -> Any:
            self._count += 1
            arguments.setdefault("name", f"{self._prefix}_{self._count}_{op}")
            return getattr(self._builder, op)(**arguments)

        return operation


class Emitter:
    """Holds the values that have been written, by the node that each stands for."""

    def __init__(self, graph: Graph, mb: Any):
        self.graph = graph
        labels = [label for _, label in graph.names.values()]
        self.mb = _Named(mb, _plain([*labels, *graph.inputs, *graph.outputs]))
        self.names: dict[str, str] = {}  # of tensors: in the program, and as they were given
        self._taken: set[str] = set()
        self._vars: dict[int, tuple[Node, Any]] = {}
        self._consts: dict[Any, Any] = {}
        self._captured = {
            id(node.data.memory): (node, label)
            for node, label in graph.names.values()
            if node.data is not None
        }

    def give(self, node: Node, var: Any) -> None:
        """`var` stands for the node from here on."""
        self._vars[id(node)] = (node, var)

    def has(self, node: Node) -> bool:
        return id(node) in self._vars

    def var(self, node: Node, dtype: DType | None = None) -> Any:
        """A node that has been emitted, or is a constant, in a dtype if one is said."""
        if not self.has(node):
            self.give(node, self.constant(node))
        var = self._vars[id(node)][1]
        return var if dtype is None or dtype is node.dtype else self.cast(var, dtype)

    def cast(self, var: Any, dtype: DType) -> Any:
        return self.mb.cast(x=var, dtype=NAMES[dtype])

    def number(self, value: Any, dtype: DType) -> Any:
        """A number as an argument of an operation."""
        with np.errstate(over="ignore"):
            return dtype.numpy.type(value)

    def constant(self, node: Node) -> Any:
        """A value that depends on no input. A captured tensor is written as it is kept, so that its
        name holds its values; a view of it becomes operations."""
        if node.number is not None:
            return self.mb.const(val=self.number(node.number, node.dtype))
        if node.dtype not in NAMES:
            raise FormatError(
                f"{self.graph.name}(): a tensor of {node.dtype} is a part of it; convert it with "
                "`.to(...)` to a dtype that computes"
            )
        known = self.graph.names.get(id(node))
        if known is not None:
            return self._const(wrap(node).numpy(), known[1], ("node", id(node)))
        if node.op is not None and node.op.kind in _KEPT and node.args[0].dtype in NAMES:
            from tensorlogic.coreml.export.nodes import emit_node

            return emit_node(self, node)
        return self._view(node)

    def _view(self, node: Node) -> Any:
        """A leaf that is a view: of a captured tensor where one is known, else of values as they
        lie in memory."""
        array = wrap(node).numpy()
        strides = node.data.strides if node.op is None and node.data is not None else None
        if strides is None:
            return self._const(array, node.name, ("values", id(node)))
        spread = [s == 0 and n > 1 for s, n in zip(strides, node.shape, strict=True)]
        array = array[tuple(slice(0, 1) if wide else slice(None) for wide in spread)]
        order = sorted(range(array.ndim), key=lambda a: -strides[a])
        laid = array.transpose(order)
        owner = self._captured.get(id(node.data.memory)) if node.data else None
        if owner is not None and owner[0].size == laid.size and laid.flags.c_contiguous:
            var = self.var(owner[0])
            if owner[0].shape != laid.shape:
                var = self.reshape(var, laid.shape)
        else:
            var = self._const(laid, node.name, ("laid", id(node)))
        if order != sorted(order):
            var = self.mb.transpose(x=var, perm=[order.index(a) for a in range(array.ndim)])
        if any(spread):
            reps = [n if wide else 1 for n, wide in zip(node.shape, spread, strict=True)]
            var = self.mb.tile(x=var, reps=reps)
        return var

    def _const(self, array: NDArray[Any], name: str, key: Any) -> Any:
        if key not in self._consts:
            made = {"name": self.name(name)} if name else {}
            if made:
                self.names[made["name"]] = name
            self._consts[key] = self.mb.const(val=np.ascontiguousarray(array), **made)
        return self._consts[key]

    def name(self, wanted: str) -> str:
        """A name as MIL takes it, that is not taken yet."""
        (plain,), k = _plain([wanted]), 0
        made = plain
        while made in self._taken:
            k += 1
            made = f"{plain}_{k}"
        self._taken.add(made)
        return made

    def reshape(self, var: Any, shape: tuple[int, ...]) -> Any:
        """Axes of size 1 are put in or left out where that is all."""
        old = tuple(var.shape)
        if old == tuple(shape):
            return var
        if tuple(n for n in old if n != 1) == shape:
            return self.mb.squeeze(x=var, axes=[i for i, n in enumerate(old) if n == 1])
        if old and tuple(n for n in shape if n != 1) == old:
            return self.mb.expand_dims(x=var, axes=[i for i, n in enumerate(shape) if n == 1])
        if not shape:
            flat = self.mb.reshape(x=var, shape=[1])
            return self.mb.squeeze(x=flat, axes=[0])
        if not old:
            var = self.mb.expand_dims(x=var, axes=[0])
        return self.mb.reshape(x=var, shape=list(shape))


def emit(graph: Graph, emitter: Emitter) -> dict[str, Any]:
    """Writes what the outputs need, arguments first; gives the values of the outputs by name."""
    ahead = list(reversed(graph.outputs.values()))
    opened: set[int] = set()
    while ahead:
        node = ahead[-1]
        if emitter.has(node) or not node.traced:
            ahead.pop()
            continue
        call = graph.calls.get(id(node))
        call = call if call is not None and _is_said(emitter, call) else None
        needed = [n for n in (call.nodes if call else node.args) if n.traced and not emitter.has(n)]
        if needed and id(node) not in opened:
            opened.add(id(node))
            ahead += reversed(needed)
            continue
        ahead.pop()
        emitter.give(node, _checked(emitter, node, call))
    return {name: emitter.var(node) for name, node in graph.outputs.items()}


def _is_said(emitter: Emitter, call: PublicCall) -> bool:
    from tensorlogic.coreml.export.functions import says

    return says(emitter, call)


def _checked(emitter: Emitter, node: Node, call: PublicCall | None) -> Any:
    """The value of a node; raises FormatError that names the op MIL can't say."""
    from tensorlogic.coreml.export.functions import emit_call
    from tensorlogic.coreml.export.nodes import emit_node

    op = call.function if call else str(node.op)
    where = f"{emitter.graph.name}(): {op}"
    try:
        var = emit_call(emitter, call) if call else emit_node(emitter, node)
    except NotSaid as error:
        raise FormatError(f"{where} can't be said in an ML program: {error}") from None
    except (ValueError, TypeError, NotImplementedError, AssertionError, KeyError) as error:
        raise FormatError(f"{where} is not taken by coremltools: {error}") from error
    if len(var.shape) > MAX_RANK:
        raise FormatError(
            f"{where} gives {len(var.shape)} axes; Core ML's tensors have at most {MAX_RANK}"
        )
    if tuple(var.shape) != tuple(node.shape):
        raise FormatError(
            f"{where} has shape {list(var.shape)} in the ML program, and {list(node.shape)} here"
        )
    return var


Arguments = Mapping[str, Any]
