"""Files that are not read: pickles, and what is no model at all."""

from __future__ import annotations

import ast
import os
import pickle
import textwrap
import zipfile
from pathlib import Path

import pytest

import tensorlogic.formats
from tensorlogic.errors import FormatError


def message(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        tensorlogic.formats.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def torch_zip(path: Path) -> Path:
    """A file laid out as torch.save does it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_pickle_is_answered_with_its_conversion(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if form == "zip":
        torch_zip(path)
    else:
        path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=2))
    text = message(path)
    assert "can run any program" in text
    lines = textwrap.dedent(text.split("\n\n", 1)[1])
    ast.parse(lines)
    assert f"torch.load({str(path)!r}, map_location=" in lines
    assert "weights_only=True" in lines
    assert ".contiguous()" in lines
    assert f"{str(path.with_suffix('.safetensors'))!r}" in lines


def test_the_conversion_of_a_name_with_quotes_is_python(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / 'it\'s "mine".pt')
    ast.parse(textwrap.dedent(message(path).split("\n\n", 1)[1]))


def test_a_folder_with_a_pickle(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"torch\.load"):
        tensorlogic.formats.read(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x93NUMPY\x01\x00", "unknown format: it begins with b'\\x93NUMPY"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"G", "unknown format"),
    ],
)
def test_what_is_no_model(data: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    assert expected in message(path)


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.gguf"):
        tensorlogic.formats.read(tmp_path / "missing.gguf")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in message(tmp_path / "pipe")
