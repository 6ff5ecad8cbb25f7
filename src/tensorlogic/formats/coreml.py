"""Core ML models: .mlpackage folders and .mlmodel files, read by `tensorlogic.coreml`."""

from __future__ import annotations

from pathlib import Path

from tensorlogic.formats.base import Parsed

_SUFFIXES = (".mlpackage", ".mlmodel", ".mlmodelc")


def sniff(head: bytes, path: Path) -> bool:
    """A folder with a manifest, or a message: its version, then its description or its kind. The
    suffix is for damaged and compiled models."""
    if path.suffix in _SUFFIXES:
        return True
    if path.is_dir():
        return (path / "Manifest.json").is_file() or (path / "coremldata.bin").is_file()
    return head[:1] == b"\x08" and head[2:3] == b"\x12"


def read(path: Path) -> Parsed:
    """Reads and checks all that is no weight; weights stay in the files."""
    from tensorlogic.coreml.package import open_package

    package = open_package(path)
    return Parsed(
        path,
        "CoreML",
        package.weights,
        package.metadata,
        quantization=package.quantization,
        package=package,
    )
