"""Checks Metal text on any machine: clang's C++ for OpenCL mode, a stand-in header, a lint.

What it cannot show: Apple's compiler and overload sets, registers, speed. Run as a script it
checks the files that it is given.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.metal.clang import check_syntax
from tests.metal.text import GROUP_MEMORY, MetalError, Signature, expanded, kernels

SIZES = {"char": 1, "uchar": 1, "bool": 1, "short": 2, "ushort": 2, "half": 2, "int": 4, "uint": 4}
SIZES |= {"float": 4, "long": 8, "ulong": 8, "atomic_int": 4, "atomic_uint": 4}
SIZES |= {
    f"{t}{n}": SIZES[t] * n for t in ("half", "float", "int", "uint", "ushort") for n in (2, 4)
}
_SPACES = ("device", "constant", "threadgroup", "thread")
_NO_SPACE = "".join(f"(?<!{word} )" for word in _SPACES)
# What clang lets pass and Metal does not.
FORBIDDEN = {
    r"\bgoto\b": "goto",
    r"\blong\s+long\b": "long long",
    r"\b(new|delete|throw|try|catch|typeid|dynamic_cast|virtual)\b": "C++ that Metal lacks",
    r"\bstd\s*::": "the standard library",
    r"\[\s*[=&]?\s*\]\s*\([^)]*\)\s*\{": "a lambda",
    r"\b(__global|__local|__private|__constant|__kernel|get_global_id)\b": "OpenCL's own name",
    r"\b(prim_|__builtin_|__lanes|__make|__matrix)\w*": "a name of the stand-in header",
    rf"{_NO_SPACE}(?<!const )\b({'|'.join(SIZES)})\s*[*&](?!&)": "a pointer without address space",
    rf"{_NO_SPACE}\bconst\s+\w+\s*[*&](?!&)": "a pointer without address space",
    r"\b(static|extern)\s+(device|threadgroup)\b": "a static variable in memory that kernels share",
    r"\bconvert_\w+\s*\(": "a conversion of OpenCL",
    r"\bprintf\b": "printf",
    r"\b(event_t|sampler_t|image\w*_t)\b": "a type of OpenCL",
}
_WORD_PATTERN = re.compile("|".join(f"(?:{p})" for p in FORBIDDEN))


def check_metal(text: str) -> None:
    """Raises MetalError unless the text is well-formed Metal 2.3 as far as can be told here."""
    check_syntax(text)
    lint(text)


def lint(text: str) -> None:
    """What needs no compiler. Raises MetalError."""
    bare = expanded(text)
    if _WORD_PATTERN.search(bare):
        for pattern, what in FORBIDDEN.items():
            if found := re.search(pattern, bare):
                raise MetalError(f"{what}: {found.group()}")
    _check_recursion(bare)
    for kernel in kernels(text):
        _check_memory(kernel)


def _check_recursion(text: str) -> None:
    """A function that calls itself: Metal has no stack for that."""
    for found in re.finditer(r"\b(\w+)\s*\([^()]*\)\s*\{", text):
        name = found.group(1)
        if name not in ("if", "for", "while", "switch"):
            body = text[found.end() : _end(text, found.end() - 1)]
            if re.search(rf"(?<![\w.:]){name}\s*\(", body):
                raise MetalError(f"recursion: {name}")


def _end(text: str, start: int) -> int:
    depth = 0
    for found in re.finditer(r"[{}]", text[start:]):
        depth += 1 if found.group() == "{" else -1
        if depth == 0:
            return start + found.start()
    raise MetalError("a bracket is not closed")


def _check_memory(kernel: Signature) -> None:
    total = 0
    for ctype, name, count in re.findall(
        r"\bthreadgroup\s+(\w+)\s+(\w+)\s*(?:\[([^\]]*)\])?\s*[;=]", kernel.body
    ):
        typedef = {"index_t": "long"}.get(ctype, ctype)
        if typedef not in SIZES:
            raise MetalError(f"{kernel.name}: threadgroup memory {name} of unknown type {ctype}")
        elements = eval(count, {"__builtins__": {}}) if count else 1
        total += (SIZES[typedef] * elements + 15) // 16 * 16
    if total > GROUP_MEMORY:
        raise MetalError(f"{kernel.name}: {total} bytes of threadgroup memory; there are 32768")


def main(paths: list[str]) -> None:
    for path in paths:
        check_metal(Path(path).read_text())
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
