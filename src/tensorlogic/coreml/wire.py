"""Protocol buffers as they lie in a file: fields of a message, each checked before it is believed.

Wire format: https://protobuf.dev/programming-guides/encoding. A message decodes its own fields when
it is made and its submessages when they are asked for; numbers and texts come out as such, packed
arrays and bytes stay in the file as spans.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tensorlogic.errors import FormatError
from tensorlogic.formats.base import MappedFile, fault

MAX_DEPTH = 64
MAX_FIELDS = 1 << 17
"""Fields of one message; an ML program has one for each op of a block."""
MAX_ALL_FIELDS = 1 << 22
MAX_TEXT = 1 << 24
MAX_VARINTS = 1 << 22
"""Bytes of a packed array of integers, which grow eightfold when they are read."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRES = {_VARINT: "a varint", _FIXED64: "64 bits", _BYTES: "bytes", _FIXED32: "32 bits"}

Span = tuple[int, int]
"""Where bytes begin and end."""


@dataclass
class Source:
    """A mapped file of messages, and how many fields of it have been read."""

    file: MappedFile
    fields: int = field(default=0)


class Message:
    """The fields of a message by number: ints for numbers, spans for everything else."""

    __slots__ = ("_fields", "_source", "depth", "where")

    def __init__(self, source: Source, span: Span, where: str, depth: int = 0):
        if depth > MAX_DEPTH:
            raise fault(source.file.path, where, f"messages are nested more than {MAX_DEPTH} deep")
        self._source = source
        self.where = where
        self.depth = depth
        self._fields: dict[int, list[int | Span]] = {}
        self._decode(*span)

    @property
    def path(self) -> Path:
        return self._source.file.path

    def fault(self, what: str) -> FormatError:
        return fault(self.path, self.where, what)

    def _decode(self, at: int, stop: int) -> None:
        data, fields, count = self._source.file.map, self._fields, 0
        while at < stop:
            began = at
            key, at = self._varint(at, stop)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise self.fault(f"claims field number {number} at byte {began}")
            value: int | Span
            if wire == _VARINT:
                value, at = self._varint(at, stop)
            elif wire == _BYTES:
                size, at = self._varint(at, stop)
                if size > stop - at:
                    raise self.fault(
                        f"field {number} claims {size} bytes at byte {at}; "
                        f"its message has {stop - at} left"
                    )
                value = (at, at + size)
                at += size
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
                if size > stop - at:
                    raise self.fault(f"field {number} is cut short at byte {at}")
                value = int.from_bytes(data[at : at + size], "little")
                at += size
            else:
                raise self.fault(f"field {number} has the unknown wire type {wire} at byte {began}")
            count += 1
            if count > MAX_FIELDS:
                raise self.fault(f"has more than {MAX_FIELDS} fields")
            # The wire type is kept with the number: a reader asks for the one that it expects.
            fields.setdefault(number << 3 | wire, []).append(value)
        self._source.fields += count
        if self._source.fields > MAX_ALL_FIELDS:
            raise self.fault(f"the file has more than {MAX_ALL_FIELDS} fields")

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        data, value, shift = self._source.file.map, 0, 0
        while at < stop:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, at
            shift += 7
            if shift > 63:
                break
        if shift > 63 or value >> 64:
            raise self.fault(f"the number that ends at byte {at} has more than 64 bits")
        raise self.fault(f"a number is cut short at byte {at}")

    def _all(self, number: int, wire: int) -> list[int | Span]:
        for other in _WIRES:
            if other != wire and number << 3 | other in self._fields:
                raise self.fault(f"field {number} holds {_WIRES[other]}, not {_WIRES[wire]}")
        return self._fields.get(number << 3 | wire, [])

    def _one(self, number: int, wire: int) -> int | Span | None:
        found = self._all(number, wire)
        if len(found) > 1:
            raise self.fault(f"field {number} occurs {len(found)} times; once is allowed")
        return found[0] if found else None

    def has(self, number: int) -> bool:
        return any(number << 3 | wire in self._fields for wire in _WIRES)

    def which(self, *numbers: int) -> int | None:
        """The one of these fields that is there; raises FormatError for two."""
        found = [n for n in numbers if self.has(n)]
        if len(found) > 1:
            raise self.fault(f"fields {found[0]} and {found[1]} exclude each other")
        return found[0] if found else None

    def unsigned(self, number: int) -> int:
        value = self._one(number, _VARINT)
        return value if isinstance(value, int) else 0

    def signed(self, number: int) -> int:
        value = self.unsigned(number)
        return value - (1 << 64) if value >> 63 else value

    def float32(self, number: int) -> float:
        value = self._one(number, _FIXED32)
        return _as_float(value) if isinstance(value, int) else 0.0

    def signed_list(self, number: int) -> list[int]:
        """A repeated integer, packed or not."""
        if number << 3 | _BYTES in self._fields:
            span = self.span(number)
            assert span is not None
            found: list[int] = self.varints(span, self.count_varints(span)).tolist()
            return found
        values = [v for v in self._all(number, _VARINT) if isinstance(v, int)]
        return [v - (1 << 64) if v >> 63 else v for v in values]

    def span(self, number: int) -> Span | None:
        """Where bytes lie, or a packed array."""
        value = self._one(number, _BYTES)
        return value if isinstance(value, tuple) else None

    def text(self, number: int) -> str:
        span = self.span(number)
        return "" if span is None else self._text(number, span)

    def texts(self, number: int) -> list[str]:
        return [self._text(number, s) for s in self._all(number, _BYTES) if isinstance(s, tuple)]

    def _text(self, number: int, span: Span) -> str:
        start, stop = span
        if stop - start > MAX_TEXT:
            raise self.fault(f"a text has {stop - start} bytes; at most {MAX_TEXT} are allowed")
        try:
            return self._source.file.map[start:stop].decode()
        except UnicodeDecodeError as e:
            raise self.fault(f"field {number} is not UTF-8: {e}") from None

    def message(self, number: int, where: str = "") -> Message | None:
        span = self.span(number)
        return None if span is None else self.child(span, where)

    def messages(self, number: int) -> Iterator[Message]:
        for span in self._all(number, _BYTES):
            assert isinstance(span, tuple)
            yield self.child(span)

    def child(self, span: Span, where: str = "") -> Message:
        return Message(self._source, span, where or self.where, self.depth + 1)

    def entries(self, number: int, what: str) -> Iterator[tuple[str, Message]]:
        """The entries of a map: a key and a message; raises FormatError for a key that occurs
        twice."""
        seen = set()
        for entry in self.messages(number):
            key = entry.text(1)
            if key in seen:
                raise self.fault(f"{what} {key!r:.80} occurs twice")
            seen.add(key)
            value = entry.message(2)
            if value is None:
                raise self.fault(f"{what} {key!r:.80} has no value")
            yield key, value

    def bytes_of(self, span: Span) -> NDArray[np.uint8]:
        """The bytes of a span, where they lie."""
        return self._source.file.view(span[0], span[1] - span[0])

    def count_varints(self, span: Span) -> int:
        """How many integers a packed array has; they are whole, of at most 64 bits."""
        if span[1] - span[0] > MAX_VARINTS:
            raise self.fault(
                f"an array of integers has {span[1] - span[0]} bytes; at most {MAX_VARINTS} are "
                "allowed outside the weight file"
            )
        if span[0] == span[1]:
            return 0
        ends = np.flatnonzero(self.bytes_of(span) < 0x80)
        lengths = np.diff(ends, prepend=-1)
        if not ends.size or ends[-1] != span[1] - span[0] - 1:
            raise self.fault(f"an array of integers is cut short at byte {span[1]}")
        if lengths.max() > 10:
            raise self.fault("an array of integers holds one of more than 64 bits")
        return int(ends.size)

    def varints(self, span: Span, count: int) -> NDArray[np.int64]:
        """The integers of a packed array that `count_varints` has checked."""
        values = np.zeros(count, np.uint64)
        if count:
            data = self.bytes_of(span)
            ends = np.flatnonzero(data < 0x80)
            starts = np.concatenate([[0], ends[:-1] + 1])
            low = (data & 0x7F).astype(np.uint64)
            for k in range(int((ends - starts).max()) + 1):
                there = starts + k <= ends
                values[there] |= low[starts[there] + k] << np.uint64(7 * k)
        return values.view(np.int64)


def _as_float(bits: int) -> float:
    (value,) = struct.unpack("<f", bits.to_bytes(4, "little"))
    return float(value)
