"""What a model says of itself: inputs, outputs, author, licence (ModelDescription, Model.proto)."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from tensorlogic.coreml.program import Feature
from tensorlogic.coreml.wire import Message
from tensorlogic.formats.base import MAX_ELEMENTS, MAX_RANK

_KINDS = {
    1: "int64",
    2: "double",
    3: "string",
    4: "image",
    5: "multiArray",
    6: "dictionary",
    7: "sequence",
    8: "state",
}
_ARRAY_DTYPES = {
    65552: "float16",
    65568: "float32",
    65600: "float64",
    131104: "int32",
    131080: "int8",
}
_COLOURS = {10: "grayscale", 20: "rgb", 30: "bgr", 40: "grayscale16"}
MAX_SHAPES = 1 << 10
FACTS = {"short_description": 1, "version": 2, "author": 3, "license": 4}
"""What is said of every model, as keys of the metadata, and the fields that say it."""
_USER_DEFINED = 100


class Description(NamedTuple):
    """What the description holds; `function` is the name of the default function."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: dict[str, Any]
    user_defined: dict[str, str]
    function: str


def read_description(message: Message) -> Description:
    message.where = "description"
    metadata, user_defined = _metadata(message.message(100, "description, metadata"))
    default, functions = message.text(21), {}
    for m in message.messages(20):
        functions[m.text(1)] = m
    inputs, outputs, states = 1, 10, 13
    source = message
    if functions:
        if default not in functions:
            raise message.fault(f"names the default function {default!r:.80}, which it lacks")
        source, inputs, outputs, states = functions[default], 2, 3, 6
    return Description(
        _features(source, inputs, "input") + _features(source, states, "state"),
        _features(source, outputs, "output"),
        metadata,
        user_defined,
        default or "main",
    )


def _metadata(message: Message | None) -> tuple[dict[str, Any], dict[str, str]]:
    if message is None:
        return {}, {}
    facts: dict[str, Any] = {}
    for key, number in FACTS.items():
        text = message.text(number)
        if text:
            facts[key] = text
    user_defined: dict[str, str] = {}
    for entry in message.messages(_USER_DEFINED):
        key = entry.text(1)
        if key in user_defined:
            raise message.fault(f"the key {key!r:.80} occurs twice")
        user_defined[key] = entry.text(2)
    return facts, user_defined


def _features(message: Message, number: int, what: str) -> tuple[Feature, ...]:
    found: dict[str, Feature] = {}
    for m in message.messages(number):
        name = m.text(1)
        m.where = f"description, {what} {name!r:.80}"
        if not name:
            raise m.fault("has no name")
        if name in found:
            raise m.fault("occurs twice")
        found[name] = _feature(m, name)
    return tuple(found.values())


def _feature(message: Message, name: str) -> Feature:
    kind = message.message(3)
    number = kind.which(*_KINDS) if kind else None
    inner = kind.message(number) if kind and number else None
    if kind is None or number is None or inner is None:
        raise message.fault("has no type")
    optional, description = bool(kind.unsigned(1000)), message.text(2)
    facts: dict[str, Any] = {}
    if number == 8:  # a state is an array that is kept
        array = inner.message(1)
        facts = _array(array) if array else {}
    elif number == 5:
        facts = _array(inner)
    elif number == 4:
        facts = _image(inner)
    return Feature(name, _KINDS[number], optional=optional, description=description, **facts)


def _array(message: Message) -> dict[str, Any]:
    code = message.unsigned(2)
    if code not in _ARRAY_DTYPES:
        raise message.fault(f"claims the array type {code}, which is unknown")
    facts: dict[str, Any] = {
        "dtype": _ARRAY_DTYPES[code],
        "shape": _shape(message, message.signed_list(1)),
    }
    flexible = message.which(21, 31)
    inner = message.message(flexible) if flexible else None
    if inner is not None and flexible == 21:
        shapes = [_shape(m, m.signed_list(1)) for m in inner.messages(1)]
        _check_many(message, len(shapes))
        facts["enumerated"] = tuple(shapes)
    elif inner is not None:
        facts["ranges"] = tuple(_range(m) for m in inner.messages(1))
        _check_many(message, len(facts["ranges"]))
    return facts


def _image(message: Message) -> dict[str, Any]:
    colour = message.unsigned(3)
    if colour not in _COLOURS:
        raise message.fault(f"claims the colour space {colour}, which is unknown")
    facts: dict[str, Any] = {
        "shape": _shape(message, [message.signed(2), message.signed(1)]),
        "colour": _COLOURS[colour],
    }
    flexible = message.which(21, 31)
    inner = message.message(flexible) if flexible else None
    if inner is not None and flexible == 21:
        sizes = [_shape(m, [m.signed(2), m.signed(1)]) for m in inner.messages(1)]
        _check_many(message, len(sizes))
        facts["enumerated"] = tuple(sizes)
    elif inner is not None:
        width, height = inner.message(1), inner.message(2)
        if width is None or height is None:
            raise message.fault("has a range of sizes without a width or a height")
        facts["ranges"] = (_range(height), _range(width))
    return facts


def _shape(message: Message, sizes: list[int]) -> tuple[int, ...]:
    if len(sizes) > MAX_RANK or min(sizes, default=0) < 0:
        raise message.fault(f"the shape {sizes[:40]} is not one of up to {MAX_RANK} sizes")
    if prod(n for n in sizes if n) > MAX_ELEMENTS:
        raise message.fault(f"the shape {sizes} claims more than 2^63 - 1 elements")
    return tuple(sizes)


def _range(message: Message) -> tuple[int, int]:
    low, high = message.unsigned(1), message.signed(2)
    if high >= 0 and low > high:
        raise message.fault(f"claims a range of sizes from {low} to {high}")
    return low, max(high, -1)


def _check_many(message: Message, count: int) -> None:
    if count > MAX_SHAPES:
        raise message.fault(f"claims {count} sizes; at most {MAX_SHAPES} are allowed")
