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

from tensorlogic.kernels.exprs import Expr


@dataclass(frozen=True, eq=False, repr=False)
class Op:
    """One op.

    kind: "elementwise", "reduce", "scan" (every partial result of a fold along one axis), or the
    name of a lowering of its own. accepts: which dtypes it takes, "float", "number" (float or
    int), "bool", "any". result: "same" as the common dtype of its arguments, or "bool" or "int32".
    expr: argument expressions to the result. numpy: the reference, on arrays of float64 or float32
    alike. domain: the range of its test inputs. ulps: the tolerance in float32 against float64.
    special: what holds of NaN and infinities.
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


@dataclass(frozen=True, eq=False)
class Fold:
    """How a reduction folds. element: (value, index) to a tuple; merge: two tuples to one, with
    `init` its identity; the result is the tuple's entry `pick`. empty: whether no values have a
    result too."""

    init: Callable[[str], tuple[Expr, ...]]
    element: Callable[[Expr, Expr], tuple[Expr, ...]]
    merge: Callable[[tuple[Expr, ...], tuple[Expr, ...]], tuple[Expr, ...]]
    pick: int = 0
    empty: bool = True


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add a row to the table; its function and method exist from then on."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} stands in the table already")
    OPS[op.name] = op
    return op


def elementwise(name: str, doc: str, expr: Any, numpy: Any, **more: Any) -> Op:
    """A row whose result is one expression of its arguments."""
    return register(Op(name, "elementwise", doc, expr=expr, numpy=numpy, **more))


def reduction(name: str, doc: str, numpy: Any, fold: Fold, **more: Any) -> Op:
    """A row that folds axes."""
    return register(Op(name, "reduce", doc, numpy=numpy, fold=fold, **more))


def scan(name: str, doc: str, numpy: Any, fold: Fold, **more: Any) -> Op:
    """A row that gives every partial result of a fold along one axis."""
    return register(Op(name, "scan", doc, numpy=numpy, fold=fold, **more))


def structural(name: str, doc: str, **more: Any) -> Op:
    """An op with a lowering of its own; it is no row of the table."""
    return Op(name, name, doc, accepts="any", **more)
