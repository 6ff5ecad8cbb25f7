"""Core ML packages built field by field, without coremltools, so that a test can change any one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FP16, FP32, INT32, STRING = 10, 11, 23, 2
BLOB_FP16, BLOB_UINT4 = 1, 11
Tree = list[tuple[int, Any]]
"""A message: numbers of fields, and ints (varints), floats (32 bits), bytes, texts or messages."""


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def encode(tree: Tree) -> bytes:
    out = b""
    for number, value in tree:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            data = encode(value) if isinstance(value, list) else value
            data = data.encode() if isinstance(data, str) else data
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def tensor_type(dtype: int, *sizes: int) -> Tree:
    dims = [(3, [(1, [(1, n)])]) for n in sizes]
    return [(1, [(1, dtype), (2, len(sizes)), *dims])]


def named(name: str, kind: Tree) -> Tree:
    return [(1, name), (2, kind)]


def immediate(kind: Tree, held_by: int, values: Any) -> Tree:
    """A value that stands in the program: `held_by` is the field of TensorValue."""
    return [(2, kind), (3, [(1, [(held_by, [(1, values)])])])]


def text(value: str) -> Tree:
    return immediate(tensor_type(STRING), 4, value)


def stored(kind: Tree, name: str, offset: int) -> Tree:
    return [(2, kind), (5, [(1, name), (2, offset)])]


def const(name: str, kind: Tree, value: Tree) -> Tree:
    attributes = [(5, [(1, "name"), (2, text(name))]), (5, [(1, "val"), (2, value)])]
    return [(1, "const"), (3, named(name, kind)), *attributes]


def operation(op: str, output: str, kind: Tree, **inputs: str) -> Tree:
    bound = [(2, [(1, k), (2, [(1, [(1, v)])])]) for k, v in inputs.items()]
    return [(1, op), *bound, (3, named(output, kind)), (5, [(1, "name"), (2, text(output))])]


def multi_array(name: str, *sizes: int, dtype: int = 65552) -> Tree:
    packed = b"".join(map(varint, sizes))
    return [(1, name), (3, [(5, [(1, packed), (2, dtype)])])]


@dataclass
class Record:
    """The record of an array in the weight file."""

    sentinel: int = 0xDEADBEEF
    type: int = BLOB_FP16
    nbytes: int = 24
    start: int = 128
    padding: int = 0

    def build(self) -> bytes:
        return struct.pack(
            "<IIQQQ32x", self.sentinel, self.type, self.nbytes, self.start, self.padding
        )


WEIGHT_FILE = "@model_path/weights/weight.bin"
MODEL, BLOB = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def _manifest() -> dict[str, Any]:
    items = {
        "A": {"path": "com.apple.CoreML/model.mlmodel", "author": "com.apple.CoreML"},
        "B": {"path": "com.apple.CoreML/weights", "author": "com.apple.CoreML"},
    }
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "A"}


def _operations() -> dict[str, Tree]:
    matrix, bits = tensor_type(FP16, 3, 4), tensor_type(35, 5)
    return {
        "w": const("w", matrix, stored(matrix, WEIGHT_FILE, 64)),
        "q": const("q", bits, stored(bits, WEIGHT_FILE, 192)),
        "b": const(
            "b",
            tensor_type(FP32, 3),
            immediate(tensor_type(FP32, 3), 1, struct.pack("<3f", 1, 2, 3)),
        ),
        "axes": const("axes", tensor_type(INT32, 2), immediate(tensor_type(INT32, 2), 2, b"\0\1")),
        "flag": const("flag", tensor_type(1), immediate(tensor_type(1), 3, b"\1")),
        "y": operation("linear", "y", tensor_type(FP16, 2, 3), x="x", weight="w"),
        "z": operation("relu", "z", tensor_type(FP16, 2, 3), x="y"),
    }


@dataclass
class Package:
    """x [2, 4] through a linear layer and a relu: w [3, 4] of float16 and q, five values of 4 bits,
    lie in the weight file. `after` changes the folder once it has been written."""

    manifest: dict[str, Any] = field(default_factory=_manifest)
    manifest_text: bytes | None = None
    header: bytes = struct.pack("<II56x", 2, 2)
    records: list[Record] = field(
        default_factory=lambda: [Record(), Record(type=BLOB_UINT4, nbytes=3, start=256, padding=4)]
    )
    weights: bytes | None = None
    operations: dict[str, Tree] = field(default_factory=_operations)
    outputs: list[str] = field(default_factory=lambda: ["z"])
    inputs: Tree = field(default_factory=lambda: [(1, named("x", tensor_type(FP16, 2, 4)))])
    opset: str = "CoreML6"
    function: Tree = field(default_factory=list)
    program: Tree = field(default_factory=lambda: [(1, 1)])
    functions: Tree = field(default_factory=list)
    description: Tree = field(
        default_factory=lambda: [
            (1, multi_array("x", 2, 4)),
            (10, multi_array("z", 2, 3)),
            (100, [(3, "Ada"), (4, "MIT"), (100, [(1, "key"), (2, "value")])]),
        ]
    )
    model: Tree = field(default_factory=lambda: [(1, 7)])
    specification: bytes | None = None
    after: Callable[[Path], object] | None = None

    def message(self) -> bytes:
        if self.specification is not None:
            return self.specification
        block = [(3, o) for o in self.operations.values()] + [(2, n) for n in self.outputs]
        function = [
            *self.inputs,
            (2, self.opset),
            (3, [(1, "CoreML6"), (2, block)]),
            *self.function,
        ]
        program = [*self.program, (2, [(1, "main"), (2, function)]), *self.functions]
        return encode([*self.model, (2, self.description), (502, program)])

    def blob(self) -> bytes:
        first, second = (r.build() for r in self.records)
        values = struct.pack("<12e", *range(12)).ljust(64, b"\0")
        return self.header + first + values + second + b"\x21\x43\x05"

    def write(self, folder: Path) -> Path:
        blob = self.blob() if self.weights is None else self.weights
        manifest = self.manifest_text
        if manifest is None:
            manifest = json.dumps(self.manifest).encode()
        for name, data in ((MODEL, self.message()), (BLOB, blob), ("Manifest.json", manifest)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if self.after is not None:
            self.after(folder)
        return folder
