"""Weight files of ML programs: a header, and for each array a record that says where its bytes are.

Format: MILBlob, version 2, of https://github.com/apple/coremltools (mlmodel/src/MILBlob/Blob). A
program names the offset of a record; the record names type, offset and size of the bytes.
"""

from __future__ import annotations

import bisect
import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tensorlogic.errors import FormatError
from tensorlogic.formats.base import MappedFile, fault, refuse_impostor

HEADER = struct.Struct("<II56x")
"""Count of arrays, version."""
RECORD = struct.Struct("<IIQQQ32x")
"""Sentinel, type, bytes, offset of the bytes, bits of padding in the last byte."""
SENTINEL = 0xDEADBEEF
VERSION = 2
ALIGNMENT = 64

BLOB_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    5: "bf16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
    16: "fp8e4m3fn",
    17: "fp8e5m2",
}
BITS = {
    "fp16": 16,
    "fp32": 32,
    "fp64": 64,
    "bf16": 16,
    "fp8e4m3fn": 8,
    "fp8e5m2": 8,
    "bool": 8,
    **{f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "int4": 4,
    **{f"uint{bits}": bits for bits in (1, 2, 3, 4, 6)},
}
"""Bits that a value takes in a file, of each MIL type but string."""


class BlobFile:
    """A weight file whose header has been checked. No two arrays share a byte, but the same array
    may be asked for many times."""

    def __init__(self, path: Path):
        self.file = MappedFile(path)
        refuse_impostor(path, self.file.map[:64])
        if self.file.size < HEADER.size:
            raise self._fault("header", f"takes {HEADER.size} bytes; the file has {self.file.size}")
        self.count, version = HEADER.unpack_from(self.file.map)
        if version != VERSION:
            raise self._fault("header", f"claims version {version}; version {VERSION} is read")
        room = (self.file.size - HEADER.size) // RECORD.size
        if self.count > room:
            raise self._fault("header", f"claims {self.count} arrays; there is room for {room}")
        self._starts = [0]
        self._spans: list[tuple[int, int, int]] = [(0, HEADER.size, -1)]

    def _fault(self, where: str, what: str) -> FormatError:
        return fault(self.file.path, where, what)

    def array(self, offset: int, dtype: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """Where the bytes of the array lie whose record is at `offset`: begin and size."""
        where = f"record at byte {offset}"
        if offset % ALIGNMENT:
            raise self._fault(where, f"an offset is a multiple of {ALIGNMENT}")
        if offset > self.file.size - RECORD.size:
            raise self._fault(where, f"it takes {RECORD.size} bytes; the file has {self.file.size}")
        sentinel, number, nbytes, start, padding = RECORD.unpack_from(self.file.map, offset)
        if sentinel != SENTINEL:
            raise self._fault(where, f"begins with {sentinel:#010x}, not with {SENTINEL:#010x}")
        if BLOB_TYPES.get(number) != dtype:
            named = BLOB_TYPES.get(number, f"unknown ({number})")
            raise self._fault(where, f"is of type {named}, the program says {dtype}")
        if start > self.file.size or nbytes > self.file.size - start:
            raise self._fault(
                where, f"claims {nbytes} bytes at byte {start}; the file has {self.file.size}"
            )
        if start % ALIGNMENT:
            raise self._fault(where, f"claims byte {start}, not a multiple of {ALIGNMENT}")
        bits = prod(shape) * BITS[dtype]
        if nbytes != -(-bits // 8):
            raise self._fault(
                where,
                f"claims {nbytes} bytes; {dtype} of shape {list(shape)} takes {-(-bits // 8)}",
            )
        if BITS[dtype] < 8 and padding != nbytes * 8 - bits:
            raise self._fault(
                where, f"claims {padding} bits of padding; there are {nbytes * 8 - bits}"
            )
        self._take(where, offset, offset + RECORD.size, offset)
        self._take(where, start, start + nbytes, offset)
        return start, nbytes

    def _take(self, where: str, start: int, stop: int, owner: int) -> None:
        """Give bytes to the record `owner`; raises FormatError if they are another's."""
        if start == stop:
            return
        place = bisect.bisect_left(self._starts, start)
        for k in (place - 1, place):
            if 0 <= k < len(self._spans):
                begin, end, other = self._spans[k]
                if (begin, end, other) == (start, stop, owner):
                    return
                if start < end and begin < stop:
                    whose = "the header" if other < 0 else f"the record at byte {other}"
                    raise self._fault(
                        where, f"takes bytes {start} to {stop}, of which {whose} has some"
                    )
        self._starts.insert(place, start)
        self._spans.insert(place, (start, stop, owner))


_CHUNK = 1 << 16
"""Values unpacked at a time; a multiple of 8, so that each part begins at a byte."""


def unpack(data: NDArray[np.uint8], dtype: str, count: int) -> NDArray[np.generic]:
    """`count` values narrower than a byte, one byte each. They lie one after another from the
    lowest bit of the first byte on."""
    bits, signed = BITS[dtype], dtype.startswith("int")
    weights = np.left_shift(1, np.arange(bits)).astype(np.int8)
    if signed:
        weights[-1] = -weights[-1]
    values = np.empty(count, np.int8)
    for at in range(0, count, _CHUNK):
        part = values[at : at + _CHUNK]
        packed = data[at * bits // 8 :]
        flat = np.unpackbits(packed[: part.size], count=part.size * bits, bitorder="little")
        np.matmul(flat.reshape(part.size, bits).view(np.int8), weights, out=part)
    return values if signed else values.view(np.uint8)
