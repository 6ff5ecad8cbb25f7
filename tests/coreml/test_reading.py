"""Core ML packages and model files as `load_model` shows them, without coremltools."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.coreml.package import open_package
from tensorlogic.coreml.program import TensorType
from tensorlogic.errors import FormatError
from tests.coreml.builders import (
    FP16,
    MODEL,
    WEIGHT_FILE,
    Package,
    Record,
    const,
    encode,
    immediate,
    multi_array,
    named,
    operation,
    stored,
    tensor_type,
    varint,
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Package().write(tmp_path / "small.mlpackage")


def test_what_a_package_says(package: Path) -> None:
    model = tl.load_model(package)
    assert repr(model) == "Model(small.mlpackage: CoreML, 3 tensors)"
    assert model.names() == ["w", "q", "b"]
    assert dict(model.metadata) == {
        "key": "value",
        "author": "Ada",
        "license": "MIT",
        "type": "mlProgram",
        "specification_version": 7,
    }
    assert (model.metadata.format, model.metadata.quantization) == ("CoreML", None)
    (x,), (z,) = model.inputs, model.outputs
    assert (x.name, x.kind, x.dtype, x.shape) == ("x", "multiArray", "float16", (2, 4))
    assert (z.name, z.dtype, z.shape) == ("z", "float16", (2, 3))


def test_tensors_lie_in_the_weight_file(package: Path) -> None:
    model = tl.load_model(package)
    assert model["w"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert model["q"].to(tl.int32).tolist() == [1, 2, 3, 4, 5]
    assert model["b"].dtype is tl.float16
    assert model["b"].tolist() == [1.0, 2.0, 3.0]
    assert model._entries["w"].view().base is not None
    assert [model._entries[n].nbytes for n in model.names()] == [24, 3, 12]
    assert model.summary().splitlines() == [
        "name  shape   dtype    storage  bytes",
        "w     [3, 4]  float16  float16     24",
        "q     [5]     uint8    uint8        3",
        "b     [3]     float16  float32     12",
        "3 tensors, 20 values, 39 bytes",
    ]


def test_a_program_in_order(package: Path) -> None:
    program = open_package(package).program
    assert program is not None
    function = program.functions["main"]
    assert function.inputs == (("x", TensorType("fp16", (2, 4))),)
    assert function.opset == "CoreML6"
    assert [o.op for o in function.block.operations] == ["const"] * 5 + ["linear", "relu"]
    values = {o.outputs[0][0]: o.attributes.get("val") for o in function.block.operations}
    loaded = {n: v.load() for n, v in values.items() if v is not None}
    assert np.array_equal(loaded["axes"], np.array([0, 1], np.int32))
    assert loaded["flag"].dtype == bool
    assert loaded["flag"].shape == ()
    linear = function.block.operations[5]
    assert linear.inputs == {"x": ("x",), "weight": ("w",)}
    assert linear.attributes["name"].load() == "y"
    assert function.block.outputs == ("z",)
    assert linear.where == "function 'main', op 'linear' of 'y'"


def test_it_runs(package: Path) -> None:
    x = np.array([[1, 0, 0, 0], [0, 0, -1, 1]], np.float16)
    (z,) = tl.load_model(package).predict({"x": x}, device="cpu").values()
    assert z.tolist() == [[0, 4, 8], [1, 1, 1]]


def test_flexible_shapes_and_images(tmp_path: Path) -> None:
    ranges = [(1, [(1, 1), (2, -1)]), (1, [(1, 4), (2, 4)])]
    image = [(1, 8), (2, 6), (3, 20)]
    built = Package()
    built.description[0] = (
        1,
        [(1, "x"), (3, [(5, [(1, b"\2\4"), (2, 65552), (31, ranges)]), (1000, 1)])],
    )
    sizes = [(21, [(1, [(1, n), (2, n)]) for n in (3, 9)])]
    built.description[1] = (10, [(1, "z"), (2, "what"), (3, [(4, image + sizes)])])
    model = tl.load_model(built.write(tmp_path / "x.mlpackage"))
    (x,), (z,) = model.inputs, model.outputs
    assert (x.ranges, x.optional) == (((1, -1), (4, 4)), True)
    assert (z.kind, z.shape, z.colour, z.description) == ("image", (6, 8), "rgb", "what")
    assert z.enumerated == ((3, 3), (9, 9))


def test_operations_that_are_missing_are_named_once_the_model_is_loaded(tmp_path: Path) -> None:
    built = Package()
    built.operations["z"] = operation("hover", "z", tensor_type(FP16, 2, 3), x="y")
    folder = built.write(tmp_path / "x.mlpackage")
    with pytest.warns(UserWarning, match=r"x\.mlpackage: .*hover.*z") as caught:
        model = tl.load_model(folder)
    assert caught[0].filename == __file__
    assert model["w"].shape == (3, 4)
    with pytest.raises(tl.MissingOperations, match="hover"):
        model.predict({"x": np.zeros((2, 4), np.float16)}, device="cpu")


def test_a_program_in_a_model_file(tmp_path: Path) -> None:
    built = Package()
    del built.operations["q"]
    kind = tensor_type(FP16, 3, 4)
    values = struct.pack("<12e", *range(12))
    built.operations["w"] = const("w", kind, immediate(kind, 7, values))
    path = tmp_path / "x.mlmodel"
    path.write_bytes(built.message())
    model = tl.load_model(path)
    assert model["w"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert model.names() == ["w", "b"]


def test_a_model_file_has_no_weight_file(tmp_path: Path, package: Path) -> None:
    path = tmp_path / "x.mlmodel"
    shutil.copy(package / MODEL, path)
    with pytest.raises(FormatError, match=r"'@model_path/weights/weight\.bin', which only package"):
        tl.load_model(path)


def test_content_decides_and_damaged_files_say_so(tmp_path: Path) -> None:
    built = Package()
    del built.operations["q"], built.operations["w"], built.operations["y"]
    built.operations["z"] = operation("relu", "z", tensor_type(FP16, 2, 4), x="x")
    (tmp_path / "other").write_bytes(built.message())
    assert tl.load_model(tmp_path / "other").metadata.format == "CoreML"
    (tmp_path / "x.mlmodel").write_bytes(b"\xff" * 20)
    with pytest.raises(FormatError, match=r"x\.mlmodel: model: .*more than 64 bits"):
        tl.load_model(tmp_path / "x.mlmodel")
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(FormatError, match=r"Manifest\.json', which is not there"):
        tl.load_model(tmp_path / "x.mlpackage")


@pytest.mark.parametrize("suffix", [".mlmodelc", ""])
def test_compiled_models_are_refused_with_the_reason(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"x{suffix}"
    folder.mkdir()
    (folder / "coremldata.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"compiled Core ML model .*load the \.mlpackage"):
        tl.load_model(folder)


def test_a_pipeline_shows_the_tensors_of_its_models(tmp_path: Path) -> None:
    layer = [(1, "fc"), (140, [(1, 2), (2, 1), (20, [(1, struct.pack("<2f", 1, 2))])])]
    network = [(1, 4), (2, [(1, multi_array("x", 2))]), (500, [(1, layer)])]
    message = [(1, 4), (2, [(1, multi_array("x", 2))]), (202, [(1, network), (1, network)])]
    path = tmp_path / "x.mlmodel"
    path.write_bytes(encode(message))
    model = tl.load_model(path)
    assert model.metadata["type"] == "pipeline"
    assert {n: t.tolist() for n, t in model.items()} == {
        "0.fc.weights": [[1, 2]],
        "1.fc.weights": [[1, 2]],
    }
    with pytest.raises(FormatError, match="'pipeline' is run on macOS only"):
        model.predict({"x": np.zeros(2, np.float32)}, device="cpu")


def test_layers_whose_sizes_lie_are_refused(tmp_path: Path) -> None:
    def written(**fields: object) -> Path:
        facts = {"into": 2, "out": 1, "values": struct.pack("<2f", 1, 2)} | fields
        weights = [(1, facts["values"])]
        layer = [(1, "fc"), (140, [(1, facts["into"]), (2, facts["out"]), (20, weights)])]
        path = tmp_path / "x.mlmodel"
        path.write_bytes(encode([(1, 4), (2, []), (500, [(1, layer)])]))
        return path

    assert tl.load_model(written())["fc.weights"].shape == (1, 2)
    for fields, expected in (
        ({"into": 3}, r"layer 'fc', weights: has 8 bytes; shape \[1, 3\] takes 12"),
        ({"into": 1 << 62, "out": 1 << 62}, r"'fc', weights: the shape .* claims more than"),
        ({"values": b"\0" * 7}, "has 7 bytes"),
    ):
        with pytest.raises(FormatError, match=expected):
            tl.load_model(written(**fields))


def test_large_integers_are_read_as_they_are(tmp_path: Path) -> None:
    values = [0, 1, -1, 127, 128, 2**31 - 1, -(2**31), 300]
    kind = tensor_type(23, 8)
    built = Package()
    packed = b"".join(map(varint, values))
    built.operations["axes"] = const("axes", kind, immediate(kind, 2, packed))
    program = open_package(built.write(tmp_path / "x.mlpackage")).program
    assert program is not None
    (found,) = (o for o in program.functions["main"].block.operations if o.outputs[0][0] == "axes")
    assert np.array_equal(found.attributes["val"].load(), np.array(values, np.int32))


def test_several_functions(tmp_path: Path) -> None:
    kind = tensor_type(FP16, 2, 4)
    built = Package()
    block = [(3, const("w", kind, stored(kind, WEIGHT_FILE, 320)))]
    block += [(3, operation("add", "z", kind, x="x", y="w")), (2, "z")]
    inner = [(1, named("x", kind)), (2, "CoreML7"), (3, [(1, "CoreML7"), (2, block)])]
    built.functions = [(2, [(1, "other"), (2, inner)])]
    built.weights = (
        built.blob().ljust(320, b"\0") + Record(nbytes=16, start=384).build() + bytes(16)
    )
    described = [(1, "other"), (2, multi_array("x", 2, 4)), (3, multi_array("z", 2, 4))]
    main = [(1, "main"), (2, multi_array("x", 2, 4)), (3, multi_array("z", 2, 3))]
    built.description = [(20, described), (20, main), (21, "main")]
    model = tl.load_model(built.write(tmp_path / "x.mlpackage"))
    assert model.names() == ["w", "q", "b", "other.w"]
    assert model.outputs[0].shape == (2, 3)
    built.description[-1] = (21, "other")
    model = tl.load_model(built.write(tmp_path / "y.mlpackage"))
    assert model.names() == ["w", "main.w", "main.q", "main.b"]
    assert model.outputs[0].shape == (2, 4)
    x = np.ones((2, 4), np.float16)
    assert model.predict(x=x, device="cpu")["z"].tolist() == x.tolist()


def test_coremltools_is_not_needed(package: Path) -> None:
    program = (
        "import sys, numpy as np, tensorlogic as tl; sys.modules['coremltools'] = None;"
        "model = tl.load_model(sys.argv[1]); x = np.ones((2, 4), np.float16);"
        "print(model.names(), model.predict(x=x, device='reference')['z'].tolist())"
    )
    command = [sys.executable, "-c", program, str(package)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "['w', 'q', 'b'] [[6.0, 22.0, 38.0], [6.0, 22.0, 38.0]]\n"
