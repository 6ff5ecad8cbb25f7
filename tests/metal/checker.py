"""Checks Metal text on any machine: clang's C++ for OpenCL mode, a stand-in header, a lint.

What it cannot show: Apple's compiler and overload sets, registers, speed. Run as a script it
checks the files that it is given.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

INSTALL = (
    "clang is needed to check GPU text: apt-get install clang (on a Mac: xcode-select --install)"
)
STANDIN = Path(__file__).with_name("standin")
FLAGS = [
    *("-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64", "-cl-no-stdinc", "-nostdinc"),
    *("-Xclang", "-cl-ext=-all,+cl_khr_fp16,+__opencl_c_generic_address_space", "-I", str(STANDIN)),
    *(
        "-Wno-unknown-attributes",
        "-Wno-unused-value",
        "-Werror=return-type",
        "-Werror=uninitialized",
    ),
    *("-Werror=undefined-internal", "-ferror-limit=5"),
]
# [[attribute]] -> whether it may be a vector of 2 or 3
ATTRIBUTES = {
    "thread_position_in_grid": True,
    "threadgroup_position_in_grid": True,
    "thread_position_in_threadgroup": True,
    "threads_per_threadgroup": True,
    "threadgroups_per_grid": True,
    "thread_index_in_threadgroup": False,
    "thread_index_in_simdgroup": False,
    "simdgroup_index_in_threadgroup": False,
    "simdgroups_per_threadgroup": False,
}
SIZES = {"char": 1, "uchar": 1, "bool": 1, "short": 2, "ushort": 2, "half": 2, "int": 4, "uint": 4}
SIZES |= {
    "float": 4,
    "long": 8,
    "ulong": 8,
    "atomic_int": 4,
    "atomic_uint": 4,
    "uint4": 16,
    "half4": 8,
}
_NO_SPACE = "".join(f"(?<!{word} )" for word in ("device", "constant", "threadgroup", "thread"))
# What clang lets pass and Metal does not.
FORBIDDEN = {
    r"\bgoto\b": "goto",
    r"\blong\s+long\b": "long long",
    r"\b(new|delete|throw|try|catch|typeid|dynamic_cast|virtual)\b": "C++ that Metal lacks",
    r"\bstd\s*::": "the standard library",
    r"\[\s*[=&]?\s*\]\s*\([^)]*\)\s*\{": "a lambda",
    r"\b(__global|__local|__private|__constant|__kernel|get_global_id)\b": "OpenCL's own name",
    rf"{_NO_SPACE}(?<!const )\b({'|'.join(SIZES)})\s*[*&]": "a pointer without address space",
    rf"{_NO_SPACE}\bconst\s+\w+\s*[*&](?!&)": "a pointer without address space",
    r"\b(static|extern)\s+(device|threadgroup)\b": "a static variable in memory that kernels share",
}


class MetalError(Exception):
    """What is wrong with a text."""


def clang() -> str:
    found = shutil.which("clang")
    if found is None:
        raise RuntimeError(INSTALL)
    return found


def check_metal(text: str) -> None:
    """Raises MetalError unless the text is well-formed Metal 2.3 as far as can be told here."""
    _clang(text, "-fsyntax-only")
    bare = _preprocessed(text)
    for pattern, what in FORBIDDEN.items():
        if found := re.search(pattern, bare):
            raise MetalError(f"{what}: {found.group()}")
    _check_kernels(bare)


def _clang(text: str, *flags: str) -> str:
    done = subprocess.run(
        [clang(), *FLAGS, *flags, "-"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MetalError(done.stderr)
    return done.stdout


def _preprocessed(text: str) -> str:
    """The text with its macros expanded, the header's lines left out; Metal's own words kept."""
    words = "".join(f"#undef {w}\n" for w in ("device", "threadgroup", "thread"))
    marked = text.replace("using namespace metal;", f"{words}using namespace metal;", 1)
    out, own = [], False
    for line in _clang(marked, "-E").splitlines():
        if found := re.match(r'# \d+ "([^"]*)"', line):
            own = found.group(1) == "<stdin>"
        elif own:
            out.append(line)
    return "\n".join(out)


def _check_kernels(text: str) -> None:
    found = list(re.finditer(r"((?:\[\[.*?\]\]\s*)?)\bkernel\s+(\w+)\s+(\w+)\s*\(", text))
    if not found:
        raise MetalError("no kernel")
    for k in found:
        before, result, name = k.groups()
        if result != "void":
            raise MetalError(f"{name} returns {result}: a kernel returns void")
        limit = re.search(r"max_total_threads_per_threadgroup\((\d+)\)", before)
        if limit is None or not 1 <= int(limit.group(1)) <= 1024:
            raise MetalError(f"{name}: max_total_threads_per_threadgroup of 1 to 1024 is due")
        end = _closing(text, k.end() - 1)
        _check_parameters(name, text[k.end() : end])
        _check_memory(name, text[end : _closing(text, text.index("{", end))])


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "({") - (text[i] in ")}")
        if depth == 0:
            return i
    raise MetalError("a bracket is not closed")


def _check_parameters(kernel: str, text: str) -> None:
    slots: set[int] = set()
    widths: set[str] = set()
    for p in re.split(r",(?![^\[(]*[\])])", " ".join(text.split())):
        found = re.fullmatch(r"\s*(.+?)\s*(\w+)\s*\[\[\s*(\w+)(?:\((\d+)\))?\s*\]\]\s*", p)
        if found is None:
            raise MetalError(f"{kernel}: a parameter without its attribute: {p}")
        ctype, name, attribute, number = found.groups()
        if attribute == "buffer":
            if not re.fullmatch(r"(device|constant) (const )?\w+ ?[*&]", ctype):
                raise MetalError(f"{kernel}: {name} is no device or constant pointer: {ctype}")
            slot = int(number or -1)
            if not 0 <= slot <= 30 or slot in slots:
                raise MetalError(f"{kernel}: buffer({slot}) of {name} is taken or not in 0 to 30")
            slots.add(slot)
        elif attribute not in ATTRIBUTES:
            raise MetalError(f"{kernel}: unknown attribute {attribute} of {name}")
        else:
            shape = re.fullmatch(r"(?:uint|ushort)([23]?)", ctype)
            if shape is None or (shape.group(1) and not ATTRIBUTES[attribute]):
                raise MetalError(f"{kernel}: {attribute} cannot be {ctype} {name}")
            if ATTRIBUTES[attribute]:
                widths.add(shape.group(1))
    if len(widths) > 1:
        raise MetalError(f"{kernel}: positions are all scalars or all vectors of one width")


def _check_memory(kernel: str, body: str) -> None:
    total = 0
    for ctype, name, count in re.findall(
        r"\bthreadgroup\s+(\w+)\s+(\w+)\s*(?:\[([^\]]*)\])?\s*[;=]", body
    ):
        typedef = {"index_t": "long"}.get(ctype, ctype)
        if typedef not in SIZES:
            raise MetalError(f"{kernel}: threadgroup memory {name} of unknown type {ctype}")
        elements = eval(count, {"__builtins__": {}}) if count else 1
        total += (SIZES[typedef] * elements + 15) // 16 * 16
    if total > 32768:
        raise MetalError(f"{kernel}: {total} bytes of threadgroup memory; there are 32768")


def main(paths: list[str]) -> None:
    for path in paths:
        check_metal(Path(path).read_text())
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
