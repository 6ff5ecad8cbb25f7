"""CoreML models (.mlpackage folders, .mlmodel files): recognised, not read yet."""

from __future__ import annotations

from pathlib import Path

from tensorlogic.errors import FormatError
from tensorlogic.formats.base import Parsed


def sniff(head: bytes, path: Path) -> bool:
    """A folder with a manifest, or a protobuf message: its version, then its description."""
    if path.is_dir():
        return (path / "Manifest.json").is_file()
    return path.suffix == ".mlmodel" and head[:1] == b"\x08" and head[2:3] == b"\x12"


def read(path: Path) -> Parsed:
    raise FormatError(
        f"{path}: CoreML models are not read yet; SafeTensors and GGUF files are "
        "(coremltools can show this model's weights)"
    )
