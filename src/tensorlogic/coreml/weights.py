"""The tensors of a model: which values of a program are weights, and under which names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.blobs import BITS
from tensorlogic.coreml.constexpr import CONSTEXPR, decompress
from tensorlogic.coreml.program import Argument, Block, Constant, Operation, Program, TensorType
from tensorlogic.coreml.values import storage_of
from tensorlogic.coreml.wire import Message
from tensorlogic.errors import FormatError
from tensorlogic.formats.base import check_name, fault

NAMES = "tensorlogic.names"
"""The key of the user-defined metadata under which `save_model` keeps the names of tensors."""
SETTINGS = 16
"""A const of at most so many integers or flags is a setting of an operation, such as its axes."""
MAX_CHAIN = 32
"""Operations and consts that a compressed weight is made of; real ones take up to three of each."""


class _File(NamedTuple):
    path: Path


def located(message: Message) -> _File:
    """The file that a message is in."""
    return _File(message.path)


@dataclass(frozen=True)
class Weight:
    """A tensor of a model as `formats.base.Stored` has it. `nbytes` counts what it takes in the
    file, `coding` says how it is compressed, such as "lut4" or "int8"."""

    name: str
    shape: tuple[int, ...]
    storage: str
    file: _File
    nbytes: int
    load: Callable[[], NDArray[Any]]
    coding: str | None = None

    def view(self) -> NDArray[np.uint8]:
        """The values' bytes, not copied unless they are compressed."""
        return np.ascontiguousarray(self.load()).reshape(-1).view(np.uint8)

    def renamed(self, name: str) -> Weight:
        return replace(self, name=name)


def weights_of(
    message: Message, program: Program, user_defined: Mapping[str, str]
) -> dict[str, Weight]:
    """The weights of the default function, then of the others under `function.name`.

    A const is a weight if it lies in a weight file, has floats along at least one axis, or more
    values than a setting of an operation would have; so is what constexpr_ operations decompress.
    Of a package that `save_model` wrote, the tensors that it was given are its weights.
    """
    names = _names(message, user_defined)
    saved = NAMES in user_defined
    found: dict[str, Weight] = {}
    for function in sorted(program.functions, key=lambda f: f != program.default):
        prefix = "" if function == program.default else f"{function}."
        for weight in _of_block(message, program.functions[function].block):
            if saved and weight.name not in names:
                continue
            name = prefix + names.get(weight.name, weight.name)
            if name in found:
                raise message.fault(f"two tensors have the name {name!r:.80}")
            check_name(message.path, name)
            found[name] = weight.renamed(name)
    return found


def _names(message: Message, user_defined: Mapping[str, str]) -> dict[str, str]:
    """Names of values of the program, and what `save_model` was given for them."""
    try:
        names = json.loads(user_defined.get(NAMES, "{}"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise message.fault(f"the metadata {NAMES!r} is no JSON object of names")
    return names


def _of_block(message: Message, block: Block) -> Iterator[Weight]:
    made: dict[str, Operation] = {}
    for operation in block.operations:
        if operation.op == "const":
            made[operation.outputs[0][0]] = operation
            if _is_weight(operation.attributes["val"]):
                yield _plain(message, operation)
        elif operation.op in CONSTEXPR:
            for name, _ in operation.outputs:
                made[name] = operation
            if len(operation.outputs) == 1:
                yield _compressed(message, operation, made)
        for inner in operation.blocks:
            yield from _of_block(message, inner)


def _is_weight(value: Constant) -> bool:
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype not in BITS or not kind.shape:
        return False
    floats = storage_of(kind.dtype).startswith(("float", "bfloat"))
    return floats or value.stored or _count(kind) > SETTINGS


def _count(kind: TensorType) -> int:
    return prod(n for n in kind.shape if isinstance(n, int))


def _plain(message: Message, operation: Operation) -> Weight:
    ((name, _),) = operation.outputs
    value = operation.attributes["val"]
    return _weight(message, name, value.type, _bytes_of(value), _array(value), None)


def _weight(
    message: Message,
    name: str,
    kind: Any,
    nbytes: int,
    load: Callable[[], NDArray[Any]],
    coding: str | None,
) -> Weight:
    if not isinstance(kind, TensorType) or not all(isinstance(n, int) for n in kind.shape):
        raise message.fault(f"the weight {name!r:.80} has no known shape")
    shape = tuple(n for n in kind.shape if isinstance(n, int))
    return Weight(name, shape, storage_of(kind.dtype), located(message), nbytes, load, coding)


def _array(value: Constant) -> Callable[[], NDArray[Any]]:
    return lambda: np.asarray(value.load())


def _bytes_of(value: Constant) -> int:
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype not in BITS:
        return 0
    return -(-_count(kind) * BITS[kind.dtype] // 8)


def _arguments(operation: Operation) -> Iterator[tuple[str, Argument]]:
    yield from operation.attributes.items()
    for name, values in operation.inputs.items():
        for value in values:
            yield name, value


def _compressed(message: Message, operation: Operation, made: dict[str, Operation]) -> Weight:
    nbytes, codings = 0, []
    ahead, seen = [operation], {id(operation)}
    while ahead:
        one = ahead.pop()
        if one.op in CONSTEXPR:
            codings.append(_coding(one))
        for _, value in _arguments(one):
            if isinstance(value, Constant):
                nbytes += _bytes_of(value)
            elif value not in made:
                raise fault(message.path, one.where, f"takes {value!r:.80}, which is no constant")
            elif id(made[value]) not in seen:
                seen.add(id(made[value]))
                ahead.append(made[value])
            if len(seen) > MAX_CHAIN:
                raise fault(message.path, operation.where, f"takes more than {MAX_CHAIN} constants")
    coding = "+".join(c for c in codings if c)

    def value_of(argument: Argument) -> Any:
        if isinstance(argument, Constant):
            return argument.load()
        maker = made[argument]
        if maker.op == "const":
            return maker.attributes["val"].load()
        names = [n for n, _ in maker.outputs]
        return decompress(maker, value_of)[names.index(argument)]

    (name, kind), *_ = operation.outputs

    def load() -> NDArray[Any]:
        try:
            return decompress(operation, value_of)[0]
        except FormatError as error:
            raise fault(message.path, "", str(error)) from None

    return _weight(message, name, kind, nbytes, load, coding or None)


def _coding(operation: Operation) -> str:
    """How an operation compresses: "lut4" (a palette of 4 bits), "int8", "sparse"."""
    kinds = {
        name: value.type for name, value in _arguments(operation) if isinstance(value, Constant)
    }
    if "lut" in kinds and isinstance(kinds["lut"], TensorType):
        sizes = [n for n in kinds["lut"].shape if isinstance(n, int)]
        palette = sizes[0] if len(sizes) == 1 else sizes[-2] if len(sizes) > 1 else 2
        return f"lut{max(palette - 1, 1).bit_length()}"
    data = next((kinds[n] for n in ("quantized_data", "data", "nonzero_data") if n in kinds), None)
    if "shift_scale" in operation.op or "dequantize" in operation.op:
        return data.dtype if isinstance(data, TensorType) else "affine"
    return "sparse" if "sparse" in operation.op else ""


def quantization_of(weights: Mapping[str, Weight]) -> str | None:
    """The coding of most compressed bytes, or None."""
    totals: dict[str, int] = {}
    for weight in weights.values():
        if weight.coding:
            totals[weight.coding] = totals.get(weight.coding, 0) + weight.nbytes
    return max(totals, key=lambda c: totals[c]) if totals else None
