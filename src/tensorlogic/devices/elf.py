"""A loader of x86-64 ELF object files: a warm start then needs no llvmlite.

It takes what LLVM emits with `reloc="pic", codemodel="small"`: allocated sections, and the
relocations of the System V ABI for AMD64 (psABI 1.0, table 4.9) that occur there.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Callable, Sequence

from tensorlogic.devices.symbols import keep_forever, machine

SUPPORTED = sys.platform == "linux" and machine() == "x86_64" and sys.maxsize > 2**32

_NOBITS, _SYMTAB, _RELA = 8, 2, 4
_ALLOC, _EXEC = 2, 4
_R64, _PC32, _PLT32, _GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX = 1, 2, 4, 9, 41, 42
_STUB = 16
"""Bytes of a jump through an 8-byte address behind it: a libc is out of a 32-bit jump's reach."""
_PROT_READ_EXEC = 5


def load(image: bytes, names: Sequence[str], resolve: Callable[[str], int]) -> dict[str, int]:
    """Map an object file for the rest of the process; the addresses of its functions `names`.

    `resolve` gives the address of an undefined symbol, or raises.
    """
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", image)
    if header[0][:6] != b"\x7fELF\x02\x01" or header[1:3] != (1, 62):
        raise RuntimeError("not an x86-64 ELF object file")
    table, count = header[6], header[12]
    # name, type, flags, address, offset, size, link, info, alignment, entry size
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + 64 * i) for i in range(count)]
    symtab = next(s for s in sections if s[1] == _SYMTAB)
    names_at = sections[symtab[6]][4]
    entries = [
        struct.unpack_from("<IBBHQQ", image, symtab[4] + 24 * i) for i in range(symtab[5] // 24)
    ]

    def text(offset: int) -> str:
        start = names_at + offset
        return image[start : image.index(b"\0", start)].decode()

    # Code first, with its stubs, then from a new page on data: no page is both.
    place: dict[int, int] = {}
    end = 0
    for executable in (True, False):
        if not executable:
            stubs = -(-end // _STUB) * _STUB
            got = -(-(stubs + _STUB * len(entries)) // mmap.PAGESIZE) * mmap.PAGESIZE
            end = got + 8 * len(entries)
        for i, s in enumerate(sections):
            if s[2] & _ALLOC and s[5] and bool(s[2] & _EXEC) == executable:
                place[i] = -(-end // max(s[8], 1)) * max(s[8], 1)
                end = place[i] + s[5]
    memory = mmap.mmap(-1, end)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for i, at in place.items():
        if sections[i][1] != _NOBITS:
            memory[at : at + sections[i][5]] = image[
                sections[i][4] : sections[i][4] + sections[i][5]
            ]

    value = [0] * len(entries)  # the final address of each symbol
    outside = set()
    exported: dict[str, int] = {}
    for k, (name, info, _, section, offset, _) in enumerate(entries):
        if section == 0 and name:
            value[k] = resolve(text(name))
            outside.add(k)
            struct.pack_into("<6sQ", memory, stubs + _STUB * k, b"\xff\x25\0\0\0\0", value[k])
        elif section in place:
            value[k] = base + place[section] + offset
            if info >> 4:
                exported[text(name)] = value[k]
        struct.pack_into("<Q", memory, got + 8 * k, value[k])

    for s in sections:
        if s[1] != _RELA or s[7] not in place:
            continue
        for r in range(s[5] // 24):
            offset, info, addend = struct.unpack_from("<QQq", image, s[4] + 24 * r)
            k, kind, at = info >> 32, info & 0xFFFFFFFF, place[s[7]] + offset
            if kind == _R64:
                struct.pack_into("<Q", memory, at, (value[k] + addend) % 2**64)
                continue
            if kind in (_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX):
                target = base + got + 8 * k
            elif kind in (_PC32, _PLT32):
                target = base + stubs + _STUB * k if k in outside else value[k]
            else:
                raise RuntimeError(f"relocation type {kind} is not known to the loader")
            struct.pack_into("<i", memory, at, target + addend - (base + at))

    missing = [n for n in names if n not in exported]
    if missing:
        raise RuntimeError(f"the module does not define {', '.join(missing)}")
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if protect(base, got, _PROT_READ_EXEC) != 0:
        raise RuntimeError(f"mprotect: error {ctypes.get_errno()}")
    keep_forever(memory)
    return {n: exported[n] for n in names}
