"""Types and values of ML programs, from their messages in MIL.proto.

Values of weights are views of the weight file; values that stand in the program itself are views of
it where they lie there as they are used. Sizes are checked when the program is read, values are
decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tensorlogic import dtypes
from tensorlogic.coreml.blobs import BITS, unpack
from tensorlogic.coreml.program import (
    Constant,
    DictionaryType,
    ListType,
    Size,
    StateType,
    TensorType,
    ValueType,
)
from tensorlogic.coreml.wire import Message, Span
from tensorlogic.formats.base import MAX_ELEMENTS, MAX_RANK, MappedFile

DTYPES = {
    1: "bool",
    2: "string",
    10: "fp16",
    11: "fp32",
    12: "fp64",
    13: "bf16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
    40: "fp8e4m3fn",
    41: "fp8e5m2",
}
"""Names of MIL's data types by their numbers."""

_STORAGE = {
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "bf16": "bfloat16",
    "fp8e4m3fn": "float8_e4m3fn",
    "fp8e5m2": "float8_e5m2",
}
MAX_ITEMS = 1 << 16

_FLOATS, _INTS, _BOOLS, _STRINGS, _LONGS, _DOUBLES, _RAW = 1, 2, 3, 4, 5, 6, 7
"""Fields of TensorValue."""
_SMALL_INTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
_HELD_BY = {
    _FLOATS: ("fp32",),
    _INTS: _SMALL_INTS,
    _BOOLS: ("bool",),
    _STRINGS: ("string",),
    _LONGS: ("int64", "uint64"),
    _DOUBLES: ("fp64",),
    _RAW: (
        "fp16",
        "bf16",
        "fp8e4m3fn",
        "fp8e5m2",
        *_SMALL_INTS[:4],
        "uint32",
        *(t for t in BITS if BITS[t] < 8),
    ),
}
"""Which types the values of each field may be of."""

Load = Callable[[], NDArray[np.generic]]


class Weights(Protocol):
    """Where the arrays are that a program keeps outside of itself."""

    def array(
        self, message: Message, name: str, offset: int, dtype: str, shape: tuple[int, ...]
    ) -> tuple[MappedFile, int, int]:
        """The file, the first byte and the count of bytes of the array of that file and offset."""
        ...


def storage_of(dtype: str) -> str:
    """The name of the dtype in which values of a MIL type are loaded."""
    if dtype in BITS and BITS[dtype] < 8:
        return "int8" if dtype.startswith("int") else "uint8"
    return _STORAGE.get(dtype, dtype)


def numpy_of(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of values of a MIL type; narrower than a byte, they have one byte each."""
    return dtypes.DTYPES[storage_of(dtype)].numpy


def read_type(message: Message | None, within: Message) -> ValueType:
    """A ValueType; `within` is where it was expected."""
    if message is None:
        raise within.fault("has no type")
    kind = message.which(1, 2, 3, 4, 5)
    inner = message.message(kind) if kind else None
    if inner is None:
        raise message.fault("its type says nothing")
    if kind == 1:
        return _tensor_type(inner)
    if kind == 2:
        length = inner.message(2)
        size = "?" if length is None else _size(length)
        return ListType((_element_type(inner.message(1), inner),), size)
    if kind == 3:
        parts = tuple(_element_type(m, inner) for m in inner.messages(1))
        return ListType(parts, len(parts))
    if kind == 4:
        return DictionaryType(
            read_type(inner.message(1), inner), read_type(inner.message(2), inner)
        )
    return StateType(read_type(inner.message(1), inner))


def _element_type(message: Message | None, within: Message) -> TensorType:
    found = read_type(message, within)
    if not isinstance(found, TensorType):
        raise within.fault("holds values that are no tensors")
    return found


def _tensor_type(message: Message) -> TensorType:
    number, rank = message.unsigned(1), message.signed(2)
    if number not in DTYPES:
        raise message.fault(f"claims the data type {number}, which is unknown")
    sizes = tuple(_size(m) for m in message.messages(3))
    if rank != len(sizes):
        raise message.fault(f"claims rank {rank} and gives {len(sizes)} sizes")
    if rank > MAX_RANK:
        raise message.fault(f"claims {rank} axes; at most {MAX_RANK} are allowed")
    if prod(n for n in sizes if isinstance(n, int) and n) > MAX_ELEMENTS:
        raise message.fault(f"the shape {list(sizes)} claims more than 2^63 - 1 elements")
    return TensorType(DTYPES[number], sizes)


def _size(message: Message) -> Size:
    kind = message.which(1, 2)
    inner = message.message(kind) if kind else None
    if inner is None:
        raise message.fault("a size says nothing")
    return inner.unsigned(1) if kind == 1 else ("..." if inner.unsigned(1) else "?")


def read_value(message: Message, weights: Weights) -> Constant:
    """A Value: what it is, and how to load it."""
    kind = read_type(message.message(2), message)
    where = message.which(3, 5)
    if where == 5:
        blob = message.message(5)
        assert blob is not None
        return _stored(message, blob, kind, weights)
    given = message.message(3) if where else None
    held = given.which(1, 2, 3, 4) if given else None
    inner = given.message(held) if given and held else None
    if inner is None:
        raise message.fault("has a type but no value")
    if held == 1:
        if not isinstance(kind, TensorType):
            raise message.fault("is a tensor by its value but not by its type")
        return Constant(kind, _immediate(inner, kind))
    if held == 4 or not isinstance(kind, ListType):
        raise message.fault("is a dictionary, which no op of a program that is run takes")
    return _sequence(inner, kind, weights)


def _sequence(message: Message, kind: ListType, weights: Weights) -> Constant:
    """A list or a tuple."""
    items = []
    for m in message.messages(1):
        items.append(read_value(m, weights))
        if len(items) > MAX_ITEMS:
            raise message.fault(f"has more than {MAX_ITEMS} values")
    if isinstance(kind.length, int) and kind.length != len(items):
        raise message.fault(f"claims {kind.length} values and has {len(items)}")
    return Constant(kind, lambda: tuple(item.load() for item in items))


def _known(message: Message, kind: TensorType) -> tuple[int, ...]:
    shape = tuple(n for n in kind.shape if isinstance(n, int))
    if len(shape) != len(kind.shape):
        raise message.fault(f"a value of shape {list(kind.shape)}, which is not known")
    return shape


def _stored(message: Message, blob: Message, kind: ValueType, weights: Weights) -> Constant:
    """An array in a weight file."""
    if not isinstance(kind, TensorType) or kind.dtype not in BITS:
        raise message.fault("only tensors of numbers lie in a weight file")
    shape = _known(message, kind)
    file, start, nbytes = weights.array(message, blob.text(1), blob.unsigned(2), kind.dtype, shape)
    return Constant(kind, lambda: _decode(file.view(start, nbytes), kind.dtype, shape), True)


def _decode(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Little-endian bytes as an array, without a copy unless values share bytes or are bent."""
    if BITS[dtype] < 8:
        return unpack(data, dtype, prod(shape)).reshape(shape)
    target = numpy_of(dtype)
    if data.__array_interface__["data"][0] % target.itemsize:
        data = data.copy()
    return data.view(target).reshape(shape)


def _immediate(message: Message, kind: TensorType) -> Callable[[], Any]:
    """The loader of a TensorValue, whose count of values has been checked."""
    shape, dtype = _known(message, kind), kind.dtype
    field = message.which(*_HELD_BY)
    values = message.message(field) if field else None
    count = prod(shape)
    if values is None:
        raise message.fault("a tensor without values")
    if field not in _HELD_BY or dtype not in _HELD_BY[field]:
        raise message.fault(f"a tensor of {dtype} keeps its values in field {field}")
    if field == _STRINGS:
        texts = values.texts(1)
        _check_count(message, len(texts), count, dtype, shape)
        return lambda: texts[0] if shape == () else tuple(texts)
    span = values.span(1) or (0, 0)
    if field in (_INTS, _BOOLS, _LONGS):
        _check_count(message, values.count_varints(span), count, dtype, shape)
        return _integers(values, span, dtype, shape)
    nbytes = -(-count * BITS[dtype] // 8)
    if span[1] - span[0] != nbytes:
        raise message.fault(
            f"has {span[1] - span[0]} bytes; {dtype} of shape {list(shape)} takes {nbytes}"
        )
    return lambda: _decode(values.bytes_of(span), dtype, shape)


def _integers(values: Message, span: Span, dtype: str, shape: tuple[int, ...]) -> Load:
    def load() -> NDArray[np.generic]:
        return values.varints(span, prod(shape)).astype(numpy_of(dtype)).reshape(shape)

    return load


def _check_count(
    message: Message, found: int, count: int, dtype: str, shape: tuple[int, ...]
) -> None:
    if found != count:
        raise message.fault(f"has {found} values; {dtype} of shape {list(shape)} takes {count}")
