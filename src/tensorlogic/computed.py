"""Leaves that small calls computed."""

from __future__ import annotations

from tensorlogic.graph import Node
from tensorlogic.locks import DESCRIBE
from tensorlogic.storage import Allocated, Memory, Strided, contiguous_strides, padded, serials


class Computed(Node):
    """A leaf that a small call computed: as little of a node as can be, since to fill in a whole
    one costs as much as to compute its values. `_kind` is a leaf with the same facts; the memory
    is described when that is asked for, for most results are only passed on."""

    __slots__ = ("_data", "_kind", "_start", "_whose")
    _data: Strided | None
    _kind: Node
    _start: int
    _whose: Memory | bytes | bytearray

    op = number = None
    args = attrs = ()
    name = site = ""
    pending = 0
    traced = False

    shape = property(lambda self: self._kind.shape)
    dtype = property(lambda self: self._kind.dtype)
    weak = property(lambda self: self._kind.weak)
    made = property(lambda self: self._kind.made)

    @property
    def data(self) -> Strided:  # type: ignore[override]
        found = self._data
        if found is None:
            with DESCRIBE:  # two descriptions of one piece of memory would hide that it is one
                found = self._data
                if found is None:
                    found = self._data = self._described()
        return found

    def _described(self) -> Strided:
        memory = self._whose
        if not isinstance(memory, Memory):
            assert isinstance(self.word, int)
            nbytes = padded(self.size * self.dtype.itemsize)
            memory = Allocated(memory, self.word, self._start, nbytes)
        return Strided(memory, self.dtype.name, 0, contiguous_strides(self.shape))


def computed(
    kind: Node, whose: Memory | bytes | bytearray, address: int | None = None, start: int = 0
) -> Computed:
    """A leaf with the facts of another, its values in memory of its own, or at `address`, which is
    `start` bytes into an object that owns them."""
    node = Computed()
    node._kind = kind
    node._whose = whose
    node._start = start
    node._data = None
    node.word = address
    node.device = kind.device
    node.kind = kind.kind
    node.form = kind.form
    node.uses = 0
    node.consumed = False
    node.serial = next(serials)
    return node
