"""Every code block of README.md and of docs/ does what the document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorlogic as tl
from tensorlogic import formats
from tensorlogic.devices import base
from tensorlogic.functions import FUNCTIONS, METHODS
from tensorlogic.ops import OPS
from tensorlogic.testing.tiny import write_gguf, write_safetensors
from tests.coreml.builders import Package
from tests.docs.blocks import Runner, missing_links, read_blocks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a document registers is forgotten after it."""
    monkeypatch.setattr(formats, "FORMATS", formats.FORMATS)
    tables: list[dict[str, Any]] = [OPS, FUNCTIONS, base.REGISTRY._factories, base.REGISTRY._open]
    kept, methods = [dict(t) for t in tables], list(METHODS)
    yield
    for name in set(METHODS) - set(methods):
        delattr(tl.Tensor, name)
    for name in (set(FUNCTIONS) - set(kept[1])) & set(vars(tl)):
        delattr(tl, name)
    METHODS[:] = methods
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("registries")
@pytest.mark.filterwarnings("ignore:this machine has no usable GPU")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "path" / "to"  # where the documents say that models are
    models.mkdir(parents=True)
    write_safetensors(models / "model.safetensors")
    write_gguf(models / "llama-7b-q4.gguf")
    Package().write(models / "model.mlpackage")
    if (ROOT / "examples").is_dir():
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    Runner(path.name).run(read_blocks(path.read_text(encoding="utf-8"), path.name))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert missing_links(path.read_text(encoding="utf-8"), path.parent) == []
