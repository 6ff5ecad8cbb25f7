"""Checks CUDA text: clang's own CUDA mode with a stand-in for the toolkit, and nvcc where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.metal.checker import clang

STANDIN = Path(__file__).with_name("standin") / "cuda_builtins.h"
FLAGS = [
    *("-x", "cuda", "--cuda-device-only", "--cuda-gpu-arch=sm_80", "-nocudainc", "-nocudalib"),
    *("-nostdinc", "-include", str(STANDIN), "-Wno-unknown-cuda-version", "-ferror-limit=5"),
    *("-Werror=return-type", "-Werror=uninitialized", "-Werror=undefined-internal"),
]


class CudaError(Exception):
    """What is wrong with a text."""


def check_cuda(text: str) -> None:
    """Raises CudaError unless clang takes the text."""
    _run([clang(), *FLAGS, "-fsyntax-only", "-"], text)


def nvcc() -> str | None:
    return shutil.which("nvcc")


def compile_all(texts: Mapping[str, str], arch: str, folder: Path) -> int:
    """Compiles texts (of one index type) as one file, with nvcc to machine code or, where there is
    none, with clang to PTX; returns how many kernels came out."""
    parts = []
    for name, text in texts.items():
        macros = re.findall(r"^#define (\w+)", text, flags=re.MULTILINE)
        undo = "".join(f"#undef {macro}\n" for macro in macros)
        parts.append(f"namespace {name}_space {{\n{text}\n}}\n{undo}")
    source, out = folder / "all.cu", folder / "all.out"
    source.write_text("".join(parts))
    found = nvcc()
    if found is None:
        flags = [f"--cuda-gpu-arch={arch}" if "gpu-arch" in f else f for f in FLAGS]
        _run([clang(), *flags, "-S", "-O1", "-o", str(out), str(source)])
        return len(re.findall(r"\.entry", out.read_text()))
    _run([found, "-w", f"-arch={arch}", "-ptx", "-o", str(out), str(source)])
    entries = len(re.findall(r"\.entry", out.read_text()))
    _run([str(Path(found).with_name("nvcc")), "-w", f"-arch={arch}", "-cubin", "-x", "cu"]
         + ["-Xptxas", "-O1", "-o", str(out), str(source)])  # fmt: skip
    return entries


def _run(command: list[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CudaError(done.stderr)
