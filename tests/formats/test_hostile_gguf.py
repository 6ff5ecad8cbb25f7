"""Damaged and hostile GGUF files: each has one fault, and a twin without it that opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ARRAY, BOOL, STRING, U16, U32, Gguf, GgufTensor, Key, string, u32, u64
from harness import opens, refused

Change = Callable[[Gguf], None]


def at(value: bytes, **fields: int) -> Change:
    """Sets the value of the key test.tokens."""

    def change(f: Gguf) -> None:
        f.keys[4] = Key("test.tokens", fields.get("type", ARRAY), value)

    return change


def key(name: str | bytes, kind: int, value: bytes) -> Change:
    """Adds a key."""

    def change(f: Gguf) -> None:
        f.keys.append(Key(name, kind, value))

    return change


def replace(index: int, kind: int, value: bytes) -> Change:
    """Replaces the value of a key, its name kept."""

    def change(f: Gguf) -> None:
        f.keys[index] = Key(f.keys[index].name, kind, value)

    return change


def tensor(index: int, **fields: object) -> Change:
    """Changes what is said of one tensor."""

    def change(f: Gguf) -> None:
        for name, value in fields.items():
            setattr(f.tensors[index], name, value)

    return change


def whole(**fields: object) -> Change:
    """Changes a field of the file."""

    def change(f: Gguf) -> None:
        for name, value in fields.items():
            setattr(f, name, value)

    return change


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "version 1": (whole(version=u32(1)), ("version", "is 1; versions 2 and 3")),
    "version 4": (whole(version=u32(4)), ("version", "is 4")),
    "big-endian": (whole(version=b"\0\0\0\3"), ("version", "big-endian")),
    "tensor count": (whole(tensor_count=2**60), ("tensor count", f"claims {2**60}")),
    "tensor count above the room": (whole(tensor_count=60), ("claims 60", "room for")),
    "one tensor more than there is": (whole(tensor_count=4), ("tensor 3", "the name is empty")),
    "key count": (whole(key_count=2**63), ("key count", f"claims {2**63}")),
    "one key more than there is": (whole(key_count=7), ("tensor 0's name", "claims")),
    "key name's length": (
        key("x" * 65_536, U32, u32(1)),
        ("key 6", "claims 65536 bytes; at most 65535"),
    ),
    "key name past the end": (
        lambda f: f.keys.insert(0, _RawKey(u64(60_000) + b"name")),
        ("key 0", "takes 60000 bytes"),
    ),
    "key name not UTF-8": (key(b"\xff\xfe", U32, u32(1)), ("key 6", "not UTF-8")),
    "key twice": (key("test.flag", BOOL, b"\0"), ("'test.flag'", "twice")),
    "value type": (key("test.x", 13, u32(1)), ("'test.x'", "value type 13")),
    "bool of 2": (replace(3, BOOL, b"\2"), ("'test.flag'", "value 2")),
    "string past the end": (
        replace(0, STRING, u64(1 << 20) + b"llama"),
        ("'general.architecture'", "takes 1048576 bytes", "left"),
    ),
    "string of a terabyte": (
        replace(0, STRING, u64(1 << 40) + b"llama"),
        ("'general.architecture'", f"claims {1 << 40} bytes", "at most"),
    ),
    "string not UTF-8": (
        replace(0, STRING, string(b"ll\xffma")),
        ("'general.architecture'", "not UTF-8"),
    ),
    "array of 2^40 strings": (
        at(u32(STRING) + u64(1 << 40) + string("a")),
        ("'test.tokens'", f"array of {1 << 40} values", "room for"),
    ),
    "array of 2^61 numbers, whose bytes overflow": (
        replace(5, ARRAY, u32(6) + u64(1 << 62) + bytes(8)),
        ("'test.scores'", f"array of {1 << 62} values"),
    ),
    "array element type": (at(u32(99) + u64(1)), ("'test.tokens'", "element type 99")),
    "array of arrays": (
        at(u32(ARRAY) + u64(1) + u32(U32) + u64(1) + u32(1)),
        ("'test.tokens'", "array of arrays"),
    ),
    "string of an array past the end": (
        at(u32(STRING) + u64(3) + string("a") + u64(1 << 50)),
        ("'test.tokens'", "string 2 of 3 begins past"),
    ),
    "last string of an array past the end": (
        at(u32(STRING) + u64(2) + string("a") + u64(1 << 50)),
        ("'test.tokens'", "string 1 of 2 ends past"),
    ),
    "alignment 0": (replace(1, U32, u32(0)), ("'general.alignment'", "is 0; a power of two")),
    "alignment 48": (replace(1, U32, u32(48)), ("'general.alignment'", "is 48")),
    "alignment 2^31": (replace(1, U32, u32(1 << 31)), ("'general.alignment'", "is 2147483648")),
    "alignment as a string": (
        replace(1, STRING, string("32")),
        ("'general.alignment'", "is '32'"),
    ),
    "alignment as an array": (
        replace(1, ARRAY, u32(U32) + u64(1) + u32(32)),
        ("'general.alignment'", "array of 1 values"),
    ),
    "architecture as a number": (
        replace(0, U32, u32(7)),
        ("'general.architecture'", "is 7, not a string"),
    ),
    "a part of a split model": (
        key("split.count", U16, b"\3\0"),
        ("'split.count'", "is 3", "gguf-split --merge"),
    ),
    "tensor name of 64 bytes": (
        tensor(0, name="n" * 64),
        ("tensor 0's name", "claims 64 bytes; at most 63"),
    ),
    "tensor name not UTF-8": (tensor(0, name=b"\xc3("), ("tensor 0's name", "not UTF-8")),
    "tensor name with a control character": (
        tensor(0, name="a\x1b[2J"),
        (r"'a\x1b[2J'", "control characters"),
    ),
    "tensor twice": (tensor(1, name="a.weight"), ("'a.weight'", "twice")),
    "five dims": (tensor(0, dims=[3, 2, 1, 1, 1]), ("'a.weight'", "claims 5 dims; at most 4")),
    "dims whose product wraps to 0": (
        tensor(0, dims=[1 << 32, 1 << 32]),
        ("'a.weight'", "more than 2^63 - 1 elements"),
    ),
    "dims whose bytes wrap to 0": (
        tensor(0, dims=[1 << 62]),
        ("'a.weight'", f"claims {1 << 64} bytes"),
    ),
    "tensor type that was removed": (tensor(0, type=4), ("'a.weight'", "tensor type 4")),
    "tensor type unknown": (tensor(0, type=9999), ("'a.weight'", "tensor type 9999")),
    "row that ends inside a block": (
        tensor(1, dims=[16, 4]),
        ("'b.weight'", "rows of 16", "q4_0", "32 long"),
    ),
    "offset not aligned": (tensor(1, offset=40), ("'b.weight'", "offset 40", "multiple of 32")),
    "offset that wraps into the head": (
        tensor(1, offset=2**64 - 64),
        ("'b.weight'", f"offset {2**64 - 64}", "104 bytes of data"),
    ),
    "offset past the end": (tensor(2, offset=128), ("'c.bias'", "offset 128")),
    "tensor that runs past the end": (
        tensor(2, dims=[5]),
        ("'c.bias'", "claims 10 bytes at offset 96", "104 bytes of data"),
    ),
    "tensor inside another": (
        tensor(2, offset=32),
        ("'b.weight'", "offset 32", "inside tensor 'c.bias'"),
    ),
    "file cut by one byte": (
        whole(data=bytes(103)),
        ("'c.bias'", "claims 8 bytes at offset 96", "103 bytes of data"),
    ),
}


class _RawKey(Key):
    """A key given as bytes."""

    def __init__(self, raw: bytes):
        self.raw = raw

    def build(self) -> bytes:
        return self.raw


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_named(case: str, tmp_path: Path) -> None:
    change, expected = CASES[case]
    twin, hostile = Gguf(), Gguf()
    change(hostile)
    assert twin.build() != hostile.build()
    opens(tmp_path / "twin.gguf", twin.build())
    refused(tmp_path / "hostile.gguf", hostile.build(), expected)


def test_every_truncation_of_the_head_is_refused(tmp_path: Path) -> None:
    data = Gguf().build()
    for length in range(4, len(data) - 104, 3):
        refused(tmp_path / "cut.gguf", data[:length], ())


def test_a_file_without_tensors_may_end_before_the_padding(tmp_path: Path) -> None:
    opens(tmp_path / "vocabulary.gguf", Gguf(tensors=[], data=b"").build().rstrip(b"\0"))


def test_version_2_and_other_alignments_open(tmp_path: Path) -> None:
    opens(tmp_path / "v2.gguf", Gguf(version=u32(2)).build())
    wide = Gguf(alignment=64, tensors=[GgufTensor("a", [3], 0, 64)], data=bytes(76))
    wide.keys[1].value = u32(64)
    opens(tmp_path / "wide.gguf", wide.build())
