"""Rows: what folds axes."""

from __future__ import annotations

import math

import numpy as np

from tensorlogic.kernels.ir import Expr, binary, cast, const, select, unary
from tensorlogic.ops.table import Fold, reduction


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


reduce_sum = reduction(
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
reduce_max = reduction(
    "max",
    "The largest over axes; NaN if one is NaN.",
    np.max,
    Fold(_lowest, lambda v, i: (v,), lambda a, b: (binary("max", a[0], b[0]),)),
    accepts="number",
)
reduce_min = reduction(
    "min",
    "The smallest over axes; NaN if one is NaN.",
    np.min,
    Fold(_highest, lambda v, i: (v,), lambda a, b: (binary("min", a[0], b[0]),)),
    accepts="number",
)
argmax = reduction(
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
