"""Neural networks of the older kind (NeuralNetwork.proto): the weights of their layers.

A layer's arrays are flat in the file; their shapes follow from its sizes. They are named by the
layer and the field, such as `conv1.weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.weights import Weight, located
from tensorlogic.coreml.wire import Message
from tensorlogic.formats.base import MAX_ELEMENTS, check_name

Shape = tuple[int, ...] | None
"""None for an array as long as it is: a vector."""


class Found(NamedTuple):
    """An array of a layer; quantized, it has a scale for each entry of `axis`."""

    name: str
    field: int
    shape: Shape
    axis: int = 0


_FLOAT32, _FLOAT16, _RAW, _INT8, _QUANTIZATION = 1, 2, 30, 31, 40
"""Fields of WeightParams."""


def _convolution(m: Message) -> list[Found]:
    out, channels, groups = m.unsigned(1), m.unsigned(2), m.unsigned(10) or 1
    kernel = tuple(m.signed_list(20)) or (3, 3)
    transposed = bool(m.unsigned(60))
    shape = (channels, out // groups, *kernel) if transposed else (out, channels, *kernel)
    return [Found("weights", 90, shape, int(transposed)), Found("bias", 91, (out,))]


def _convolution3d(m: Message) -> list[Found]:
    out, channels, groups = m.unsigned(1), m.unsigned(2), m.unsigned(10) or 1
    kernel = tuple(m.unsigned(n) or 3 for n in (20, 21, 22))
    shape = (channels, out // groups) if m.unsigned(86) else (out, channels // groups)
    return [Found("weights", 60, (*shape, *kernel)), Found("bias", 61, (out,))]


def _matrix(rows: int, columns: int, bias: int) -> Callable[[Message], list[Found]]:
    """A matrix of as many rows and columns as these fields say, with a bias of that size."""

    def shapes(m: Message) -> list[Found]:
        size = (m.unsigned(rows), m.unsigned(columns))
        return [Found("weights", 20, size), Found("bias", 21, (m.unsigned(bias),))]

    return shapes


def _batch_norm(m: Message) -> list[Found]:
    names = ("gamma", "beta", "mean", "variance")
    return [Found(name, 15 + k, (m.unsigned(1),)) for k, name in enumerate(names)]


def _scale(m: Message) -> list[Found]:
    shapes = (tuple(m.signed_list(n)) for n in (1, 4))
    return [Found(*found) for found in zip(("scale", "bias"), (2, 5), shapes, strict=True)]


def _given(name: str) -> Callable[[Message], list[Found]]:
    """One array with a shape of its own."""
    return lambda m: [Found(name, 2, tuple(m.signed_list(1)))]


def _layer_norm(m: Message) -> list[Found]:
    shape = tuple(m.signed_list(1))
    return [Found("gamma", 3, shape), Found("beta", 4, shape)]


def _batched_matmul(m: Message) -> list[Found]:
    """The second factor, which lies transposed in the file."""
    shape = (m.unsigned(6), m.unsigned(5))
    return [Found("weights", 8, shape), Found("bias", 9, shape[:1])]


def _simple_recurrent(m: Message) -> list[Found]:
    into, out = m.unsigned(1), m.unsigned(2)
    return [
        Found("weightMatrix", 30, (out, into)),
        Found("recursionMatrix", 31, (out, out)),
        Found("biasVector", 32, (out,)),
    ]


_GRU_GATES = ("updateGate", "resetGate", "outputGate")
_LSTM_GATES = ("inputGate", "forgetGate", "blockInput", "outputGate")


def _gru(m: Message) -> list[Found]:
    into, out = m.unsigned(1), m.unsigned(2)
    return [
        found
        for k, gate in enumerate(_GRU_GATES)
        for found in (
            Found(f"{gate}WeightMatrix", 30 + k, (out, into)),
            Found(f"{gate}RecursionMatrix", 50 + k, (out, out)),
            Found(f"{gate}BiasVector", 70 + k, (out,)),
        )
    ]


def _lstm(into: int, out: int) -> list[Found]:
    found: list[Found] = []
    for k, gate in enumerate(_LSTM_GATES):
        found.append(Found(f"{gate}WeightMatrix", 1 + k, (out, into)))
        found.append(Found(f"{gate}RecursionMatrix", 20 + k, (out, out)))
        found.append(Found(f"{gate}BiasVector", 40 + k, (out,)))
    peepholes = (_LSTM_GATES[0], _LSTM_GATES[1], _LSTM_GATES[3])
    peeps = [Found(f"{g}PeepholeVector", 60 + k, (out,)) for k, g in enumerate(peepholes)]
    return found + peeps


_LAYERS: dict[int, Callable[[Message], list[Found]]] = {
    100: _convolution,
    140: _matrix(2, 1, 2),
    150: _matrix(2, 1, 2),
    160: _batch_norm,
    245: _scale,
    250: _given("bias"),
    290: _given("data"),
    400: _simple_recurrent,
    410: _gru,
    1040: _matrix(2, 1, 2),
    1045: _batched_matmul,
    1070: _given("data"),
    1350: _layer_norm,
    1471: _convolution3d,
}
_ACTIVATION, _ONE_LSTM, _TWO_LSTMS, _CUSTOM = 130, 420, 430, 500
_ACTIVATION_ARRAYS = {25: [("alpha", 1)], 71: [("alpha", 1), ("beta", 2)]}


def read_network(message: Message) -> dict[str, Weight]:
    """The arrays of all layers by name. Raises FormatError where sizes do not fit."""
    found: dict[str, Weight] = {}
    for k, layer in enumerate(message.messages(1)):
        layer.where = f"layer {layer.text(1) or k!r:.80}"
        for weight in _of_layer(layer, layer.text(1) or str(k)):
            if weight.name in found:
                raise layer.fault(f"two tensors have the name {weight.name!r:.80}")
            check_name(layer.path, weight.name)
            found[weight.name] = weight
    return found


def _of_layer(layer: Message, name: str) -> Iterator[Weight]:
    number = layer.which(*_LAYERS, _ACTIVATION, _ONE_LSTM, _TWO_LSTMS, _CUSTOM)
    inner = layer.message(number) if number else None
    if inner is None or number is None:
        return
    if number == _ACTIVATION:
        kind = inner.which(*_ACTIVATION_ARRAYS)
        parameters = inner.message(kind) if kind else None
        if kind and parameters:
            arrays: list[Found] = [Found(n, field, None) for n, field in _ACTIVATION_ARRAYS[kind]]
            yield from _arrays(parameters, name, arrays)
    elif number in (_ONE_LSTM, _TWO_LSTMS):
        shapes = _lstm(inner.unsigned(1), inner.unsigned(2))
        directions = list(inner.messages(20))
        for m, direction in zip(directions, ("", "backward."), strict=False):
            yield from _arrays(m, f"{name}.{direction}".rstrip("."), shapes)
    elif number == _CUSTOM:
        for k, m in enumerate(inner.messages(20)):
            yield _weight(m, Found(f"{name}.weights.{k}", 0, None))
    else:
        yield from _arrays(inner, name, _LAYERS[number](inner))


def _arrays(message: Message, name: str, arrays: list[Found]) -> Iterator[Weight]:
    for found in arrays:
        m = message.message(found.field, f"{message.where}, {found.name}")
        if m is not None and m.which(_FLOAT32, _FLOAT16, _RAW, _INT8):
            yield _weight(m, found._replace(name=f"{name}.{found.name}"))


def _weight(message: Message, found: Found) -> Weight:
    """WeightParams: float32, float16, or integers with their scale or palette."""
    name, shape = found.name, found.shape
    number = message.which(_FLOAT32, _FLOAT16, _RAW, _INT8)
    span = message.span(number) if number else None
    if number is None or span is None:
        raise message.fault("has no values")
    size = span[1] - span[0]
    if number in (_FLOAT32, _FLOAT16):
        width = 4 if number == _FLOAT32 else 2
        shape = _fitting(message, shape, size // width)
        if prod(shape) * width != size:
            raise message.fault(
                f"has {size} bytes; shape {list(shape)} takes {prod(shape) * width}"
            )
        dtype = np.dtype("float32" if number == _FLOAT32 else "float16")

        def load() -> NDArray[Any]:
            data = message.bytes_of(span)
            if data.__array_interface__["data"][0] % dtype.itemsize:
                data = data.copy()
            return data.view(dtype).reshape(shape)

        return Weight(name, shape, dtype.name, located(message), size, load)
    return _quantized(message, found, number)


def _fitting(message: Message, shape: Shape, count: int) -> tuple[int, ...]:
    if shape is None:
        return (count,)
    if prod(n for n in shape if n) > MAX_ELEMENTS or min(shape, default=0) < 0:
        raise message.fault(f"the shape {list(shape)} claims more than 2^63 - 1 elements")
    return shape


def _quantized(message: Message, found: Found, number: int) -> Weight:
    span, how = message.span(number), message.message(_QUANTIZATION)
    if span is None or how is None:
        raise message.fault("has integers but does not say how they are quantized")
    size, bits = span[1] - span[0], how.unsigned(1)
    if not 1 <= bits <= 8:
        raise message.fault(f"claims {bits} bits for each value; 1 to 8 are allowed")
    shape = _fitting(message, found.shape, size * 8 // bits)
    count = prod(shape)
    if size != -(-count * bits // 8):
        raise message.fault(
            f"has {size} bytes; {bits} bits of shape {list(shape)} take {-(-count * bits // 8)}"
        )
    kind = how.which(101, 102)
    inner = how.message(kind) if kind else None
    if inner is None:
        raise message.fault("does not say how its integers are quantized")
    scales = [_floats(inner, n) for n in ((1, 2) if kind == 101 else (1,))]
    if kind == 102 and scales[0].size != 1 << bits:
        raise message.fault(f"has a palette of {scales[0].size} values for {bits} bits")
    rows = shape[found.axis] if shape else 1
    along = [-1 if k == found.axis else 1 for k in range(len(shape))]
    if kind == 101 and any(s.size not in (0, 1, rows) for s in scales):
        raise message.fault(f"has {scales[0].size} scales for {rows} rows")

    def load() -> NDArray[Any]:
        data = message.bytes_of(span)
        flat = data if bits == 8 else _unpacked(data, bits, count)
        if number == _INT8:
            flat = flat.view(np.int8)
        if kind == 102:
            return scales[0][flat].reshape(shape)
        scale, bias = (s if s.size else np.float32(d) for s, d in zip(scales, (1, 0), strict=True))
        wide = flat.reshape(shape).astype(np.float32)
        return wide * np.reshape(scale, along) + np.reshape(bias, along)

    coding = f"lut{bits}" if kind == 102 else f"uint{bits}"
    return Weight(found.name, shape, "float32", located(message), size, load, coding)


def _unpacked(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Integers of some bits, one after another from the highest bit of the first byte on."""
    flat = np.unpackbits(data, count=count * bits).reshape(count, bits)
    weights = np.left_shift(1, np.arange(bits - 1, -1, -1)).astype(np.uint8)
    return (flat @ weights).astype(np.uint8)


def _floats(message: Message, number: int) -> NDArray[np.float32]:
    span = message.span(number) or (0, 0)
    if (span[1] - span[0]) % 4:
        raise message.fault(f"has {span[1] - span[0]} bytes of float32")
    return np.frombuffer(message.bytes_of(span).tobytes(), np.float32)
