"""Hostile Core ML packages: each has one fault, and a twin without it that opens."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorlogic as tl
from tensorlogic import formats
from tensorlogic.errors import FormatError
from tests.coreml.builders import (
    BLOB,
    FP16,
    FP32,
    INT32,
    MODEL,
    WEIGHT_FILE,
    Package,
    Tree,
    const,
    immediate,
    multi_array,
    named,
    operation,
    stored,
    tensor_type,
    varint,
)

SECONDS, BYTES = 0.5, 50 << 20
Change = Callable[[Package], object]


def item(name: str, path: Any) -> Change:
    return lambda p: p.manifest["itemInfoEntries"][name].update(path=path)


def claim(**more: Any) -> Change:
    return lambda p: p.manifest.update(more)


def put(**fields: Any) -> Change:
    def change(p: Package) -> None:
        for name, value in fields.items():
            setattr(p, name, value)

    return change


def record(index: int, **fields: int) -> Change:
    def change(p: Package) -> None:
        for name, value in fields.items():
            setattr(p.records[index], name, value)

    return change


def op(name: str, tree: Tree) -> Change:
    return lambda p: p.operations.update({name: tree})


def weight(path: str = WEIGHT_FILE, offset: int = 64, kind: Tree | None = None) -> Change:
    """Says of w that it lies elsewhere, or is something else."""
    kind = tensor_type(FP16, 3, 4) if kind is None else kind
    return op("w", const("w", kind, stored(kind, path, offset)))


def link(name: str, to: str) -> Change:
    """Puts a symbolic link in the place of a file; what it leads to is the file itself."""

    def after(folder: Path) -> None:
        outside = folder.parent / to
        os.replace(folder / name, outside)
        (folder / name).symlink_to(outside)

    return put(after=after)


def fifo(folder: Path) -> None:
    (folder / BLOB).unlink()
    os.mkfifo(folder / BLOB)


def nested_types(depth: int) -> Tree:
    kind = tensor_type(FP16, 2)
    for _ in range(depth):
        kind = [(2, [(1, kind), (2, [(1, [(1, 1)])])])]
    return kind


def nested_blocks(depth: int) -> Change:
    """`cond` in `cond`."""

    def change(p: Package) -> None:
        inner: Tree = [(2, "y")]
        for k in range(depth):
            inner = [(3, [(1, "cond"), (3, named(f"c{k}", tensor_type(FP16, 2))), (4, inner)])]
        p.operations["z2"] = [*operation("cond", "z2", tensor_type(FP16, 2)), (4, inner)]

    return change


def constexpr_chain(length: int) -> Change:
    """Each weight is decompressed from the one before."""

    def change(p: Package) -> None:
        kind = tensor_type(FP32, 3)
        for k in range(length):
            before = f"c{k - 1}" if k else "b"
            p.operations[f"c{k}"] = operation("constexpr_cast", f"c{k}", kind, source_val=before)

    return change


_FLOATS = tensor_type(FP32, 3)
_INTS = tensor_type(INT32, 2)
_DEEP = b'{"a":' * 100_000

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no manifest": (
        put(after=lambda f: (f / "Manifest.json").unlink()),
        ("Manifest.json", "not there"),
    ),
    "manifest nested without end": (put(manifest_text=_DEEP), ("Manifest.json", "nested")),
    "manifest of 2 MB": (put(manifest_text=b" " * (2 << 20)), ("Manifest.json", "at most 1048576")),
    "manifest with a key twice": (
        put(manifest_text=b'{"a": 1, "a": 2}'),
        ("Manifest.json", "'a' occurs twice"),
    ),
    "manifest of version 2": (claim(fileFormatVersion="2.0"), ("fileFormatVersion", "'2.0'")),
    "root that is no item": (claim(rootModelIdentifier="C"), ("rootModelIdentifier", "'C'")),
    "items as a list": (claim(itemInfoEntries=["A"]), ("itemInfoEntries", "no object")),
    "model at an absolute path": (
        item("A", "/etc/passwd"),
        ("item 'A'", "/etc/passwd", "lead out"),
    ),
    "model above the package": (item("A", "../../secret.mlmodel"), ("item 'A'", "lead out")),
    "model above in other words": (item("A", "x\\..\\..\\secret"), ("item 'A'", "lead out")),
    "path with a null byte": (item("A", "model\0.mlmodel"), ("item 'A'", "lead out")),
    "path that is a number": (item("A", 7), ("item 'A'", "has no path")),
    "second item above the package": (item("B", "../../.."), ("item 'B'", "lead out")),
    "model that is a folder": (item("A", "com.apple.CoreML"), ("item 'A'", "is no file")),
    "model that is a link": (link(MODEL, "real.mlmodel"), ("item 'A'", "symbolic link", "cp -RL")),
    "folder that is a link": (
        link("Data/com.apple.CoreML/weights", "real"),
        ("item 'B'", "symbolic link"),
    ),
    "weight file that is a link": (link(BLOB, "real.bin"), ("weight.bin", "symbolic link")),
    "weight file that is a pipe": (put(after=fifo), ("weight.bin", "neither a file nor a folder")),
    "weight file above the package": (
        weight("@model_path/../../../secret.bin"),
        ("secret.bin", "lead out"),
    ),
    "weight file at an absolute path": (weight("/etc/passwd"), ("'/etc/passwd'", "@model_path/")),
    "weight file that is not there": (
        weight("@model_path/weights/other.bin"),
        ("other.bin", "not there"),
    ),
    "weight file that Git LFS has not fetched": (
        put(weights=b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("weight.bin", "git lfs pull"),
    ),
    "model that Git LFS has not fetched": (
        put(specification=b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("model.mlmodel", "git lfs pull"),
    ),
    "empty weight file": (put(weights=b""), ("weight.bin", "is empty")),
    "weight file of version 1": (
        put(header=struct.pack("<II56x", 2, 1)),
        ("header", "version 1; version 2"),
    ),
    "weight file of 2^32 - 1 arrays": (
        put(header=struct.pack("<II56x", 2**32 - 1, 2)),
        ("header", f"claims {2**32 - 1} arrays; there is room for"),
    ),
    "offset of a record past the end": (
        weight(offset=1 << 40),
        (f"byte {1 << 40}", "file has 259"),
    ),
    "offset that wraps": (weight(offset=2**64 - 64), (f"byte {2**64 - 64}", "file has 259")),
    "offset that is not aligned": (weight(offset=72), ("record at byte 72", "multiple of 64")),
    "record without sentinel": (record(0, sentinel=0), ("byte 64", "0x00000000", "0xdeadbeef")),
    "record of another type": (record(0, type=2), ("byte 64", "of type fp32", "says fp16")),
    "record of an unknown type": (record(0, type=99), ("byte 64", "unknown (99)")),
    "values past the end": (record(0, start=1 << 20), ("byte 64", f"24 bytes at byte {1 << 20}")),
    "size that wraps": (record(0, nbytes=2**64 - 128), (f"claims {2**64 - 128} bytes",)),
    "size that does not fit the shape": (
        record(0, nbytes=26),
        ("claims 26 bytes; fp16 of shape [3, 4] takes 24",),
    ),
    "values inside another record": (record(1, start=64), ("byte 192", "the record at byte 64")),
    "values inside the header": (record(0, start=0), ("byte 64", "the header has some")),
    "padding of a wrong size": (record(1, padding=3), ("3 bits of padding; there are 4",)),
    "shape of 2^64 elements": (
        weight(kind=tensor_type(FP16, 1 << 32, 1 << 32)),
        ("op 'const', value 'w'", "2^63 - 1"),
    ),
    "40 axes": (weight(kind=tensor_type(FP16, *[1] * 40)), ("claims 40 axes; at most 32",)),
    "rank that lies": (
        weight(kind=[(1, [(1, FP16), (2, 3), (3, [(1, [(1, 12)])])])]),
        ("claims rank 3 and gives 1 sizes",),
    ),
    "unknown data type": (weight(kind=tensor_type(99, 3, 4)), ("data type 99",)),
    "const of another type than its value": (
        op("b", const("b", tensor_type(FP32, 4), immediate(_FLOATS, 1, bytes(12)))),
        ("'b'", "said to be fp32 [4]; its value is fp32 [3]"),
    ),
    "too few floats": (
        op("b", const("b", _FLOATS, immediate(_FLOATS, 1, bytes(8)))),
        ("'b'", "has 8 bytes; fp32 of shape [3] takes 12"),
    ),
    "too many integers": (
        op("axes", const("axes", _INTS, immediate(_INTS, 2, b"\0\1\2"))),
        ("'axes'", "has 3 values; int32 of shape [2] takes 2"),
    ),
    "integer of 80 bits": (
        op("axes", const("axes", _INTS, immediate(_INTS, 2, b"\xff" * 11 + b"\1\0"))),
        ("'axes'", "more than 64 bits"),
    ),
    "integers cut short": (
        op("axes", const("axes", _INTS, immediate(_INTS, 2, b"\0\x80"))),
        ("'axes'", "cut short"),
    ),
    "floats held as integers": (
        op("b", const("b", _FLOATS, immediate(_FLOATS, 2, b"\0\0\0"))),
        ("'b'", "fp32 keeps its values in field 2"),
    ),
    "const without a value": (
        op("b", [(1, "const"), (3, named("b", _FLOATS))]),
        ("'b'", "the attribute 'val'"),
    ),
    "value that is used before it is made": (
        op("y", operation("linear", "y", tensor_type(FP16, 2, 3), x="x", weight="z")),
        ("'y'", "takes 'z', which no operation before it defines"),
    ),
    "value that is made of itself": (
        op("z", operation("relu", "z", tensor_type(FP16, 2, 3), x="z")),
        ("'z'", "takes 'z'"),
    ),
    "value defined twice": (
        op("z2", operation("relu", "z", tensor_type(FP16, 2, 3), x="y")),
        ("'relu'", "defines 'z', which exists already"),
    ),
    "output that is not made": (put(outputs=["nowhere"]), ("'main'", "gives 'nowhere'")),
    "opset without a block": (put(opset="CoreML9"), ("'main'", "opset 'CoreML9'", "'CoreML6'")),
    "function twice": (
        put(functions=[(2, [(1, "main"), (2, [])])]),
        ("function 'main' occurs twice",),
    ),
    "program of version 2": (put(program=[(1, 2)]), ("claims version 2",)),
    "a weight decompressed through 1,000 others": (
        constexpr_chain(1_000),
        ("op 'constexpr_cast' of 'c31'", "takes more than 32 constants"),
    ),
    "a weight decompressed from an input": (
        op("c", operation("constexpr_cast", "c", tensor_type(FP32, 3), source_val="x")),
        ("op 'constexpr_cast' of 'c'", "takes 'x', which is no constant"),
    ),
    "blocks nested 30 deep": (nested_blocks(30), ("blocks are nested more than 16 deep",)),
    "types nested 200 deep": (
        put(inputs=[(1, named("x", nested_types(200)))]),
        ("'x'", "nested more than 64 deep"),
    ),
    "specification version 0": (put(model=[(1, 0)]), ("specification version 0",)),
    "two kinds of model": (
        lambda p: p.model.append((500, [])),
        ("model", "exclude each other"),
    ),
    "message longer than the file": (
        put(specification=b"\x08\x07\x12" + varint(1 << 50)),
        ("model", f"claims {1 << 50} bytes"),
    ),
    "field cut short": (put(specification=b"\x08\x07\x12"), ("model", "cut short")),
    "field number 0": (put(specification=b"\x00\x07"), ("model", "field number 0")),
    "group": (put(specification=b"\x08\x07\x1b\x1c"), ("model", "wire type 3")),
    "field of another wire type": (
        put(specification=b"\x0a\x01\x07"),
        ("model", "field 1 holds bytes, not a varint"),
    ),
    "a million fields": (
        put(specification=b"\x08\x07" + b"\x60\x01" * (1 << 20)),
        ("model", "more than 131072 fields"),
    ),
    "description twice": (
        put(specification=b"\x08\x07\x12\x00\x12\x00"),
        ("model", "field 2 occurs 2 times"),
    ),
    "input twice": (
        lambda p: p.description.append((1, multi_array("x", 2))),
        ("input 'x'", "occurs twice"),
    ),
    "input of a negative size": (
        lambda p: p.description.__setitem__(0, (1, multi_array("x", -2, 4))),
        ("input 'x'", "[-2, 4]"),
    ),
    "text that is not UTF-8": (
        lambda p: p.description.append((21, b"\xff\xfe")),
        ("description", "not UTF-8"),
    ),
    "names that are no names": (
        lambda p: p.description[2][1].append((100, [(1, "tensorlogic.names"), (2, "[" * 99_999)])),
        ("'tensorlogic.names'",),
    ),
    "two tensors of one name": (
        lambda p: p.description[2][1].append(
            (100, [(1, "tensorlogic.names"), (2, json.dumps({"w": "a", "b": "a"}))])
        ),
        ("two tensors have the name 'a'",),
    ),
    "name that steers the terminal": (
        lambda p: p.description[2][1].append(
            (100, [(1, "tensorlogic.names"), (2, json.dumps({"w": "\x1b[2J"}))])
        ),
        ("control characters",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_named(case: str, tmp_path: Path) -> None:
    change, expected = CASES[case]
    twin, hostile = Package(), Package()
    change(hostile)
    opened = formats.read(twin.write(tmp_path / "twin.mlpackage"))
    assert list(opened.entries) == ["w", "q", "b"]
    folder = hostile.write(tmp_path / "hostile.mlpackage")
    began = time.process_time()  # of this process alone: other work on the machine does not count
    with pytest.raises(FormatError) as caught:
        formats.read(folder)
    took = time.process_time() - began
    message = str(caught.value)
    for text in (str(folder), *expected):
        assert text in message, f"{text!r} is not in {message!r}"
    assert took < SECONDS
    tracemalloc.start()  # which slows it down
    try:
        with pytest.raises(FormatError):
            formats.read(folder)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


class _Trace:
    """The paths that are opened while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.paths: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in ("open", "os.listdir", "os.scandir"):
            self.paths.append(os.fspath(arguments[0]) if arguments[0] is not None else "")


_TRACE = _Trace()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """Filled from here on; what loading a model imports has been imported."""
    model = tl.load_model(Package().write(tmp_path / "first.mlpackage"))
    [model[n].numpy() for n in model.names()]
    _TRACE.paths = []
    _TRACE.on = True
    yield _TRACE.paths
    _TRACE.on = False


@pytest.mark.parametrize("case", ["none", *CASES])
def test_nothing_outside_of_the_package_is_opened(
    case: str, tmp_path: Path, opened: list[str]
) -> None:
    package = Package()
    if case != "none":
        CASES[case][0](package)
    folder = package.write(tmp_path / "x.mlpackage")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    opened.clear()
    try:
        model = tl.load_model(folder)
        assert case == "none"
        assert [model[n].shape for n in model.names()] == [(3, 4), (5,), (3,)]
    except FormatError:
        assert case != "none"
    _TRACE.on = False
    inside = os.path.realpath(folder)
    outside = [p for p in opened if not os.path.realpath(p).startswith(inside + os.sep)]
    assert outside == []
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_trace_sees_what_is_opened(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "x").write_text("1")
    (tmp_path / "x").read_text()
    assert opened.count(str(tmp_path / "x")) == 2


def test_compressed_weights_whose_arguments_do_not_fit(tmp_path: Path) -> None:
    """These are found when the weight is asked for, before what it claims is allocated."""

    def palette(indices: int, entries: int, **more: Tree) -> Path:
        kind, table = tensor_type(31, indices), tensor_type(FP16, entries)
        sizes = tensor_type(33, 1)
        given: dict[str, Tree] = {
            "indices": immediate(kind, 7, bytes(indices)),
            "lut": immediate(table, 7, bytes(2 * entries)),
            "shape": immediate(sizes, 2, b"\x08"),
        } | more
        attributes = [(5, [(1, n), (2, v)]) for n, v in given.items()]
        built = Package()
        built.operations["w"] = [
            (1, "constexpr_lut_to_dense"),
            (3, named("w", tensor_type(FP16, 8))),
            *attributes,
        ]
        del built.operations["y"], built.operations["z"]
        built.outputs = ["w"]
        return built.write(tmp_path / "x.mlpackage")

    def value(folder: Path) -> Any:
        return tl.load_model(folder)["w"].numpy()

    assert value(palette(4, 16)).tolist() == [0.0] * 8
    for folder, expected in (
        (lambda: palette(5, 16), "indices has 5 values; 4 are needed"),
        (lambda: palette(4, 15), "lut has 15 values; 2, 4, 16, 64 and 256"),
        (
            lambda: palette(4, 16, shape=immediate(tensor_type(33, 1), 2, varint(1 << 30))),
            r"claims the shape \[1073741824\] and gives \[8\]",
        ),
        (
            lambda: palette(4, 16, shape=immediate(tensor_type(2), 4, "8")),
            "arguments are not those of the operation",
        ),
    ):
        with pytest.raises(FormatError, match=rf"x\.mlpackage.*'constexpr_lut.*{expected}"):
            value(folder())


@pytest.mark.filterwarnings("ignore")  # of operations whose names have changed
def test_any_changed_byte_opens_or_is_a_format_error(tmp_path: Path) -> None:
    """One byte, or the end, of the message and of the weight file; weights that are there load."""
    folder = Package().write(tmp_path / "x.mlpackage")
    opened, faults = 0, set()
    for name in (MODEL, BLOB):
        path = folder / name
        whole = path.read_bytes()
        for at in range(len(whole)):
            changed = bytes([whole[at] ^ (0xFF, 0x01, 0x80, 0x10)[at % 4]])
            both = (whole[:at] + changed + whole[at + 1 :], whole[:at])
            for data in both[: 1 if at % 4 else 2]:
                path.write_bytes(data)
                try:
                    parsed = formats.read(folder)
                except FormatError as error:
                    faults.add(str(error))
                    continue
                opened += 1
                for entry in parsed.entries.values():
                    assert entry.view().size == entry.view().nbytes
        path.write_bytes(whole)
    assert opened > 100
    assert len(faults) > 100
    assert [f for f in faults if str(folder) not in f] == []
