"""Philox4x32-10, a counter-based generator (Salmon et al. 2011), as expressions and in NumPy.

The i-th value of a stream is a function of the seed, the stream and i alone: it is the same on
every device, in any order, and no state is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic.kernels.exprs import Expr, binary, const

Words = NDArray[np.uint32]

ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two words of the key grow by in each round."""


def signed(word: int) -> int:
    """The int32 of the same bits."""
    return (word + 2**31) % 2**32 - 2**31


def philox(counter: list[Expr], key: list[Expr]) -> list[Expr]:
    """Four random words (i32) of a counter of four and a key of two."""
    a, b, c, d = counter
    k, l = key
    m, n = (const(signed(f), "i32") for f in FACTORS)
    for i in range(ROUNDS):
        if i:
            k, l = k + signed(WEYL[0]), l + signed(WEYL[1])
        a, b, c, d = binary("mulhi", c, n) ^ b ^ k, c * n, binary("mulhi", a, m) ^ d ^ l, a * m
    return [a, b, c, d]


def philox_words(counter: list[Any], key: list[Any]) -> list[Words]:
    """The same in NumPy, of arrays or numbers of 32 bits."""
    a, b, c, d = (np.asarray(x, np.uint64) for x in np.broadcast_arrays(*counter))
    k, l = (int(x) for x in key)
    low = np.uint64(2**32 - 1)
    for _ in range(ROUNDS):
        left, right = a * np.uint64(FACTORS[0]), c * np.uint64(FACTORS[1])
        a, b = (right >> np.uint64(32)) ^ b ^ np.uint64(k), right & low
        c, d = (left >> np.uint64(32)) ^ d ^ np.uint64(l), left & low
        k, l = (k + WEYL[0]) % 2**32, (l + WEYL[1]) % 2**32
    return [x.astype(np.uint32) for x in (a, b, c, d)]
