"""Writes a function as a Core ML package: the program, its weights, its names and metadata."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorlogic.coreml.export.emitter import NAMES as DTYPE_NAMES
from tensorlogic.coreml.export.emitter import Emitter, emit
from tensorlogic.coreml.export.graphs import Graph, trace
from tensorlogic.coreml.features import FACTS
from tensorlogic.coreml.tools import coremltools
from tensorlogic.coreml.weights import NAMES
from tensorlogic.dtypes import float16, float32, int32
from tensorlogic.errors import FormatError

SUFFIX = ".mlpackage"


def save_package(
    fn: Callable[..., Any],
    path: Path,
    inputs: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """Traces `fn`, exports it as an ML program for iOS 16, macOS 13 and later, and writes it."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise FormatError(f"{path}: metadata {key!r}: is {value!r:.40}; Core ML holds strings")
    tools = coremltools("save a Core ML package")
    graph = trace(fn, inputs)
    with _quiet():
        emitter, program = _program(graph, tools)
        model = tools.convert(
            program,
            convert_to="mlprogram",
            pass_pipeline=tools.PassPipeline.EMPTY,
            minimum_deployment_target=tools.target.iOS16,
            skip_model_load=True,
        )
        for key, value in metadata.items():
            if key in FACTS:
                setattr(model, key, value)
            else:
                model.user_defined_metadata[key] = value
        model.user_defined_metadata[NAMES] = json.dumps(emitter.names, ensure_ascii=False)
        with _replacing(path) as temporary:
            model.save(str(temporary))


def _program(graph: Graph, tools: Any) -> tuple[Emitter, Any]:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, Program, types

    kinds = {name: getattr(types, mil) for name, mil in DTYPE_NAMES.items()}
    emitter = Emitter(graph, Builder)
    placeholders = {}
    for name, node in graph.inputs.items():
        if node.dtype not in (float16, float32, int32) or not node.shape:
            raise FormatError(
                f"save_model: input {name!r} is {node.dtype} {list(node.shape)}; inputs of Core ML "
                "are float16, float32 or int32, with at least one axis"
            )
        made = emitter.name(name)
        placeholders[made] = Builder.placeholder(shape=node.shape, dtype=kinds[node.dtype])
    named = {name: emitter.name(name) for name in graph.outputs}
    for name, made in named.items():
        if made in graph.inputs or name in graph.inputs:
            raise FormatError(f"save_model: {name!r} is the name of an input and of an output")
        kind, shape = graph.outputs[name].dtype, graph.outputs[name].shape
        if kind not in (float16, float32, int32) or not shape:
            raise FormatError(
                f"save_model: output {name!r} is {kind} {list(shape)}; outputs of Core ML are "
                "float16, float32 or int32, with at least one axis"
            )
    program = Program()
    with Function(placeholders, opset_version=tools.target.iOS16) as function:
        for made, node in zip(placeholders, graph.inputs.values(), strict=True):
            emitter.give(node, function.inputs[made])
        results = emit(graph, emitter)
        function.set_outputs(
            [Builder.identity(x=var, name=named[name]) for name, var in results.items()]
        )
    program.add_function("main", function)
    return emitter, program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and warnings of coremltools."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` once it is complete and on the disk."""
    target = Path(os.path.realpath(path))
    token = secrets.token_hex(6)
    temporary = target.with_name(f".{target.name}.{token}{SUFFIX}")
    old = target.with_name(f".{target.name}.{token}.old")
    try:
        yield temporary
        _settle(temporary)
        there = os.path.lexists(target)
        if there:
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except BaseException:
            if there:
                os.rename(old, target)
            raise
    finally:
        for rest in (temporary, old):
            if rest.is_dir():
                shutil.rmtree(rest)
            elif rest.exists():
                rest.unlink()
    _sync(target.parent)


def _settle(folder: Path) -> None:
    """Everything in a folder is on the disk, with the permissions that the umask gives."""
    mask = os.umask(0)
    os.umask(mask)
    for at, _, files in os.walk(folder):
        os.chmod(at, 0o777 & ~mask)
        for name in files:
            file = Path(at) / name
            os.chmod(file, 0o666 & ~mask)
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        _sync(Path(at))


def _sync(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
