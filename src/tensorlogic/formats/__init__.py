"""File formats, one module each: `sniff(head, path)` recognises, `read(path)` checks and maps."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tensorlogic.errors import FormatError
from tensorlogic.formats import checkpoint, coreml, gguf, pickles, safetensors
from tensorlogic.formats.base import Parsed, refuse_impostor


class Format(Protocol):
    """What a module of this package offers."""

    def sniff(self, head: bytes, path: Path) -> bool:
        """Whether a file that begins with `head` is of this format; folders have no head."""
        ...

    def read(self, path: Path) -> Parsed:
        """The checked description of the file; raises FormatError."""
        ...


FORMATS: tuple[Format, ...] = (gguf, pickles, coreml, checkpoint, safetensors)
"""In the order in which they are asked; the first that recognises a file reads it."""

_HEAD = 1024


def read(path: Path) -> Parsed:
    """Reads a model file or folder by its content. Raises FileNotFoundError and FormatError."""
    head = b""
    if not path.is_dir():
        path.stat()  # FileNotFoundError is the right answer for a path that leads nowhere
        if not path.is_file():
            raise FormatError(f"{path}: neither a file nor a folder")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if not head:
            raise FormatError(f"{path}: the file is empty")
    if not pickles.sniff(head, path):
        refuse_impostor(path, head)
    for one in FORMATS:
        if one.sniff(head, path):
            return one.read(path)
    raise FormatError(
        f"{path}: unknown format: it begins with {head[:8]!r}; "
        "SafeTensors, GGUF and Core ML files are read, whatever their suffix"
    )
