"""Every code block of README.md and of docs/ does what the document says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorlogic.testing.tiny import write_gguf, write_safetensors
from tests.docs.blocks import Runner, missing_links, read_blocks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.filterwarnings("ignore:this machine has no usable GPU")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "path" / "to"  # where the documents say that models are
    models.mkdir(parents=True)
    write_safetensors(models / "model.safetensors")
    write_gguf(models / "llama-7b-q4.gguf")
    if (ROOT / "examples").is_dir():
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    Runner(path.name).run(read_blocks(path.read_text(encoding="utf-8"), path.name))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert missing_links(path.read_text(encoding="utf-8"), path.parent) == []
