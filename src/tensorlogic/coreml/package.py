"""Core ML packages: what a manifest names, found inside the package and nowhere else.

A `.mlpackage` is a folder: Manifest.json, and under Data the model's message and its weight files.
A `.mlmodel` is the message alone. Nothing outside of the folder is opened, nothing is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorlogic.coreml.blobs import BlobFile
from tensorlogic.coreml.features import Description, read_description
from tensorlogic.coreml.layers import read_network
from tensorlogic.coreml.program import Feature, Program
from tensorlogic.coreml.reader import read_program
from tensorlogic.coreml.weights import NAMES, Weight, quantization_of, weights_of
from tensorlogic.coreml.wire import Message, Source
from tensorlogic.errors import FormatError
from tensorlogic.formats.base import MappedFile, fault, refuse_impostor
from tensorlogic.formats.safetensors import parse_json

MANIFEST = "Manifest.json"
DATA = "Data"
COMPILED = ".mlmodelc"
MAX_MANIFEST = 1 << 20
MAX_ITEMS = 1 << 10
MAX_WEIGHT_FILES = 1 << 8
_INSIDE = "@model_path/"

_TYPES = {
    200: "pipelineClassifier",
    201: "pipelineRegressor",
    202: "pipeline",
    300: "glmRegressor",
    301: "supportVectorRegressor",
    302: "treeEnsembleRegressor",
    303: "neuralNetworkRegressor",
    304: "bayesianProbitRegressor",
    400: "glmClassifier",
    401: "supportVectorClassifier",
    402: "treeEnsembleClassifier",
    403: "neuralNetworkClassifier",
    404: "kNearestNeighborsClassifier",
    500: "neuralNetwork",
    501: "itemSimilarityRecommender",
    502: "mlProgram",
    555: "customModel",
    556: "linkedModel",
    560: "classConfidenceThresholding",
    600: "oneHotEncoder",
    601: "imputer",
    602: "featureVectorizer",
    603: "dictVectorizer",
    604: "scaler",
    606: "categoricalMapping",
    607: "normalizer",
    609: "arrayFeatureExtractor",
    610: "nonMaximumSuppression",
    900: "identity",
    2000: "textClassifier",
    2001: "wordTagger",
    2002: "visionFeaturePrint",
    2003: "soundAnalysisPreprocessing",
    2004: "gazetteer",
    2005: "wordEmbedding",
    2006: "audioFeaturePrint",
    3000: "serializedModel",
}
_PIPELINES = (200, 201, 202)
_NETWORKS = (303, 403, 500)
_PROGRAM = 502


@dataclass(frozen=True)
class Package:
    """A checked model. `program` is None where it is no ML program; `kind` says what it is.

    `weights` are the tensors by name, `metadata` what the model says of itself.
    """

    path: Path
    kind: str
    program: Program | None
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, Any]
    weights: Mapping[str, Weight]
    quantization: str | None


def open_package(path: Path) -> Package:
    """Reads a `.mlpackage` folder or a `.mlmodel` file. Raises FileNotFoundError, FormatError."""
    if path.is_dir():
        refuse_compiled(path)
        folder = _Folder(path)
        return _read(path, folder.model(), folder)
    return _read(path, _mapped(path), _NoFolder(path))


def _mapped(path: Path) -> MappedFile:
    file = MappedFile(path)
    refuse_impostor(path, file.map[:64])
    return file


def refuse_compiled(path: Path) -> None:
    """Raises FormatError for a compiled model, whose format Apple keeps to itself."""
    if path.suffix == COMPILED or (path / "coremldata.bin").is_file():
        raise FormatError(
            f"{path}: a compiled Core ML model ({COMPILED}) is made for one device and can't be "
            "read; load the .mlpackage or .mlmodel it was compiled from"
        )


@dataclass
class _NoFolder:
    """A model file on its own: its program has no weight files."""

    path: Path

    def array(
        self, message: Message, name: str, offset: int, dtype: str, shape: tuple[int, ...]
    ) -> tuple[MappedFile, int, int]:
        raise message.fault(
            f"lies in the weight file {name!r:.80}, which only packages have; load the whole "
            ".mlpackage"
        )


@dataclass
class _Folder:
    """The files of a package. Each path is checked part by part before it is opened."""

    path: Path
    home: str = ""
    """The folder of the model's message, as the manifest says it."""
    blobs: dict[str, BlobFile] = field(default_factory=dict)

    def model(self) -> MappedFile:
        manifest = self.path / MANIFEST
        where = self._inside(MANIFEST, manifest, "")
        size = where.stat().st_size
        if size > MAX_MANIFEST:
            raise fault(manifest, "", f"has {size} bytes; at most {MAX_MANIFEST} are allowed")
        claims = parse_json(manifest, "", manifest.read_bytes())
        version = claims.get("fileFormatVersion")
        if not isinstance(version, str) or version.split(".")[0] != "1":
            raise fault(manifest, "fileFormatVersion", f"is {version!r:.40}; version 1 is read")
        items = claims.get("itemInfoEntries")
        if not isinstance(items, dict) or len(items) > MAX_ITEMS:
            raise fault(manifest, "itemInfoEntries", f"is no object of up to {MAX_ITEMS} items")
        root = claims.get("rootModelIdentifier")
        if not isinstance(root, str) or root not in items:
            raise fault(manifest, "rootModelIdentifier", f"is {root!r:.80}, which is no item")
        for name, item in items.items():
            where_ = f"item {name!r:.80}"
            inside = item.get("path") if isinstance(item, dict) else None
            if not isinstance(inside, str):
                raise fault(manifest, where_, "has no path")
            found = self._inside(f"{DATA}/{inside}", manifest, where_)
            if name == root:
                if not found.is_file():
                    raise fault(manifest, where_, f"names {inside!r:.80}, which is no file")
                self.home = str(found.parent.relative_to(self.path))
                model = found
        return _mapped(model)

    def _inside(self, name: str, claimant: Path, where: str) -> Path:
        """The path in the package that a text names: of plain parts, without links, and there."""
        parts = name.split("/")
        if any(p in ("", ".", "..") or set(p) & set("\\:\0") for p in parts):
            raise fault(claimant, where, f"names {name!r:.80}, which may lead out of the package")
        at = self.path
        for part in parts:
            at = at / part
            try:
                mode = os.lstat(at).st_mode
            except (OSError, ValueError):
                raise fault(claimant, where, f"names {name!r:.80}, which is not there") from None
            if stat.S_ISLNK(mode):
                raise fault(
                    claimant,
                    where,
                    f"names {name!r:.80}, a symbolic link, which may lead out of the package; "
                    "copy the package with its links resolved (`cp -RL`)",
                )
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise fault(claimant, where, f"names {name!r:.80}, neither a file nor a folder")
        return at

    def array(
        self, message: Message, name: str, offset: int, dtype: str, shape: tuple[int, ...]
    ) -> tuple[MappedFile, int, int]:
        blob = self.blobs.get(name)
        if blob is None:
            blob = self.blobs[name] = self._blob(message, name)
        start, nbytes = blob.array(offset, dtype, shape)
        return blob.file, start, nbytes

    def _blob(self, message: Message, name: str) -> BlobFile:
        if len(self.blobs) >= MAX_WEIGHT_FILES:
            raise message.fault(f"the program has more than {MAX_WEIGHT_FILES} weight files")
        if not name.startswith(_INSIDE):
            raise message.fault(f"names the weight file {name!r:.80}, not {_INSIDE}...")
        inside = f"{self.home}/{name.removeprefix(_INSIDE)}"
        found = self._inside(inside, self.path, message.where)
        if not found.is_file():
            raise message.fault(f"names the weight file {name!r:.80}, which is no file")
        return BlobFile(found)


def _read(path: Path, file: MappedFile, folder: _Folder | _NoFolder) -> Package:
    """The model in a file; `folder` is where its weights are."""
    message = Message(Source(file), (0, file.size), "model")
    version = message.signed(1)
    if version < 1:
        raise message.fault(f"claims specification version {version}; versions begin at 1")
    described = message.message(2)
    if described is None:
        raise message.fault("has no description")
    description = read_description(described)
    number = message.which(*_TYPES)
    if number is None:
        raise message.fault("is of no type that is known")
    program, weights, quantization = _contents(message, number, folder, description)
    metadata = {
        **{k: v for k, v in description.user_defined.items() if k != NAMES},
        **description.metadata,
        "type": _TYPES[number],
        "specification_version": version,
    }
    return Package(
        path,
        _TYPES[number],
        program,
        description.inputs,
        description.outputs,
        metadata,
        weights,
        quantization,
    )


def _contents(
    message: Message, number: int, folder: _Folder | _NoFolder, description: Description
) -> tuple[Program | None, dict[str, Weight], str | None]:
    """The program, if it is one, the tensors, and how most of them are quantized."""
    inner = message.message(number, _TYPES[number])
    assert inner is not None
    if number == _PROGRAM:
        program = read_program(inner, folder, description.function)
        weights = weights_of(message, program, description.user_defined)
        return program, weights, quantization_of(weights)
    weights = {}
    if number in _NETWORKS:
        weights = read_network(inner)
    elif number in _PIPELINES:
        weights = _pipeline(inner if number == 202 else inner.message(1), folder)
    return None, weights, quantization_of(weights)


def _pipeline(message: Message | None, folder: _Folder | _NoFolder) -> dict[str, Weight]:
    """The tensors of all models of a pipeline, each with the number of its model before it."""
    found: dict[str, Weight] = {}
    for k, model in enumerate(message.messages(1) if message else ()):
        model.where = f"model {k} of a pipeline"
        described = model.message(2)
        number = model.which(*_TYPES)
        if described is None or number is None:
            raise model.fault("has no description, or no type that is known")
        _, weights, _ = _contents(model, number, folder, read_description(described))
        found |= {f"{k}.{name}": w.renamed(f"{k}.{name}") for name, w in weights.items()}
    return found
