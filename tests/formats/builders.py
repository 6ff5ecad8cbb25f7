"""Model files built field by field, so that a test can change any one of them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return u64(len(data)) + data


@dataclass
class Key:
    """One key of a GGUF file: its name, the number of its type, and the bytes of its value."""

    name: str | bytes
    type: int
    value: bytes

    def build(self) -> bytes:
        return string(self.name) + u32(self.type) + self.value


@dataclass
class GgufTensor:
    """What a GGUF file says about a tensor."""

    name: str | bytes
    dims: list[int]
    type: int
    offset: int

    def build(self) -> bytes:
        dims = b"".join(map(u64, self.dims))
        return string(self.name) + u32(len(self.dims)) + dims + u32(self.type) + u64(self.offset)


def gguf_keys() -> list[Key]:
    return [
        Key("general.architecture", STRING, string("llama")),
        Key("general.alignment", U32, u32(32)),
        Key("general.file_type", U32, u32(2)),
        Key("test.flag", BOOL, b"\1"),
        Key("test.tokens", ARRAY, u32(STRING) + u64(3) + string("a") + string("bc") + string("")),
        Key("test.scores", ARRAY, u32(F32) + u64(2) + struct.pack("<2f", 0.5, -1.0)),
    ]


def gguf_tensors() -> list[GgufTensor]:
    """2 x 3 float32; 2 rows of 32 in q4_0 (36 bytes); 4 float16."""
    return [
        GgufTensor("a.weight", [3, 2], 0, 0),
        GgufTensor("b.weight", [32, 2], 2, 32),
        GgufTensor("c.bias", [4], 1, 96),
    ]


@dataclass
class Gguf:
    """A small GGUF file in its parts; the counts can be made to lie."""

    magic: bytes = b"GGUF"
    version: bytes = field(default_factory=lambda: u32(3))
    tensor_count: int | None = None
    key_count: int | None = None
    keys: list[Key] = field(default_factory=gguf_keys)
    tensors: list[GgufTensor] = field(default_factory=gguf_tensors)
    alignment: int = 32
    data: bytes = bytes(range(104))

    def build(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + self.version + u64(tensors) + u64(keys)
        head += b"".join(k.build() for k in self.keys)
        head += b"".join(t.build() for t in self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data


def safetensors_header() -> dict[str, Any]:
    return {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    }


@dataclass
class SafeTensors:
    """A small SafeTensors file in its parts; the length and the text can be made to lie."""

    header: dict[str, Any] = field(default_factory=safetensors_header)
    text: bytes | None = None
    length: int | None = None
    data: bytes = bytes(40)

    def build(self) -> bytes:
        text = json.dumps(self.header).encode() if self.text is None else self.text
        length = len(text) if self.length is None else self.length
        return u64(length) + text + self.data

    def replace(self, old: str, new: str | bytes) -> None:
        """Changes the header's text where its JSON could not say so."""
        text = json.dumps(self.header).encode()
        assert text.count(old.encode()) == 1
        self.text = text.replace(old.encode(), new.encode() if isinstance(new, str) else new)
