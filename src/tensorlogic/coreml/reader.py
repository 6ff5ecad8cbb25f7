"""The program of a model: functions, blocks and operations of MIL.proto, checked for order.

Every name is defined once and before it is used, so that a program has no cycles, and every
operation can be run in the order in which it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tensorlogic.coreml.program import (
    Argument,
    Block,
    Constant,
    Function,
    Operation,
    Program,
    TensorType,
    ValueType,
)
from tensorlogic.coreml.values import Weights, read_type, read_value
from tensorlogic.coreml.wire import Message

MAX_OPERATIONS = 1 << 17
MAX_BLOCK_DEPTH = 16
_VERSION = 1
_NOTHING: Mapping[str, Constant] = MappingProxyType({})


def read_program(message: Message, weights: Weights, default: str) -> Program:
    """The program of a message; `default` is the function that runs when none is named."""
    version = message.signed(1)
    if version != _VERSION:
        raise message.fault(f"claims version {version}; version {_VERSION} is read")
    reader = _Reader(weights)
    functions = {name: reader.function(m, name) for name, m in message.entries(2, "function")}
    if default not in functions:
        known = ", ".join(map(repr, functions)) or "none"
        raise message.fault(f"has no function {default!r:.80}; its functions are: {known}")
    return Program(version, functions, default)


class _Reader:
    def __init__(self, weights: Weights):
        self.weights = weights
        self.operations = 0

    def function(self, message: Message, name: str) -> Function:
        message.where = f"function {name!r:.80}"
        inputs = self._named_types(message, 1)
        opset = message.text(2)
        blocks = dict(message.entries(3, "opset"))
        if opset not in blocks:
            there = ", ".join(map(repr, blocks)) or "none"
            raise message.fault(f"is written for opset {opset!r:.80}; it has blocks for: {there}")
        known: set[str] = set()
        self._define(message, known, inputs)
        return Function(inputs, opset, self._block(blocks[opset], message.where, known, 0))

    def _block(self, message: Message, where: str, known: set[str], depth: int) -> Block:
        """`known` are the names that may be used; it is left as it was."""
        message.where = where
        if depth > MAX_BLOCK_DEPTH:
            raise message.fault(f"blocks are nested more than {MAX_BLOCK_DEPTH} deep")
        inputs = self._named_types(message, 1)
        self._define(message, known, inputs)
        own = [name for name, _ in inputs]
        operations = []
        for m in message.messages(3):
            self.operations += 1
            if self.operations > MAX_OPERATIONS:
                raise message.fault(f"the program has more than {MAX_OPERATIONS} operations")
            operations.append(self._operation(m, where, known, depth))
            own += [name for name, _ in operations[-1].outputs]
        outputs = tuple(message.texts(2))
        self._check_known(message, "gives", outputs, known)
        known.difference_update(own)
        return Block(inputs, outputs, tuple(operations))

    def _operation(self, message: Message, where: str, known: set[str], depth: int) -> Operation:
        op = message.text(1)
        message.where = f"{where}, op {op!r:.60}"
        outputs = self._named_types(message, 3)
        if not op:
            raise message.fault("an operation has no type")
        if outputs:
            message.where = f"{where}, op {op!r:.60} of {outputs[0][0]!r:.80}"
        inputs = {name: self._arguments(m, name, known) for name, m in message.entries(2, "input")}
        attributes = {
            name: self._constant(m, message.where, name)
            for name, m in message.entries(5, "attribute")
        }
        if op == "const":
            _check_const(message, outputs, attributes)
        blocks = tuple(self._block(m, message.where, known, depth + 1) for m in message.messages(4))
        self._define(message, known, outputs)
        return Operation(op, inputs, outputs, attributes or _NOTHING, blocks, message.where)

    def _arguments(self, message: Message, name: str, known: set[str]) -> tuple[Argument, ...]:
        message.where = f"{message.where}, input {name!r:.60}"
        arguments: list[Argument] = []
        for binding in message.messages(1):
            kind = binding.which(1, 2)
            if kind is None:
                raise message.fault("is bound to nothing")
            if kind == 1:
                arguments.append(binding.text(1))
                self._check_known(message, "takes", (binding.text(1),), known)
            else:
                value = binding.message(2)
                assert value is not None
                arguments.append(read_value(value, self.weights))
        return tuple(arguments)

    def _constant(self, message: Message, where: str, name: str) -> Constant:
        message.where = f"{where}, attribute {name!r:.60}"
        return read_value(message, self.weights)

    def _named_types(self, message: Message, number: int) -> tuple[tuple[str, ValueType], ...]:
        found = []
        for m in message.messages(number):
            name = m.text(1)
            if not name:
                raise message.fault("a value has no name")
            m.where = f"{message.where}, value {name!r:.80}"
            found.append((name, read_type(m.message(2), m)))
        return tuple(found)

    @staticmethod
    def _define(message: Message, known: set[str], values: Iterable[tuple[str, ValueType]]) -> None:
        for name, _ in values:
            if name in known:
                raise message.fault(f"defines {name!r:.80}, which exists already")
            known.add(name)

    @staticmethod
    def _check_known(message: Message, does: str, names: Iterable[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                raise message.fault(f"{does} {name!r:.80}, which no operation before it defines")


def _check_const(
    message: Message,
    outputs: tuple[tuple[str, ValueType], ...],
    attributes: Mapping[str, Constant],
) -> None:
    if len(outputs) != 1 or "val" not in attributes:
        raise message.fault("a const has one output and the attribute 'val'")
    said, there = outputs[0][1], attributes["val"].type
    if isinstance(there, TensorType) and said != there:
        raise message.fault(f"is said to be {_shown(said)}; its value is {_shown(there)}")


def _shown(kind: ValueType) -> str:
    return f"{kind.dtype} {list(kind.shape)}" if isinstance(kind, TensorType) else "no tensor"
