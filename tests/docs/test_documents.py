"""Every code block of README.md and of docs/ does what the document says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import tensorlogic as tl
from tests.docs.blocks import Runner, missing_links, read_blocks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _write_models(folder: Path) -> None:
    """The model files at the paths that the documents use, small."""
    folder.mkdir(parents=True)
    weight, bias = np.full((4, 32), 0.5, np.float32), np.arange(4, dtype=np.float32)
    model = tl.Model({"layer.0.weight": tl.tensor(weight), "layer.0.bias": tl.tensor(bias)})
    tl.save_model(model, folder / "model.safetensors")
    writer = gguf.GGUFWriter(folder / "llama-7b-q4.gguf", "llama")
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    writer.add_tensor("layer.0.weight", gguf.quantize(weight, q4_0), raw_dtype=q4_0)
    writer.add_tensor("layer.0.bias", bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.filterwarnings("ignore:this machine has no usable GPU")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_models(tmp_path / "path" / "to")
    if (ROOT / "examples").is_dir():
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    Runner(path.name).run(read_blocks(path.read_text(encoding="utf-8"), path.name))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert missing_links(path.read_text(encoding="utf-8"), path.parent) == []
