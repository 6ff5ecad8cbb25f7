"""The op table: one row an op.

A row holds all that the package knows of an op: its dtype rule, the scalar expression that every
device prints, the NumPy reference, its documentation, the domain on which it is tested and its
tolerance. Tensor methods, functions, builtins of the text language, the documents and the
conformance tests are made from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Expr, binary, cast, const, select, unary


@dataclass(frozen=True, eq=False)
class Op:
    """One op.

    kind: "elementwise", "reduce", or the name of a lowering of its own. accepts: which dtypes it
    takes, "float", "number" (float or int), "bool", "any". result: "same" as the common dtype of
    its arguments, or "bool" or "int32". expr: argument expressions to the result. numpy: the
    reference, on arrays of float64 or float32 alike. domain: the range of its test inputs.
    ulps: the tolerance in float32 against float64. special: what holds of NaN and infinities.
    """

    name: str
    kind: str
    doc: str
    arity: int = 1
    accepts: str = "float"
    result: str = "same"
    symbol: str = ""
    expr: Callable[..., Expr] | None = None
    numpy: Callable[..., Any] | None = None
    fold: Fold | None = None
    domain: tuple[float, float] = (-math.inf, math.inf)
    ulps: float = 4
    special: str = "as NumPy"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Fold:
    """How a reduction folds. element: (value, index) to a tuple; merge: two tuples to one, with
    `init` its identity; the result is the tuple's entry `pick`."""

    init: Callable[[str], tuple[Expr, ...]]
    element: Callable[[Expr, Expr], tuple[Expr, ...]]
    merge: Callable[[tuple[Expr, ...], tuple[Expr, ...]], tuple[Expr, ...]]
    pick: int = 0


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add a row to the table; its function and method exist from then on."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} stands in the table already")
    OPS[op.name] = op
    return op


def _elementwise(name: str, doc: str, expr: Any, numpy: Any, **more: Any) -> Op:
    return register(Op(name, "elementwise", doc, expr=expr, numpy=numpy, **more))


# ---- arithmetic ------------------------------------------------------------------------------


def _floor_div(a: Expr, b: Expr) -> Expr:
    if a.dtype != "i32":
        q = unary("floor", a / b)
        r = ir.fma(-q, b, a)
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
            r = ir.fma(-unary("trunc", r / b), b, r)
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


add = _elementwise(
    "add", "Sum, elementwise.", lambda a, b: a + b, np.add, arity=2, accepts="number", symbol="+"
)
sub = _elementwise(
    "sub",
    "Difference, elementwise.",
    lambda a, b: a - b,
    np.subtract,
    arity=2,
    accepts="number",
    symbol="-",
)
mul = _elementwise(
    "mul",
    "Product, elementwise.",
    lambda a, b: a * b,
    np.multiply,
    arity=2,
    accepts="number",
    symbol="*",
)
div = _elementwise(
    "div", "Quotient, elementwise.", lambda a, b: a / b, np.divide, arity=2, symbol="/"
)
floordiv = _elementwise(
    "floordiv",
    "Quotient rounded towards minus infinity; an int32 divided by zero gives 0.",
    _floor_div,
    _floor_div_reference,
    arity=2,
    accepts="number",
    symbol="//",
    domain=(-1000, 1000),
)
mod = _elementwise(
    "mod",
    "Remainder with the divisor's sign, exact while |a / b| < 2**47; an int32 modulo zero gives 0.",
    _mod,
    np.mod,
    arity=2,
    accepts="number",
    symbol="%",
    domain=(-1000, 1000),
)
neg = _elementwise(
    "neg", "The negative.", lambda x: -x, np.negative, accepts="number", symbol="neg"
)
abs_ = _elementwise(
    "abs", "Absolute value.", lambda x: unary("abs", x), np.abs, accepts="number", symbol="abs"
)
minimum = _elementwise(
    "minimum",
    "The smaller of two, elementwise; NaN if either is NaN.",
    lambda a, b: binary("min", a, b),
    np.minimum,
    arity=2,
    accepts="number",
)
maximum = _elementwise(
    "maximum",
    "The larger of two, elementwise; NaN if either is NaN.",
    lambda a, b: binary("max", a, b),
    np.maximum,
    arity=2,
    accepts="number",
)

# ---- comparison and logic --------------------------------------------------------------------

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
    _elementwise(
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
    _elementwise(_name, _doc, _expr, _logic, arity=2, accepts="bool", symbol=_symbol)
_elementwise(
    "logical_not",
    "The other bool.",
    lambda x: unary("not", x),
    np.logical_not,
    accepts="bool",
    symbol="~",
)
where = _elementwise(
    "where",
    "`a` where the bool condition holds, else `b`.",
    lambda c, a, b: select(c, a, b),
    np.where,
    arity=3,
    accepts="any",
)

# ---- functions -------------------------------------------------------------------------------


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
    return select(x < 0.0, e, 1.0) / (1.0 + e)


def _times_sigmoid(x: Expr, u: Expr, rest: Expr | None = None) -> Expr:
    """x * sigmoid(u + rest), rest the rounding error of u; x and u are above -200.

    Far down, exp(u) would be subnormal while x * exp(u) is not: exp(u + 16) and exp(-16) are
    multiplied instead (u + 16 is exact there).
    """
    far = u < -80.0
    e = unary("exp", select(far, u + 16.0, -u))
    if rest is not None:
        e = ir.fma(e, select(far, rest, -rest), e)
    return select(far, x * e * math.exp(-16.0), x / (1.0 + e))


def _silu(x: Expr) -> Expr:
    bounded = binary("max", x, -200.0)  # where the result is -0 long since: -inf too gives it
    return _times_sigmoid(bounded, bounded)


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
    scale = ir.fma(y, 0.302, 1.0)
    v = y / scale
    s = ir.fma(v, -0.604, 1.0)
    p: Expr = const(_NORMAL_TAIL[-1], "f32")
    for c in reversed(_NORMAL_TAIL[:-1]):
        p = ir.fma(p, s, c)
    square = y * y
    # What rounding took from y*y, which exp would magnify, from the divisor (1 / scale is
    # (1 + s) / 2) and from the product is given back.
    lost = ir.fma(y, 0.302, 1.0 - scale) * ir.fma(s, -0.5, -0.5)
    lost = ir.fma(ir.fma(y, y, -square), -0.5, lost)
    product = v * p
    lost = ir.fma(product, lost, ir.fma(v, p, -product))
    e = unary("exp", square * -0.5)
    part = ir.fma(product, e, lost * e)
    return select(x < 0.0, -part, x - part)


def _gelu_tanh(x: Expr) -> Expr:
    """x * sigmoid(u), which is x * (1 + tanh(u / 2)) / 2 without its cancellation.

    u = x * (a + b * x*x) grows to 100, where exp magnifies a rounding error by as much: what each
    step loses is carried along.
    """
    a, b = 2 * math.sqrt(2 / math.pi), 0.044715 * 2 * math.sqrt(2 / math.pi)
    a_high, b_high = (float(np.float32(c)) for c in (a, b))
    bounded = binary("max", x, -12.0)  # -0 and 1 beyond
    y = binary("min", bounded, 12.0)
    square = y * y
    term = square * b_high
    factor = term + a_high
    part = factor - term  # Knuth's sum of two, with what it loses
    lost = (term - (factor - part)) + (a_high - part)
    lost = lost + ir.fma(square, b_high, -term)
    lost = lost + ir.fma(ir.fma(y, y, -square), b_high, ir.fma(square, b - b_high, a - a_high))
    u = y * factor
    return _times_sigmoid(bounded, u, ir.fma(y, lost, ir.fma(y, factor, -u)))


for _name, _doc in (
    ("exp", "e to the power x."),
    ("log", "Natural logarithm; NaN below zero, -inf at zero."),
    ("sqrt", "Square root; NaN below zero."),
    ("sin", "Sine of x in radians."),
    ("cos", "Cosine of x in radians."),
    ("tanh", "Hyperbolic tangent."),
):
    _elementwise(
        _name,
        _doc,
        (lambda n: lambda x: unary(n, x))(_name),
        getattr(np, _name),
        domain={"log": (0.0, math.inf), "sqrt": (0.0, math.inf), "exp": (-104.0, 89.0)}.get(
            _name, (-(2.0**30), 2.0**30) if _name in ("sin", "cos") else (-math.inf, math.inf)
        ),
    )
rsqrt = _elementwise(
    "rsqrt",
    "1 / sqrt(x); inf at zero, NaN below.",
    lambda x: 1.0 / unary("sqrt", x),
    lambda x: 1 / np.sqrt(x),
    domain=(0.0, math.inf),
)
_elementwise(
    "erf", "The error function.", lambda x: unary("erf", x), erf_reference, special="±1 at ±inf"
)
_elementwise("sigmoid", "1 / (1 + exp(-x)).", _sigmoid, _sigmoid_reference)
_elementwise(
    "relu", "max(x, 0).", lambda x: binary("max", x, 0.0), lambda x: np.maximum(x, 0), ulps=0
)
silu = _elementwise(
    "silu", "x * sigmoid(x), also called swish.", _silu, _silu_reference, special="-0 at -inf"
)
gelu_erf = _elementwise(
    "gelu_erf",
    "x * Phi(x) with the normal distribution function Phi.",
    _gelu,
    _gelu_reference,
    special="-0 at -inf",
)
gelu_tanh = _elementwise(
    "gelu_tanh",
    "The tanh form of gelu (Hendrycks and Gimpel 2016).",
    _gelu_tanh,
    _gelu_tanh_reference,
    special="-0 at -inf",
)

# ---- reductions ------------------------------------------------------------------------------


def _reduce(name: str, doc: str, numpy: Any, fold: Fold, **more: Any) -> Op:
    return register(Op(name, "reduce", doc, numpy=numpy, fold=fold, **more))


def _lowest(t: str) -> tuple[Expr, ...]:
    return (const(-math.inf if t == "f32" else -(2**31), t),)


def _highest(t: str) -> tuple[Expr, ...]:
    return (const(math.inf if t == "f32" else 2**31 - 1, t),)


def _first_largest(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Of two (value, index): the larger value, NaN above all, the smaller index if they tie."""
    (av, ai), (bv, bi) = a, b
    if av.dtype == "f32":
        a_nan, b_nan = av.ne(av), bv.ne(bv)
        tie = av.eq(bv) | (a_nan & b_nan)
        better = (bv > av) | (b_nan & unary("not", a_nan))
    else:
        tie, better = av.eq(bv), bv > av
    take_b = better | (tie & (bi < ai))
    return select(take_b, bv, av), select(take_b, bi, ai)


reduce_sum = _reduce(
    "sum",
    "Sum over axes, accumulated in float32; of bools, their count as int32.",
    np.sum,
    Fold(
        lambda t: (const(0.0 if t == "f32" else 0, t),),
        lambda v, i: (v,),
        lambda a, b: (a[0] + b[0],),
    ),
    accepts="any",
)
reduce_max = _reduce(
    "max",
    "The largest over axes; NaN if one is NaN.",
    np.max,
    Fold(_lowest, lambda v, i: (v,), lambda a, b: (binary("max", a[0], b[0]),)),
    accepts="number",
)
reduce_min = _reduce(
    "min",
    "The smallest over axes; NaN if one is NaN.",
    np.min,
    Fold(_highest, lambda v, i: (v,), lambda a, b: (binary("min", a[0], b[0]),)),
    accepts="number",
)
argmax = _reduce(
    "argmax",
    "The index (int32) of the first largest value along an axis; a NaN counts as largest.",
    np.argmax,
    Fold(
        lambda t: (*_lowest(t), const(2**31 - 1, "i32")),
        lambda v, i: (v, cast(i, "i32")),
        _first_largest,
        pick=1,
    ),
    accepts="number",
    result="int32",
)

# ---- ops with a lowering of their own --------------------------------------------------------


def _structural(name: str, doc: str, **more: Any) -> Op:
    return Op(name, name, doc, accepts="any", **more)


CAST = _structural(
    "cast", "Conversion; float16 overflow gives inf. Floats are cut to int32's range, NaN to 0."
)
NARROW = _structural("narrow", "Conversion to float16 through the overflow gate.")
CONVERT = _structural("convert", "Conversion of a storage dtype, by the host.")
RESHAPE = _structural("reshape", "The same values in another shape.")
PERMUTE = _structural("permute", "Axes in another order.")
EXPAND = _structural("expand", "Axes of size 1 repeated.")
SLICE = _structural("slice", "A range of each axis.")
PAD = _structural("pad", "A border of one value.")
CONCAT = _structural("concat", "Tensors one after another along an axis.")
TAKE = _structural("take", "Entries along an axis, picked by int32 indices.")
MATMUL = _structural("matmul", "Matrix product.")
ATTENTION = _structural("attention", "Scaled dot-product attention.")
UPDATE = _structural("update", "A tensor with a range of one axis replaced, in place.")
PARTIAL = _structural("partial", "Results of the parts of a long reduction.")
CALL = _structural("call", "A call of a traced function.")
