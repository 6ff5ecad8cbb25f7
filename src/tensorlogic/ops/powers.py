"""Rows: powers, and exp and log near the values where they lose digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlogic.kernels.expand import (
    expm1_near_zero,
    exponent,
    horner,
    log_near_one,
    power_of_two,
    without_ln2,
)
from tensorlogic.kernels.exprs import Expr, binary, bitcast, cast, const, fma, select, unary
from tensorlogic.ops.rounding import INFINITY_BITS, magnitude_bits
from tensorlogic.ops.table import elementwise

_NAN, _INF = const(math.nan, "f32"), const(math.inf, "f32")


def _bounded(x: Expr, low: float, high: float) -> Expr:
    return binary("min", binary("max", x, low), high)


def _expm1(x: Expr) -> Expr:
    """(e**r - 1) * 2**n + (2**n - 1), with 2**n in two halves so that n = 128 comes out right."""
    bounded = _bounded(x, -104.0, 89.0)
    whole = unary("rint", bounded * math.log2(math.e))
    p = expm1_near_zero(without_ln2(bounded, whole))
    n = cast(whole, "i32")
    half = binary("sar", n, 1)
    scale = power_of_two(n - half)
    y = fma(scale, p, scale - power_of_two(-half)) * power_of_two(half)
    return select(magnitude_bits(x).eq(0), x, y)


def _log1p(x: Expr) -> Expr:
    """1 + x is (1 + f) * 2**n, where n comes from the rounded sum and f is x * 2**-n + (2**-n - 1),
    rounded once (after N. Juffa's log1pf)."""
    n = exponent(bitcast(1.0 + x, "i32"))
    scaled = bitcast(bitcast(x, "i32") - (n << 23), "f32")
    rest = power_of_two(binary("max", -n, -126)) - 1.0
    y = select(x < math.inf, log_near_one(scaled + rest, cast(n, "f32")), x)
    y = select(x <= -1.0, select(x < -1.0, _NAN, -math.inf), y)
    return select(magnitude_bits(x).eq(0), x, y)


# log((1 + s) / (1 - s)) = 2/3 * s * (3 + s**2 + s**4 * LOG(s**2)): Taylor's, |s| < 0.1716: 4e-13
_LOG = tuple(3 / k for k in range(5, 17, 2))
# 2**t - 1 = t * EXP2(t), |t| <= 1/2: 3e-9. Fitted like the polynomials of kernels/expand.py.
_EXP2 = (
    0.6931471824645996,
    0.24022650718688965,
    0.0555039718747139,
    0.009618091396987438,
    0.0013348065549507737,
    0.00015449701459147036,
    1.1429819096520077e-05,
)
_TWO_THIRDS_LOG2E = 2 / 3 * math.log2(math.e)
_FACTOR_HIGH = float(np.float32(np.floor(_TWO_THIRDS_LOG2E * 2**11) / 2**11))
_FACTOR_LOW = _TWO_THIRDS_LOG2E - _FACTOR_HIGH


def _high(x: Expr) -> Expr:
    """The upper 12 of 24 bits: products of two such numbers are exact."""
    return bitcast(bitcast(x, "i32") & -0x1000, "f32")


def _log2(x: Expr) -> tuple[Expr, Expr]:
    """log2 of x > 0 as a sum of two: the first has 12 bits, both together some 34.

    The form is that of FreeBSD's e_powf.c. High parts are taken by masking bits, and not by sums
    and differences, which a compiler with fast math would cancel.
    """
    tiny = x < 2.0**-126
    bits = bitcast(select(tiny, x * 2.0**23, x), "i32")
    e = exponent(bits)
    m = bitcast(bits - (e << 23), "f32")
    f = m - 1.0
    over = m + 1.0
    over_high = _high(over)
    over_low = m - (over_high - 1.0)
    s = f / over
    s_high = _high(s)
    s_low = ((f - s_high * over_high) - s_high * over_low) / over
    square = s * s
    rest = fma(square * square, horner(square, _LOG), s_low * (s_high + s))
    square = s_high * s_high  # exact
    t_high = _high(square + 3.0 + rest)
    t_low = rest - ((t_high - 3.0) - square)
    u = s_high * t_high
    v = s_low * t_high + t_low * s
    p_high = _high(u + v)
    p_low = v - (p_high - u)
    z_high = p_high * _FACTOR_HIGH
    z_low = p_high * _FACTOR_LOW + p_low * _TWO_THIRDS_LOG2E
    n = cast(e, "f32") - select(tiny, const(23.0, "f32"), 0.0)
    high = _high(z_high + z_low + n)
    return high, z_low - ((high - n) - z_high)


def _pow(a: Expr, b: Expr) -> Expr:
    """2**(b * log2|a|), and the cases of C's pow."""
    if a.dtype == "i32":
        return _whole_power(a, b)
    size, bits = unary("abs", a), magnitude_bits(a)
    bounded = _bounded(b, -1e30, 1e30)
    high, low = _log2(size)
    b_high = _high(bounded)
    z_high = b_high * high
    z_low = (bounded - b_high) * high + bounded * low
    n = unary("rint", _bounded(z_high + z_low, -160.0, 160.0))
    t = _bounded((z_high - n) + z_low, -1.0, 1.0)
    whole = cast(n, "i32")
    half = binary("sar", whole, 1)
    y = fma(t, horner(t, _EXP2), 1.0) * power_of_two(half) * power_of_two(whole - half)
    zero, infinite = bits.eq(0), bits.eq(INFINITY_BITS)
    y = select(zero | infinite, select(zero ^ (b > 0.0), _INF, 0.0), y)
    halved = bounded * 0.5
    fraction = bounded.ne(unary("trunc", bounded))
    odd = halved.ne(unary("trunc", halved))
    negative = bitcast(a, "i32") < 0
    y = select(negative & odd, -y, y)
    y = select(negative & fraction, select(zero | infinite, unary("abs", y), _NAN), y)
    y = select((bits > INFINITY_BITS) | (magnitude_bits(b) > INFINITY_BITS), _NAN, y)
    return select(a.eq(1.0) | magnitude_bits(b).eq(0), 1.0, y)


def _whole_power(a: Expr, b: Expr) -> Expr:
    """By squaring, modulo 2**32; 1 / a**-b cut to a whole number where b is negative."""
    y = const(1, "i32")
    square, left = a, b
    for _ in range(31):
        y = select((left & 1).eq(0), y, y * square)
        square, left = square * square, left >> 1
    ones = a.eq(1) | a.eq(-1)
    inverse = select(ones, select((b & 1).eq(0), const(1, "i32"), a), 0)
    return select(b < 0, inverse, y)


def _pow_reference(a: Any, b: Any) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "f":
        return np.power(a, b, dtype=np.float64)
    inverse = np.where(np.abs(a) == 1, np.where(b % 2 == 0, 1, a), 0)
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


power = elementwise(
    "pow",
    "a to the power b; int32 wraps, and to a negative power is 1 / a**-b cut to a whole number.",
    _pow,
    _pow_reference,
    arity=2,
    accepts="number",
    symbol="**",
    domain=(-30, 30),
    special="as C's pow: 1 if a is 1 or b is 0, NaN of a negative a unless b is whole or infinite",
)
elementwise("expm1", "exp(x) - 1, exact near 0.", _expm1, np.expm1, domain=(-104.0, 89.0))
elementwise(
    "log1p",
    "log(1 + x), exact near 0; NaN below -1, -inf at -1.",
    _log1p,
    np.log1p,
    domain=(-1.0, math.inf),
)
