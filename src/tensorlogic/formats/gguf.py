"""GGUF, versions 2 and 3: typed metadata, descriptions of tensors, their bytes at aligned offsets.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader is our own because
what a file claims has to be checked before it is believed; type numbers and block sizes come from
the gguf package. Arrays of metadata are decoded when they are asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from tensorlogic.formats.base import (
    MAX_ELEMENTS,
    Entry,
    MappedFile,
    Parsed,
    check_name,
    fault,
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_KEY_LENGTH = 65_535
MAX_NAME_LENGTH = 63
MAX_STRING = 1 << 26
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True)
}
_LEAST_KEY = 8 + 1 + 4 + 1
_LEAST_TENSOR = 8 + 1 + 4 + 4 + 8


class TensorType(NamedTuple):
    """A tensor type of GGUF: our name of the storage, elements in a block, bytes of a block."""

    storage: str
    block: int
    nbytes: int


@cache
def tensor_types() -> dict[int, TensorType]:
    """Every tensor type that the gguf package knows, by its number."""
    from gguf.constants import GGML_QUANT_SIZES

    plain = {"F": "float", "I": "int", "BF": "bfloat"}
    types = {}
    for kind, (block, nbytes) in GGML_QUANT_SIZES.items():
        letters = kind.name.rstrip("0123456789")
        if letters in plain:
            storage = plain[letters] + kind.name[len(letters) :]
        else:
            storage = kind.name.lower().replace("_k", "_K")
        types[int(kind)] = TensorType(storage, block, nbytes)
    return types


def sniff(head: bytes, path: Path) -> bool:
    return head.startswith(MAGIC)


def read(path: Path) -> Parsed:
    """Reads and checks all that stands before the tensors' bytes; these stay in the file."""
    file = MappedFile(path)
    cursor = _Cursor(file)
    version = cursor.number(_U32, "version")
    if version & 0xFFFF == 0 and version:
        raise fault(path, "version", "the file is big-endian; only little-endian files are read")
    if version not in VERSIONS:
        raise fault(path, "version", f"is {version}; versions 2 and 3 are read")
    tensors = cursor.count("tensor count", _LEAST_TENSOR, MAX_TENSORS)
    keys = cursor.count("key count", _LEAST_KEY, MAX_KEYS)
    metadata = LazyMetadata(file)
    for _ in range(keys):
        cursor.key(metadata)
    alignment = _alignment(path, metadata)
    parts = metadata.scalar("split.count", 1)
    if type(parts) is not int or parts > 1:
        raise fault(
            path,
            "key 'split.count'",
            f"is {parts!r:.40}: this is one part of a split model; join the parts first with "
            "`llama-gguf-split --merge FIRST_PART OUT.gguf`",
        )
    claims = {}
    for number in range(tensors):
        claim = cursor.tensor(number, alignment)
        if claim.name in claims:
            raise fault(path, f"tensor {claim.name!r}", "occurs twice")
        claims[claim.name] = claim
    data = -(-cursor.at // alignment) * alignment
    entries = {name: _entry(file, claim, data) for name, claim in claims.items()}
    _check_spans(file, entries, data)
    architecture = metadata.scalar("general.architecture")
    if architecture is not None and not isinstance(architecture, str):
        raise fault(path, "key 'general.architecture'", f"is {architecture!r:.40}, not a string")
    return Parsed(path, "GGUF", entries, metadata, architecture, _quantization(metadata, entries))


class LazyMetadata(Mapping[str, Any]):
    """The metadata of a file. Numbers and strings are there; arrays become tuples on access."""

    def __init__(self, file: MappedFile):
        self._file = file
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Array):
            value = self._values[key] = value.decode(self._file)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def scalar(self, key: str, default: Any = None) -> Any:
        """The value where a number or a string is expected; an array is not decoded."""
        return self._values.get(key, default)

    def add(self, key: str, value: Any) -> None:
        if key in self._values:
            raise fault(self._file.path, f"key {key!r}", "occurs twice")
        self._values[key] = value


class _Array(NamedTuple):
    """The span of an array whose extent has been checked."""

    kind: int
    length: int
    start: int
    stop: int

    def __repr__(self) -> str:
        return f"an array of {self.length} values"

    def decode(self, file: MappedFile) -> tuple[Any, ...]:
        """Strings that are not UTF-8 (bytes of a vocabulary) keep their bytes as surrogates."""
        data = file.map[self.start : self.stop]
        if self.kind != _STRING:
            code = _SCALARS[self.kind].format[1:]
            return struct.unpack(f"<{self.length}{code}", data)
        values, at, unpack = [], 0, _U64.unpack_from
        for _ in range(self.length):
            (size,) = unpack(data, at)
            at += 8 + size
            values.append(data[at - size : at].decode("utf-8", "surrogateescape"))
        return tuple(values)


class _Claim(NamedTuple):
    """What the file says of a tensor; the offset counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int


class _Cursor:
    """Reads on through the file's head and never past its end."""

    def __init__(self, file: MappedFile):
        self.file, self.path, self.map = file, file.path, file.map
        self.at, self.end = len(MAGIC), file.size

    def number(self, kind: struct.Struct, where: str) -> Any:
        self.need(kind.size, where)
        (value,) = kind.unpack_from(self.map, self.at)
        self.at += kind.size
        return value

    def need(self, nbytes: int, where: str) -> None:
        if nbytes > self.end - self.at:
            raise fault(
                self.path,
                where,
                f"takes {nbytes} bytes at byte {self.at}; the file has {self.end - self.at} left",
            )

    def count(self, where: str, least: int, limit: int) -> int:
        """A count of things that take at least `least` bytes each."""
        value = int(self.number(_U64, where))
        room = (self.end - self.at) // least
        if value > min(room, limit):
            known = f"at most {limit} are allowed" if value > limit else f"there is room for {room}"
            raise fault(self.path, where, f"claims {value}; {known}")
        return value

    def text(self, where: str, limit: int) -> str:
        length: int = self.number(_U64, where)
        if length > limit:
            raise fault(self.path, where, f"claims {length} bytes; at most {limit} are allowed")
        self.need(length, where)
        self.at += length
        try:
            return self.map[self.at - length : self.at].decode()
        except UnicodeDecodeError as e:
            raise fault(self.path, where, f"is not UTF-8: {e}") from None

    def key(self, metadata: LazyMetadata) -> None:
        name = self.text(f"key {len(metadata)}", MAX_KEY_LENGTH)
        where = f"key {name!r}"
        kind = self.number(_U32, where)
        if kind == _ARRAY:
            metadata.add(name, self.array(where))
        elif kind == _STRING:
            metadata.add(name, self.text(where, MAX_STRING))
        elif kind == _BOOL:
            byte = self.number(_SCALARS[0], where)
            if byte > 1:
                raise fault(self.path, where, f"is a bool of value {byte}; 0 and 1 are allowed")
            metadata.add(name, bool(byte))
        elif kind in _SCALARS:
            metadata.add(name, self.number(_SCALARS[kind], where))
        else:
            raise fault(self.path, where, f"claims the value type {kind}; the types are 0 to 12")

    def array(self, where: str) -> _Array:
        kind = self.number(_U32, where)
        if kind == _ARRAY:
            raise fault(self.path, where, "is an array of arrays, which GGUF readers do not take")
        if kind != _STRING and kind not in _SCALARS:
            raise fault(self.path, where, f"claims the element type {kind}; the types are 0 to 12")
        count = self.number(_U64, where)
        size = 8 if kind == _STRING else _SCALARS[kind].size
        if count > (self.end - self.at) // size:
            raise fault(
                self.path,
                where,
                f"claims an array of {count} values; there is room for "
                f"{(self.end - self.at) // size}",
            )
        start = self.at
        if kind == _STRING:
            self.strings(count, where)
        else:
            self.at += count * size
        return _Array(kind, count, start, self.at)

    def strings(self, count: int, where: str) -> None:
        """Walks over an array of strings: for a vocabulary, the whole cost of opening a file."""
        unpack, data, last = _U64.unpack_from, self.map, self.end - 8
        at = self.at
        for k in range(count):
            if at > last:
                raise fault(self.path, where, f"string {k} of {count} begins past the file's end")
            at += 8 + unpack(data, at)[0]
        if at > self.end:
            raise fault(self.path, where, f"string {count - 1} of {count} ends past the file's end")
        self.at = at

    def tensor(self, number: int, alignment: int) -> _Claim:
        name = self.text(f"tensor {number}'s name", MAX_NAME_LENGTH)
        if not name:
            raise fault(self.path, f"tensor {number}", "the name is empty")
        check_name(self.path, name)
        where = f"tensor {name!r}"
        rank = self.number(_U32, where)
        if rank > MAX_DIMS:
            raise fault(self.path, where, f"claims {rank} dims; at most {MAX_DIMS} are allowed")
        dims = [self.number(_U64, where) for _ in range(rank)]
        if prod(n for n in dims if n) > MAX_ELEMENTS:
            raise fault(self.path, where, f"the dims {dims} claim more than 2^63 - 1 elements")
        code = self.number(_U32, where)
        kind = tensor_types().get(code)
        if kind is None:
            raise fault(self.path, where, f"claims the tensor type {code}, which is unknown")
        row = dims[0] if dims else 1
        if row % kind.block:
            raise fault(
                self.path,
                where,
                f"has rows of {row} elements, which {kind.storage} cannot hold: "
                f"its blocks are {kind.block} long",
            )
        offset = self.number(_U64, where)
        if offset % alignment:
            raise fault(self.path, where, f"claims offset {offset}, not a multiple of {alignment}")
        return _Claim(name, tuple(reversed(dims)), kind, offset)


def _alignment(path: Path, metadata: LazyMetadata) -> int:
    value = metadata.scalar("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise fault(
            path,
            "key 'general.alignment'",
            f"is {value!r:.40}; a power of two up to {MAX_ALIGNMENT} is allowed",
        )
    return value


def _entry(file: MappedFile, claim: _Claim, data: int) -> Entry:
    nbytes = prod(claim.shape) // claim.type.block * claim.type.nbytes
    space = max(file.size - data, 0)
    if claim.offset > space or nbytes > space - claim.offset:
        raise fault(
            file.path,
            f"tensor {claim.name!r}",
            f"claims {nbytes} bytes at offset {claim.offset}; the file has {space} bytes of data",
        )
    return Entry(claim.name, claim.shape, claim.type.storage, file, data + claim.offset, nbytes)


def _check_spans(file: MappedFile, entries: dict[str, Entry], data: int) -> None:
    at, before = data, ""
    for e in sorted(entries.values(), key=lambda e: (e.start, e.nbytes)):
        if e.start < at and e.nbytes:
            raise fault(
                file.path,
                f"tensor {e.name!r}",
                f"claims offset {e.start - data}, which is inside tensor {before!r}",
            )
        at, before = max(at, e.start + e.nbytes), e.name


def _quantization(metadata: LazyMetadata, entries: dict[str, Entry]) -> str | None:
    """What the file calls itself ("Q4_K_M"), else the quantized type of most of its bytes."""
    from gguf.constants import LlamaFileType

    number = metadata.scalar("general.file_type")
    known = {int(t): t.name for t in LlamaFileType if t != LlamaFileType.GUESSED}
    if type(number) is int and number & ~1024 in known:
        name = known[number & ~1024].removeprefix("MOSTLY_")
        return None if name in ("ALL_F32", "F16", "BF16") else name
    blocked = {t.storage for t in tensor_types().values() if t.block > 1}
    totals: dict[str, int] = {}
    for e in entries.values():
        if e.storage in blocked:
            totals[e.storage] = totals.get(e.storage, 0) + e.nbytes
    return max(totals, key=lambda s: totals[s]).upper() if totals else None
