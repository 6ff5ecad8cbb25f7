"""The op table: one row an op.

A row holds all that the package knows of an op: its dtype rule, the scalar expression that every
device prints, the NumPy reference, its documentation, the domain on which it is tested and its
tolerance. Tensor methods, functions, builtins of the text language, the documents and the
conformance tests are made from the rows.
"""

from tensorlogic.ops.arithmetic import maximum, minimum, where
from tensorlogic.ops.pointwise import erf_reference, gelu_erf, gelu_tanh, silu
from tensorlogic.ops.powers import power
from tensorlogic.ops.reductions import (
    argmax,
    argmin,
    cumprod,
    cumsum,
    reduce_max,
    reduce_min,
    reduce_prod,
    reduce_sum,
)
from tensorlogic.ops.structural import (
    ARGSORT,
    ATTENTION,
    CALL,
    CAST,
    CONCAT,
    CONVERT,
    EXPAND,
    GATHER,
    MATMUL,
    NARROW,
    PAD,
    PARTIAL,
    PERMUTE,
    RANDOM,
    RESHAPE,
    SCATTER,
    SLICE,
    TAKE,
    UPDATE,
    VIEWS,
)
from tensorlogic.ops.table import OPS, Fold, Op, register

__all__ = [
    "ARGSORT",
    "ATTENTION",
    "CALL",
    "CAST",
    "CONCAT",
    "CONVERT",
    "EXPAND",
    "GATHER",
    "MATMUL",
    "NARROW",
    "OPS",
    "PAD",
    "PARTIAL",
    "PERMUTE",
    "RANDOM",
    "RESHAPE",
    "SCATTER",
    "SLICE",
    "TAKE",
    "UPDATE",
    "VIEWS",
    "Fold",
    "Op",
    "argmax",
    "argmin",
    "cumprod",
    "cumsum",
    "erf_reference",
    "gelu_erf",
    "gelu_tanh",
    "maximum",
    "minimum",
    "power",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "register",
    "silu",
    "where",
]
