"""A Metal text compiled for this machine; its kernels run on memory with closed pages around."""

from __future__ import annotations

import ctypes
import platform
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tensorlogic.devices import elf
from tests.metal import clang
from tests.metal.text import GROUP_MEMORY, MetalError, Signature, kernels

HERE = Path(__file__).parent
SLOTS = 31
_MARCH = {"x86_64": "x86-64-v3", "aarch64": "armv8.2-a+fp16", "arm64": "armv8.2-a+fp16"}
_ID_WORDS = {
    "thread_position_in_grid": 0,
    "threadgroup_position_in_grid": 3,
    "thread_position_in_threadgroup": 6,
    "threads_per_threadgroup": 9,
    "threadgroups_per_grid": 12,
    "threads_per_grid": 15,
    "thread_index_in_simdgroup": 18,
    "simdgroup_index_in_threadgroup": 19,
    "simdgroups_per_threadgroup": 20,
    "thread_index_in_threadgroup": 21,
    "threads_per_simdgroup": 22,
}


@dataclass(frozen=True)
class Mode:
    """How a text is compiled and run.

    `fast_math`: as Metal's fast math may have it: sums reassociated, quotients by reciprocals,
    fused multiply-adds, NaN and infinity not heeded, subnormals flushed, coarser functions.
    `traced`: each access is checked for its bounds and for races, and bytes are counted.
    `double_math`: functions of floats as for an NVIDIA GPU (double_math.h), to test them.
    """

    fast_math: bool = False
    traced: bool = False
    double_math: bool = False

    def flags(self) -> tuple[str, ...]:
        flags = [*_code_flags(), "-fno-asynchronous-unwind-tables", "-fno-stack-protector"]
        if self.fast_math:
            flags += ["-ffast-math", "-ffp-contract=fast", "-DMETAL_FAST"]
        else:
            flags += ["-ffp-contract=off"]
        if self.double_math:
            flags += [
                "-DMETAL_DOUBLE_MATH",
                "-Xclang",
                f"-cl-ext={clang.EXTENSIONS},+cl_khr_fp64,+__opencl_c_fp64",
            ]
        if self.traced:
            flags += ["-DMETAL_TRACED", "-fno-vectorize", "-fno-slp-vectorize"]
            flags += ["-fsanitize-coverage=trace-loads,trace-stores,no-prune,bb"]
            flags += ["-fsanitize=alignment,bounds,integer-divide-by-zero", "-fsanitize-trap=all"]
        return tuple(flags)


def _code_flags() -> list[str]:
    return ["-O1", "-fPIC", f"-march={_MARCH[platform.machine()]}"]


def _compile(path: Path, flags: Sequence[str], source: str) -> None:
    if platform.machine() == "x86_64":
        clang.compile_to(path, [*flags, "-c"], source)
        return
    # LLVM's arm64 does not know OpenCL's calling conventions, which are the usual one here.
    ir = clang.run([clang.clang(), *flags, "-S", "-emit-llvm", "-o", "-", "-"], source)
    ir = re.sub(r"\bspir_(?:kernel|func) ", "", ir)
    clang.compile_to(path, ["-x", "ir", *_code_flags(), "-c"], ir)


EXACT = Mode()
TRACED = Mode(traced=True)
FAST_MATH = Mode(fast_math=True)


class _Launch(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("shared_sizes", ctypes.c_void_p),
        ("shared_count", ctypes.c_uint32),
        ("groups", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("traced", ctypes.c_uint32),
        ("flush", ctypes.c_uint32),
    )


@cache
def runtime() -> ctypes.PyDLL:
    """The compiled runtime. It keeps Python's lock: there is one launch at a time."""
    sources = [HERE / "runtime.c", HERE / "trace.c"]
    text = "".join(p.read_text() for p in (HERE / "runtime.h", *sources))
    path = clang.kept(".so", text)
    if not path.exists():
        flags = ["-O2", "-shared", "-fPIC", *map(str, sources), "-lm"]
        clang.compile_to(path, flags)
    library = ctypes.PyDLL(str(path), ctypes.RTLD_GLOBAL)
    library.emu_error.restype = ctypes.c_char_p
    library.emu_guarded.restype = ctypes.c_void_p
    library.emu_guarded.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.emu_release.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.emu_run.argtypes = [ctypes.c_void_p]
    for name in ("emu_bytes_read", "emu_bytes_written"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


class Memory:
    """Bytes that lie at a closed page: with their end, or with their beginning."""

    def __init__(self, size: int, at_end: bool = True) -> None:
        self.size = size
        self._release = runtime().emu_release
        self.address = runtime().emu_guarded(size, at_end)
        if not self.address:
            raise MemoryError(f"{size} bytes")

    def __del__(self) -> None:
        if getattr(self, "address", None):
            self._release(self.address, self.size)


@dataclass(frozen=True)
class Traffic:
    """The distinct bytes of each slot's buffer that a traced launch read and wrote."""

    read: Mapping[int, int]
    written: Mapping[int, int]


class Library:
    """The kernels of a text. Raises MetalError where clang or Metal's rules refuse it."""

    def __init__(self, text: str, mode: Mode = EXACT) -> None:
        self.mode = mode
        self.kernels: dict[str, Signature] = {k.name: k for k in kernels(text)}
        source = f"{text}\n{_entries(self.kernels.values())}"
        flags = clang.with_header(*mode.flags())
        path = clang.kept(".o", source, *flags)
        if not path.exists():
            _compile(path, flags, source)
        image = path.read_bytes()
        variables = _variables(image)
        for name in self.kernels:
            used = sum(-(-size // 16) * 16 for v, (_, size) in variables.items() if f"{name}E" in v)
            if used > GROUP_MEMORY:
                raise MetalError(f"{name}: {used} bytes of threadgroup memory; there are 32768")
        names = [f"emu_entry_{name}" for name in self.kernels]
        self._entries = _load(image, path, [*names, "emu_place"])
        place = ctypes.c_uint64()
        find = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._entries["emu_place"])
        find(ctypes.addressof(place))
        (mark,) = (v for v in variables if "emu_mark" in v)
        start = place.value - variables.pop(mark)[0]
        self._shared = [(start + at, size) for at, size in variables.values()]

    def run(
        self, name: str, groups: int, slots: Mapping[int, Memory], order: int = 0
    ) -> Traffic | None:
        """Runs `groups` threadgroups, threads and groups in an order; the bytes where traced.

        Raises MetalError for what a thread did wrong.
        """
        kernel = self.kernels[name]
        missing = [p.name for p in kernel.parameters if p.slot is not None and p.slot not in slots]
        if missing:
            raise MetalError(f"{name}: nothing is bound to {', '.join(missing)}")
        table = ctypes.c_uint64 * SLOTS
        addresses, sizes = table(), table()
        for slot in kernel.slots:
            addresses[slot], sizes[slot] = slots[slot].address, slots[slot].size
        count = len(self._shared)
        shared = (ctypes.c_uint64 * max(count, 1))(*(a for a, _ in self._shared))
        shared_sizes = (ctypes.c_uint64 * max(count, 1))(*(n for _, n in self._shared))
        launch = _Launch(
            self._entries[f"emu_entry_{name}"],
            *(ctypes.addressof(a) for a in (addresses, sizes, shared, shared_sizes)),
            *(count, groups, kernel.threads, order, self.mode.traced, self.mode.fast_math),
        )
        if runtime().emu_run(ctypes.addressof(launch)):
            raise MetalError(f"{name}: {runtime().emu_error().decode()}")
        if not self.mode.traced:
            return None
        read, written = runtime().emu_bytes_read, runtime().emu_bytes_written
        return Traffic({s: read(s) for s in kernel.slots}, {s: written(s) for s in kernel.slots})


def _entries(kernels: object) -> str:
    """Functions that call each kernel with what runtime.c gives, in the language of the text."""
    lines = [
        "kernel void emu_place(__global ulong* at) {",
        "__local ulong emu_mark; *at = (ulong)&emu_mark; }",
    ]
    for kernel in kernels:  # type: ignore[attr-defined]
        arguments = []
        for p in kernel.parameters:
            if p.slot is not None:
                pointer = p.ctype.rstrip("*& ")
                value = f"({pointer}*)slots[{p.slot}]"
                arguments.append(f"*{value}" if p.ctype.endswith("&") else value)
            else:
                first, width = _ID_WORDS[p.attribute], p.ctype[-1]
                words = [f"ids[{first + i}]" for i in range(int(width) if width in "23" else 1)]
                arguments.append(f"({p.ctype})({', '.join(words)})")
        lines.append(
            f'extern "C" void emu_entry_{kernel.name}(__global const ulong* slots, '
            f"__global const uint* ids) {{ {kernel.name}({', '.join(arguments)}); }}"
        )
    return "\n".join(lines) + "\n"


def _variables(image: bytes) -> dict[str, tuple[int, int]]:
    """The threadgroup variables of an ELF object: where in .bss each lies, and its bytes."""
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", image)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", image, header[6] + 64 * i) for i in range(header[12])
    ]
    symbols = next(s for s in sections if s[1] == 2)
    names = sections[symbols[6]][4]
    found = {}
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", image, at)
        if info & 15 == 1 and section < len(sections) and sections[section][1] == 8:
            start = names + name
            found[image[start : image.index(b"\0", start)].decode()] = (value, size)
    return found


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _address(name: str) -> int:
    for library in (runtime(), _libc()):
        if hasattr(library, name):
            return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    raise MetalError(f"the kernel calls {name}, which the emulator lacks")


def _load(image: bytes, path: Path, names: list[str]) -> dict[str, int]:
    if elf.SUPPORTED:
        return elf.load(image, names, _address)
    shared = path.with_suffix(".so")
    if not shared.exists():
        clang.compile_to(shared, ["-shared", str(path)])
    library = ctypes.CDLL(str(shared))
    return {n: int(ctypes.cast(getattr(library, n), ctypes.c_void_p).value or 0) for n in names}
