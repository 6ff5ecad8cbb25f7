"""Launches of the tests in a file, to be made again on an NVIDIA GPU (run_on_nvidia.py).

    TENSORLOGIC_METAL_RECORD=launches.zip python -m pytest tests/conformance -k metal
    python -m tests.metal.recording launches.zip

The first line keeps, for each text that the tests run on the emulator, its smallest launch: what
the buffers hold before and after it. The second adds the machine code of each text: clang's PTX,
assembled by ptxas where it is installed.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.metal.ptx import ptx, slots
from tests.metal.text import kernels

VARIABLE = "TENSORLOGIC_METAL_RECORD"
_CARD = "sm_90"


@dataclass
class _Kept:
    about: dict[str, Any]
    before: dict[int, bytes]
    after: dict[int, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.before.values()))


@dataclass
class Recorder:
    """Keeps the smallest launch of each text."""

    texts: dict[str, _Kept] = field(default_factory=dict)

    def before(self, text: str, slots: Mapping[int, Any]) -> dict[int, bytes] | None:
        """The contents of the buffers, where this launch is to be kept."""
        firsts = {m.address: m for m in slots.values()}
        size = sum(m.size for m in firsts.values())
        if text in self.texts and self.texts[text].size <= size:
            return None
        return _contents(slots)

    def after(
        self, text: str, name: str, groups: int, slots: Mapping[int, Any], before: dict[int, bytes]
    ) -> None:
        kernel = next(k for k in kernels(text) if k.name == name)
        firsts: dict[int, int] = {}
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        about = {
            "name": name,
            "groups": groups,
            "threads": kernel.threads,
            "types": {str(p.slot): p.ctype for p in kernel.parameters if p.slot is not None},
            "same": {str(s): firsts.setdefault(m.address, s) for s, m in slots.items()},
            "test": test,
        }
        self.texts[text] = _Kept(about, before, _contents(slots))

    def save(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for text, kept in self.texts.items():
                key = hashlib.sha256(text.encode()).hexdigest()[:24]
                file.writestr(f"{key}.metal", text)
                file.writestr(f"{key}.json", json.dumps(kept.about))
                arrays = {f"before{s}": np.frombuffer(b, np.uint8) for s, b in kept.before.items()}
                changed = {s: b for s, b in kept.after.items() if b != kept.before[s]}
                arrays |= {f"after{s}": np.frombuffer(b, np.uint8) for s, b in changed.items()}
                content = io.BytesIO()
                np.savez(content, **arrays)
                file.writestr(f"{key}.npz", content.getvalue())


def _contents(slots: Mapping[int, Any]) -> dict[int, bytes]:
    """The bytes of each memory, under the first slot that has it."""
    found: dict[int, bytes] = {}
    seen: set[int] = set()
    for slot, memory in slots.items():
        if memory.address not in seen:
            seen.add(memory.address)
            found[slot] = ctypes.string_at(memory.address, memory.size)
    return found


def assembled(text: str) -> tuple[str, bytes]:
    """Machine code for the card where ptxas is, or PTX; and the ending of its file's name."""
    source = ptx(text)
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        return "ptx", source.encode()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "k.ptx", Path(folder) / "k.cubin"
        given.write_text(source)
        subprocess.run([ptxas, f"-arch={_CARD}", "-o", made, given], check=True)
        return "cubin", made.read_bytes()


def add_code(path: Path, workers: int | None = None) -> int:
    """Adds the code of each text to a file of launches; how many texts there are."""
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
        keys = [n.removesuffix(".metal") for n in names if n.endswith(".metal")]
        due = [k for k in keys if not {f"{k}.ptx", f"{k}.cubin"} & names]
        texts = {k: file.read(f"{k}.metal").decode() for k in due}
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file,
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):
        for key, (ending, code) in zip(texts, pool.map(assembled, texts.values()), strict=True):
            file.writestr(f"{key}.{ending}", code)
            about = json.dumps({"slots": slots(kernels(texts[key])[0])})
            file.writestr(f"{key}.entry", about)
    return len(keys)


if __name__ == "__main__":
    print(add_code(Path(sys.argv[1])), "texts")
