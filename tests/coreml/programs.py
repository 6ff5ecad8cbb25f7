"""Little ML programs, made with coremltools, and how they are run by tensorlogic.

coremltools is imported once, without its remarks on what only macOS has.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.coreml.interpret import Interpreter
from tensorlogic.coreml.mil.values import DTYPES, Known
from tensorlogic.coreml.package import Package, open_package
from tensorlogic.coreml.program import Block, TensorType
from tensorlogic.coreml.run import Runner
from tensorlogic.dtypes import bool_
from tensorlogic.tensor import Tensor


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what coremltools says while it works: its remarks, and bars of its progress."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


with quiet():
    import coremltools as ct
    from coremltools.converters.mil.backend.mil.load import load
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

gc.freeze()  # coremltools collects garbage at each conversion: not in what stays for ever

Array = NDArray[Any]
OPSETS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
"""Opsets by the iOS that has them; the version of a model's file is 9 less."""
_TYPES = {
    np.dtype(np.float16): types.fp16,
    np.dtype(np.float32): types.fp32,
    np.dtype(np.int32): types.int32,
    np.dtype(np.bool_): types.bool,
}
_OUTSIDE = (types.fp16, types.fp32, types.int32)


def program(build: Callable[..., Any], inputs: Mapping[str, Any], opset: int) -> Any:
    """A MIL program; inputs are given as arrays of their shapes and dtypes, or as specs."""
    specs = [
        mb.TensorSpec(shape=a.shape, dtype=_TYPES[a.dtype]) if isinstance(a, np.ndarray) else a
        for a in inputs.values()
    ]
    keywords = ", ".join(f"{n}={n}" for n in inputs)
    wrapped = eval(f"lambda {', '.join(inputs)}: build({keywords})", {"build": build})
    return mb.program(input_specs=specs, opset_version=OPSETS[opset])(wrapped)


def package(built: Any, opset: int, folder: Path) -> Package:
    """A program written as a package by coremltools, no operation of it changed, and opened."""
    weights = folder / "weights"
    weights.mkdir()
    spec = load(built, weights_dir=str(weights), specification_version=opset - 9)
    path = folder / "model.mlpackage"
    ct.models.utils.save_spec(spec, str(path), weights_dir=str(weights))
    return open_package(path)


def converted(
    module: Any, folder: Path, opset: int = 16, compress: Any = None, **options: Any
) -> Package:
    """A PyTorch module as coremltools converts it, with all that it does to programs.

    compress: done to the model before it is saved. options: inputs, and what else
    `coremltools.convert` takes; the trace has examples of their default shapes.
    """
    import torch

    examples = []
    for kind in options["inputs"]:
        shape = getattr(kind.shape, "default", None) or kind.shape.shape
        whole = getattr(kind, "dtype", None) is types.int32
        examples.append(torch.zeros(*shape, dtype=torch.int32 if whole else torch.float32))
    path = folder / "model.mlpackage"
    with quiet():
        traced = torch.jit.trace(module.eval(), tuple(examples))
        model = ct.convert(
            traced, minimum_deployment_target=OPSETS[opset], skip_model_load=True, **options
        )
        if compress:
            model = compress(model)
        model.save(str(path))
    return open_package(path)


class Checking(Interpreter):
    """Also compares each value with the type that the program claims for it."""

    def run(self, block: Block, values: Mapping[str, Any]) -> dict[str, Any]:
        found = super().run(block, values)
        for operation in block.operations:
            for name, kind in operation.outputs:
                value = found[name]
                if isinstance(kind, TensorType) and isinstance(value, Tensor | Known):
                    _check_claim(operation.op, name, kind, value)
        return found


def _check_claim(op: str, name: str, kind: TensorType, value: Tensor | Known) -> None:
    tensor = value.tensor() if isinstance(value, Known) else value
    mask = kind.dtype == "uint1" and tensor.dtype is bool_
    assert mask or tensor.dtype is DTYPES[kind.dtype], f"{op} {name}: {tensor.dtype}, not {kind}"
    fits = len(kind.shape) == tensor.ndim and all(
        not isinstance(n, int) or n == m for n, m in zip(kind.shape, tensor.shape, strict=True)
    )
    assert fits or "..." in kind.shape, f"{op} {name}: {tensor.shape}, not {kind}"


def runner(opened: Package) -> Runner:
    """A runner that checks what the program claims."""
    assert opened.program is not None
    made = Runner(opened.program, opened.inputs, opened.outputs)
    made._interpreter = Checking()
    return made


def run(
    build: Callable[..., Any],
    inputs: Mapping[str, Array],
    opset: int,
    folder: Path,
    device: str | None = None,
) -> list[Array]:
    """The outputs of a program for its inputs, in the program's order.

    A model has neither inputs nor outputs that are bools or narrow ints: inside they are, outside
    they are int32.
    """
    outside = {n: a.astype(np.int32) if a.dtype == np.bool_ else a for n, a in inputs.items()}

    def inside(**given: Any) -> Any:
        bools = {n: mb.cast(x=v, dtype="bool") for n, v in given.items() if inputs[n].dtype == bool}
        made = build(**{**given, **bools})
        each = made if isinstance(made, tuple | list) else [made]
        return [v if v.dtype in _OUTSIDE else mb.cast(x=v, dtype="int32") for v in each]

    built = program(inside, outside, opset)
    names = [v.name for v in built.functions["main"].outputs]
    found = runner(package(built, opset, folder)).predict(outside, device)
    return [found[name].numpy() for name in names]


def inferred(op: str, arguments: Mapping[str, Any], opset: int) -> list[Array]:
    """What coremltools' own value inference makes of an operation over constants."""
    values: list[Any] = []

    def build() -> Any:
        with np.errstate(all="ignore"):
            made = getattr(mb, op)(**arguments)
        values.extend(made if isinstance(made, tuple | list) else [made])
        return made

    mb.program(input_specs=[], opset_version=OPSETS[opset])(build)
    if any(v.val is None for v in values):
        raise AssertionError(f"coremltools infers no value of {op}; the case needs its own")
    return [np.asarray(v.val) for v in values]
