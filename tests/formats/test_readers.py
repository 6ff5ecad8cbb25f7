"""What the readers say about good files, against what other programs say."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from builders import Gguf, SafeTensors, string, u32, u64
from harness import opens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorlogic.formats
from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import FormatError
from tensorlogic.formats.gguf import tensor_types
from tensorlogic.formats.safetensors import STORAGE
from tensorlogic.quants import QUANTS


def test_gguf_of_the_builders(tmp_path: Path) -> None:
    parsed = opens(tmp_path / "x.gguf", Gguf().build())
    assert (parsed.format, parsed.architecture, parsed.quantization) == ("GGUF", "llama", "Q4_0")
    assert dict(parsed.metadata) == {
        "general.architecture": "llama",
        "general.alignment": 32,
        "general.file_type": 2,
        "test.flag": True,
        "test.tokens": ("a", "bc", ""),
        "test.scores": (0.5, -1.0),
    }
    shapes = {e.name: (e.shape, e.storage, e.nbytes) for e in parsed.entries.values()}
    assert shapes == {
        "a.weight": ((2, 3), "float32", 24),
        "b.weight": ((2, 32), "q4_0", 36),
        "c.bias": ((4,), "float16", 8),
    }
    assert parsed.entries["c.bias"].view().tolist() == list(range(96, 104))


def test_gguf_agrees_with_the_writer_and_reader_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "test")
    values: dict[str, Any] = {
        "k.u8": (writer.add_uint8, 250),
        "k.i8": (writer.add_int8, -5),
        "k.u16": (writer.add_uint16, 60_000),
        "k.i16": (writer.add_int16, -30_000),
        "k.u32": (writer.add_uint32, 4_000_000_000),
        "k.i32": (writer.add_int32, -2_000_000_000),
        "k.u64": (writer.add_uint64, 2**63),
        "k.i64": (writer.add_int64, -(2**62)),
        "k.f32": (writer.add_float32, 0.5),
        "k.f64": (writer.add_float64, 0.1),
        "k.bool": (writer.add_bool, False),
        "k.string": (writer.add_string, "größer"),
        "k.strings": (writer.add_array, ["a", "ö", ""]),
        "k.ints": (writer.add_array, [1, -2, 3]),
    }
    for key, (add, value) in values.items():
        add(key, value)
    rng = np.random.default_rng(0)
    arrays = {
        "f32": rng.normal(size=(5, 7)).astype(np.float32),
        "f16": rng.normal(size=(3, 2, 5)).astype(np.float16),
        "f64": rng.normal(size=3),
        "i8": rng.integers(-9, 9, 7, dtype=np.int8),
        "i16": rng.integers(-9, 9, 7, dtype=np.int16),
        "i32": rng.integers(-9, 9, (2, 3), dtype=np.int32),
        "i64": rng.integers(-9, 9, 5, dtype=np.int64),
    }
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    for kind in ("BF16", "Q4_0", "Q4_1", "Q8_0"):
        qtype = gguf.GGMLQuantizationType[kind]
        packed = gguf.quants.quantize(rng.normal(size=(4, 64)).astype(np.float32), qtype)
        arrays[kind] = packed
        writer.add_tensor(kind, packed, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    parsed = tensorlogic.formats.read(path)
    assert parsed.architecture == "test"
    for key, (_, value) in values.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert parsed.metadata[key] == expected
        assert type(parsed.metadata[key]) is type(expected)
    for tensor in gguf.GGUFReader(path).tensors:
        entry = parsed.entries[tensor.name]
        assert entry.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert entry.start == tensor.data_offset
        assert entry.view().tobytes() == np.asarray(tensor.data).tobytes()
        assert entry.view().tobytes() == arrays[tensor.name].tobytes()
    names = {e.name: e.storage for e in parsed.entries.values()}
    assert names["BF16"] == "bfloat16"
    assert names["Q4_1"] == "q4_1"
    assert names["i64"] == "int64"


def test_tensor_types_are_those_of_the_package() -> None:
    types = tensor_types()
    assert len(types) == len(gguf.GGML_QUANT_SIZES)
    for number, found in types.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (found.block, found.nbytes) == gguf.GGML_QUANT_SIZES[kind]
        if found.block == 1:
            assert DTYPES[found.storage].itemsize == found.nbytes
        if found.storage in QUANTS:
            assert (found.block, found.nbytes) == (
                QUANTS[found.storage].block,
                QUANTS[found.storage].nbytes,
            )
    assert {"q4_0", "q4_1", "q8_0", "q4_K", "q6_K", "iq4_nl"} <= {t.storage for t in types.values()}


def test_quantization_without_a_file_type(tmp_path: Path) -> None:
    f = Gguf()
    del f.keys[2]
    assert opens(tmp_path / "x.gguf", f.build()).quantization == "Q4_0"
    f.tensors = f.tensors[:1]
    assert opens(tmp_path / "y.gguf", f.build()).quantization is None


def test_bytes_of_a_vocabulary_that_are_not_text_are_kept(tmp_path: Path) -> None:
    f = Gguf()
    f.keys[4].value = u32(8) + u64(2) + string(b"\xe2\x82") + string("ok")
    tokens = opens(tmp_path / "x.gguf", f.build()).metadata["test.tokens"]
    assert tokens[0].encode("utf-8", "surrogateescape") == b"\xe2\x82"
    assert tokens[1] == "ok"


def test_a_large_vocabulary_opens_fast_and_stays_in_the_file(tmp_path: Path) -> None:
    f = Gguf()
    count = 262_144
    f.keys[4].value = u32(8) + u64(count) + b"".join(string(f"token{k}") for k in range(count))
    path = tmp_path / "x.gguf"
    opens(path, f.build())
    began = time.perf_counter()
    parsed = tensorlogic.formats.read(path)
    assert time.perf_counter() - began < 0.5
    tracemalloc.start()
    tensorlogic.formats.read(path)
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown < 1 << 20
    assert parsed.metadata["test.tokens"][count - 1] == f"token{count - 1}"
    assert parsed.metadata["test.tokens"] is parsed.metadata["test.tokens"]


def test_safetensors_of_every_dtype(tmp_path: Path) -> None:
    header, at = {}, 0
    for dtype, storage in STORAGE.items():
        nbytes = 6 * DTYPES[storage].itemsize
        header[dtype] = {"dtype": dtype, "shape": [2, 3], "data_offsets": [at, at + nbytes]}
        at += nbytes
    path = tmp_path / "x.safetensors"
    parsed = opens(path, SafeTensors(header, data=bytes(at)).build())
    assert {e.name: e.storage for e in parsed.entries.values()} == STORAGE
    assert set(STORAGE.values()) == set(DTYPES)
    with safetensors.safe_open(path, "numpy") as other:
        assert list(other.keys()) == sorted(STORAGE)


def test_safetensors_agrees_with_the_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(3, 5)).astype(np.float32),
        "e": np.zeros((0, 4), np.float16),
        "s": np.array(7, np.int64),
        "m": rng.integers(0, 2, 9).astype(bool),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"k": "v"})
    parsed = tensorlogic.formats.read(path)
    assert parsed.metadata == {"k": "v"}
    for name, array in arrays.items():
        entry = parsed.entries[name]
        assert entry.shape == array.shape
        assert entry.storage == array.dtype.name
        assert entry.view().tobytes() == array.tobytes()


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    assert opens(tmp_path / "a.safetensors", Gguf().build()).format == "GGUF"
    assert opens(tmp_path / "a.gguf", SafeTensors().build()).format == "SafeTensors"
    assert opens(tmp_path / "a.bin", SafeTensors().build()).format == "SafeTensors"
    # Header lengths whose bytes look like other beginnings: a pickle's, a web page's.
    for length in (0x0280, 0x0380, ord("<"), 0x4B50):
        f = SafeTensors()
        text = json.dumps(f.header).encode()
        if length < len(text):
            text = b'{"a":{"dtype":"U8","shape":[40],"data_offsets":[0,40]}}'
        f.text = text.ljust(length)
        assert opens(tmp_path / "b", f.build()).format == "SafeTensors"


@pytest.mark.parametrize("builder", [Gguf, SafeTensors])
def test_any_changed_byte_opens_or_is_a_format_error(builder: Any, tmp_path: Path) -> None:
    twin = builder().build()
    path = tmp_path / "x.safetensors"

    @settings(
        max_examples=300,
        deadline=1000,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(st.tuples(st.integers(0, len(twin) - 1), st.integers(0, 255)), min_size=1))
    def try_it(changes: list[tuple[int, int]]) -> None:
        data = bytearray(twin)
        for where, byte in changes:
            data[where] = byte
        path.write_bytes(data)
        try:
            parsed = tensorlogic.formats.read(path)
        except FormatError:
            return
        assert all(len(e.view()) == e.nbytes for e in parsed.entries.values())
        assert len(dict(parsed.metadata)) == len(parsed.metadata)

    try_it()
