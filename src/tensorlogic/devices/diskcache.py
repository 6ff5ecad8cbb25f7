"""The disk cache of compiled kernels: objects of LLVM, cubins of CUDA.

An object is machine code that this process will run: one is only loaded from a folder and a file
that belong to this user and nobody else can write, and whose checksum holds.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tensorlogic import settings

CACHE_LIMIT = 256 << 20
"""Bytes of all cached objects; the oldest go first."""
_MAGIC = b"TLOBJ1\n\0"
_FORMAT = "1"
"""To be raised when the ABI of kernels or the loader changes: part of each key."""


@cache
def _sha256() -> Callable[[bytes], Any]:
    """Python's own SHA-256: hashlib loads OpenSSL, which takes longer than all the hashes here."""
    for module in ("_sha2", "_sha256", "hashlib"):
        with contextlib.suppress(ImportError):
            return import_module(module).sha256  # type: ignore[no-any-return]
    raise ImportError("this Python has no SHA-256")


def digest(content: bytes) -> bytes:
    """SHA-256."""
    found: bytes = _sha256()(content).digest()
    return found


def cache_folder() -> Path:
    """Where objects lie: `~/.cache/tensorlogic/objects`; TENSORLOGIC_CACHE replaces its parent."""
    return settings.cache_folder() / "objects"


def key_of(*parts: str) -> str:
    """The name under which an object made from `parts` is kept."""
    from tensorlogic import __version__

    return digest("\0".join((_FORMAT, __version__, *parts)).encode()).hex()


def _sealed(key: str, payload: bytes) -> bytes:
    """A file's content. The checksum covers the key: one object under another's name is refused."""
    return _MAGIC + digest(key.encode() + payload) + payload


def _is_private(about: os.stat_result) -> bool:
    """Owned by this user and writable by no one else (Windows: the profile folder sees to it)."""
    if not hasattr(os, "geteuid"):
        return True
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


@cache
def _usable(folder: Path) -> bool:
    """Whether the cache can be used; if not, a warning says why, once."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and _is_private(about):
            return True
        reason = "it is not a folder that only this user can write"
    except OSError as error:
        reason = str(error)
    warnings.warn(
        f"compiled kernels are not kept in {folder}: {reason}; set TENSORLOGIC_CACHE",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def read(key: str) -> bytes | None:
    """The payload kept under `key`, or None where there is none that can be trusted."""
    folder = cache_folder()
    if not _usable(folder):
        return None
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / key, flags)
    except OSError:  # absent, a link, or unreadable: it is compiled and replaced
        return None
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not (stat.S_ISREG(about.st_mode) and _is_private(about)):
            return None
        content = file.read()
    payload = content[len(_MAGIC) + 32 :]
    if content != _sealed(key, payload):
        return None
    if _age(about) > 86400:
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            os.utime(folder / key)
    return payload


def _age(about: os.stat_result) -> float:
    """Seconds since a file was written or last found useful."""
    return time.time() - about.st_mtime


def write(key: str, payload: bytes) -> None:
    """Keep a payload: written aside, then renamed, so that no process sees half a file."""
    folder = cache_folder()
    if not _usable(folder):
        return
    try:
        aside = folder / f".new-{os.getpid()}-{key[:16]}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(aside, flags | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "wb") as file:
            file.write(_sealed(key, payload))
        os.replace(aside, folder / key)
        if key.startswith("00"):  # one write of 256: it lists the whole folder
            _trim(folder)
    except OSError as error:
        warnings.warn(
            f"a compiled kernel was not kept in {folder}: {error}", RuntimeWarning, stacklevel=2
        )


def _trim(folder: Path) -> None:
    """Remove the oldest objects beyond CACHE_LIMIT, and what an interrupted write left behind."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            age = _age(about)
            if not entry.name.startswith(".new-") or age > 3600:
                found.append((age, about.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, reverse=True):
        if total <= CACHE_LIMIT:
            break
        Path(path).unlink(missing_ok=True)
        total -= size
