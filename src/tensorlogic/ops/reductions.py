"""Rows: what folds axes, and what folds along one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np

from tensorlogic.kernels.exprs import Expr, binary, cast, const, select, unary
from tensorlogic.ops.table import Fold, reduction, scan

Entries = tuple[Expr, ...]


def _lowest(t: str) -> Entries:
    return (const(-math.inf if t == "f32" else -(2**31), t),)


def _highest(t: str) -> Entries:
    return (const(math.inf if t == "f32" else 2**31 - 1, t),)


def _first(better: Callable[[Expr, Expr], Expr]) -> Callable[[Entries, Entries], Entries]:
    """Of two (value, index): the better value, NaN best of all, the smaller index if they tie."""

    def merge(a: Entries, b: Entries) -> Entries:
        (av, ai), (bv, bi) = a, b
        tie, wins = av.eq(bv), better(bv, av)
        if av.dtype == "f32":
            a_nan, b_nan = av.ne(av), bv.ne(bv)
            tie = tie | (a_nan & b_nan)
            wins = wins | (b_nan & unary("not", a_nan))
        take_b = wins | (tie & (bi < ai))
        return select(take_b, bv, av), select(take_b, bi, ai)

    return merge


def _index_of(worst: Callable[[str], Entries], better: Callable[[Expr, Expr], Expr]) -> Fold:
    return Fold(
        lambda t: (*worst(t), const(2**31 - 1, "i32")),
        lambda v, i: (v, cast(i, "i32")),
        _first(better),
        pick=1,
        empty=False,
    )


SUM = Fold(
    lambda t: (const(0.0 if t == "f32" else 0, t),),
    lambda v, i: (v,),
    lambda a, b: (a[0] + b[0],),
)
PRODUCT = Fold(
    lambda t: (const(1.0 if t == "f32" else 1, t),),
    lambda v, i: (v,),
    lambda a, b: (a[0] * b[0],),
)
reduce_sum = reduction(
    "sum",
    "Sum over axes, accumulated in float32; of bools, their count as int32.",
    np.sum,
    SUM,
    accepts="any",
)
reduce_prod = reduction(
    "prod",
    "Product over axes, accumulated in float32; int32 wraps.",
    np.prod,
    PRODUCT,
    accepts="number",
)
reduce_max = reduction(
    "max",
    "The largest over axes; NaN if one is NaN.",
    np.max,
    Fold(_lowest, lambda v, i: (v,), lambda a, b: (binary("max", a[0], b[0]),), empty=False),
    accepts="number",
)
reduce_min = reduction(
    "min",
    "The smallest over axes; NaN if one is NaN.",
    np.min,
    Fold(_highest, lambda v, i: (v,), lambda a, b: (binary("min", a[0], b[0]),), empty=False),
    accepts="number",
)
argmax = reduction(
    "argmax",
    "The index (int32) of the first largest value along an axis; a NaN counts as largest.",
    np.argmax,
    _index_of(_lowest, operator.gt),
    accepts="number",
    result="int32",
)
argmin = reduction(
    "argmin",
    "The index (int32) of the first smallest value along an axis; a NaN counts as smallest.",
    np.argmin,
    _index_of(_highest, operator.lt),
    accepts="number",
    result="int32",
)
cumsum = scan(
    "cumsum",
    "Sums of the first 1, 2, 3, ... values along an axis, accumulated in float32.",
    np.cumsum,
    SUM,
    accepts="any",
)
cumprod = scan(
    "cumprod",
    "Products of the first 1, 2, 3, ... values along an axis, accumulated in float32.",
    np.cumprod,
    PRODUCT,
    accepts="number",
)
