"""`Model.predict`: which runtime is asked, and with what. Apple's is a stand-in up to the call
of coremltools: that runtime needs a Mac."""

from __future__ import annotations

import platform
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.coreml.builders import Package, multi_array


class StandIn(types.ModuleType):
    """coremltools as far as `predict` uses it: what it is asked is noted."""

    def __init__(self) -> None:
        super().__init__("coremltools")
        self.opened: list[tuple[str, str]] = []
        self.given: list[dict[str, Any]] = []
        self.ComputeUnit = {n: n for n in ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")}
        self.models = types.SimpleNamespace(MLModel=self._model)

    def _model(self, path: str, compute_units: str) -> Any:
        self.opened.append((path, compute_units))

        def predict(values: dict[str, Any]) -> dict[str, Any]:
            self.given.append(values)
            return {"z": np.full((2, 3), 7, np.float32), "label": "cat"}

        return types.SimpleNamespace(predict=predict)


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "coremltools", stand_in)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    return stand_in


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Package().write(tmp_path / "x.mlpackage")


X = np.array([[1, 0, 0, 0], [0, 0, -1, 1]], np.float16)


def test_on_macos_apples_runtime_is_asked(apple: StandIn, package: Path) -> None:
    model = tl.load_model(package)
    assert apple.opened == []
    for units in ("all", "cpu_and_ne", "cpu_and_gpu", "cpu_only", "cpu_only"):
        found = model.predict({"x": tl.tensor(X)}, compute_units=units)
        assert found["z"].tolist() == [[7.0] * 3] * 2
        assert found["z"].dtype is tl.float32
        assert found["label"] == "cat"
    assert apple.opened == [
        (str(package), u) for u in ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
    ]
    for given in apple.given:
        assert isinstance(given["x"], np.ndarray)
        np.testing.assert_array_equal(given["x"], X)


def test_on_macos_a_device_asks_tensorlogic(apple: StandIn, package: Path) -> None:
    (z,) = tl.load_model(package).predict({"x": X}, device="cpu").values()
    assert z.tolist() == [[0, 4, 8], [1, 1, 1]]
    assert apple.opened == []


def test_on_macos_without_coremltools(
    package: Path, apple: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ImportError, match=r"'tensorlogic\[coreml\]', or name a device"):
        tl.load_model(package).predict({"x": X})


def test_images_for_apple_are_those_of_pillow(
    apple: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[np.ndarray[Any, Any]] = []
    pillow = types.ModuleType("PIL")
    pillow.Image = types.SimpleNamespace(fromarray=lambda a, *_: made.append(a) or "image")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PIL", pillow)
    built = Package()
    built.description[0] = (1, [(1, "x"), (3, [(4, [(1, 3), (2, 2), (3, 20)])])])
    model = tl.load_model(built.write(tmp_path / "x.mlpackage"))
    model.predict({"x": np.full((2, 3, 3), 300.4)})
    assert apple.given == [{"x": "image"}]
    assert made[0].dtype == np.uint8
    assert made[0].shape == (2, 3, 3)
    assert made[0].max() == 255
    built.description[0] = (1, [(1, "x"), (3, [(4, [(1, 3), (2, 2), (3, 40)])])])
    tl.load_model(built.write(tmp_path / "y.mlpackage")).predict({"x": np.ones((2, 3))})
    assert made[1].dtype == np.float32


def test_elsewhere_tensorlogic_runs_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    model = tl.load_model(package)
    for device in (None, "cpu", "reference"):
        (z,) = model.predict({"x": X}, compute_units="cpu_and_ne", device=device).values()
        assert z.tolist() == [[0, 4, 8], [1, 1, 1]]


def test_what_predict_does_not_take(package: Path) -> None:
    model = tl.load_model(package)
    with pytest.raises(ValueError, match=r"compute_units is one of 'all', .*not 'ane'"):
        model.predict({"x": X}, compute_units="ane")
    with pytest.raises(TypeError, match="a dict of arrays or tensors by the names 'x'"):
        model.predict(X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the model holds tensors and no program"):
        tl.Model({"w": tl.ones([2])}).predict({"x": X})
    assert tl.Model({}).inputs == tl.Model({}).outputs == ()


def test_inputs_as_text(tmp_path: Path) -> None:
    built = Package()
    sizes = [(1, [(1, 1), (2, -1)]), (1, [(1, 2), (2, 9)])]
    built.description[0] = (1, [(1, "x"), (3, [(5, [(1, b"\2\4"), (2, 65552), (31, sizes)])])])
    built.description.append((10, [(1, "i"), (3, [(4, [(1, 8), (2, 6), (3, 20)])])]))
    built.description.append((10, [(1, "label"), (3, [(3, [])])]))
    shapes = [(21, [(1, [(1, b"\2")]), (1, [(1, b"\3")])])]
    array = [(1, "e"), (3, [(5, [(1, b"\2"), (2, 131104), *shapes])])]
    built.description += [(10, array), (10, multi_array("plain", 3))]
    model = tl.load_model(built.write(tmp_path / "x.mlpackage"))
    assert [str(f) for f in (*model.inputs, *model.outputs)] == [
        "x: float16 [1 on, 2 to 9]",
        "z: float16 [2, 3]",
        "i: rgb image [6, 8]",
        "label: string",
        "e: int32 [2] or [3]",
        "plain: float16 [3]",
    ]


def test_the_command_line_shows_and_converts_it(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorlogic.lang.cli import main

    assert main(["info", str(package)]) == 0
    shown = capsys.readouterr().out
    for text in ("CoreML", "author", "Ada", "inputs\nx: float16 [2, 4]", "outputs\nz: float16"):
        assert text in shown
    target = tmp_path / "x.safetensors"
    assert main(["convert", str(package), str(target)]) == 0
    assert "3 tensors" in capsys.readouterr().out
    again = tl.load_model(target)
    assert again["w"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert again["q"].to(tl.int32).tolist() == [1, 2, 3, 4, 5]


def test_the_text_language_reads_it(package: Path) -> None:
    from tensorlogic import lang

    printed: list[str] = []
    program = """
    let model = load_model(path)
    print(model.names(), model.get_tensor("w").shape, model.metadata.format)
    let x = tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0]])
    let found = model.predict(x: x, device: "cpu")
    print(found["z"])
    """
    lang.run(program, "p.tl", out=printed.append, environment={"path": str(package)})
    assert printed[1] == "[[0., 4., 8.],\n [1., 1., 1.]]"
    assert printed[0] == '["w", "q", "b"] [3, 4] CoreML'
