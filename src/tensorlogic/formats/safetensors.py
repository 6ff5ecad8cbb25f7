"""SafeTensors: a length, a JSON header, and the tensors' bytes without gaps.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import FormatError
from tensorlogic.formats.base import (
    MAX_ELEMENTS,
    MAX_RANK,
    Entry,
    MappedFile,
    Parsed,
    check_name,
    fault,
    replacing,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER = 100_000_000
"""The bound of the reference implementation."""

STORAGE = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
_NAMES = {storage: name for name, storage in STORAGE.items()}


def sniff(head: bytes, path: Path) -> bool:
    """After its length, the header begins with a brace. The suffix is for damaged files."""
    return head[4:9] == b"\0\0\0\0{" or path.suffix == ".safetensors"


def read(path: Path) -> Parsed:
    """Reads and checks the header; the tensors stay in the file."""
    file = MappedFile(path)
    if file.size < 8:
        raise fault(path, "header", f"its length takes 8 bytes; the file has {file.size}")
    length = int.from_bytes(file.map[:8], "little")
    if length > MAX_HEADER:
        raise fault(path, "header", f"claims {length} bytes; at most {MAX_HEADER} are allowed")
    start = 8 + length
    if start > file.size:
        raise fault(path, "header", f"claims {length} bytes; the file has {file.size - 8} after it")
    if file.map[8:9] != b"{":
        raise fault(path, "header", f"begins with {file.map[8:9]!r}, not with a brace")
    header = parse_json(path, "header", file.map[8:start])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise fault(path, "__metadata__", f"is {_kind(metadata)}, not an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise fault(path, f"__metadata__ key {key!r}", f"is {_kind(value)}, not a string")
    entries = {name: _entry(file, name, claim, start) for name, claim in header.items()}
    _check_spans(file, start, entries.values())
    return Parsed(path, "SafeTensors", entries, metadata)


def parse_json(path: Path, where: str, text: bytes) -> dict[str, Any]:
    """A JSON object, strictly: UTF-8, no key twice, no NaN, not nested without end."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            (twice, _), *_ = Counter(key for key, _ in items).most_common(1)
            raise fault(path, where, f"the key {twice!r} occurs twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        found = json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except FormatError:
        raise
    except RecursionError:
        raise fault(path, where, "is JSON nested too deeply") from None
    except ValueError as e:
        raise fault(path, where, f"is not valid JSON: {e}") from None
    if not isinstance(found, dict):
        raise fault(path, where, f"is {_kind(found)}, not a JSON object")
    return found


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _entry(file: MappedFile, name: str, claim: Any, data: int) -> Entry:
    where = f"tensor {name!r}"
    check_name(file.path, name)
    if not isinstance(claim, dict):
        raise fault(file.path, where, f"is {_kind(claim)}, not an object")
    for key in ("dtype", "shape", "data_offsets"):
        if key not in claim:
            raise fault(file.path, where, f"has no {key}")
    if len(claim) > 3:
        extra = next(k for k in claim if k not in ("dtype", "shape", "data_offsets"))
        raise fault(file.path, where, f"has an unknown field {extra!r}")
    dtype, shape, offsets = claim["dtype"], claim["shape"], claim["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise fault(file.path, where, f"unknown dtype {dtype!r:.40}; known: {', '.join(STORAGE)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise fault(file.path, where, f"the shape {shape!r:.80} is not a list of sizes")
    if len(shape) > MAX_RANK:
        raise fault(file.path, where, f"claims {len(shape)} axes; at most {MAX_RANK} are allowed")
    if prod(n for n in shape if n) > MAX_ELEMENTS:
        raise fault(file.path, where, f"the shape {shape!r:.80} claims more than 2^63 - 1 elements")
    pair = isinstance(offsets, list) and len(offsets) == 2
    if not pair or not all(type(n) is int and n >= 0 for n in offsets):
        raise fault(file.path, where, f"data_offsets {offsets!r:.80} is not [begin, end]")
    begin, end = offsets
    space = file.size - data
    if not begin <= end <= space:
        raise fault(
            file.path, where, f"claims bytes {begin} to {end}; the file has {space} bytes of data"
        )
    storage = STORAGE[dtype]
    needed = prod(shape) * DTYPES[storage].itemsize
    if end - begin != needed:
        raise fault(
            file.path,
            where,
            f"{dtype} of shape {shape} takes {needed} bytes; data_offsets hold {end - begin}",
        )
    return Entry(name, tuple(shape), storage, file, data + begin, needed)


def _check_spans(file: MappedFile, data: int, entries: Iterable[Entry]) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    at, before = data, "the header"
    for e in sorted(entries, key=lambda e: (e.start, e.nbytes)):
        if e.start != at:
            fits = "overlaps" if e.start < at else "leaves a gap after"
            raise fault(
                file.path,
                f"tensor {e.name!r}",
                f"{fits} {before}: it begins at byte {e.start - data}, not {at - data}",
            )
        at, before = e.start + e.nbytes, f"tensor {e.name!r}"
    if at != file.size:
        raise fault(
            file.path,
            "",
            f"the tensors end at byte {at - data} of the data; {file.size - at} bytes follow",
        )


class Record(NamedTuple):
    """A tensor to be written; `values` is called when its turn has come."""

    name: str
    shape: tuple[int, ...]
    storage: str
    values: Callable[[], NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.storage].itemsize


def write(path: Path, records: Iterable[Record], metadata: Mapping[str, str]) -> None:
    """Writes tensors one after another into a new file, which then takes the place of `path`.

    Elements that are wide come first, so that all are aligned; then names decide. The same tensors
    give the same bytes.
    """
    import numpy as np

    rows = sorted(records, key=lambda r: (-DTYPES[r.storage].itemsize, r.name))
    head = _header(path, rows, metadata)
    with replacing(path) as file:
        file.write(head)
        rows.reverse()
        while rows:  # a tensor that was made to be written is freed before the next one is made
            values = np.ascontiguousarray(rows.pop().values())
            file.write(values.reshape(-1).view(np.uint8).data)


def _header(path: Path, rows: list[Record], metadata: Mapping[str, str]) -> bytes:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise fault(path, f"metadata {key!r}", f"is {value!r:.40}; SafeTensors holds strings")
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for row in rows:
        check_name(path, row.name)
        if row.name == "__metadata__":
            raise fault(path, "tensor '__metadata__'", "SafeTensors keeps this name for itself")
        described[row.name] = {
            "dtype": _NAMES[row.storage],
            "shape": list(row.shape),
            "data_offsets": [at, at + row.nbytes],
        }
        at += row.nbytes
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise fault(path, "header", f"takes {len(text)} bytes; at most {MAX_HEADER} are allowed")
    return len(text).to_bytes(8, "little") + text
