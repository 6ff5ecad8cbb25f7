"""Little ML programs, made with coremltools, and how they are run by tensorlogic.

coremltools is imported once, without its remarks on what only macOS has.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.package import Package, open_package
from tensorlogic.coreml.run import Runner

logging.disable(logging.WARNING)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types
logging.disable(logging.NOTSET)

Array = NDArray[Any]
OPSETS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
_TYPES = {
    np.dtype(np.float16): types.fp16,
    np.dtype(np.float32): types.fp32,
    np.dtype(np.int32): types.int32,
    np.dtype(np.bool_): types.bool,
}


def program(build: Callable[..., Any], inputs: Mapping[str, Array], opset: int) -> Any:
    """A MIL program whose inputs have the shapes and dtypes of arrays."""
    specs = [mb.TensorSpec(shape=a.shape, dtype=_TYPES[a.dtype]) for a in inputs.values()]
    names = ", ".join(inputs)
    wrapped = eval(f"lambda {names}: build({', '.join(f'{n}={n}' for n in inputs)})", {"build": build})
    return mb.program(input_specs=specs, opset_version=OPSETS[opset])(wrapped)


def package(built: Any, opset: int, path: Path) -> Package:
    """A program written as a package by coremltools, as it is, and opened by tensorlogic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            built,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=OPSETS[opset],
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return open_package(path)


def runner(opened: Package) -> Runner:
    assert opened.program is not None
    return Runner(opened.program, opened.inputs, opened.outputs)
