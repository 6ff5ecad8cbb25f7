"""Rows: arithmetic, comparison and logic, elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlogic.kernels.exprs import Expr, binary, cast, fma, select, unary
from tensorlogic.ops.table import elementwise


def _floor_div(a: Expr, b: Expr) -> Expr:
    if a.dtype != "i32":
        q = unary("floor", a / b)
        r = fma(-q, b, a)
        # The quotient may have been rounded up to a whole number that it does not reach.
        return select((r < 0) & (b > 0) | (r > 0) & (b < 0), q - 1.0, q)
    q = binary("idiv", a, b)
    r = a - q * b
    down = (r.ne(0)) & ((r < 0) ^ (b < 0))
    return select(b.eq(0), 0, q - cast(down, "i32"))


def _mod(a: Expr, b: Expr) -> Expr:
    """The remainder with the divisor's sign, as Python and NumPy have it."""
    if a.dtype != "i32":
        r = a
        for _ in range(2):  # each turn takes 24 bits of the quotient off, and exactly
            r = fma(-unary("trunc", r / b), b, r)
        # A rounded quotient may be one too large; the remainder then has the wrong sign.
        r = select((r.ne(0)) & ((r < 0) ^ (a < 0)), r + select((b < 0) ^ (a < 0), -b, b), r)
        r = select((r.ne(0)) & ((r < 0) ^ (b < 0)), r + b, r)
        huge = unary("abs", b).eq(math.inf)
        finite = unary("abs", a) < math.inf
        wrapped = select((a < 0) ^ (b < 0), select(a.eq(0.0), a, b), a)
        return select(huge & finite, wrapped, r)
    r = binary("irem", a, b)
    wrong = (r.ne(0)) & ((r < 0) ^ (b < 0))
    return select(b.eq(0), 0, r + select(wrong, b, 0))


def _floor_div_reference(a: Any, b: Any) -> Any:
    if np.asarray(a).dtype.kind == "f":
        return np.floor(np.divide(a, b, dtype=np.float64))
    return np.where(np.equal(b, 0), 0, np.floor_divide(a, b))


add = elementwise(
    "add", "Sum, elementwise.", lambda a, b: a + b, np.add, arity=2, accepts="number", symbol="+"
)
sub = elementwise(
    "sub",
    "Difference, elementwise.",
    lambda a, b: a - b,
    np.subtract,
    arity=2,
    accepts="number",
    symbol="-",
)
mul = elementwise(
    "mul",
    "Product, elementwise.",
    lambda a, b: a * b,
    np.multiply,
    arity=2,
    accepts="number",
    symbol="*",
)
div = elementwise(
    "div", "Quotient, elementwise.", lambda a, b: a / b, np.divide, arity=2, symbol="/"
)
floordiv = elementwise(
    "floordiv",
    "Quotient rounded towards minus infinity; an int32 divided by zero gives 0.",
    _floor_div,
    _floor_div_reference,
    arity=2,
    accepts="number",
    symbol="//",
    domain=(-1000, 1000),
)
mod = elementwise(
    "mod",
    "Remainder with the divisor's sign, exact while |a / b| < 2**47; an int32 modulo zero gives 0.",
    _mod,
    np.mod,
    arity=2,
    accepts="number",
    symbol="%",
    domain=(-1000, 1000),
)
neg = elementwise("neg", "The negative.", lambda x: -x, np.negative, accepts="number", symbol="neg")
abs_ = elementwise(
    "abs", "Absolute value.", lambda x: unary("abs", x), np.abs, accepts="number", symbol="abs"
)
minimum = elementwise(
    "minimum",
    "The smaller of two, elementwise; NaN if either is NaN.",
    lambda a, b: binary("min", a, b),
    np.minimum,
    arity=2,
    accepts="number",
)
maximum = elementwise(
    "maximum",
    "The larger of two, elementwise; NaN if either is NaN.",
    lambda a, b: binary("max", a, b),
    np.maximum,
    arity=2,
    accepts="number",
)


for _name, _symbol, _doc, _expr, _numpy in (
    ("equal", "==", "Whether two are equal.", lambda a, b: a.eq(b), np.equal),
    ("not_equal", "!=", "Whether two differ.", lambda a, b: a.ne(b), np.not_equal),
    ("less", "<", "Whether the first is smaller.", lambda a, b: a < b, np.less),
    ("less_equal", "<=", "Whether the first is not larger.", lambda a, b: a <= b, np.less_equal),
    ("greater", ">", "Whether the first is larger.", lambda a, b: a > b, np.greater),
    (
        "greater_equal",
        ">=",
        "Whether the first is not smaller.",
        lambda a, b: a >= b,
        np.greater_equal,
    ),
):
    elementwise(
        _name,
        _doc,
        _expr,
        _numpy,
        arity=2,
        accepts="any" if _symbol in ("==", "!=") else "number",
        result="bool",
        symbol=_symbol,
        special="every comparison with NaN but != is false",
    )

_LOGIC: tuple[tuple[str, str, str, Callable[..., Expr], Callable[..., Any]], ...] = (
    ("logical_and", "&", "Both, of bools.", lambda a, b: a & b, np.logical_and),
    ("logical_or", "|", "Either, of bools.", lambda a, b: a | b, np.logical_or),
    ("logical_xor", "^", "One but not both, of bools.", lambda a, b: a ^ b, np.logical_xor),
)
for _name, _symbol, _doc, _expr, _logic in _LOGIC:
    elementwise(_name, _doc, _expr, _logic, arity=2, accepts="bool", symbol=_symbol)
elementwise(
    "logical_not",
    "The other bool.",
    lambda x: unary("not", x),
    np.logical_not,
    accepts="bool",
    symbol="~",
)
where = elementwise(
    "where",
    "`a` where the bool condition holds, else `b`.",
    lambda c, a, b: select(c, a, b),
    np.where,
    arity=3,
    accepts="any",
)
