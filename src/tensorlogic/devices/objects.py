"""LLVM IR to native code: compile for this host, keep object files in a disk cache, load them.

Compiling takes milliseconds and the import of llvmlite 60 more, so objects are kept on disk. An
object is machine code that this process will run: one is only loaded from a folder and a file that
belong to this user and nobody else can write, and whose checksum holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from tensorlogic import settings
from tensorlogic.devices import elf, symbols

CACHE_LIMIT = 256 << 20
"""Bytes of all cached objects; the oldest go first."""
_MAGIC = b"TLOBJ1\n\0"
_FORMAT = "1"
"""To be raised when the ABI of kernels or the loader changes: part of each key."""

_lock = Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )
_loaded: list[Any] = []  # engines whose code must stay mapped: worker threads may stand in it


@dataclass(frozen=True)
class Host:
    """The processor that kernels are compiled for, as LLVM names it."""

    cpu: str
    features: str
    llvm: str

    def has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")

    @property
    def lanes(self) -> int:
        """Float32 values in one vector register."""
        if self.has("avx512f"):
            return 16
        return 8 if self.has("avx") else 4


@cache
def host() -> Host:
    """This machine; kept on disk too, since to ask LLVM means to import it."""
    key = _key("host", *_host_facts())
    kept = _read(key)
    if kept is None:
        import llvmlite.binding as llvm

        version = ".".join(map(str, llvm.llvm_version_info))
        features = llvm.get_host_cpu_features().flatten()
        kept = "\n".join((llvm.get_host_cpu_name(), features, version)).encode()
        _write(key, kept)
    return Host(*kept.decode().split("\n"))


def _host_facts() -> list[str]:
    """What tells this processor and this llvmlite from others, found without importing llvmlite."""
    facts = [platform.machine(), sys.platform]
    spec = find_spec("llvmlite")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the cpu device needs the package llvmlite")
    for file in sorted((Path(spec.origin).parent / "binding").glob("*llvmlite*.*")):
        about = file.stat()
        facts += [str(file), str(about.st_size), str(about.st_mtime_ns)]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        drifting = ("cpu MHz", "bogomips", "BogoMIPS", "processor", "core id", "apicid", "initial")
        first = cpuinfo.read_text().split("\n\n")[0].splitlines()
        facts += [line for line in first if not line.startswith(drifting)]
    else:
        facts += [platform.processor(), platform.platform()]
    return facts


def compile_module(
    ir_text: str, names: Sequence[str], imports: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The native addresses of the functions `names` of a module of LLVM IR.

    `imports` are functions that the module declares, by name. Raises RuntimeError where the text is
    not valid IR, or needs a symbol beyond these and `symbols.KNOWN`. The code stays mapped for the
    life of the process.
    """
    here = host()
    key = _key("object", ir_text, here.cpu, here.features, here.llvm)
    with _lock:
        image = _read(key)
        if image is None:
            image = _emit(ir_text, here)
            _write(key, image)
        return _load(image, names, imports or {}, key)


@cache
def _target_machine(here: Host) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=here.cpu, features=here.features, opt=2, reloc="pic", codemodel="small"
    )


def _emit(ir_text: str, here: Host) -> bytes:
    import llvmlite.binding as llvm

    machine = _target_machine(here)
    module = llvm.parse_assembly(ir_text)
    module.verify()
    return bytes(machine.emit_object(module))


def _load(
    image: bytes, names: Sequence[str], imports: Mapping[str, int], key: str
) -> dict[str, int]:
    if elf.SUPPORTED:
        return elf.load(image, names, lambda name: imports.get(name) or symbols.address(name))
    import llvmlite.binding as llvm

    if not _loaded:
        _target_machine(host())
        _loaded.append(llvm.create_lljit_compiler())
        symbols.keep_forever(_loaded[0])
    builder = llvm.JITLibraryBuilder().add_object_img(image)
    for name in symbols.KNOWN:
        builder.import_symbol(name, symbols.address(name))
    for name, address in imports.items():
        builder.import_symbol(name, address)
    for name in names:
        builder.export_symbol(name)
    library = builder.link(_loaded[0], f"{key}.{len(_loaded)}")
    symbols.keep_forever(library)
    _loaded.append(library)
    return {name: int(library[name]) for name in names}


# The disk cache


def cache_folder() -> Path:
    """Where objects lie: `~/.cache/tensorlogic/objects`; TENSORLOGIC_CACHE replaces its parent."""
    return settings.cache_folder() / "objects"


def _key(*parts: str) -> str:
    from tensorlogic import __version__

    return hashlib.sha256("\0".join((_FORMAT, __version__, *parts)).encode()).hexdigest()


def _sealed(key: str, payload: bytes) -> bytes:
    """A file's content. The checksum covers the key: one object under another's name is refused."""
    return _MAGIC + hashlib.sha256(key.encode() + payload).digest() + payload


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


def _read(key: str) -> bytes | None:
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


def _write(key: str, payload: bytes) -> None:
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
        if key.startswith("0"):  # one write of sixteen: it lists the whole folder
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
