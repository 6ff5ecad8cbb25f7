"""Running a model: by Apple's runtime on macOS, by tensorlogic everywhere else and on request."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlogic.coreml.program import Feature
from tensorlogic.coreml.tools import coremltools
from tensorlogic.creation import from_numpy
from tensorlogic.errors import FormatError, MissingOperations
from tensorlogic.tensor import Tensor

if TYPE_CHECKING:
    from tensorlogic.coreml.package import Package
    from tensorlogic.coreml.run import Runner

COMPUTE_UNITS = ("all", "cpu_and_ne", "cpu_and_gpu", "cpu_only")


class Predictor:
    """Runs one package. Operations that tensorlogic can't run are named in a warning at once, for
    the weights of such a model can be read all the same, and macOS may run it."""

    def __init__(self, package: Package):
        self.package = package
        self._runner: Runner | None = None
        self._fault: MissingOperations | FormatError | None = None
        self._apple: dict[str, Any] = {}
        if package.program is not None:
            from tensorlogic.coreml.run import Runner

            try:
                self._runner = Runner(package.program, package.inputs, package.outputs)
            except (MissingOperations, FormatError) as error:
                self._fault = type(error)(f"{package.path}: {error}")
                warnings.warn(str(self._fault), stacklevel=4)

    def predict(
        self, values: Mapping[str, Any], compute_units: str, device: str | None
    ) -> dict[str, Any]:
        if compute_units not in COMPUTE_UNITS:
            known = ", ".join(map(repr, COMPUTE_UNITS))
            raise ValueError(f"predict: compute_units is one of {known}, not {compute_units!r}")
        if not isinstance(values, Mapping):
            names = ", ".join(repr(f.name) for f in self.package.inputs)
            raise TypeError(f"predict takes a dict of arrays or tensors by the names {names}")
        if device is None and platform.system() == "Darwin":
            return self._by_apple(values, compute_units)
        if self._fault is not None:
            raise self._fault
        if self._runner is None:
            raise FormatError(
                f"{self.package.path}: a Core ML model of the kind {self.package.kind!r} is run "
                "on macOS only; elsewhere ML programs are run"
            )
        return self._runner.predict(values, device)

    def _by_apple(self, values: Mapping[str, Any], compute_units: str) -> dict[str, Any]:
        tools = coremltools("predict by Apple's runtime", "or name a device: predict(..., device=)")
        model = self._apple.get(compute_units)
        if model is None:
            unit = tools.ComputeUnit[compute_units.upper()]
            model = tools.models.MLModel(str(self.package.path), compute_units=unit)
            self._apple[compute_units] = model
        kinds = {f.name: f for f in self.package.inputs}
        given = {name: _for_apple(value, kinds.get(name)) for name, value in values.items()}
        return {name: _from_apple(value) for name, value in model.predict(given).items()}


def _for_apple(value: Any, feature: Feature | None) -> Any:
    """An array; for an image that Pillow makes of one, [H, W] or [H, W, 3], 0 to 255."""
    array = value.numpy() if isinstance(value, Tensor) else value
    if feature is None or feature.kind != "image" or not isinstance(array, np.ndarray):
        return array
    from PIL import Image

    if feature.colour == "grayscale16":
        return Image.fromarray(array.astype(np.float32), "F")
    return Image.fromarray(np.clip(np.rint(array), 0, 255).astype(np.uint8))


def _from_apple(value: Any) -> Any:
    return from_numpy(value) if isinstance(value, np.ndarray) else value
