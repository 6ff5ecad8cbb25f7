"""Spans of host memory, and tensors laid out in them."""

from __future__ import annotations

import atexit
import itertools
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ALIGNMENT = 64

serials = itertools.count()
"""Numbers nodes and memory in the order of their making: what a trace made is younger than it."""


def padded(nbytes: int) -> int:
    """Bytes of the memory that is allocated for so many."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Memory:
    """One span of host memory.

    `address` and `nbytes` say where it lies; `owner` keeps it alive. `owned` memory was allocated
    here, so that a kernel may write into it; memory of a file or of a NumPy array is only read.
    `shared` is set once a view of it was handed out, after which nothing may write in place.
    `copies` holds what devices keep of it: those with memory of their own a copy, by device, the
    CPU weights in another order. `stays`: whether the address stays what it is.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "base",
        "copies",
        "nbytes",
        "owned",
        "owner",
        "serial",
        "shared",
    )
    stays = True

    def __init__(self, base: Bytes, owner: object, owned: bool, address: int | None = None):
        self.base = base
        self.address: int = base.__array_interface__["data"][0] if address is None else address
        self.nbytes = base.nbytes
        self.owner = owner
        self.owned = owned
        self.shared = False
        self.copies: dict[object, Memory] | None = None
        self.serial = next(serials)

    @property
    def constant(self) -> bool:
        """Whether its bytes stay what they are: ours, or an array that nobody may write."""
        return self.owned or not self.base.flags.writeable

    @staticmethod
    def allocate(nbytes: int) -> Allocated:
        """Uninitialised memory, aligned and padded to 64 bytes."""
        size = padded(nbytes)
        return LargeMemory.of_size(size) if size > SMALL else Allocated(*_raw(size), size)

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> tuple[Memory, int]:
        """The bytes that `array` spans, without a copy, and the offset of its first element."""
        low, high = np.lib.array_utils.byte_bounds(array)
        start = array.__array_interface__["data"][0]
        if array.flags.c_contiguous:
            base = array.reshape(-1).view(np.uint8)
        else:
            import ctypes

            span = (ctypes.c_uint8 * (high - low)).from_address(low)
            span.owner = array  # type: ignore[attr-defined]  # views of it outlive this object
            base = np.frombuffer(memoryview(span), np.uint8)
        return cls(base, array, False), start - low

    def view(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> NDArray[Any]:
        """A NumPy array over this memory; strides and offset count elements of `dtype`."""
        size = dtype.itemsize
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.ndarray(
            shape, dtype, self.base.data, offset * size, tuple(s * size for s in strides)
        )


class Allocated(Memory):
    """Memory that was allocated here, by the native runner too: `start` bytes into its owner.
    NumPy's array over it is made when it is asked for."""

    __slots__ = ("start",)

    owner: Bytes | bytes | bytearray
    owned = True
    start: int

    def __init__(
        self, owner: Bytes | bytes | bytearray, address: int, start: int, nbytes: int
    ) -> None:
        self.owner, self.address, self.start, self.nbytes = owner, address, start, nbytes
        self.shared = False
        self.copies = None
        self.serial = next(serials)

    @property
    def base(self) -> Bytes:  # type: ignore[override]
        return np.frombuffer(self.owner, np.uint8, self.nbytes, self.start)


def _raw(nbytes: int) -> tuple[Bytes, int, int]:
    """An array with room for so many bytes, the address of its aligned part, and its start."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    at = raw.__array_interface__["data"][0]
    start = -at % ALIGNMENT
    return raw, at + start, start


SMALL = 1 << 13
"""Bytes up to which memory is left to the allocator of Python and C. Larger memory is kept for the
next: once it is given back the system clears each new page, which takes longer than most kernels
need to write it."""
MIDDLE, MIDDLE_KEPT = 1 << 16, 64
"""Up to so many bytes, so many pieces of a size are kept without a look at what is kept in all."""
LARGE_KEPT = 256 << 20
"""Bytes of it that are kept at most."""
_large: dict[int, list[tuple[Bytes, int, int]]] = {}


class LargeMemory(Allocated):
    """Memory that is kept for the next that is about as large, unless somebody has a view of it."""

    __slots__ = ("_capacity",)

    _capacity: int

    @classmethod
    def of_size(cls, nbytes: int) -> LargeMemory:
        step = 1 << (nbytes.bit_length() - 4)
        capacity = -(-nbytes // step) * step
        try:
            piece = _large[capacity].pop()
        except (KeyError, IndexError):
            piece = _raw(capacity)
        memory = cls(*piece, nbytes)
        memory._capacity = capacity
        return memory

    def __del__(self) -> None:
        found, capacity = _references(self.owner), self._capacity
        if found == _alone:
            if not _ended:
                pieces = _large.get(capacity)
                if pieces is None:
                    pieces = _large.setdefault(capacity, [])
                if (capacity <= MIDDLE and len(pieces) < MIDDLE_KEPT) or _make_room(capacity):
                    pieces.append((self.owner, self.address, self.start))  # type: ignore[arg-type]
        elif not _alone:
            _note_alone(found)


def _make_room(capacity: int) -> bool:
    """Whether a piece may be kept; those of other sizes are let go if that is needed for it."""
    kept = sum(size * len(pieces) for size, pieces in list(_large.items()))
    if kept + capacity > LARGE_KEPT:  # what the program went on from is let go first
        for size, pieces in list(_large.items()):
            if size != capacity:
                pieces.clear()
        kept = capacity * len(_large.get(capacity, ()))
    return kept + capacity <= LARGE_KEPT


_references = sys.getrefcount
_alone = 0
"""References to the owner of memory that goes, in its `__del__`, if nothing else refers to it; the
first that goes says how many that are."""
_ended: list[bool] = []
atexit.register(_ended.append, True)  # from then on modules go in any order


def _note_alone(found: int) -> None:
    global _alone
    _alone = found


def _see_alone() -> None:
    probe = LargeMemory.of_size(2 * SMALL)
    del probe


_see_alone()


@dataclass(slots=True)
class Strided:
    """Where the values of a leaf lie: `offset` and `strides` count elements of the storage type.

    A quantized storage (`strides` is None) has no strides: its rows of blocks lie one after another
    from byte `offset`.
    """

    memory: Memory
    storage: str
    offset: int
    strides: tuple[int, ...] | None


@lru_cache(maxsize=4096)
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def reshape_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides that show a strided array in a new shape without a copy, or None."""
    if 0 in shape:
        return contiguous_strides(new)
    merged: list[tuple[int, int]] = []  # adjacent old axes that run on as one
    for n, s in zip(shape, strides, strict=True):
        if n != 1 and merged and merged[-1][1] == s * n:
            merged[-1] = (merged[-1][0] * n, s)
        elif n != 1:
            merged.append((n, s))
    result = [0] * len(new)
    axis = len(new) - 1
    for n, s in reversed(merged):
        while n > 1:
            while axis >= 0 and new[axis] == 1:
                axis -= 1
            if axis < 0 or n % new[axis]:
                return None
            result[axis] = s
            n, s = n // new[axis], s * new[axis]
            axis -= 1
    return tuple(result)
