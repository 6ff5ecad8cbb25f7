"""Checks CUDA text: clang's own CUDA mode with a stand-in for the toolkit, and nvcc where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tensorlogic.codegen.dialects import BODY_MARK
from tests.metal.clang import clang

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


def check_waits(text: str) -> None:
    """Raises CudaError unless the kernel waits for the launches before it in its first line, since
    it may start early (devices/cuda.py), and unless each load is one that has to stay behind that
    line: those of memory that never changes could be moved before it."""
    body = text.split(BODY_MARK)[1]
    if not re.search(r"^KERNEL\([^{]*\) \{\n    EARLIER_DONE\(\);\n", body, re.MULTILINE):
        raise CudaError("the kernel does not begin with EARLIER_DONE")
    if found := re.search(r"__restrict__|__ldg|\.nc\b", text):
        raise CudaError(f"{found.group()} loads memory as if it never changed")


def nvcc() -> str | None:
    return shutil.which("nvcc")


def compile_all(texts: Mapping[str, str], arch: str, folder: Path) -> set[str]:
    """Compiles texts as one file: with nvcc to machine code or, where there is none, with clang to
    PTX. Returns the names of the kernels that came out."""
    parts = []
    for name, text in texts.items():
        macros = re.findall(r"^#define (\w+)", text, flags=re.MULTILINE)
        undo = "".join(f"#undef {macro}\n" for macro in macros)
        parts.append(f"namespace {name}_space {{\n{text}\n}}\n{undo}")
    source, out = folder / "all.cu", folder / "all.out"
    source.write_text("".join(parts))
    found = nvcc()
    if found is not None:
        command = [found, "-w", f"-arch={arch}", "-cubin", "-Xptxas", "-v"]
        log = _run([*command, "-o", str(out), str(source)])
        return set(re.findall(r"Compiling entry function '(\w+)'", log))
    flags = [f"--cuda-gpu-arch={arch}" if "gpu-arch" in f else f for f in FLAGS]
    _run([clang(), *flags, "-S", "-O1", "-o", str(out), str(source)])
    return set(re.findall(r"\.entry (\w+)", out.read_text()))


def _run(command: list[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CudaError(done.stderr)
    return done.stdout + done.stderr
