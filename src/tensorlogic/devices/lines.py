"""The memory of interleaved weights: made from a leaf when a plan first runs with it, then kept.

It is as large as the leaf. A leaf that lies in a mapped file gives the pages that were read for it
back to the system, so that a model takes no more of memory than its file has bytes.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from tensorlogic.devices.native import Launch, Program, run
from tensorlogic.graph import Node
from tensorlogic.locks import PREPARE
from tensorlogic.storage import Memory, Strided

if TYPE_CHECKING:
    from tensorlogic.devices.library import Library


class Weights:
    """Leaves as lines of sixteen rows (codegen/llvm_interleaved.py)."""

    def __init__(self, library: Library):
        self._library = library

    def address(self, node: Node) -> int:
        """Where the lines of a leaf begin."""
        assert node.data is not None
        kept = (node.data.memory.copies or {}).get(_key(node))
        return (kept or self._make(node, node.data)).address

    def _make(self, node: Node, data: Strided) -> Memory:
        with PREPARE:
            source = data.memory
            kept = (source.copies or {}).get(_key(node))
            if kept is not None:  # another thread was first
                return kept
            from tensorlogic.codegen.llvm_interleaved import LINES, ROWS

            lines = LINES[data.storage]
            units = node.shape[-1] // lines.type.unit
            rows = node.size // node.shape[-1]
            made = Memory.allocate(rows * units * lines.type.nbytes)
            program = Program([Launch(self._kernel(data.storage), 3, rows // ROWS, 1)])
            program.words[0], program.words[1] = source.address + data.offset, made.address
            program.words[2] = units
            run(program)
            source.copies = {**(source.copies or {}), _key(node): made}
            _release(source)
            return made

    def _kernel(self, storage: str) -> int:
        from tensorlogic.codegen.llvm_interleaved import interleave, interleave_name

        name = interleave_name(storage)
        if name not in self._library.kernels:
            self._library.add_kernels(self._library.compile(interleave(storage), [name]))
        return self._library.kernels[name]


def _key(node: Node) -> tuple[object, ...]:
    assert node.data is not None
    return "lines", node.data.storage, node.data.offset, node.shape


def _release(source: Memory) -> None:
    """Give the pages of a mapped file that lie wholly in a span of it back to the system."""
    view = source.base.base
    owner = view.obj if isinstance(view, memoryview) else view
    if not isinstance(owner, mmap.mmap) or not hasattr(owner, "madvise"):
        return
    start = np.frombuffer(owner, np.uint8, 1).__array_interface__["data"][0]
    page = mmap.PAGESIZE
    first = -(-(source.address - start) // page) * page
    last = (source.address - start + source.nbytes) // page * page
    if first < last:
        owner.madvise(mmap.MADV_DONTNEED, first, last - first)
