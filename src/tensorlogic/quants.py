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

from tensorlogic.kernels.exprs import Expr, cast, const, index, load, nodes_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tensorlogic.kernels.ir import Buffer

Reader = Callable[[Expr], Expr]
"""From a byte offset in the block (i64) to a value: the byte as i32, or the half as f32."""
Digits = tuple[Expr, ...]


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
    decode: Callable[[Reader, Reader, Digits], Expr]


def _at(offset: int) -> Expr:
    return const(offset, "i64")


def _bits(byte: Expr, digit: Expr, width: int) -> Expr:
    """The bits of a byte or word from position `width * digit` upward, as i32."""
    return byte >> (cast(digit, "i32") * width)


def _nibble(u8: Reader, half: Expr, at: Expr) -> Expr:
    """The low (half 0) or high (half 1) four bits of a byte."""
    return _bits(u8(at), half, 4) & 15


def _real(value: Expr) -> Expr:
    return cast(value, "f32")


def _q4_0(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    half, j = digits
    return f16(_at(0)) * (_real(_nibble(u8, half, j + 2)) - 8.0)


def _q4_1(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    half, j = digits
    return f16(_at(0)) * _real(_nibble(u8, half, j + 4)) + f16(_at(2))


def _five_bits(u8: Reader, digits: Digits, at: int) -> Expr:
    """Q5_0 and Q5_1: the fifth bits of all elements at byte `at`, before the nibbles."""
    half, j = digits
    fifths = u8(half * 2 + at) | (u8(half * 2 + (at + 1)) << 8)
    return _nibble(u8, half, j + (at + 4)) | ((_bits(fifths, j, 1) & 1) << 4)


def _q5_0(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    return f16(_at(0)) * _real(_five_bits(u8, digits, 2) - 16)


def _q5_1(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    return f16(_at(0)) * _real(_five_bits(u8, digits, 4)) + f16(_at(2))


def _signed(byte: Expr) -> Expr:
    """A byte as int8."""
    return (byte ^ 128) - 128


def _q8_0(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    (j,) = digits
    return f16(_at(0)) * _real(_signed(u8(j + 2)))


def _q2_k(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    part, pair, group, j = digits
    scale = u8(part * 8 + pair * 2 + group)
    q = _bits(u8(part * 32 + group * 16 + j + 16), pair, 2) & 3
    high, low = f16(_at(80)) * _real(scale & 15), f16(_at(82)) * _real(scale >> 4)
    return high * _real(q) - low


def _q3_k(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    part, high, low, group, j = digits
    pair, lane = high * 2 + low, group * 16 + j
    third = _bits(u8(lane), part * 4 + pair, 1) & 1
    q = (_bits(u8(part * 32 + lane + 32), pair, 2) & 3) + (third << 2) - 4
    top = _bits(u8(low * 2 + group + 104), part * 2 + high, 2) & 3
    scale = (_nibble(u8, part, pair * 2 + group + 96) | (top << 4)) - 32
    return f16(_at(108)) * _real(scale) * _real(q)


def _six_bit_scales(u8: Reader, f16: Reader, upper: Expr, k: Expr, q: Expr) -> Expr:
    """Q4_K and Q5_K: `q` by the scale and minimum of part 4 * upper + k.

    The first four parts have theirs in bytes 4 to 11; the others have four bits each in bytes 12 to
    15, and their upper two above those of the first four.
    """
    mask, top = _bits(const(63, "i32"), upper, 2), cast(upper, "i32") * 48
    scale = (u8(upper * 8 + k + 4) & mask) | ((u8(k + 4) >> 2) & top)
    least = (_bits(u8(upper * 4 + k + 8), upper, 4) & mask) | ((u8(k + 8) >> 2) & top)
    return f16(_at(0)) * _real(scale) * _real(q) - f16(_at(2)) * _real(least)


def _q4_k(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    upper, pair, half, j = digits
    q = _nibble(u8, half, upper * 64 + pair * 32 + j + 16)
    return _six_bit_scales(u8, f16, upper, pair * 2 + half, q)


def _q5_k(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    upper, pair, half, j = digits
    k = pair * 2 + half
    fifth = _bits(u8(j + 16), upper * 4 + k, 1) & 1
    q = _nibble(u8, half, upper * 64 + pair * 32 + j + 48) | (fifth << 4)
    return _six_bit_scales(u8, f16, upper, k, q)


def _q6_k(u8: Reader, f16: Reader, digits: Digits) -> Expr:
    part, half, row, group, j = digits
    lane = row * 32 + group * 16 + j
    upper = _bits(u8(part * 32 + group * 16 + j + 128), half * 2 + row, 2) & 3
    q = (_nibble(u8, half, part * 64 + lane) | (upper << 4)) - 32
    scale = _signed(u8(part * 8 + half * 4 + row * 2 + group + 192))
    return f16(_at(208)) * _real(scale) * _real(q)


QUANTS: dict[str, QuantType] = {
    q.name: q
    for q in (
        QuantType("q4_0", 32, 18, (2, 16), _q4_0),
        QuantType("q4_1", 32, 20, (2, 16), _q4_1),
        QuantType("q5_0", 32, 22, (2, 16), _q5_0),
        QuantType("q5_1", 32, 24, (2, 16), _q5_1),
        QuantType("q8_0", 32, 34, (32,), _q8_0),
        QuantType("q2_K", 256, 84, (2, 4, 2, 16), _q2_k),
        QuantType("q3_K", 256, 110, (2, 2, 2, 2, 16), _q3_k),
        QuantType("q4_K", 256, 144, (2, 2, 2, 32), _q4_k),
        QuantType("q5_K", 256, 176, (2, 2, 2, 32), _q5_k),
        QuantType("q6_K", 256, 210, (2, 2, 2, 2, 16), _q6_k),
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

    from tensorlogic.kernels.ir import Buffer

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
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "shl": np.left_shift,
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
