"""Clang for Metal text: C++ for OpenCL with the stand-in header, precompiled; objects are kept.

What is made lies in `metal_emulator` in the cache folder of tensorlogic, under a key of the text,
the flags and the headers, so that a second run of the tests compiles nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import get_ident

from tensorlogic import settings
from tests.metal.text import MetalError

INSTALL = (
    "clang is needed to check GPU text: apt-get install clang (on a Mac: xcode-select --install)"
)
STANDIN = Path(__file__).with_name("standin")
EXTENSIONS = "-all,+cl_khr_fp16,+__opencl_c_generic_address_space"
LANGUAGE = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-nostdinc"),
    *("-Xclang", f"-cl-ext={EXTENSIONS}"),
    *("-I", str(STANDIN), "-Wno-unknown-attributes", "-Wno-unused-value", "-Werror=return-type"),
    *("-Werror=uninitialized", "-Werror=undefined-internal", "-ferror-limit=5"),
)
LIMIT = 512 << 20
"""Bytes of all that is kept; the oldest go first."""


def clang() -> str:
    found = shutil.which("clang")
    if found is None:
        raise RuntimeError(INSTALL)
    return found


@cache
def version() -> str:
    return run([clang(), "--version"]).split("\n")[0]


def run(command: list[str], text: str = "") -> str:
    """What a compiler prints; MetalError with its messages where it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MetalError(done.stderr)
    return done.stdout


@cache
def folder() -> Path:
    path = settings.cache_folder() / "metal_emulator"
    path.mkdir(parents=True, exist_ok=True)
    found = []
    for file in path.iterdir():
        with suppress(FileNotFoundError):  # another process has just finished or removed it
            found.append((-file.stat().st_mtime, file.stat().st_size, file))
    total = 0
    for _, size, file in sorted(found):
        total += size
        if total > LIMIT:
            file.unlink(missing_ok=True)
    return path


def kept(suffix: str, *parts: str) -> Path:
    """Where what is made of these parts lies, or is to be put by `compile_to`."""
    digest = hashlib.sha256("\0".join((version(), *parts)).encode()).hexdigest()[:32]
    return folder() / f"{digest}{suffix}"


def compile_to(path: Path, flags: list[str], source: str = "") -> None:
    """Runs clang with an output that appears whole or not at all; the text is its input."""
    aside = path.with_name(f".{os.getpid()}-{get_ident()}-{path.name}")
    run([clang(), *flags, "-o", str(aside), *(["-"] if source else [])], source)
    os.replace(aside, path)


@cache
def headers() -> str:
    return "".join(
        p.read_text() for p in sorted(STANDIN.iterdir()) if p.suffix != ".py" and p.is_file()
    )


@cache
def with_header(*flags: str) -> tuple[str, ...]:
    """Flags that compile a text for a target: Metal's header comes precompiled."""
    all_flags = [*LANGUAGE, *flags]
    path = kept(".pch", headers(), *all_flags)
    if not path.exists():
        header = str(STANDIN / "metal_stdlib")
        compile_to(path, [*all_flags, "-c", "-Xclang", "-emit-pch", header])
    return (*all_flags, "-include-pch", str(path))


@cache
def check_syntax(text: str) -> None:
    """Raises MetalError with clang's messages unless it takes the text."""
    run([clang(), *with_header("-target", "x86_64-linux-gnu"), "-fsyntax-only", "-"], text)
