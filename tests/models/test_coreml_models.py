"""Core ML models out of the package index: basic-pitch beside its ONNX twin, CREPE by its task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import tensorlogic as tl
from tensorlogic.coreml.package import open_package
from tensorlogic.coreml.run import Runner
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings
from tensorlogic.testing.models import fetch
from tests.coreml import programs

Array = NDArray[np.float32]


def runner(path: Path) -> Runner:
    return programs.runner(open_package(path))


# ---- basic-pitch: audio to notes, 43844 samples at 22050 Hz ------------------------------------

SAMPLES = 43844


def sounds() -> dict[str, Array]:
    """Noise, notes and a chirp, with the noise that recordings have: of a pure tone the model takes
    logarithms of rounding errors, and two right ways of computing it differ by up to 2e-3."""
    rng = np.random.default_rng(0)
    time = np.arange(SAMPLES) / 22050
    notes = sum(np.sin(2 * np.pi * f * time) * (time % 0.5 < 0.4) for f in (220.0, 277.2, 329.6))
    chirp = np.sin(2 * np.pi * 220 * time * (1 + time)) * np.exp(-time)
    floor = rng.standard_normal(SAMPLES) * 1e-3
    clips = {"noise": floor * 100, "notes": notes / 3 + floor, "chirp": chirp + floor}
    return {n: c.astype(np.float32).reshape(1, SAMPLES, 1) for n, c in clips.items()}


@pytest.fixture(scope="module")
def basic_pitch() -> Path:
    return fetch("basic-pitch")


@pytest.fixture(scope="module")
def pitch_runner(basic_pitch: Path) -> Runner:
    return runner(basic_pitch)


@pytest.fixture(scope="module")
def twin(basic_pitch: Path) -> onnxruntime.InferenceSession:
    model = str(basic_pitch.parent / "nmp.onnx")
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


ONNX = {
    "Identity": "StatefulPartitionedCall:0",
    "Identity_1": "StatefulPartitionedCall:1",
    "Identity_2": "StatefulPartitionedCall:2",
}
"""The outputs, and what the ONNX twin calls them: contours, notes and onsets."""


@pytest.mark.parametrize("sound", sounds())
def test_basic_pitch(sound: str, pitch_runner: Runner, twin: onnxruntime.InferenceSession) -> None:
    x = sounds()[sound]
    found = pitch_runner.predict({"input_2": x})
    (name,) = [i.name for i in twin.get_inputs()]
    wanted = dict(zip(ONNX, twin.run(list(ONNX.values()), {name: x}), strict=True))
    assert found.keys() == wanted.keys()
    for output, values in wanted.items():
        assert np.abs(found[output].numpy() - values).max() < 1e-3


def test_basic_pitch_tells_sounds_apart(pitch_runner: Runner) -> None:
    """The bound of test_basic_pitch is one that no other sound meets."""
    noise, notes, _ = (pitch_runner.predict({"input_2": x}) for x in sounds().values())
    for output in noise:
        assert np.abs(noise[output].numpy() - notes[output].numpy()).max() > 0.1


# ---- CREPE: pitch of frames of 1024 samples at 16 kHz ------------------------------------------


def frames(frequency: float, count: int = 3) -> Array:
    """Frames of a tone, each with mean 0 and deviation 1."""
    time = np.arange(1024 * count) / 16000
    parts = np.sin(2 * np.pi * frequency * time).reshape(count, 1024)
    normal = (parts - parts.mean(1, keepdims=True)) / parts.std(1, keepdims=True)
    return normal.astype(np.float32)


def pitch(probabilities: Array) -> Array:
    """Hz, from the mean of the 9 bins around the likeliest; bins are 20 cents apart."""
    cents = 1997.3794084376191 + 20 * np.arange(360)
    best = probabilities.argmax(1)
    around = np.abs(np.arange(360) - best[:, None]) <= 4
    weights = probabilities * around
    found: Array = 10 * 2 ** ((weights * cents).sum(1) / weights.sum(1) / 1200)
    return found


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_crepe_finds_the_pitch_of_a_tone(size: str) -> None:
    model = runner(fetch("crepe").parent / f"{size}.mlpackage")
    for frequency, count in ((440.0, 3), (261.6, 1)):
        found = model.predict({"frames": frames(frequency, count)})["probabilities"].numpy()
        assert found.shape == (count, 360)
        assert np.abs(pitch(found.astype(np.float32)) - frequency).max() < 5


# ---- both on a GPU -----------------------------------------------------------------------------

INPUTS = {"basic-pitch": ("input_2", sounds()["chirp"]), "crepe": ("frames", frames(440.0, 2))}


@pytest.mark.parametrize("name", INPUTS)
def test_gpus_store_no_windows(name: str) -> None:
    """What is stored are the results of layers; windows would be tens of times as large."""
    key, x = INPUTS[name]
    results = runner(fetch(name)).predict({key: x}).values()
    steps = schedule(inline_calls([r._node for r in results]), Settings(), GPU).steps
    stored = [n for s in steps for n in s.writes]
    layers = {"basic-pitch": 33 * 172 * 88, "crepe": 2 * 128 * 256}
    assert max(n.size for n in stored) == layers[name]
    assert sum(isinstance(s.kernel, Matmul) and s.kernel.windows for s in steps) >= 3


@pytest.mark.parametrize("name", INPUTS)
def test_as_on_the_cpu(name: str) -> None:
    """In the emulator, where the machine has no Apple GPU."""
    key, x = INPUTS[name]
    model = runner(fetch(name))
    wanted = model.predict({key: x})
    found = model.predict({key: tl.tensor(x, dtype="float32", device="metal")})
    for output, values in wanted.items():
        assert np.abs(found[output].numpy() - values.numpy()).max() < 1e-3
