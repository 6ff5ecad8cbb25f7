"""Spans of host memory, and tensors laid out in them."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ALIGNMENT = 64

serials = itertools.count()
"""Numbers nodes and memory in the order of their making: what a trace made is younger than it."""


class Memory:
    """One span of host memory.

    `address` and `nbytes` say where it lies; `owner` keeps it alive. `owned` memory was allocated
    here, so that a kernel may write into it; memory of a file or of a NumPy array is only read.
    `shared` is set once a view of it was handed out, after which nothing may write in place.
    `copies` holds what devices with memory of their own keep of it, by device.
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

    @classmethod
    def allocate(cls, nbytes: int) -> Memory:
        """Uninitialised memory, aligned and padded to 64 bytes."""
        padded = -(-nbytes // ALIGNMENT) * ALIGNMENT
        if padded <= POOLED:
            try:
                return PooledMemory(*_pool[padded].pop())
            except (KeyError, IndexError):  # none of that size, or another thread took the last one
                pass
        raw = np.empty(padded + ALIGNMENT, np.uint8)
        at = raw.__array_interface__["data"][0]
        start = -at % ALIGNMENT
        kind = PooledMemory if padded <= POOLED else cls
        return kind(raw[start : start + padded], raw, True, at + start)

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


POOLED = 1 << 16
"""Bytes of memory at most that is kept for the next that needs as much."""
_KEPT = 64
_pool: dict[int, list[tuple[Bytes, object, bool, int]]] = {}


class PooledMemory(Memory):
    """Memory that goes back into the pool, unless somebody still has a view of it.

    The base of a view is the array that owns the bytes: NumPy follows the chain to its end.
    """

    __slots__ = ()

    def __del__(self, references: Any = sys.getrefcount) -> None:  # modules go before it may
        owner, base = self.owner, self.base
        if references(owner) == _REFERENCES[0] and references(base) == _REFERENCES[1]:
            kept = _pool.setdefault(base.nbytes, [])
            if len(kept) < _KEPT:
                kept.append((base, owner, True, self.address))


class _Probe(Memory):
    """What `sys.getrefcount` says there of an owner and a base that only their memory refers to."""

    __slots__ = ()
    found = (0, 0)

    def __del__(self) -> None:
        owner, base = self.owner, self.base
        _Probe.found = sys.getrefcount(owner), sys.getrefcount(base)


def _references() -> tuple[int, int]:
    raw = np.empty(1, np.uint8)
    probe = _Probe(raw[:], raw, True)
    del raw, probe
    return _Probe.found


_REFERENCES = _references()


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
