"""LLVM IR to native code: compile for this host, keep object files in a disk cache, load them.

Compiling takes milliseconds and the import of llvmlite 60 more, so objects are kept on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tensorlogic.devices import diskcache, elf, symbols
from tensorlogic.locks import COMPILE

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
        if all(self.has(f"avx512{part}") for part in ("f", "bw", "dq", "vl")):
            return 16
        return 8 if self.has("avx") else 4


@cache
def host() -> Host:
    """This machine; kept on disk too, since to ask LLVM means to import it."""
    key = diskcache.key_of("host", *_host_facts())
    kept = diskcache.read(key)
    if kept is None:
        import llvmlite.binding as llvm

        version = ".".join(map(str, llvm.llvm_version_info))
        features = llvm.get_host_cpu_features().flatten()
        kept = "\n".join((llvm.get_host_cpu_name(), features, version)).encode()
        diskcache.write(key, kept)
    return Host(*kept.decode().split("\n"))


def _host_facts() -> list[str]:
    """What tells this processor and this llvmlite from others, found without importing llvmlite."""
    facts = [symbols.machine(), sys.platform]
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
        import platform

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
    key = object_key(ir_text)
    with COMPILE:
        image = diskcache.read(key)
        if image is None:
            image = _emit(ir_text, host())
            diskcache.write(key, image)
        return _load(image, names, imports or {}, key)


def object_key(ir_text: str) -> str:
    """Under which key the object of a module is kept."""
    here = host()
    return diskcache.key_of("object", ir_text, here.cpu, here.features, here.llvm)


def load_object(
    key: str, names: Sequence[str], imports: Mapping[str, int]
) -> dict[str, int] | None:
    """What `compile_module` gave for the object of this key; None where it is not kept."""
    with COMPILE:
        image = diskcache.read(key)
        return None if image is None else _load(image, names, imports, key)


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
