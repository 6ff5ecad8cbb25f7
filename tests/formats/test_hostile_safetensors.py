"""Damaged and hostile SafeTensors files and folders: one fault each, and a twin that opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import SafeTensors
from harness import opens, refused, refused_path

import tensorlogic.formats

Change = Callable[[SafeTensors], None]


def whole(**fields: object) -> Change:
    def change(f: SafeTensors) -> None:
        for name, value in fields.items():
            setattr(f, name, value)

    return change


def header(**fields: object) -> Change:
    """Changes entries of the header."""
    return lambda f: f.header.update(fields)


def a(**fields: object) -> Change:
    """Changes what is said of tensor a (F32, [2, 3], [0, 24]); None takes a field away."""

    def change(f: SafeTensors) -> None:
        f.header["a"].update(fields)
        for name in [n for n, value in fields.items() if value is None]:
            del f.header["a"][name]

    return change


def text(old: str, new: str | bytes) -> Change:
    return lambda f: f.replace(old, new)


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "header longer than the file": (whole(length=5000), ("header", "claims 5000 bytes")),
    "header above the bound": (
        whole(length=100_000_001),
        ("claims 100000001 bytes; at most 100000000"),
    ),
    "header of 2^63 bytes": (whole(length=2**63), (f"claims {2**63} bytes",)),
    "header of no bytes": (whole(length=0, text=b"", data=b"\0" * 8), ("header", "brace")),
    "header without a brace": (whole(text=b'["a"]'), ("header", "begins with b'['")),
    "header cut off": (whole(length=20), ("header", "not valid JSON")),
    "header not UTF-8": (text('"pt"', b'"\xff"'), ("header", "not valid JSON")),
    "NaN in the header": (text("[4]", "[NaN]"), ("header", "NaN is not JSON")),
    "number of 5000 digits": (text("[4]", f"[{'9' * 5000}]"), ("header", "not valid JSON")),
    "nesting": (text("[4]", "[" * 200_000 + "]" * 200_000), ("header", "nested too deeply")),
    "tensor twice": (text('"b"', '"a"'), ("header", "'a' occurs twice")),
    "field twice": (text('"shape": [4]', '"dtype": "F16"'), ("'dtype' occurs twice",)),
    "metadata not an object": (header(__metadata__=["pt"]), ("__metadata__", "an array")),
    "metadata not strings": (
        header(__metadata__={"epoch": 3}),
        ("__metadata__", "'epoch'", "a number, not a string"),
    ),
    "tensor not an object": (header(a=24), ("tensor 'a'", "a number, not an object")),
    "no dtype": (a(dtype=None), ("tensor 'a'", "no dtype")),
    "no shape": (a(shape=None), ("tensor 'a'", "no shape")),
    "no offsets": (a(data_offsets=None), ("tensor 'a'", "no data_offsets")),
    "unknown field": (a(stride=[3, 1]), ("tensor 'a'", "unknown field 'stride'")),
    "unknown dtype": (a(dtype="F33"), ("tensor 'a'", "unknown dtype 'F33'")),
    "dtype not a string": (a(dtype=["F32"]), ("tensor 'a'", "unknown dtype ['F32']")),
    "shape not a list": (a(shape=6), ("tensor 'a'", "shape 6")),
    "size negative": (a(shape=[-2, -3]), ("tensor 'a'", "[-2, -3]")),
    "size a truth value": (a(shape=[True, 6]), ("tensor 'a'", "[True, 6]")),
    "size a float": (a(shape=[2.0, 3]), ("tensor 'a'", "[2.0, 3]")),
    "33 axes": (a(shape=[2, 3] + [1] * 31), ("tensor 'a'", "33 axes; at most 32")),
    "shape whose product wraps to 6": (
        a(shape=[2**63 + 3, 2]),
        ("tensor 'a'", "more than 2^63 - 1 elements"),
    ),
    "shape with 0 that hides a wrap": (
        a(shape=[0, 2**62, 4]),
        ("tensor 'a'", "more than 2^63 - 1 elements"),
    ),
    "one offset": (a(data_offsets=[24]), ("tensor 'a'", "not [begin, end]")),
    "offset negative": (a(data_offsets=[-24, 0]), ("tensor 'a'", "not [begin, end]")),
    "offsets swapped": (a(data_offsets=[24, 0]), ("tensor 'a'", "claims bytes 24 to 0")),
    "offset past the end": (
        a(data_offsets=[40, 64]),
        ("tensor 'a'", "claims bytes 40 to 64; the file has 40"),
    ),
    "shape against offsets": (
        a(shape=[2, 2]),
        ("tensor 'a'", "takes 16 bytes; data_offsets hold 24"),
    ),
    "dtype against offsets": (a(dtype="F64"), ("tensor 'a'", "takes 48 bytes")),
    "gap": (
        header(b={"dtype": "F16", "shape": [2], "data_offsets": [28, 32]}),
        ("tensor 'b'", "gap after tensor 'a'", "byte 28, not 24"),
    ),
    "overlap": (
        header(b={"dtype": "F16", "shape": [6], "data_offsets": [20, 32]}),
        ("tensor 'b'", "overlaps tensor 'a'", "byte 20, not 24"),
    ),
    "the same bytes twice": (
        header(d={"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}),
        ("tensor 'd'", "overlaps tensor 'b'"),
    ),
    "bytes after the tensors": (whole(data=bytes(41)), ("end at byte 40", "1 bytes follow")),
    "file cut by one byte": (whole(data=bytes(39)), ("tensor 'c'", "the file has 39")),
    "name with a control character": (text('"b"', r'"b\n"'), (r"'b\n'", "control characters")),
    "name with half a pair": (text('"b"', r'"\ud800"'), (r"'\ud800'", "half a pair")),
}


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_named(case: str, tmp_path: Path) -> None:
    change, expected = CASES[case]
    twin, hostile = SafeTensors(), SafeTensors()
    change(hostile)
    assert twin.build() != hostile.build()
    opens(tmp_path / "twin.safetensors", twin.build())
    refused(tmp_path / "hostile.safetensors", hostile.build(), expected)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = SafeTensors().build()
    for length in range(0, len(data), 3):
        refused(tmp_path / "cut.safetensors", data[:length], ())


# ---- folders of shards ----


def folder(path: Path) -> dict[str, Any]:
    """A folder of two shards, and its index."""
    path.mkdir()
    (path / "one.safetensors").write_bytes(SafeTensors().build())
    other = SafeTensors({"d": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, data=b"\1\2")
    (path / "two.safetensors").write_bytes(other.build())
    one, two = "one.safetensors", "two.safetensors"
    return {"metadata": {"total_size": 42}, "weight_map": {"a": one, "b": one, "c": one, "d": two}}


def write_index(path: Path, index: Any) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


FOLDERS: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "no weight map": (lambda i: i.pop("weight_map"), ("weight_map", "missing")),
    "weight map not an object": (
        lambda i: i.update(weight_map=["a"]),
        ("weight_map", "not an object"),
    ),
    "shard not a string": (
        lambda i: i["weight_map"].update(d=2),
        ("tensor 'd'", "the shard 2, not a plain file name"),
    ),
    "shard outside the folder": (
        lambda i: i["weight_map"].update(d="../two.safetensors"),
        ("tensor 'd'", "'../two.safetensors', not a plain file name"),
    ),
    "absolute shard": (
        lambda i: i["weight_map"].update(d="/etc/passwd"),
        ("tensor 'd'", "'/etc/passwd', not a plain file name"),
    ),
    "shard that is not there": (
        lambda i: i["weight_map"].update(d="three.safetensors"),
        ("tensor 'd'", "'three.safetensors', which is not in the folder"),
    ),
    "tensor in another shard": (
        lambda i: i["weight_map"].update(d="one.safetensors"),
        ("tensor 'd'", "'one.safetensors', which does not hold it"),
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_one_fault_of_a_folder_is_named(case: str, tmp_path: Path) -> None:
    change, expected = FOLDERS[case]
    path = tmp_path / "model"
    index = folder(path)
    write_index(path, index)
    assert list(tensorlogic.formats.read(path).entries) == ["a", "b", "c", "d"]
    change(index)
    write_index(path, index)
    refused_path(path, path / "model.safetensors.index.json", expected)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_index(path, folder(path))
    shard = path / "two.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    refused_path(path, shard, ("tensor 'd'", "the file has 1 bytes of data"))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    refused_path(tmp_path, tmp_path, ("neither model.safetensors nor",))
