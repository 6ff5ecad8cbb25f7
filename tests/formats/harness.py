"""How hostile files are tried: within a second, without memory, with an error that says why."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

import tensorlogic.formats
from tensorlogic.errors import FormatError
from tensorlogic.formats.base import Parsed

SECONDS = 1.0
BYTES = 16 << 20


def opens(path: Path, data: bytes) -> Parsed:
    """The file is good."""
    path.write_bytes(data)
    return tensorlogic.formats.read(path)


def refused(path: Path, data: bytes, expected: tuple[str, ...]) -> None:
    """The file is refused, with a message that holds its path and all of the expected texts."""
    path.write_bytes(data)
    refused_path(path, path, expected)


def refused_path(path: Path, named: Path, expected: tuple[str, ...]) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(FormatError) as caught:
            tensorlogic.formats.read(path)
        took = time.perf_counter() - began
        grown = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for text in (str(named), *expected):
        assert text in message, f"{text!r} is not in {message!r}"
    assert took < SECONDS
    assert grown < BYTES
