"""Quantized types, one row each: the shape of a block and the expression that decodes it.

A row's `decode` is the definition that the NumPy reference, LLVM, Metal and CUDA all read. It is
written against two readers of the block (a byte, a half) and the digits of the element's index, so
that it needs no division: with `digits` (2, 16), element `16*h + j` is decoded from `h` and `j`.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorlogic.kernels.ir import Buffer, Expr, cast, const, index, load, nodes_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Reader = Callable[[Expr], Expr]
"""From a byte offset in the block (i64) to a value: the byte as i32, or the half as f32."""


@dataclass(frozen=True)
class QuantType:
    """One quantized type: `block` elements in `nbytes` bytes.

    `digits` is the mixed radix of an element's index in its block, most significant first; its
    product is `block`. `decode(u8, f16, digits)` is the element's value as f32.
    """

    name: str
    block: int
    nbytes: int
    digits: tuple[int, ...]
    decode: Callable[[Reader, Reader, tuple[Expr, ...]], Expr]


def _at(offset: int) -> Expr:
    return const(offset, "i64")


def _nibble(u8: Reader, half: Expr, at: Expr) -> Expr:
    """The low (half 0) or high (half 1) four bits of a byte, as f32."""
    return cast((u8(at) >> (cast(half, "i32") * 4)) & 15, "f32")


def _q4_0(u8: Reader, f16: Reader, digits: tuple[Expr, ...]) -> Expr:
    half, j = digits
    return f16(_at(0)) * (_nibble(u8, half, j + 2) - 8.0)


def _q4_1(u8: Reader, f16: Reader, digits: tuple[Expr, ...]) -> Expr:
    half, j = digits
    return f16(_at(0)) * _nibble(u8, half, j + 4) + f16(_at(2))


def _q8_0(u8: Reader, f16: Reader, digits: tuple[Expr, ...]) -> Expr:
    (j,) = digits
    return f16(_at(0)) * cast((u8(j + 2) ^ 128) - 128, "f32")


QUANTS: dict[str, QuantType] = {
    q.name: q
    for q in (
        QuantType("q4_0", 32, 18, (2, 16), _q4_0),
        QuantType("q4_1", 32, 20, (2, 16), _q4_1),
        QuantType("q8_0", 32, 34, (32,), _q8_0),
    )
}

_CHUNK = 8192
"""Blocks decoded at a time: their intermediates stay in cache."""


def dequantize(qtype: QuantType, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The float32 values [..., block] of quantized blocks [..., nbytes], by the row's own `decode`.

    >>> import numpy as np
    >>> block = np.zeros(34, np.uint8)
    >>> block[:2] = np.array([0.5], np.float16).view(np.uint8)
    >>> block[2:] = np.arange(32)
    >>> dequantize(QUANTS["q8_0"], block)[:4]
    array([0. , 0.5, 1. , 1.5], dtype=float32)
    """
    import numpy as np

    if blocks.dtype != np.uint8 or blocks.ndim == 0 or blocks.shape[-1] != qtype.nbytes:
        raise ValueError(
            f"dequantize: blocks of {qtype.name} are uint8[..., {qtype.nbytes}], "
            f"not {blocks.dtype}{list(blocks.shape)}"
        )
    rank = len(qtype.digits)
    positions = tuple(index(f"d{k}") for k in range(rank))
    byte, half = Buffer("byte", "u8"), Buffer("half", "f16")
    root = qtype.decode(lambda at: load(byte, at), lambda at: load(half, at), positions)
    leaves = {
        p.attr: np.arange(n, dtype=np.int64).reshape([-1 if k == i else 1 for k in range(rank)])
        for i, (p, n) in enumerate(zip(positions, qtype.digits, strict=True))
    }
    rows = np.ascontiguousarray(blocks).reshape(-1, qtype.nbytes)
    out = np.empty((len(rows), qtype.block), np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, len(rows), _CHUNK):
            some = rows[first : first + _CHUNK]
            shaped = out[first : first + _CHUNK].reshape(len(some), *qtype.digits)
            shaped[...] = _evaluate(root, leaves, some)
    return out.reshape(*blocks.shape[:-1], qtype.block)


def _evaluate(root: Expr, leaves: dict[str, NDArray[Any]], rows: NDArray[np.uint8]) -> NDArray[Any]:
    """`root` for every row and every element at once: axis 0 is the row, the others are digits."""
    import numpy as np

    types = {"f32": np.float32, "i32": np.int32, "i64": np.int64}
    operators: dict[str, Callable[..., Any]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "and": np.bitwise_and,
        "xor": np.bitwise_xor,
    }

    def gather(buffer: Buffer, at: NDArray[Any]) -> NDArray[Any]:
        """A half starts at its byte offset, so both readers address the row in bytes."""
        if buffer.dtype == "u8":
            return rows[:, at].astype(np.int32)
        low, high = (rows[:, at + k].astype(np.uint16) for k in (0, 1))
        return (low | high << np.uint16(8)).view(np.float16).astype(np.float32)

    value: dict[int, Any] = {}
    for e in nodes_of(root):
        args = [value[id(a)] for a in e.args]
        if e.op == "const":
            found: Any = np.full((1,) * len(leaves), e.attr, types[e.dtype])
        elif e.op == "index":
            found = leaves[e.attr]
        elif e.op == "load":
            found = gather(e.attr, args[0])
        elif e.op == "cast":
            found = args[0].astype(types[e.dtype])
        elif e.op == "shr":
            found = (args[0].view(np.uint32) >> args[1].view(np.uint32)).view(np.int32)
        else:
            found = operators[e.op](*args)
        value[id(e)] = found
    return np.asarray(value[id(root)])
