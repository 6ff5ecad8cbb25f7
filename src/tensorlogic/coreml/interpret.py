"""The operations of an ML program, one after another, recorded as tensorlogic's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlogic.coreml.constexpr import CONSTEXPR, decompress
from tensorlogic.coreml.mil import ROWS
from tensorlogic.coreml.mil.table import READERS
from tensorlogic.coreml.mil.values import Known, Value
from tensorlogic.coreml.program import Argument, Block, Constant, Operation
from tensorlogic.errors import FormatError, MissingOperations
from tensorlogic.tensor import Tensor

OWN = ("const", "cond", "while_loop", "classify")
"""Operations that the interpreter itself knows, beside the rows and compressed weights."""
MAX_TURNS = 1 << 16


@dataclass(frozen=True)
class Classified:
    """An output of `classify`: the likeliest label, or the probability of each."""

    probabilities: Tensor
    classes: tuple[Any, ...]
    best: bool

    def value(self) -> Any:
        found = self.probabilities.numpy().reshape(-1)
        if self.best:
            return self.classes[int(found.argmax())]
        return dict(zip(self.classes, found.tolist(), strict=True))


def operations(block: Block) -> Iterator[Operation]:
    """Those of a block and of the blocks within it."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def check(block: Block) -> None:
    """Raises MissingOperations if the block has some that do not run, and FormatError for inputs
    that an operation does not have."""
    missing = []
    for operation in operations(block):
        name = operation.op
        if name in OWN or name in CONSTEXPR:
            continue
        output = operation.outputs[0][0] if operation.outputs else ""
        if name not in ROWS:
            missing.append(f'{name} (output "{output}")')
        elif fault := ROWS[name].fault(operation.inputs):
            raise FormatError(f'{operation.where or name}: {name} (output "{output}") {fault}')
    if missing:
        shown = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        raise MissingOperations(
            f"the program has operations that tensorlogic does not run: {shown}"
        )


class Interpreter:
    """Runs blocks. What the program itself holds is read once, and kept."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Value, ...]] = {}

    def run(self, block: Block, values: Mapping[str, Value | Classified]) -> dict[str, Any]:
        """All values of a block by name, given those that it takes from outside."""
        found = dict(values)
        for operation in block.operations:
            try:
                results = self._results(operation, found)
            except Exception as error:
                names = ", ".join(name for name, _ in operation.outputs)
                error.add_note(f'in operation {operation.op} (output "{names}") of the program')
                raise
            found.update(zip((name for name, _ in operation.outputs), results, strict=False))
        return found

    def _results(self, operation: Operation, values: dict[str, Any]) -> tuple[Any, ...]:
        name = operation.op
        if name == "const":
            return self._once(id(operation), lambda: (_value(operation.attributes["val"]),))
        if name in CONSTEXPR:
            return self._once(id(operation), lambda: self._decompressed(operation, values))
        given = {
            n: tuple(self._argument(a, values) for a in arguments)
            for n, arguments in operation.inputs.items()
        }
        if name == "cond":
            taken = operation.blocks[0 if READERS["bool"](given["pred"]) else 1]
            return self._inside(taken, (), values)
        if name == "while_loop":
            return self._repeated(operation, given["loop_vars"], values)
        if name == "classify":
            return _classified(given, len(operation.outputs))
        return ROWS[name].run(given, tuple(kind for _, kind in operation.outputs))

    def _inside(
        self, block: Block, given: Sequence[Any], values: dict[str, Any]
    ) -> tuple[Any, ...]:
        """The outputs of a block within an operation, which sees the values around it."""
        names = (name for name, _ in block.inputs)
        inner = self.run(block, {**values, **dict(zip(names, given, strict=True))})
        return tuple(inner[output] for output in block.outputs)

    def _repeated(
        self, operation: Operation, given: tuple[Any, ...], values: dict[str, Any]
    ) -> tuple[Any, ...]:
        """A loop, turn by turn: one whose turns are counted by known numbers is unrolled."""
        condition, body = operation.blocks
        for _ in range(MAX_TURNS):
            if not READERS["bool"](self._inside(condition, given, values)):
                return given
            given = self._inside(body, given, values)
        raise FormatError(f"{operation.where}: while_loop has more than {MAX_TURNS} turns")

    def _once(self, key: int, make: Any) -> tuple[Value, ...]:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _argument(self, argument: Argument, values: Mapping[str, Any]) -> Any:
        if isinstance(argument, Constant):
            return self._once(id(argument), lambda: (_value(argument),))[0]
        return values[argument]

    def _decompressed(self, operation: Operation, values: Mapping[str, Any]) -> tuple[Value, ...]:
        def array_of(argument: Argument) -> Any:
            value = self._argument(argument, values)
            return value.array if isinstance(value, Known) else value

        return tuple(Known(a) for a in decompress(operation, array_of))


def _value(constant: Constant) -> Value:
    loaded: Any = constant.load()
    return loaded if isinstance(loaded, str | tuple) else Known(np.asarray(loaded))


def _classified(given: Mapping[str, tuple[Any, ...]], outputs: int) -> tuple[Classified, ...]:
    (probabilities,), (classes,) = given["probabilities"], given["classes"]
    labels = classes.array.tolist() if isinstance(classes, Known) else classes
    names = tuple(c if isinstance(c, str) else np.asarray(c).item() for c in labels)
    tensor = READERS["Tensor"]((probabilities,))
    return tuple(Classified(tensor, names, best) for best in (True, False))[:outputs]
