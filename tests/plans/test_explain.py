"""`explain`: a text for each stage and device, and the same texts by an environment variable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tensorlogic as tl


def result() -> tl.Tensor:
    return tl.softmax(tl.ones([2, 3]) * 2)


@pytest.mark.parametrize(
    ("stage", "device", "expected"),
    [
        ("graph", None, "= exp(%"),
        ("schedule", None, "2 rows of"),
        ("kernels", None, "parallel for r in 0 .."),
        ("source", "cpu", "define void @k"),
        ("source", "gpu", "define void @k"),
        ("source", "metal", "#include <metal_stdlib>"),
        ("source", "cuda", "__global__"),
        ("source", "reference", "runs op by op"),
    ],
)
def test_each_stage_has_a_text(stage: str, device: str | None, expected: str) -> None:
    assert expected in result().explain(stage, device)


def test_a_function_is_explained_with_its_body() -> None:
    double = tl.function(lambda x: x * 2 + 1)
    assert "mul(" in double(tl.ones([2])).explain("graph")


def test_what_is_computed_has_nothing_to_explain() -> None:
    y = result()
    y.numpy()
    assert "leaf float16" in y.explain("graph")
    assert y.explain("kernels") == "nothing to compute: the values are there\n"


def test_wrong_stages_and_devices() -> None:
    with pytest.raises(ValueError, match="a stage is one of graph, schedule, kernels, source"):
        result().explain("machine code")
    with pytest.raises(tl.DeviceError, match="unknown device 'tpu'"):
        result().explain("source", "tpu")


def test_the_environment_variable_prints_the_same_texts() -> None:
    program = "import tensorlogic as tl; print((tl.ones([2]) + 1).tolist())"
    for level, seen in enumerate(["add(", "rows of", "kernel(", "define void"], start=1):
        environment = {**os.environ, "TENSORLOGIC_DEBUG": str(level)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[2.0, 2.0]\n"
        assert seen in done.stderr
    assert "define void" in done.stderr
