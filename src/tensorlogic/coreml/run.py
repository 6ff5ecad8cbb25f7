"""Running ML programs: the default function of a program, for the inputs of each call.

A program is recorded once for each combination of input shapes: sizes that its operations compute
are numbers then, and further calls run the recorded graph. Where what it records depends on values
(a slice whose bounds are an input, non_zero, random numbers without a seed), it is recorded anew at
each call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorlogic import graph
from tensorlogic.coreml.inputs import bind
from tensorlogic.coreml.interpret import Classified, Interpreter, check, operations
from tensorlogic.coreml.mil import ROWS
from tensorlogic.coreml.mil.table import READERS
from tensorlogic.coreml.program import Feature, Function, Program
from tensorlogic.errors import FormatError, TraceError
from tensorlogic.graph import Node, TracedFunction
from tensorlogic.tensor import Tensor, wrap

_Make = Callable[[Sequence[Node], Sequence[Node]], Any]
MAX_GRAPHS = 64
"""Recorded graphs that a runner keeps; beyond that the oldest is dropped."""


class Runner:
    """Runs the default function of a program.

    Raises MissingOperations, which names each operation that does not run and its output.
    """

    def __init__(self, program: Program, inputs: tuple[Feature, ...], outputs: tuple[Feature, ...]):
        if program.default not in program.functions:
            raise FormatError(f"the program has no function {program.default!r}")
        self._function: Function = program.functions[program.default]
        self._inputs = inputs
        check(self._function.block)
        self._interpreter = Interpreter()
        self._graphs: dict[Any, _Recorded] = {}
        everything = list(operations(self._function.block))
        self._anew = any(o.op in ROWS and ROWS[o.op].fresh for o in everything)

    def predict(self, values: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
        """The outputs by name: tensors, computed when they are asked for their values; of a
        classifier its label and a dict of probabilities."""
        tensors = bind(self._function, self._inputs, values, device)
        nodes = [t._node for t in tensors]
        if self._anew:
            return _plain(self._outputs(tensors))
        key = tuple((n.shape, n.dtype, n.device) for n in nodes)
        if key not in self._graphs:
            self._graphs[key] = self._record(nodes)
            while len(self._graphs) > MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
        recorded = self._graphs[key]
        return _plain(self._outputs(tensors) if recorded.graph is None else recorded.call(nodes))

    def _outputs(self, tensors: Sequence[Tensor]) -> dict[str, Any]:
        names = (name for name, _ in self._function.inputs)
        block = self._function.block
        found = self._interpreter.run(block, dict(zip(names, tensors, strict=True)))
        return {name: _output(found[name]) for name in block.outputs}

    def _record(self, nodes: Sequence[Node]) -> _Recorded:
        """The graph over placeholders of these shapes; none if it depends on values."""
        inputs = [graph.placeholder(n.shape, n.dtype, device=n.device) for n in nodes]
        try:
            outputs = self._outputs([wrap(n) for n in inputs])
        except TraceError:
            return _Recorded(None, (), {})
        return _Recorded.of(inputs, outputs)


def _output(value: Any) -> Any:
    return value if isinstance(value, Classified) else READERS["Tensor"]((value,))


def _plain(outputs: dict[str, Any]) -> dict[str, Any]:
    return {n: v.value() if isinstance(v, Classified) else v for n, v in outputs.items()}


class _Recorded:
    """What recording a program gave: a graph, which inputs it needs, and how each output is made of
    the nodes of a call."""

    def __init__(
        self, traced: TracedFunction | None, used: Sequence[int], outputs: Mapping[str, _Make]
    ):
        self.graph = traced
        self._used = used
        self._outputs = outputs

    @staticmethod
    def of(inputs: Sequence[Node], outputs: Mapping[str, Any]) -> _Recorded:
        results: list[Node] = []
        made = {n: _made(value, inputs, results) for n, value in outputs.items()}
        reached = {id(n) for n in graph.topological(results)}
        used = [i for i, n in enumerate(inputs) if id(n) in reached]
        traced = TracedFunction("predict", tuple(inputs[i] for i in used), tuple(results))
        return _Recorded(traced, used, made)

    def call(self, nodes: Sequence[Node]) -> dict[str, Any]:
        assert self.graph is not None
        results = graph.record_call(self.graph, [nodes[i] for i in self._used])
        return {name: make(nodes, results) for name, make in self._outputs.items()}


def _made(value: Any, inputs: Sequence[Node], results: list[Node]) -> _Make:
    """How an output comes from the inputs and results of a call; its node may join the results."""
    if isinstance(value, Classified):
        inner = _made(value.probabilities, inputs, results)
        classes, best = value.classes, value.best
        return lambda given, found: Classified(inner(given, found), classes, best)
    node = value._node
    for i, known in enumerate(inputs):
        if node is known:
            return lambda given, found: wrap(given[i])
    if not node.traced:
        return lambda given, found: value
    if all(node is not n for n in results):
        results.append(node)
    place = next(i for i, n in enumerate(results) if n is node)
    return lambda given, found: wrap(found[place])
