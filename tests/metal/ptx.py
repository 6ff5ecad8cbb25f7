"""Unchanged Metal text as PTX: clang's NVPTX target, and entries that a CUDA driver can launch.

A text's kernels take ids as arguments, which no PTX entry can; each gets an entry `run_NAME` that
takes the addresses of its buffers by slot and reads the ids from registers. In LLVM's IR, between
clang's two steps, the kernel becomes a plain function, which is inlined there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.metal import clang
from tests.metal.text import Parameter, Signature, kernels

ARCH = "sm_80"
_TID, _GROUP, _SIZE, _GROUPS = (
    f"(uint)__nvvm_read_ptx_sreg_{r}" for r in ("tid", "ctaid", "ntid", "nctaid")
)
_SCALARS = {
    "thread_index_in_threadgroup": f"{_TID}_x()",
    "thread_index_in_simdgroup": f"{_TID}_x() % 32",
    "simdgroup_index_in_threadgroup": f"{_TID}_x() / 32",
    "simdgroups_per_threadgroup": f"{_SIZE}_x() / 32",
    "threads_per_simdgroup": "32",
    "thread_position_in_grid": f"{_GROUP}_x() * {_SIZE}_x() + {_TID}_x()",
    "threadgroup_position_in_grid": f"{_GROUP}_x()",
    "thread_position_in_threadgroup": f"{_TID}_x()",
    "threads_per_threadgroup": f"{_SIZE}_x()",
    "threadgroups_per_grid": f"{_GROUPS}_x()",
    "threads_per_grid": f"{_GROUPS}_x() * {_SIZE}_x()",
}
_FLAGS = (
    *(
        "-target",
        "nvptx64-nvidia-cuda",
        f"-march={ARCH}",
        "-nocudalib",
        "-Wno-unknown-cuda-version",
    ),
    *("-Xclang", "-target-feature", "-Xclang", "+ptx70", "-O2"),
)
_PROGRAM_SCOPE = ",+cl_khr_fp64,+__opencl_c_fp64,+__opencl_c_program_scope_global_variables"


def ptx(text: str) -> str:
    """The PTX of a text, whose entries are `run_NAME(address, ...)`. Raises MetalError."""
    found = kernels(text)
    source = f"{text}\n{_entries(found)}"
    flags = [f + _PROGRAM_SCOPE if f.startswith("-cl-ext") else f for f in clang.LANGUAGE]
    path = clang.kept(".ptx", source, clang.headers(), *flags, *_FLAGS)
    if not path.exists():
        unoptimised = ["-S", "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-ffp-contract=off"]
        command = [clang.clang(), *flags, *_FLAGS, *unoptimised, "-o", "-", "-"]
        ir = clang.run(command, source)
        for kernel in found:
            ir = _as_function(ir, kernel.name)
        clang.compile_to(path, ["-x", "ir", *_FLAGS, "-S"], ir)
    return path.read_text()


def slots(kernel: Signature) -> int:
    """How many addresses an entry takes."""
    return max(kernel.slots) + 1


def _entries(found: Iterable[Signature]) -> str:
    lines = []
    for k in found:
        arguments = ", ".join(_argument(p) for p in k.parameters)
        addresses = ", ".join(f"ulong slot{i}" for i in range(slots(k)))
        lines.append(f"__kernel void run_{k.name}({addresses}) {{ {k.name}({arguments}); }}")
    return "\n".join(lines) + "\n"


def _argument(p: Parameter) -> str:
    if p.slot is None:
        value = _SCALARS[p.attribute]
        width = int(p.ctype[-1]) if p.ctype[-1] in "23" else 1
        rest = ", ".join(("0" if "position" in p.attribute else "1") for _ in range(width - 1))
        return f"({p.ctype})({value}{', ' + rest if rest else ''})"
    pointer = f"({p.ctype.rstrip('*& ')}*)slot{p.slot}"
    return f"*{pointer}" if p.ctype.endswith("&") else pointer


def _as_function(ir: str, kernel: str) -> str:
    """LLVM IR in which a kernel is a function of this module, to be inlined."""
    marks = re.findall(rf'^(!\d+) = !\{{[^}}]*@{kernel}, !"kernel", i32 1\}}\n', ir, re.MULTILINE)
    for mark in marks:
        ir = re.sub(rf"^{mark} = .*\n", "", ir, flags=re.MULTILINE)
        ir = re.sub(rf"^(!nvvm.annotations = .*?){mark}(, )?", r"\1", ir, flags=re.MULTILINE)
    ir = re.sub(r"^(!nvvm.annotations = .*), \}$", r"\1}", ir, flags=re.MULTILINE)
    ir = re.sub(
        rf"^define [\w ]*void @{kernel}\(",
        f"define internal spir_kernel void @{kernel}(",
        ir,
        flags=re.MULTILINE,
    )
    return re.sub(r"^(attributes #\d+ = .*)\bnoinline ", r"\1", ir, flags=re.MULTILINE)
