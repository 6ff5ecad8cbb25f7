"""Float32 functions of the kernel IR written in its own arithmetic, for targets that lack them.

LLVM has no vector form of exp, log, sin, cos, tanh and erf, and Metal has no erf. Each expansion is
within 2.5 ulp of the truth (sin and cos for |x| <= 2**30; beyond, they stay in [-1, 1]). The rough
exponential is for results that are rounded to float16.

Polynomials were fitted with float64 least squares on 4,000 Chebyshev nodes, reweighted after
Lawson (weights times the error, 120 to 400 turns), which nears the minimax of the relative error;
coefficients are rounded to float32 from the lowest order up, the rest refitted each time. The forms
are those of the Cephes library (exp, log, sin, cos) and of N. Juffa's erff (erf); tanh is
-e / (2 + e) of e = expm1(-2|x|), as in FreeBSD's msun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tensorlogic.kernels.exprs import (
    Expr,
    binary,
    bitcast,
    cast,
    const,
    fma,
    rebuilt,
    select,
    unary,
)

_LOG2E = math.log2(math.e)
_LN2_HI = 0.693359375  # 10 bits: n * _LN2_HI is exact
_LN2_LO = math.log(2) - _LN2_HI
_ROUND32 = 1.5 * 2.0**23  # adding it leaves the nearest integer in the low bits
_ROUND64 = 1.5 * 2.0**52
_ROUND32_BITS = 0x4B400000
_ONE_BITS = 0x3F800000
_SIGN = -0x80000000
_HALF_PI_HI = math.pi / 2
_HALF_PI_LO = 6.123233995736766e-17  # pi/2 - _HALF_PI_HI

# e**r = 1 + r + r**2 * EXP(r), |r| <= ln(2) / 2: 3e-9
_EXP = (0.49999994, 0.16666521, 0.041668274, 0.008368686, 0.0013820136)
# 2**f = 1 + f * EXP2(f), 0 <= f < 1: 2e-7
_EXP2 = (
    0.6931512951850891,
    0.2401645928621292,
    0.055799514055252075,
    0.009017480537295341,
    0.0018669525161385536,
)
# log(1 + f) = f - f**2 / 2 + f**3 * LOG(f), sqrt(1/2) <= 1 + f <= sqrt(2): 6e-9
_LOG = (
    0.3333333134651184,
    -0.2500081956386566,
    0.2000124156475067,
    -0.166234090924263,
    0.14201579988002777,
    -0.13159610331058502,
    0.12762217223644257,
    -0.07636439055204391,
)
# sin(r) = r + r**3 * SIN(r**2), |r| <= pi/4: 4e-9
_SIN = (-0.16666655242443085, 0.008332189172506332, -0.00019518285989761353)
# cos(r) = 1 - r**2 / 2 + r**4 * COS(r**2): 2e-10
_COS = (0.04166664555668831, -0.0013887310633435845, 2.4432563805021346e-05)
# erf(x) = x + x * ERF(x**2), 0 <= x <= _ERF_SPLIT: 2e-8
_ERF = (
    0.12837915122509003,
    -0.37612491846084595,
    0.1128176674246788,
    -0.026764316484332085,
    0.0049893660470843315,
    -0.0005969914491288364,
)
# log(erfc(x)) = -x + x * ERFC(x), _ERF_SPLIT <= x <= 4, where erf is 1 in float32: 7e-10 of erf
_ERFC = (
    -0.1286529153585434,
    -0.6351333856582642,
    -0.10626646131277084,
    0.0237874798476696,
    -0.0036544438917189837,
    0.00032574307988377967,
    -1.1524101864779368e-05,
)
_ERF_SPLIT = 0.927734375


def _f32(value: float) -> Expr:
    return const(value, "f32")


def horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """A polynomial, its coefficients from the lowest order up."""
    sum_: Expr = const(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        sum_ = fma(sum_, x, c)
    return sum_


def _at_most(x: Expr, bound: float) -> Expr:
    """min(x, bound) that keeps NaN."""
    return select(_f32(bound) < x, bound, x)


def _with_sign(magnitude: Expr, sign: Expr) -> Expr:
    """The magnitude (>= 0, or NaN) with the sign bit of `sign` (i32) flipped in."""
    return bitcast(bitcast(magnitude, "i32") ^ (sign & _SIGN), "f32")


def _reduce_exp(x: Expr) -> tuple[Expr, Expr]:
    """x = n ln(2) + r: the bits of n + _ROUND32, and e**r - 1."""
    shifted = fma(x, _LOG2E, _ROUND32)
    n = shifted - _ROUND32
    return bitcast(shifted, "i32"), expm1_near_zero(without_ln2(x, n))


def without_ln2(x: Expr, n: Expr) -> Expr:
    """x - n * ln(2) for a whole number n (f32) that is near x / ln(2)."""
    return fma(n, -_LN2_LO, fma(n, -_LN2_HI, x))


def expm1_near_zero(r: Expr) -> Expr:
    """e**r - 1 for |r| <= ln(2) / 2."""
    return fma(horner(r, _EXP), r * r, r)


def power_of_two(n: Expr) -> Expr:
    """2.0**n for n (i32) from -126 to 127."""
    return bitcast((n << 23) + _ONE_BITS, "f32")


def exp(x: Expr) -> Expr:
    # Below -104 the result rounds to 0, above 89 to inf; 2**n is applied in two halves, so that
    # n = 128 and subnormal results come out right.
    bits, p = _reduce_exp(_at_most(select(x < -104.0, -104.0, x), 89.0))
    n = bits - _ROUND32_BITS
    half = binary("sar", n, 1)
    return (p + 1.0) * power_of_two(half) * power_of_two(n - half)


def exp_by_ldexp(x: Expr) -> Expr:
    """For processors with an instruction for a * 2**n."""
    x = _at_most(select(x < -104.0, -104.0, x), 89.0)
    n = fma(x, _LOG2E, _ROUND32) - _ROUND32
    return ldexp(expm1_near_zero(without_ln2(x, n)) + 1.0, n)


def ldexp(x: Expr, n: Expr) -> Expr:
    """x * 2**floor(n), rounded once; n is a float of any size."""
    return Expr("ldexp", "f32", (x, n))


def rough_exp(x: Expr) -> Expr:
    """exp off by 2**-24 of x * log2(e) and 2e-7: what is below float32's normal numbers is 0."""
    t = _at_most(select(x < -88.0, -88.0, x), 89.0) * _LOG2E
    shifted = (t - 0.5) + _ROUND32
    f = t - (shifted - _ROUND32)
    return fma(horner(f, _EXP2), f, 1.0) * power_of_two(bitcast(shifted, "i32"))


def rough_exp_by_ldexp(x: Expr) -> Expr:
    """The same where fract and ldexp are instructions, which infinities pass as they should."""
    t = x * _LOG2E
    f = unary("fract", t)
    return ldexp(fma(horner(f, _EXP2), f, 1.0), t)


def exponent(bits: Expr) -> Expr:
    """Of the bits of a positive normal float: n where the float is [sqrt(1/2), sqrt(2)) * 2**n."""
    return binary("sar", bits - 0x3F3504F3, 23)  # the bits of sqrt(1/2)


def log(x: Expr) -> Expr:
    tiny = x < 2.0**-126
    bits = bitcast(select(tiny, x * 2.0**23, x), "i32")
    e = exponent(bits)
    f = bitcast(bits - (e << 23), "f32") - 1.0
    y = log_near_one(f, cast(e, "f32") - select(tiny, _f32(23.0), 0.0))
    y = select(x < math.inf, y, x)  # inf and NaN are their own logarithms
    return select(x <= 0.0, select(x < 0.0, _f32(math.nan), -math.inf), y)


def log_near_one(f: Expr, n: Expr) -> Expr:
    """log((1 + f) * 2**n) for 1 + f from sqrt(1/2) to sqrt(2) and a whole number n (f32)."""
    f2 = f * f
    tail = fma(f2, -0.5, fma(f * f2, horner(f, _LOG), n * _LN2_LO))
    return fma(n, _LN2_HI, f + tail)


def _sine(x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi/2) for x >= 0, and the sign to flip in as bit 31 of an i32."""
    wide = cast(x, "f64")
    shifted = fma(wide, 2 / math.pi, _ROUND64)
    k = shifted - _ROUND64
    r64 = fma(k, -_HALF_PI_LO, fma(k, -_HALF_PI_HI, wide))
    r = cast(r64, "f32")
    r = _at_most(select(r < -0.79, -0.79, r), 0.79)
    quadrant = cast(bitcast(shifted, "i64"), "i32") + quarter
    r2 = r * r
    sine = fma(r * r2, horner(r2, _SIN), r)
    cosine = fma(r2 * r2, horner(r2, _COS), fma(r2, -0.5, 1.0))
    value = select((quadrant & 1).eq(0), sine, cosine)
    return bitcast(bitcast(value, "i32") ^ ((quadrant & 2) << 30), "f32")


def sin(x: Expr) -> Expr:
    return _with_sign(_sine(unary("abs", x), 0), bitcast(x, "i32"))


def cos(x: Expr) -> Expr:
    return _sine(unary("abs", x), 1)


def tanh(x: Expr) -> Expr:
    bits, p = _reduce_exp(_at_most(unary("abs", x), 20.0) * -2.0)
    scale = power_of_two(bits)  # the high bits of _ROUND32_BITS are shifted out
    e = fma(scale, p, scale - 1.0)
    return _with_sign((0.0 - e) / (e + 2.0), bitcast(x, "i32"))


def erf(x: Expr) -> Expr:
    t = _at_most(unary("abs", x), 4.0)
    small = fma(horner(t * t, _ERF), t, t)
    large = 1.0 - unary("exp", fma(horner(t, _ERFC), t, -t))
    return _with_sign(select(t <= _ERF_SPLIT, small, large), bitcast(x, "i32"))


Table = Mapping[str, Callable[[Expr], Expr]]
EXPANSIONS: Table = {
    "exp": exp,
    "log": log,
    "sin": sin,
    "cos": cos,
    "tanh": tanh,
    "erf": erf,
}


BY_BITS: Table = {**EXPANSIONS, "rough_exp": rough_exp}
"""For processors that lack fract and ldexp."""
BY_LDEXP: Table = {**EXPANSIONS, "exp": exp_by_ldexp, "rough_exp": rough_exp_by_ldexp}
"""For processors that have fract and ldexp."""
ERF: Table = {"erf": erf}
"""For GPUs, which have the others."""


def expand(e: Expr, table: Table = EXPANSIONS, memo: dict[Expr, Expr] | None = None) -> Expr:
    """The expression with each function of a table written out; what was shared is shared still.
    Of two forms of a function it has the fine one.

    `memo` keeps what was rewritten, so that several roots share their common nodes.
    """
    memo = {} if memo is None else memo
    stack: list[Expr | None] = [e]
    while stack:
        n = stack.pop()
        if n is None:  # what the next one is made of is done
            n, made = stack.pop(), stack.pop()
            assert n is not None
            assert made is not None
            if made is not n:
                memo[n] = memo[made]
            elif n.op in table:
                arg = memo[n.args[0]]
                memo[arg] = arg
                body = table[n.op](arg)  # may hold functions of the table in its turn
                stack += (body, n, None, body)
            else:
                memo[n] = rebuilt(n, tuple([memo[a] for a in n.args]))
        elif n not in memo:
            if n.op == "either":
                stack += (n.args[0], n, None, n.args[0])
            elif n.args:
                stack += (n, n, None, *n.args)
            else:
                memo[n] = n
    return memo[e]
