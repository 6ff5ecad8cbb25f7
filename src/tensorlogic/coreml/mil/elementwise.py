"""Operations of one, two and three values, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlogic.coreml.mil.table import Operand, as_bool, row, unsupported
from tensorlogic.coreml.mil.values import DTYPES, like
from tensorlogic.dtypes import float32, int32
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor


def _of_one(own: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def unary(x: Tensor) -> Tensor:
        result: Tensor = own(x)
        return result

    return unary


def _of_two(own: Callable[..., Any]) -> Callable[[Operand, Operand], Tensor]:
    def binary(x: Operand, y: Operand) -> Tensor:
        result: Tensor = own(x, y)
        return result

    return binary


ONE = ("abs", "ceil", "cos", "erf", "exp", "floor", "round", "sign", "sin", "sqrt", "tanh")
TWO = {
    **{n: n for n in ("add", "sub", "mul", "mod", "pow", "maximum", "minimum")},
    **{n: n for n in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")},
    "floor_div": "floordiv",
}
"""Operations that are functions of tensorlogic's own, by their names."""
for _name in ONE:
    row(_name)(_of_one(FUNCTIONS[_name]))
for _name, _own in TWO.items():
    row(_name)(_of_two(FUNCTIONS[_own]))


# ---- two and three values ----------------------------------------------------------------------


@row()
def real_div(x: Operand, y: Operand) -> Tensor:
    """The quotient; of ints it is cut to a whole number."""
    if any(isinstance(v, Tensor) and v.dtype is int32 for v in (x, y)):
        down, signs = FUNCTIONS["floordiv"](abs(x), abs(y)), FUNCTIONS["sign"](x * y)
        cut: Tensor = down * signs
        return cut
    quotient: Tensor = FUNCTIONS["div"](x, y)
    return quotient


@row()
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return as_bool(x) & as_bool(y)


@row()
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return as_bool(x) | as_bool(y)


@row()
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return as_bool(x) ^ as_bool(y)


@row()
def logical_not(x: Tensor) -> Tensor:
    return ~as_bool(x)


@row()
def select(cond: Tensor, a: Operand, b: Operand) -> Tensor:
    return as_bool(cond).where(a, b)


# ---- one value ---------------------------------------------------------------------------------


@row("identity")
def identity(x: Tensor) -> Tensor:
    return x


@row()
def cast(x: Tensor, dtype: str) -> Tensor:
    """Ints narrower than 32 bits wrap around, as they do in C."""
    if dtype not in DTYPES:
        raise unsupported("cast", f"to dtype {dtype!r}")
    to = like(x, DTYPES[dtype])
    name = dtype.removeprefix("u").removeprefix("int")
    if to.dtype is not int32 or not name.isdigit() or int(name) >= 32:
        return to
    span = 1 << int(name)
    low = 0 if dtype.startswith("u") else span // 2
    return (to + low) % span - low


@row()
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clip(alpha, beta) if x.dtype.kind == "float" else x.clip(int(alpha), int(beta))


@row()
def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.maximum(alpha if x.dtype.kind == "float" else int(alpha))


@row()
def square(x: Tensor) -> Tensor:
    return x * x


@row(wide=True)
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return 1.0 / (x + epsilon)


@row(wide=True)
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return (x + epsilon).log()


@row(wide=True)
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return (x + epsilon).rsqrt()


@row()
def exp2(x: Tensor) -> Tensor:
    result: Tensor = FUNCTIONS["pow"](2.0, x)
    return result


@row(wide=True)
def tan(x: Tensor) -> Tensor:
    return x.sin() / x.cos()


@row(wide=True)
def sinh(x: Tensor) -> Tensor:
    """From exp(|x| / 2), which does not overflow before the result does; near 0 from expm1."""
    size = x.abs()
    e = size.expm1()
    half = (size * 0.5).exp()
    up = (size < 1.0).where((e + e / (e + 1.0)) * 0.5, half * 0.5 * half - 0.5 / half / half)
    return (x < 0).where(-up, up)


@row(wide=True)
def cosh(x: Tensor) -> Tensor:
    half = (x.abs() * 0.5).exp()
    return half * 0.5 * half + 0.5 / half / half


# atan(t) = t * (1 + z * polynomial(z)), z = t * t, for |t| <= tan(pi / 8): to 2.6e-9 of itself,
# from an interpolation at the zeros of a Chebyshev polynomial.
_ARC = (
    -0.3333333181353334,
    0.1999955008478027,
    -0.1426423273907741,
    0.10746299880030596,
    -0.0645938002314337,
)


def _arctan(x: Tensor) -> Tensor:
    """Reduced to |t| <= tan(pi / 8) by atan(x) = pi/2 - atan(1/x) = pi/4 + atan((x-1)/(x+1))."""
    size = x.abs()
    far, near = size > math.tan(3 * math.pi / 8), size <= math.tan(math.pi / 8)
    t = far.where(-1.0 / size, near.where(size, (size - 1.0) / (size + 1.0)))
    start = far.where(math.pi / 2, near.where(size * 0.0, math.pi / 4))
    z = t * t
    p = z * 0.0
    for c in reversed(_ARC):
        p = p * z + c
    up = start + (t + t * z * p)
    return (x < 0).where(-up, up)


@row(wide=True)
def atan(x: Tensor) -> Tensor:
    return _arctan(x)


@row(wide=True)
def asin(x: Tensor) -> Tensor:
    return _arctan(x / (((1.0 - x) * (1.0 + x)).sqrt() + 1.0)) * 2.0


@row(wide=True)
def acos(x: Tensor) -> Tensor:
    return _arctan((1.0 - x).sqrt() / (1.0 + x).sqrt()) * 2.0


@row(wide=True)
def atanh(x: Tensor) -> Tensor:
    return (x * 2.0 / (1.0 - x)).log1p() * 0.5


def as_float(x: Tensor) -> Tensor:
    return like(x, float32) if x.dtype.kind != "float" else x
