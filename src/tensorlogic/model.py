"""Models: named tensors, from a file or from a program, and the way back into a file."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import formats
from tensorlogic.coreml.predict import Predictor
from tensorlogic.coreml.program import Feature
from tensorlogic.creation import from_numpy, from_storage
from tensorlogic.dtypes import DTYPES, FLOAT16_MAX
from tensorlogic.errors import DTypeError, FormatError, TensorNotFoundError
from tensorlogic.formats import safetensors
from tensorlogic.formats.base import Parsed, Stored
from tensorlogic.gate import check_on_overflow
from tensorlogic.quants import QUANTS, dequantize
from tensorlogic.tensor import Tensor

GATED = ("float32", "float64", "bfloat16")
"""Storage dtypes of files that become float16, through the overflow gate."""
_CHUNK = 1 << 20
"""Values scanned at a time."""


class Metadata(Mapping[str, Any]):
    """What a file says about its model: a mapping of its own keys, and three facts.

    format: "SafeTensors", "GGUF" or "CoreML", None for tensors that were never in a file.
    quantization: such as "Q4_1" or "lut4", or None. architecture: such as "llama", or None.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        format: str | None = None,
        quantization: str | None = None,
        architecture: str | None = None,
    ):
        self._values = values
        self.format = format
        self.quantization = quantization
        self.architecture = architecture

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        facts = f"format={self.format!r}, quantization={self.quantization!r}"
        return f"Metadata({facts}, architecture={self.architecture!r}, {len(self)} keys)"


class Model(Mapping[str, Tensor]):
    """Tensors by name. `Model({...})` takes tensors and arrays; `load_model` opens a file.

    A Core ML model has `inputs` and `outputs` too, and runs (`predict`).

    >>> import tensorlogic as tl
    >>> model = tl.Model({"w": tl.ones([2, 3]), "b": tl.zeros([3])})
    >>> model.names(), model["b"].shape
    (['w', 'b'], (3,))
    """

    def __init__(self, tensors: Mapping[str, Any]):
        self.metadata = Metadata({})
        self._source = "the model"
        self._entries: Mapping[str, Stored] = {}
        self._on_overflow = "raise"
        self._predictor: Predictor | None = None
        self._tensors: dict[str, Tensor] = {}
        for name, value in tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"Model: the name of a tensor is a string, not {name!r}")
            self._tensors[name] = _as_tensor(name, value)
        self._names = list(self._tensors)

    @classmethod
    def _of_file(cls, parsed: Parsed, on_overflow: str) -> Model:
        model = cls({})
        model.metadata = Metadata(
            parsed.metadata, parsed.format, parsed.quantization, parsed.architecture
        )
        model._source = parsed.path.name or str(parsed.path)
        model._entries = parsed.entries
        model._on_overflow = check_on_overflow(on_overflow)
        model._names = list(parsed.entries)
        if parsed.package is not None:
            model._predictor = Predictor(parsed.package)
        return model

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """What a Core ML model takes: name, kind, dtype and shape of each input."""
        return self._predictor.package.inputs if self._predictor else ()

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """What a Core ML model gives: name, kind, dtype and shape of each output."""
        return self._predictor.package.outputs if self._predictor else ()

    def predict(
        self,
        values: Mapping[str, Any] | None = None,
        compute_units: str = "all",
        device: str | None = None,
        **named: Any,
    ) -> dict[str, Any]:
        """Run a Core ML model: arrays or tensors by the name of the input, in a dict or as keyword
        arguments, to tensors by the name of the output (labels and probabilities of a classifier
        are a value and a dict).

        On macOS, Apple's runtime runs it (extra `coreml`); compute_units: "all", "cpu_and_ne",
        "cpu_and_gpu" or "cpu_only" say where. Elsewhere, and wherever a device is named ("cpu",
        "metal", "cuda"), its operations are computed by tensorlogic. Raises TypeError for a model
        that is no program, ShapeError or DTypeError for values that do not fit its inputs.
        """
        if self._predictor is None:
            raise TypeError(
                f"predict: {self._source} holds tensors and no program; a Core ML model has one"
            )
        if values is None or named:
            values = {**(values or {}), **named}
        return self._predictor.predict(values, compute_units, device)

    def get_tensor(self, name: str) -> Tensor:
        """The tensor of that name; the same object each time.

        float16 and quantized tensors lie in the file; F32, F64 and BF16 are converted to float16
        when they are used. Raises TensorNotFoundError, and FormatError for a type not supported.

        >>> import tensorlogic as tl
        >>> tl.Model({"weight": tl.ones([2])}).get_tensor("wieght")
        Traceback (most recent call last):
        tensorlogic.errors.TensorNotFoundError: no tensor 'wieght' in the model; close: 'weight'
        """
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors.setdefault(name, self._open(name))
        return found

    def _open(self, name: str) -> Tensor:
        """A tensor over the file, not kept: its converted values live as long as it does."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._not_found(name)
        if entry.storage not in DTYPES and entry.storage not in QUANTS:
            known = ", ".join(QUANTS)
            raise FormatError(
                f"{entry.file.path}: tensor {name!r}: its type {entry.storage} is not supported "
                f"yet; the quantized types are {known}"
            )
        tensor = from_storage(entry.view(), entry.shape, entry.storage, name)
        return tensor.to("float16", self._on_overflow) if entry.storage in GATED else tensor

    def _not_found(self, name: str) -> TensorNotFoundError:
        hint = ""
        if isinstance(name, str):
            close = difflib.get_close_matches(name, _candidates(name, self._names), 3)
            hint = f"; close: {', '.join(map(repr, close))}" if close else ""
        if not hint:
            first = ", ".join(repr(n) for n in self._names[:3])
            hint = f"; it has {len(self._names)} tensors" + (
                f", the first: {first}" if first else ""
            )
        return TensorNotFoundError(f"no tensor {name!r} in {self._source}{hint}")

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the file."""
        return list(self._names)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._tensors

    __eq__ = object.__eq__  # Mapping's would compare tensors, whose == is elementwise
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        facts = (self.metadata.format, self.metadata.architecture, self.metadata.quantization)
        known = ", ".join(f for f in facts if f)
        return f"Model({self._source}: {known}{', ' if known else ''}{len(self)} tensors)"

    def summary(self, check: bool = False) -> str:
        """A table of all tensors: name, shape, dtype, storage, bytes; and their totals.

        check=True reads every value and counts those beyond ±65504 and those that are not zero but
        would be in float16.

        >>> import tensorlogic as tl
        >>> print(tl.Model({"w": tl.ones([2, 3])}).summary())
        name  shape   dtype    storage  bytes
        w     [2, 3]  float16  float16     12
        1 tensor, 6 values, 12 bytes
        """
        head = ["name", "shape", "dtype", "storage", "bytes"]
        rows, values, nbytes = [], 0, 0
        for name in self._names:
            shape, dtype, storage, size = self._facts(name)
            row = [name, str(list(shape)), dtype, storage, f"{size:,}"]
            if check:
                row += [f"{n:,}" for n in self._count(name)]
            rows.append(row)
            values += prod(shape)
            nbytes += size
        if check:
            head += ["beyond ±65504", "to zero"]
        count = "1 tensor" if len(rows) == 1 else f"{len(rows):,} tensors"
        return f"{_table(head, rows)}\n{count}, {values:,} values, {nbytes:,} bytes"

    def _facts(self, name: str) -> tuple[tuple[int, ...], str, str, int]:
        """Shape, dtype, storage and bytes, without opening the tensor."""
        entry = self._entries.get(name)
        if entry is None:
            tensor = self._tensors[name]
            return tensor.shape, tensor.dtype.name, tensor.storage, tensor.nbytes
        if entry.storage in GATED:
            dtype = "float16" if self._on_overflow != "float32" else "float16 or float32"
        else:
            dtype = entry.storage if entry.storage in DTYPES else "float16"
        return entry.shape, dtype, entry.storage, entry.nbytes

    def _count(self, name: str) -> tuple[int, int]:
        """How many values float16 cannot hold, and how many it would flush to zero."""
        entry = self._entries.get(name)
        if entry is None:
            array = self._tensors[name].numpy().reshape(-1)
            parts: Iterable[NDArray[Any]] = (
                array[i : i + _CHUNK] for i in range(0, array.size, _CHUNK)
            )
        else:
            parts = _chunks(entry)
        beyond = zero = 0
        for part in parts:
            if part.dtype.kind not in "fV" or part.dtype == np.float16:
                continue
            wide = part if part.dtype.kind == "f" else part.astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                beyond += int(np.count_nonzero((np.abs(wide) > FLOAT16_MAX) & np.isfinite(wide)))
                zero += int(np.count_nonzero((wide != 0) & (wide.astype(np.float16) == 0)))
        return beyond, zero


def load_model(path: str | os.PathLike[str], on_overflow: str = "raise") -> Model:
    """Opens a SafeTensors, GGUF or Core ML file or folder by its content. Maps, does not read.

    on_overflow: what becomes of F32, F64 and BF16 values beyond ±65504 on their way to float16:
    "raise" (a RangeError when they are used), "saturate", "inf", or "float32" (such a tensor stays
    float32). Raises FileNotFoundError, and FormatError for a file that is damaged or unknown.

    >>> import tensorlogic as tl
    >>> load_model("missing.gguf")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'missing.gguf'
    """
    check_on_overflow(on_overflow)
    return Model._of_file(formats.read(Path(path)), on_overflow)


def save_model(
    model: Mapping[str, Any] | Callable[..., Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[str], object] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Writes the tensors of a model, or of a mapping, as a SafeTensors file, all or nothing; or a
    function as a Core ML package.

    Storage dtypes are saved as they are, byte for byte; quantized tensors as float16. The file
    replaces `path` when it is complete, so that a model may be saved over its own file. metadata
    defaults to what the model's SafeTensors file had, else to {"format": "pt"}. progress: called
    with the name of each tensor when its turn to be written has come.

    A path that ends in .mlpackage takes a function, which is traced for `inputs`, such as
    `{"x": tl.float16[1, 64]}`, and written with the tensors that it uses (extra `coreml`).
    metadata: "author", "license", "version", "short_description", and keys of your own. Raises
    FormatError for an op that a Core ML program can't say.

    >>> import tempfile, tensorlogic as tl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tl.save_model({"w": tl.ones([2, 3])}, f"{folder}/w.safetensors")
    ...     tl.load_model(f"{folder}/w.safetensors")["w"].shape
    (2, 3)
    """
    target = Path(path)
    if target.suffix == ".mlpackage":
        return _save_program(model, target, inputs, metadata)
    if not isinstance(model, Mapping):
        raise TypeError(
            f"save_model takes a model, or a mapping such as {{'weight': x}}, and a path; "
            f"the first argument is of type {type(model).__name__}"
        )
    _check_folder(target)
    if target.suffix != ".safetensors":
        raise FormatError(f"{target}: models are saved as .safetensors, not as {target.suffix!r}")
    source = model if isinstance(model, Model) else Model(model)
    if metadata is None:
        metadata = {"format": "pt"}
        if source.metadata.format == "SafeTensors":
            metadata = {k: v for k, v in source.metadata.items() if isinstance(v, str)}
    records = (_record(source, name, progress) for name in source.names())
    safetensors.write(target, records, metadata)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))


def _save_program(
    fn: Any, target: Path, inputs: Mapping[str, Any] | None, metadata: Mapping[str, str] | None
) -> None:
    from tensorlogic.coreml.export.save import save_package

    if isinstance(fn, Mapping) or not callable(fn):
        raise TypeError(
            "save_model: a Core ML package holds a program: give the function that computes with "
            f"the tensors, and inputs={{'x': tl.float16[1, 64]}}, not {type(fn).__name__}"
        )
    if not isinstance(inputs, Mapping):
        raise TypeError(
            "save_model: inputs= says what the function takes, such as {'x': tl.float16[1, 64]}"
        )
    _check_folder(target)
    save_package(fn, target, inputs, metadata or {})


def _record(
    model: Model, name: str, progress: Callable[[str], object] | None
) -> safetensors.Record:
    """How to write a tensor. One that is opened for this alone is dropped with its values."""
    kept = model._tensors.get(name)
    tensor = (model._open(name) if kept is None else kept).dequantize()

    def values() -> NDArray[Any]:
        if progress is not None:
            progress(name)
        return tensor.numpy()

    return safetensors.Record(name, tensor.shape, tensor.dtype.name, values)


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return from_numpy(value)
    if hasattr(value, "__array__"):
        return from_numpy(np.asarray(value))
    raise DTypeError(f"Model: {name!r} is neither a tensor nor an array but {type(value).__name__}")


def _candidates(name: str, names: list[str]) -> list[str]:
    """Names worth a slow comparison: of a large model, those that share a part with `name`."""
    if len(names) <= 1000:
        return names
    parts = set(name.split("."))
    shared = sorted(names, key=lambda n: -len(parts.intersection(n.split("."))))
    return shared[:1000]


def _chunks(entry: Stored) -> Iterator[NDArray[Any]]:
    """The values of a tensor of a file, some at a time."""
    data = entry.view()
    quant = QUANTS.get(entry.storage)
    if quant is not None:
        step = _CHUNK // quant.block * quant.nbytes
        for i in range(0, data.size, step):
            yield dequantize(quant, data[i : i + step].reshape(-1, quant.nbytes))
    elif entry.storage in DTYPES:
        values = data.view(DTYPES[entry.storage].numpy)
        for i in range(0, values.size, _CHUNK):
            yield values[i : i + _CHUNK]


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Columns of text; numbers (all from the fifth column on) stand to the right."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if k >= 4 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
