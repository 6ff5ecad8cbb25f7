"""An ML program in memory: what the reader of Core ML packages makes and the importer runs.

It mirrors MIL.proto of Apple's coremltools: a program has functions, a function has one block (of
the one specialization that its opset names), a block has operations, each in order of use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = int | str
"""Elements along an axis; a name where the size is known at the call only."""


@dataclass(frozen=True)
class TensorType:
    """`dtype` is MIL's name: fp16 fp32 fp64 bf16 int8 ... int64 uint1 ... uint64 bool string. A
    scalar has the shape ()."""

    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class ListType:
    """A list of `length` tensors, or a tuple of values of several types."""

    elements: tuple[TensorType, ...]
    length: Size


@dataclass(frozen=True)
class DictionaryType:
    """What `classify` gives: a value for each label."""

    key: ValueType
    value: ValueType


@dataclass(frozen=True)
class StateType:
    """A value that is kept from call to call."""

    wrapped: ValueType


ValueType = TensorType | ListType | DictionaryType | StateType


@dataclass(frozen=True)
class Constant:
    """A value that the program holds; `load` gives it as an array (of 0 axes for a scalar), as str,
    or as a tuple of these.

    Weights are views of the package's blob file (`stored`); types narrower than a byte have one
    byte each.
    """

    type: ValueType
    load: Callable[[], NDArray[np.generic] | str | tuple[Any, ...]]
    stored: bool = False


Argument = str | Constant
"""The name of an earlier value, or a value in place."""


@dataclass(frozen=True)
class Operation:
    """`outputs` are names with types. Inputs that take several arguments (concat's values) have
    them in order. `where` says where in the file it stands, for errors."""

    op: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[tuple[str, ValueType], ...]
    attributes: Mapping[str, Constant] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Block:
    inputs: tuple[tuple[str, ValueType], ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Function:
    """`opset` is the specialization that `block` is of: CoreML5 (iOS 15) to CoreML9 and on."""

    inputs: tuple[tuple[str, ValueType], ...]
    opset: str
    block: Block


@dataclass(frozen=True)
class Feature:
    """An input or output as the model's description has it.

    `kind` is multiArray, image, dictionary, sequence, int64, double, string or state. For a
    multiArray: its dtype (float16 float32 float64 int32) and default shape, and where sizes are
    flexible the `enumerated` shapes or for each axis a range (low, high), high -1 for no bound. For
    an image: shape is (height, width), and `colour` grayscale, rgb, bgr or grayscale16.
    """

    name: str
    kind: str
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] | None = None
    enumerated: tuple[tuple[int, ...], ...] | None = None
    optional: bool = False
    colour: str | None = None
    description: str = ""

    def __str__(self) -> str:
        """Such as `frames: float32 [1 to 4096, 1024]`."""
        sizes = [str(n) for n in self.shape]
        for axis, (low, high) in enumerate(self.ranges or ()):
            if low != high:
                sizes[axis : axis + 1] = [f"{low} to {high}" if high >= 0 else f"{low} on"]
        kind = self.dtype or " ".join(k for k in (self.colour, self.kind) if k)
        shapes = [f"[{', '.join(sizes)}]"] if sizes else []
        if self.enumerated:
            shapes = [str(list(shape)) for shape in self.enumerated]
        return f"{self.name}: {kind} {' or '.join(shapes)}".rstrip()


@dataclass(frozen=True)
class Program:
    version: int
    functions: Mapping[str, Function]
    default: str = "main"
