"""Rows: signs, whole numbers near a value, and whether it is a number."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlogic.kernels.exprs import Expr, bitcast, const, select, unary
from tensorlogic.ops.table import elementwise

INFINITY_BITS = 0x7F800000


def magnitude_bits(x: Expr) -> Expr:
    """The bits of |x| (i32), ordered as |x| is, NaN above INFINITY_BITS. What they tell holds on
    every device, also under a compiler that takes it that there is no NaN."""
    return bitcast(x, "i32") & 0x7FFFFFFF


def _sign(x: Expr) -> Expr:
    one, minus = const(1, x.dtype), const(-1, x.dtype)
    return select(x > 0, one, select(x < 0, minus, x))


elementwise("sign", "-1, 0 or 1, by the sign of x.", _sign, np.sign, accepts="number", ulps=0)
for _name, _form, _doc in (
    ("floor", "floor", "The largest whole number that is not above x."),
    ("ceil", "ceil", "The smallest whole number that is not below x."),
    ("trunc", "trunc", "x without its fraction."),
    ("round", "rint", "The nearest whole number; of two equally near ones the even one."),
):

    def _whole(x: Expr, form: str = _form) -> Expr:
        return x if x.dtype == "i32" else unary(form, x)

    elementwise(_name, _doc, _whole, getattr(np, _name), accepts="number", ulps=0)

_BITS: tuple[tuple[str, str, Any], ...] = (
    ("isnan", "Whether x is NaN.", lambda x: magnitude_bits(x) > INFINITY_BITS),
    ("isinf", "Whether x is infinite.", lambda x: magnitude_bits(x).eq(INFINITY_BITS)),
    (
        "isfinite",
        "Whether x is neither NaN nor infinite.",
        lambda x: magnitude_bits(x) < INFINITY_BITS,
    ),
)
for _name, _doc, _expr in _BITS:
    elementwise(_name, _doc, _expr, getattr(np, _name), result="bool")
