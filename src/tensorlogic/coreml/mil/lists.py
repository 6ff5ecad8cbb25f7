"""Lists of values, which loops fill. They are kept as they come, known or computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlogic.coreml.mil.table import READERS, Ints, row, unsupported
from tensorlogic.coreml.mil.values import Array, Value
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor


@dataclass(frozen=True)
class List:
    """None stands for an entry that nothing was written to."""

    entries: tuple[Value | None, ...]

    def entry(self, index: int) -> Value:
        value = self.entries[index] if 0 <= index < len(self.entries) else None
        if value is None:
            raise unsupported("list", f"nothing was written to entry {index} that is read")
        return value


def _list(op: str, value: Any) -> List:
    if not isinstance(value, List):
        raise unsupported(op, f"a list was expected, not {type(value).__name__.lower()}")
    return value


@row()
def make_list(
    elem_shape: Any,
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> List:
    return List((None,) * init_length)


@row()
def list_length(ls: Any) -> Array:
    return np.array(len(_list("list_length", ls).entries), np.int32)


@row()
def list_write(ls: Any, index: int, value: Any) -> List:
    old = _list("list_write", ls).entries
    entries = [*old, *[None] * (index + 1 - len(old))]
    entries[index] = value
    return List(tuple(entries))


@row()
def list_read(ls: Any, index: int) -> Value:
    return _list("list_read", ls).entry(index)


@row()
def list_gather(ls: Any, indices: Ints) -> Tensor:
    tensors = READERS["Tensors"](tuple(_list("list_gather", ls).entry(i) for i in indices))
    stacked: Tensor = FUNCTIONS["stack"](tensors, 0)
    return stacked


@row()
def list_scatter(ls: Any, indices: Ints, value: Tensor) -> List:
    old = _list("list_scatter", ls).entries
    entries = [*old, *[None] * (max(indices, default=-1) + 1 - len(old))]
    for place, i in enumerate(indices):
        entries[i] = value[place]
    return List(tuple(entries))
