"""What all formats share: a mapped file, the span of each tensor in it, and how a fault reads."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from tensorlogic.errors import FormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tensorlogic.coreml.package import Package

MAX_RANK = 32
"""NumPy 1 has no arrays of more axes."""
MAX_ELEMENTS = 2**63 - 1


class MappedFile:
    """A file seen through a read-only memory map, which lives as long as a view of it does."""

    __slots__ = ("map", "path", "size")

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            self.path = path
            self.size = os.fstat(file.fileno()).st_size
            if self.size == 0:
                raise FormatError(f"{path}: the file is empty")
            self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)

    def view(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes [start, start + nbytes), not copied."""
        import numpy as np

        return np.frombuffer(self.map, np.uint8, nbytes, start)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `storage` names a dtype or a quantized type, its bytes are a span."""

    name: str
    shape: tuple[int, ...]
    storage: str
    file: MappedFile
    start: int
    nbytes: int

    def view(self) -> NDArray[np.uint8]:
        """The tensor's bytes, not copied."""
        return self.file.view(self.start, self.nbytes)


class HasPath(Protocol):
    @property
    def path(self) -> Path: ...


class Stored(Protocol):
    """One tensor of a file as a model sees it: an `Entry`, or values that are decoded first."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def storage(self) -> str: ...
    @property
    def file(self) -> HasPath: ...
    @property
    def nbytes(self) -> int: ...
    def view(self) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Parsed:
    """What a file says once everything in it has been checked. `package` is what can be run."""

    path: Path
    format: str
    entries: Mapping[str, Stored]
    metadata: Mapping[str, Any]
    architecture: str | None = None
    quantization: str | None = None
    package: Package | None = None


def fault(path: Path, where: str, what: str) -> FormatError:
    """The error for a fault in a file: where in the file, what is claimed and what is there."""
    return FormatError(f"{path}: {where}: {what}" if where else f"{path}: {what}")


_IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"<!DOCTYPE": "a web page, not a model: the download has failed",
    b"<!doctype": "a web page, not a model: the download has failed",
    b"<html": "a web page, not a model: the download has failed",
    b"PK\x03\x04": "a zip archive, but not one of a model",
}


def refuse_impostor(path: Path, head: bytes) -> None:
    """Raises FormatError for a file whose beginning says that it is something else."""
    for start, what in _IMPOSTORS.items():
        if head.startswith(start):
            raise FormatError(f"{path}: this is {what}")


def check_name(path: Path, name: str) -> None:
    """A tensor's name is text that can be printed and saved: no control characters."""
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise fault(path, f"tensor {name!a}", "the name holds control characters or half a pair")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is complete and on the disk.

    Until then `path` is untouched, and a memory map of what it was stays valid for ever. A symbolic
    link stays one. The file gets the permissions that the umask gives to any new file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
