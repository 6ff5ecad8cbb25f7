"""Runs code for Arm processors anywhere, in the emulator Unicorn (https://www.unicorn-engine.org).

`Arm(module text, processor)` compiles a module of LLVM IR and loads it; `call` runs one of its
functions on copies of arrays, and copies what they hold afterwards back.
"""

from __future__ import annotations

import struct
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import UC_ARM64_REG_LR, UC_ARM64_REG_SP, UC_ARM64_REG_X0, UC_CPU_ARM64_MAX

CODE, DATA, STACK, END = 0x10_0000, 0x100_0000, 0x800_0000, 0xF00_0000
SIZE = 0x40_0000
CALL, PAGE, ADD, LOW = 283, 275, 277, {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
"""Relocations of the ELF for the Arm 64-bit Architecture: R_AARCH64_CALL26, ADR_PREL_PG_HI21,
ADD_ABS_LO12_NC, and LDST8_ABS_LO12_NC to LDST128 with the logarithm of their sizes."""


def assembled(text: str, processor: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu=processor, opt=2, reloc="pic", codemodel="small")
    return bytes(machine.emit_object(llvm.parse_assembly(text)))


class Arm:
    def __init__(self, text: str, processor: str) -> None:
        self._machine = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self._machine.ctl_set_cpu_model(UC_CPU_ARM64_MAX)
        for start in (CODE, STACK, END):
            self._machine.mem_map(start, SIZE)
        self._machine.mem_map(DATA, 16 * SIZE)
        self._names: dict[str, int] = {}
        self._load(assembled(text, processor))

    def _load(self, image: bytes) -> None:
        table = struct.unpack_from("<Q", image, 40)[0]
        count = struct.unpack_from("<H", image, 60)[0]
        sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + 64 * i) for i in range(count)]
        place, at = {}, CODE
        memory = bytearray(SIZE)
        for i, s in enumerate(sections):
            if s[2] & 2 and s[5]:
                at = -(-at // 64) * 64
                place[i] = at
                memory[at - CODE : at - CODE + s[5]] = image[s[4] : s[4] + s[5]]
                at += s[5]
        (symbols,) = [s for s in sections if s[1] == 2]
        strings = sections[symbols[6]][4]
        values = []
        for i in range(symbols[5] // 24):
            name, _, _, section, value, _ = struct.unpack_from(
                "<IBBHQQ", image, symbols[4] + 24 * i
            )
            values.append(place.get(section, 0) + value)
            end = image.index(b"\0", strings + name)
            self._names[image[strings + name : end].decode()] = values[-1]
        for s in sections:
            if s[1] == 4 and s[7] in place:
                for i in range(s[5] // 24):
                    where, info, addend = struct.unpack_from("<QQq", image, s[4] + 24 * i)
                    spot = place[s[7]] + where
                    target = values[info >> 32] + addend
                    (word,) = struct.unpack_from("<I", memory, spot - CODE)
                    word = _relocated(word, info & 0xFFFFFFFF, spot, target)
                    struct.pack_into("<I", memory, spot - CODE, word)
        self._machine.mem_write(CODE, bytes(memory))

    def call(self, name: str, *args: Any) -> None:
        """Run a function of at most eight arguments: arrays (their addresses) and integers."""
        machine, at, held = self._machine, DATA, []
        assert len(args) <= 8
        for i, value in enumerate(args):
            if isinstance(value, np.ndarray):
                machine.mem_write(at, value.tobytes())
                held.append((value, at))
                number = at
                at = -(-(at + value.nbytes) // 64) * 64
            else:
                number = int(value)
            machine.reg_write(UC_ARM64_REG_X0 + i, number)
        machine.reg_write(UC_ARM64_REG_SP, STACK + SIZE // 2)
        machine.reg_write(UC_ARM64_REG_LR, END)
        machine.emu_start(self._names[name], END)
        for value, start in held:
            new = np.frombuffer(bytes(machine.mem_read(start, value.nbytes)), value.dtype)
            value[...] = new.reshape(value.shape)


def _relocated(word: int, kind: int, spot: int, target: int) -> int:
    if kind == CALL:
        return word | ((target - spot) >> 2 & 0x3FFFFFF)
    if kind == PAGE:
        pages = (target >> 12) - (spot >> 12)
        return word | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    if kind == ADD:
        return word | (target & 0xFFF) << 10
    return word | ((target & 0xFFF) >> LOW[kind]) << 10
