"""Rows: functions of one value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlogic.kernels.expand import horner
from tensorlogic.kernels.exprs import Expr, binary, either, fma, select, unary
from tensorlogic.ops.table import elementwise


def erf_reference(x: Any) -> Any:
    """erf by the C library, in float64."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(np.asarray(x, np.float64)), np.float64)


def _erfc_reference(x: Any) -> Any:
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(np.asarray(x, np.float64)), np.float64)


def _sigmoid_reference(x: Any) -> Any:
    x = np.asarray(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _gelu_reference(x: Any) -> Any:
    x64 = np.asarray(x, np.float64)
    tail = _erfc_reference(-x64 * math.sqrt(0.5))
    return np.where(x64 == -math.inf, np.float64(-0.0), x64 * 0.5 * tail)


def _gelu_tanh_reference(x: Any) -> Any:
    x64 = np.asarray(x, np.float64)
    u = math.sqrt(2 / math.pi) * (x64 + 0.044715 * x64**3)
    return np.where(x64 == -math.inf, np.float64(-0.0), x64 * _sigmoid_reference(2 * u))


def _silu_reference(x: Any) -> Any:
    x64 = np.asarray(x, np.float64)
    return np.where(x64 == -math.inf, np.float64(-0.0), x64 * _sigmoid_reference(x64))


def _sigmoid(x: Expr) -> Expr:
    """exp only of what is not positive: it cannot overflow, and small results keep their bits."""
    e = unary("exp", -unary("abs", x))
    return either(select(x < 0.0, e, 1.0) / (1.0 + e), _rough_sigmoid(x, 1.0))


def _rough_sigmoid(u: Expr, x: Expr | float) -> Expr:
    """x * sigmoid(u), where what is far below a half may be 0; neither is -inf."""
    return x / (1.0 + unary("exp", -u))


def _times_sigmoid(x: Expr, u: Expr, rest: Expr | None = None) -> Expr:
    """x * sigmoid(u + rest), rest the rounding error of u; x and u are above -200.

    Far down, exp(u) would be subnormal while x * exp(u) is not: exp(u + 16) and exp(-16) are
    multiplied instead (u + 16 is exact there).
    """
    far = u < -80.0
    e = unary("exp", select(far, u + 16.0, -u))
    if rest is not None:
        e = fma(e, select(far, rest, -rest), e)
    return select(far, x * e * math.exp(-16.0), x / (1.0 + e))


def _silu(x: Expr) -> Expr:
    bounded = binary("max", x, -200.0)  # where the result is -0 long since: -inf too gives it
    return either(_times_sigmoid(bounded, bounded), _rough_sigmoid(bounded, bounded))


# y * Phi(-y) * exp(y*y / 2) = v * polynomial(1 - 0.604 * v), v = y / (1 + 0.302 * y), y <= 15:
# 6e-9. Fitted like the polynomials of kernels/expand.py.
_NORMAL_TAIL = (
    0.22325760126113892,
    0.16496062278747559,
    0.08601445704698563,
    0.02701280079782009,
    0.0014171252259984612,
    -0.0024688835255801678,
    -0.0005169218056835234,
    0.0002947672037407756,
    6.956031575100496e-05,
    -4.113230897928588e-05,
)


def _gelu(x: Expr) -> Expr:
    """x * Phi(x), from the tail Phi(-|x|), which cancels nowhere."""
    y = binary("min", unary("abs", x), 15.0)  # where the tail is 0 long since
    scale = fma(y, 0.302, 1.0)
    v = y / scale
    s = fma(v, -0.604, 1.0)
    p = horner(s, _NORMAL_TAIL)
    square = y * y
    # What rounding took from y*y, which exp would magnify, from the divisor (1 / scale is
    # (1 + s) / 2) and from the product is given back.
    lost = fma(y, 0.302, 1.0 - scale) * fma(s, -0.5, -0.5)
    lost = fma(fma(y, y, -square), -0.5, lost)
    product = v * p
    lost = fma(product, lost, fma(v, p, -product))
    e = unary("exp", square * -0.5)
    part = fma(product, e, lost * e)
    return either(select(x < 0.0, -part, x - part), _rough_gelu(x))


# The same for v = y / (1 + 0.35 * y) and polynomial(1 - 0.7 * v), y <= 8.5: 3e-7
_ROUGH_TAIL = (
    0.253244225514313,
    0.17149642328169312,
    0.07110268457652702,
    0.010219806926088065,
    -0.005141856996915297,
    -0.0016575599079193058,
    0.0007362465997074476,
)


def _rough_gelu(x: Expr) -> Expr:
    y = binary("min", unary("abs", x), 9.0)
    v = y / fma(y, 0.35, 1.0)
    tail = v * horner(fma(v, -0.7, 1.0), _ROUGH_TAIL)
    part = tail * unary("exp", y * y * -0.5)
    return select(x < 0.0, -part, x - part)


def _gelu_tanh(x: Expr) -> Expr:
    """x * sigmoid(u), which is x * (1 + tanh(u / 2)) / 2 without its cancellation.

    u = x * (a + b * x*x) grows to 100, where exp magnifies a rounding error by as much: what each
    step loses is carried along. Products that are added to are fma(a, b, 0): a compiler that may
    contract a product and a sum would round once where two roundings are counted on.
    """
    a, b = 2 * math.sqrt(2 / math.pi), 0.044715 * 2 * math.sqrt(2 / math.pi)
    a_high, b_high = (float(np.float32(c)) for c in (a, b))
    bounded = binary("max", x, -12.0)  # -0 and 1 beyond
    y = binary("min", bounded, 12.0)
    square = y * y
    term = fma(square, b_high, 0.0)
    factor = term + a_high
    part = factor - term  # Knuth's sum of two, with what it loses
    lost = (term - (factor - part)) + (a_high - part)
    lost = lost + fma(square, b_high, -term)
    lost = lost + fma(fma(y, y, -square), b_high, fma(square, b - b_high, a - a_high))
    u = fma(y, factor, 0.0)
    fine = _times_sigmoid(bounded, u, fma(y, lost, fma(y, factor, -u)))
    rough = bounded * fma(bounded * bounded, b, a)
    return either(fine, _rough_sigmoid(rough, bounded))


for _name, _doc in (
    ("exp", "e to the power x."),
    ("log", "Natural logarithm; NaN below zero, -inf at zero."),
    ("sqrt", "Square root; NaN below zero."),
    ("sin", "Sine of x in radians."),
    ("cos", "Cosine of x in radians."),
    ("tanh", "Hyperbolic tangent."),
):
    elementwise(
        _name,
        _doc,
        (lambda n: lambda x: unary(n, x))(_name),
        getattr(np, _name),
        domain={"log": (0.0, math.inf), "sqrt": (0.0, math.inf), "exp": (-104.0, 89.0)}.get(
            _name, (-(2.0**30), 2.0**30) if _name in ("sin", "cos") else (-math.inf, math.inf)
        ),
    )
rsqrt = elementwise(
    "rsqrt",
    "1 / sqrt(x); inf at zero, NaN below.",
    lambda x: 1.0 / unary("sqrt", x),
    lambda x: 1 / np.sqrt(x),
    domain=(0.0, math.inf),
)
elementwise(
    "erf", "The error function.", lambda x: unary("erf", x), erf_reference, special="±1 at ±inf"
)
elementwise("sigmoid", "1 / (1 + exp(-x)).", _sigmoid, _sigmoid_reference)
elementwise(
    "relu", "max(x, 0).", lambda x: binary("max", x, 0.0), lambda x: np.maximum(x, 0), ulps=0
)
silu = elementwise(
    "silu", "x * sigmoid(x), also called swish.", _silu, _silu_reference, special="-0 at -inf"
)
gelu_erf = elementwise(
    "gelu_erf",
    "x * Phi(x) with the normal distribution function Phi.",
    _gelu,
    _gelu_reference,
    special="-0 at -inf",
)
gelu_tanh = elementwise(
    "gelu_tanh",
    "The tanh form of gelu (Hendrycks and Gimpel 2016).",
    _gelu_tanh,
    _gelu_tanh_reference,
    special="-0 at -inf",
)
