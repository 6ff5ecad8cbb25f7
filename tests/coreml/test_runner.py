"""What a runner does with a program as a whole: shapes, inputs, graphs, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensorlogic as tl
from tensorlogic.coreml.program import (
    Block,
    Feature,
    Function,
    Operation,
    Program,
    TensorType,
)
from tensorlogic.coreml.run import Runner
from tests.coreml.programs import Array, converted, ct, mb, package, program, runner


def made(build: Any, inputs: dict[str, Any], folder: Path, opset: int = 16) -> Runner:
    return runner(package(program(build, inputs, opset), opset, folder))


def normal(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


class Halves(torch.nn.Module):
    """x [N, 6] in two halves side by side, scaled by how many rows there are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        parts = x.reshape(2, rows // 2, 6)
        return torch.cat([parts[0], parts[1]], 1) * rows


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    shape = ct.Shape((ct.RangeDim(2, 8, default=4), 6))
    options = {
        "inputs": [ct.TensorType("x", shape)],
        "outputs": [ct.TensorType("out")],
        "compute_precision": ct.precision.FLOAT32,
    }
    return runner(converted(Halves(), tmp_path_factory.mktemp("halves"), **options))


def test_sizes_that_operations_compute_are_numbers(halves: Runner) -> None:
    for rows in (2, 4, 8):
        x = normal(rows, 6)
        found = halves.predict({"x": x})["out"].numpy()
        np.testing.assert_array_equal(found, np.hstack([x[: rows // 2], x[rows // 2 :]]) * rows)


def test_a_shape_is_recorded_once(halves: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    halves.predict({"x": normal(4, 6)})
    monkeypatch.setattr(halves._interpreter, "run", None)
    x = normal(4, 6) + 1
    found = halves.predict({"x": x})["out"].numpy()
    np.testing.assert_array_equal(found, np.hstack([x[:2], x[2:]]) * 4)


def test_shapes_that_the_model_does_not_take(halves: Runner) -> None:
    with pytest.raises(
        tl.ShapeError, match=r"input 'x' has shape \[10, 6\]; .* takes \[2 to 8, 6\]"
    ):
        halves.predict({"x": normal(10, 6)})
    with pytest.raises(tl.ShapeError, match=r"input 'x' has shape \[4, 5\]"):
        halves.predict({"x": normal(4, 5)})
    with pytest.raises(tl.ShapeError, match=r"input 'x' has shape \[6\]"):
        halves.predict({"x": normal(6)})


def test_inputs_that_are_missing_or_unknown(halves: Runner) -> None:
    with pytest.raises(TypeError, match="input 'x' is missing; the model takes x"):
        halves.predict({})
    with pytest.raises(TypeError, match="there is no input 'y'; the model takes x"):
        halves.predict({"x": normal(4, 6), "y": normal(1)})
    with pytest.raises(tl.DTypeError, match="input 'x': numbers are taken"):
        halves.predict({"x": np.array([["a"] * 6] * 4)})


def test_tensors_lists_and_other_dtypes_are_taken(halves: Runner) -> None:
    x = np.arange(12).reshape(2, 6)
    wanted = halves.predict({"x": x.astype(np.float32)})["out"].numpy()
    for given in (x, x.tolist(), tl.tensor(x, tl.float16), tl.tensor(x, tl.int32)):
        np.testing.assert_array_equal(halves.predict({"x": given})["out"].numpy(), wanted)


def test_devices_agree_and_are_kept(halves: Runner) -> None:
    x = normal(4, 6)
    on_reference = halves.predict({"x": x}, device="reference")["out"]
    assert on_reference.device == "reference"
    np.testing.assert_array_equal(on_reference.numpy(), halves.predict({"x": x})["out"].numpy())


@pytest.mark.parametrize("device", [None, "reference"])
def test_within_a_function_a_model_is_recorded_with_it(
    halves: Runner, device: str | None, tmp_path: Path
) -> None:
    options = {
        "inputs": [ct.TensorType("x", (4, 12))],
        "outputs": [ct.TensorType("out")],
        "compute_precision": ct.precision.FLOAT32,
    }
    layer = runner(converted(torch.nn.Linear(12, 3), tmp_path, **options))

    @tl.function
    def both(x: Any) -> Any:
        wide = tl.concat([halves.predict({"x": x})["out"]] * 2, 0)
        return layer.predict({"x": wide})["out"] * 2

    x = normal(4, 6)
    rows = halves.predict({"x": x})["out"].numpy()
    wanted = layer.predict({"x": np.concatenate([rows, rows])})["out"].numpy() * 2
    for _ in range(2):
        found = both(tl.tensor(x, tl.float32, device))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert both.traces == 1


def test_what_depends_on_values_is_recorded_at_each_call(tmp_path: Path) -> None:
    def build(x: Any, n: Any) -> Any:
        end = mb.concat(values=[n, [3]], axis=0)
        return mb.reduce_sum(x=mb.slice_by_index(x=x, begin=[0, 0], end=end), axes=[0], name="out")

    model = made(build, {"x": normal(5, 3), "n": np.array([1], np.int32)}, tmp_path)
    x = normal(5, 3)
    for n in (1, 4, 2):
        found = model.predict({"x": x, "n": [n]})["out"].numpy()
        np.testing.assert_allclose(found, x[:n].sum(0), rtol=1e-5)


def test_cond_takes_the_branch_of_its_value(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        large = mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0))
        return mb.cond(
            pred=large, _true_fn=lambda: mb.exp(x=x), _false_fn=lambda: mb.abs(x=x), name="out"
        )

    model = made(build, {"x": normal(3)}, tmp_path)
    for x in (np.array([1, 2, -1], np.float32), np.array([-1, -2, 1], np.float32)):
        wanted = np.exp(x) if x.sum() > 0 else np.abs(x)
        np.testing.assert_allclose(model.predict({"x": x})["out"].numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [7, 8, 9]])
def test_classifiers_give_labels_and_probabilities(labels: list[Any], tmp_path: Path) -> None:
    options = {
        "inputs": [ct.TensorType("x", (1, 3))],
        "classifier_config": ct.ClassifierConfig(labels),
        "compute_precision": ct.precision.FLOAT32,
    }
    opened = converted(torch.nn.Softmax(-1), tmp_path, **options)
    model = runner(opened)
    for x in (np.array([[0, 2, 1]], np.float32), np.array([[5, 2, 1]], np.float32)):
        label, probabilities = model.predict({"x": x}).values()
        assert label == labels[int(x.argmax())]
        wanted = dict(zip(labels, (np.exp(x[0]) / np.exp(x).sum()).tolist(), strict=True))
        assert probabilities == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("colour", ["rgb", "bgr", "grayscale"])
def test_images_are_laid_out_as_the_program_has_them(colour: str) -> None:
    channels = 1 if colour == "grayscale" else 3
    function = program(lambda x: mb.identity(x=x, name="out"), {"x": normal(1, channels, 4, 5)}, 16)
    assert function is not None
    image = np.random.default_rng(0).integers(0, 256, (4, 5, channels)).astype(np.uint8)
    feature = Feature("x", "image", shape=(4, 5), colour=colour)
    model = _identity(feature, (1, channels, 4, 5))
    planes = image.transpose(2, 0, 1)[None].astype(np.float32)
    if colour == "bgr":
        planes = planes[:, ::-1]
    given = image[:, :, 0] if channels == 1 else image
    np.testing.assert_array_equal(model.predict({"x": given})["out"].numpy(), planes)
    np.testing.assert_array_equal(model.predict({"x": planes})["out"].numpy(), planes)
    with pytest.raises(tl.ShapeError, match=r"input 'x': an image is \[H, W"):
        model.predict({"x": np.zeros((4, 5, 2))})
    with pytest.raises(tl.ShapeError, match=r"has shape \[1, \d, 3, 5\]"):
        model.predict({"x": given[:3]})


def _identity(feature: Feature, shape: tuple[int, ...]) -> Runner:
    kind = TensorType("fp32", shape)
    operation = Operation("identity", {"x": ("x",)}, (("out", kind),))
    function = Function((("x", kind),), "CoreML6", Block((), ("out",), (operation,)))
    return Runner(Program(1, {"main": function}), (feature,), ())


def test_enumerated_shapes() -> None:
    feature = Feature("x", "multiArray", "float32", (1, 4), enumerated=((1, 4), (2, 8)))
    model = _identity(feature, ("a", "b"))  # type: ignore[arg-type]
    assert model.predict({"x": normal(2, 8)})["out"].shape == (2, 8)
    with pytest.raises(tl.ShapeError, match=r"takes \[1, 4\] or \[2, 8\]"):
        model.predict({"x": normal(2, 4)})


def test_missing_operations_are_named_with_their_outputs() -> None:
    kind = TensorType("fp32", (2,))
    steps = (
        Operation("relu", {"x": ("x",)}, (("y", kind),)),
        Operation("read_state", {"input": ("x",)}, (("kept", kind),)),
        Operation("fly", {"x": ("y",)}, (("out", kind),)),
    )
    function = Function((("x", kind),), "CoreML8", Block((), ("out",), steps))
    wanted = r'does not run: read_state \(output "kept"\), fly \(output "out"\)$'
    with pytest.raises(tl.MissingOperations, match=wanted):
        Runner(Program(1, {"main": function}), (), ())


def test_loops_are_unrolled_and_fill_lists(tmp_path: Path) -> None:
    """Of rows of x, their running sums, as many as a size says."""

    def build(x: Any) -> Any:
        count = mb.gather(x=mb.shape(x=x), indices=0)
        rows = mb.make_list(init_length=1, dynamic_length=True, elem_shape=(3,))

        def more(i: Any, rows: Any, total: Any) -> Any:
            return mb.less(x=i, y=count)

        def turn(i: Any, rows: Any, total: Any) -> Any:
            total = mb.add(x=total, y=mb.gather(x=x, indices=i, axis=0))
            rows = mb.list_write(ls=rows, index=i, value=total)
            return mb.add(x=i, y=1), rows, total

        start = (np.int32(0), rows, np.zeros(3, np.float32))
        _, filled, _ = mb.while_loop(_cond=more, _body=turn, loop_vars=start)
        last = mb.list_read(ls=filled, index=mb.sub(x=mb.list_length(ls=filled), y=1))
        places = mb.range_1d(start=0, end=count, step=1)
        filled = mb.list_scatter(ls=filled, indices=np.int32([1]), value=np.zeros((1, 3), "f4"))
        return mb.identity(x=mb.list_gather(ls=filled, indices=places), name="all"), last

    model = made(build, {"x": normal(4, 3)}, tmp_path)
    x = normal(4, 3)
    found, last = (v.numpy() for v in model.predict({"x": x}).values())
    np.testing.assert_allclose(found, x.cumsum(0) * [[1], [0], [1], [1]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, x.sum(0), rtol=1e-5, atol=1e-6)


def test_a_loop_whose_turns_depend_on_values(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        def more(a: Any) -> Any:
            return mb.less(x=mb.reduce_sum(x=a), y=np.float32(10))

        return mb.while_loop(
            _cond=more, _body=lambda a: mb.add(x=a, y=np.float32(1)), loop_vars=(x,), name="out"
        )

    model = made(build, {"x": normal(3)}, tmp_path)
    for start, turns in ((0.0, 4), (3.0, 1), (4.0, 0)):
        (found,) = model.predict({"x": [start] * 3}).values()
        np.testing.assert_array_equal(found.numpy(), [start + turns] * 3)


def test_an_error_says_which_operation_it_is_of(tmp_path: Path) -> None:
    def build(x: Any, n: Any) -> Any:
        return mb.reshape(x=x, shape=n, name="out")

    model = made(build, {"x": normal(3), "n": np.array([1, 3], np.int32)}, tmp_path)
    with pytest.raises(tl.ShapeError) as caught:
        model.predict({"x": normal(3), "n": [2, 2]})
    assert 'in operation reshape (output "out") of the program' in caught.value.__notes__


def test_inputs_of_no_known_name_are_refused() -> None:
    kind = TensorType("fp32", (2,))
    for given, fault in (
        ({"x": ("x",), "z": ("x",)}, "has an input 'z'"),
        ({}, "lacks its input 'x'"),
    ):
        operation = Operation("relu", given, (("out", kind),))
        function = Function((("x", kind),), "CoreML6", Block((), ("out",), (operation,)))
        with pytest.raises(tl.FormatError, match=fault):
            Runner(Program(1, {"main": function}), (), ())
