"""Fetching models: the small one through the package index itself, the faults without it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tensorlogic as tl
from tensorlogic.testing import models
from tensorlogic.testing.models import MODELS, FetchError, fetch, main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENSORLOGIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "tensorlogic.testing.models", "silero-vad"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    path = Path(done.stdout.strip())
    assert path == cache / "silero-vad-6.2.3" / "silero_vad_16k.safetensors"
    assert len(tl.load_model(path)) == 15
    assert [p.name for p in cache.iterdir()] == ["silero-vad-6.2.3"]

    def never(*_: object) -> None:
        raise AssertionError("a second fetch started pip")

    monkeypatch.setattr(subprocess, "Popen", never)
    assert fetch("silero-vad") == path


def test_a_file_with_another_checksum_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MODELS["silero-vad"]
    ((inside, (size, _)),) = source.files.items()
    wrong = replace(source, files={inside: (size, "0" * 64)})
    monkeypatch.setitem(models.MODELS, "silero-vad", wrong)
    with pytest.raises(FetchError, match=r"silero_vad_16k\.safetensors .* sha256 c59271c284ae"):
        fetch("silero-vad")
    assert list(cache.iterdir()) == []


def test_a_failed_download_shows_what_pip_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(MODELS["silero-vad"], version="0.0.0.dev0")
    monkeypatch.setitem(models.MODELS, "silero-vad", wrong)
    with pytest.raises(FetchError, match=r"pip download --no-deps silero-vad==0\.0\.0\.dev0` fail"):
        fetch("silero-vad")
    assert list(cache.iterdir()) == []


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpt-9"]) == 1
    assert "unknown model 'gpt-9'; the models are smollm2, minilm" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out
