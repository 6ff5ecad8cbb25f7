"""`Model`: what `get_tensor` gives, the gate, the mapping protocol, summaries."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from builders import Gguf, SafeTensors

import tensorlogic as tl
from tensorlogic.errors import DTypeError, FormatError, RangeError, TensorNotFoundError
from tensorlogic.quants import QUANTS
from tests.blocks import decoded, gguf_type, ordinary_blocks


def saved(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    file = path / "x.safetensors"
    safetensors.numpy.save_file(arrays, file)
    return file


def test_floats_become_float16_and_others_stay(tmp_path: Path) -> None:
    arrays = {
        "f16": np.array([[1.5, -2.0]], np.float16),
        "f32": np.array([0.1, 65504.0, -0.0, np.inf, np.nan], np.float32),
        "f64": np.array([[1e-9], [3.0]], np.float64),
        "i64": np.array([2**40, -1], np.int64),
        "i32": np.array([5, 6], np.int32),
        "u8": np.array(200, np.uint8),
        "bool": np.array([True, False]),
    }
    model = tl.load_model(saved(tmp_path, arrays))
    for name, array in arrays.items():
        tensor = model.get_tensor(name)
        assert tensor.shape == array.shape
        wide = name in ("f32", "f64")
        assert tensor.dtype.name == ("float16" if wide else array.dtype.name)
        expected = array.astype(np.float16) if wide else array
        np.testing.assert_array_equal(tensor.numpy(), expected)
    assert model["i64"].storage == "int64"
    assert model["i64"].to(tl.int32, on_overflow="raise").dtype is tl.int32


def test_bfloat16_and_float8(tmp_path: Path) -> None:
    import ml_dtypes

    values = np.array([1.0, -0.5, 3.0, 448.0], np.float32)
    header, data = {}, b""
    for code, dtype in (
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
    ):
        packed = values.astype(dtype).tobytes()
        header[code] = {
            "dtype": code,
            "shape": [4],
            "data_offsets": [len(data), len(data) + len(packed)],
        }
        data += packed
    path = tmp_path / "x.safetensors"
    path.write_bytes(SafeTensors(header, data=data).build())
    model = tl.load_model(path)
    assert model["BF16"].dtype is tl.float16
    assert model["BF16"].numpy().tolist() == values.tolist()
    assert model["F8_E4M3"].dtype is tl.float8_e4m3fn
    assert model["F8_E4M3"].to(tl.float16).numpy().tolist() == values.tolist()
    assert model["F8_E5M2"].storage == "float8_e5m2"


def test_float16_is_not_copied(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": np.arange(512, dtype=np.float16)})
    model = tl.load_model(path)
    view = model["w"].numpy()
    file = model._entries["w"].file
    start = np.frombuffer(file.map, np.uint8).__array_interface__["data"][0]
    address = view.__array_interface__["data"][0]
    assert start <= address < start + file.size
    assert not view.flags.writeable


def test_misaligned_data_is_copied(tmp_path: Path) -> None:
    header = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "w": {"dtype": "F16", "shape": [3], "data_offsets": [1, 7]},
        "x": {"dtype": "F32", "shape": [1], "data_offsets": [7, 11]},
    }
    data = b"\x07" + np.array([1, 2, 3], np.float16).tobytes() + np.float32(0.5).tobytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(SafeTensors(header, data=data).build())
    model = tl.load_model(path)
    assert model["w"].tolist() == [1.0, 2.0, 3.0]
    assert model["x"].tolist() == [0.5]
    assert "to zero" in model.summary(check=True)


def test_empty_and_0d_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path, {"e": np.zeros((0, 3), np.float32), "s": np.array(2.5, np.float16)})
    model = tl.load_model(path)
    assert model["e"].shape == (0, 3)
    assert model["e"].numpy().shape == (0, 3)
    assert model["s"].item() == 2.5


def test_the_overflow_gate(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        {
            "big": np.array([1e5, 2.0, -7e4, np.inf], np.float32),
            "small": np.array([1.0], np.float32),
        },
    )
    model = tl.load_model(path)
    assert model["small"].tolist() == [1.0]
    with pytest.raises(RangeError, match=r"`big` has 2 values beyond ±65504"):
        model["big"].numpy()
    assert tl.load_model(path, "saturate")["big"].tolist() == [65504.0, 2.0, -65504.0, np.inf]
    assert tl.load_model(path, "inf")["big"].tolist() == [np.inf, 2.0, -np.inf, np.inf]
    wide = tl.load_model(path, on_overflow="float32")
    assert (wide["big"].dtype, wide["small"].dtype) == (tl.float32, tl.float16)
    assert wide["big"].tolist() == [1e5, 2.0, -7e4, np.inf]
    with pytest.raises(ValueError, match="on_overflow is one of"):
        tl.load_model(path, on_overflow="wrap")


def test_gguf_tensors(tmp_path: Path) -> None:
    f = Gguf()
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
    floats = np.arange(6, dtype=np.float32)
    half = np.array([1, 2, 3, 4], np.float16)
    f.data = floats.tobytes().ljust(32, b"\0") + blocks.tobytes().ljust(64, b"\0") + half.tobytes()
    path = tmp_path / "x.gguf"
    path.write_bytes(f.build())
    model = tl.load_model(path)
    assert model["a.weight"].tolist() == floats.reshape(2, 3).tolist()
    assert model["c.bias"].tolist() == [1, 2, 3, 4]
    quantized = model["b.weight"]
    assert (quantized.dtype, quantized.storage, quantized.shape) == (tl.float16, "q4_0", (2, 32))
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0).astype(np.float16)
    np.testing.assert_array_equal(quantized.dequantize().numpy(), expected)


@pytest.mark.parametrize("storage", QUANTS)
def test_every_quantized_type(storage: str, tmp_path: Path) -> None:
    quant, kind = QUANTS[storage], gguf_type(storage)
    blocks = ordinary_blocks(storage, 10).reshape(5, -1)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("w", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = tl.load_model(tmp_path / "x.gguf")
    assert (model["w"].shape, model["w"].storage) == ((5, 2 * quant.block), storage)
    assert model.metadata.quantization == storage.upper()
    exact = decoded(storage, blocks)
    np.testing.assert_array_equal(model["w"].numpy(), exact.astype(np.float16))
    rows = tl.embedding(tl.tensor([4, 0], dtype="int32"), model["w"])
    np.testing.assert_array_equal(rows.numpy(), exact[[4, 0]].astype(np.float16))
    tl.save_model(model, tmp_path / "x.safetensors")
    saved_rows = tl.load_model(tmp_path / "x.safetensors")["w"].numpy()
    np.testing.assert_array_equal(saved_rows, exact.astype(np.float16))


def test_a_type_that_is_not_supported_yet_is_listed_but_not_read(tmp_path: Path) -> None:
    f = Gguf(data=bytes(32 + 144 + 16 + 8))
    f.tensors[1].dims, f.tensors[1].type = [256, 1], int(gguf.GGMLQuantizationType.IQ4_XS)
    f.tensors[2].offset = 192
    path = tmp_path / "x.gguf"
    path.write_bytes(f.build())
    model = tl.load_model(path)
    assert "b.weight" in model
    assert "iq4_xs" in model.summary(check=True)
    with pytest.raises(FormatError, match=r"'b\.weight': its type iq4_xs is not supported yet"):
        model["b.weight"]


def test_mapping_protocol(tmp_path: Path) -> None:
    model = tl.load_model(
        saved(tmp_path, {"a": np.ones(2, np.float16), "b": np.zeros(3, np.float16)})
    )
    assert model.names() == list(model) == list(model.keys()) == ["a", "b"]
    assert len(model) == 2
    assert "a" in model
    assert "c" not in model
    assert model["a"] is model.get_tensor("a")
    assert model.get("c") is None
    assert [t.shape for t in model.values()] == [(2,), (3,)]
    assert dict(model.items())["b"] is model["b"]
    assert model == model
    assert len({model}) == 1
    assert repr(model) == "Model(x.safetensors: SafeTensors, 2 tensors)"


def test_a_wrong_name_suggests_the_nearest() -> None:
    model = tl.Model({f"layers.{k}.attn.weight": tl.ones([1]) for k in range(3)})
    with pytest.raises(TensorNotFoundError) as caught:
        model.get_tensor("layer.1.attn.weight")
    assert str(caught.value).startswith("no tensor 'layer.1.attn.weight' in the model; close: ")
    assert "'layers.1.attn.weight'" in str(caught.value)
    with pytest.raises(KeyError, match=r"it has 3 tensors, the first: 'layers\.0"):
        model["zzz"]
    many = tl.Model({f"layers.{k}.{w}": tl.ones([1]) for k in range(500) for w in ("q", "k", "v")})
    with pytest.raises(TensorNotFoundError, match=r"close: 'layers\.499\.q'"):
        many["layers.499.qq"]
    with pytest.raises(TensorNotFoundError, match="it has 0 tensors"):
        tl.Model({})["x"]


def test_model_of_a_program() -> None:
    ids = np.arange(3, dtype=np.int64)
    model = tl.Model({"w": tl.ones([2, 2]), "ids": ids})
    assert model["ids"].storage == "int64"
    assert model.metadata.format is None
    assert len(model.metadata) == 0
    with pytest.raises(DTypeError, match="'x' is neither a tensor nor an array but str"):
        tl.Model({"x": "text"})
    with pytest.raises(TypeError, match="name of a tensor is a string, not 3"):
        tl.Model({3: ids})  # type: ignore[dict-item]


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(Gguf().build())
    metadata = tl.load_model(path).metadata
    assert (metadata.format, metadata.architecture, metadata.quantization) == (
        "GGUF",
        "llama",
        "Q4_0",
    )
    assert metadata["test.tokens"] == ("a", "bc", "")
    assert "test.flag" in metadata
    assert metadata.get("missing") is None
    assert repr(metadata) == (
        "Metadata(format='GGUF', quantization='Q4_0', architecture='llama', 6 keys)"
    )


def test_a_folder_of_shards_with_its_configuration(tmp_path: Path) -> None:
    from test_hostile_safetensors import folder, write_index

    path = tmp_path / "model"
    write_index(path, folder(path))
    (path / "config.json").write_text('{"model_type": "bert", "hidden_size": 4}')
    model = tl.load_model(path)
    assert model.names() == ["a", "b", "c", "d"]
    assert model["d"].tolist() == [1, 2]
    assert model.metadata.architecture == "bert"
    assert model.metadata["config.json"]["hidden_size"] == 4
    assert model.metadata["total_size"] == 42
    assert model.metadata["format"] == "pt"
    assert repr(model) == "Model(model: SafeTensors, bert, 4 tensors)"


def test_summary(tmp_path: Path) -> None:
    arrays = {
        "big": np.array([[1e5, 1e-9, 0.0, np.nan, np.inf]], np.float32),
        "f16": np.array([65504.0], np.float16),
        "ids": np.array([2**40], np.int64),
    }
    model = tl.load_model(saved(tmp_path, arrays))
    assert model.summary() == (
        "name  shape   dtype    storage  bytes\n"
        "ids   [1]     int64    int64        8\n"
        "big   [1, 5]  float16  float32     20\n"
        "f16   [1]     float16  float16      2\n"
        "3 tensors, 7 values, 30 bytes"
    )
    assert model.summary(check=True) == (
        "name  shape   dtype    storage  bytes  beyond ±65504  to zero\n"
        "ids   [1]     int64    int64        8              0        0\n"
        "big   [1, 5]  float16  float32     20              1        1\n"
        "f16   [1]     float16  float16      2              0        0\n"
        "3 tensors, 7 values, 30 bytes"
    )
    own = tl.Model({"w": np.array([1e5, 1e-9], np.float32)}).summary(check=True)
    assert own.splitlines()[1].split()[-2:] == ["1", "1"]
