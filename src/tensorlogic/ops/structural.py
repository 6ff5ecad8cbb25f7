"""Ops with a lowering of their own: views, products, lookups, conversions."""

from __future__ import annotations

from tensorlogic.ops.table import structural

CAST = structural(
    "cast", "Conversion; float16 overflow gives inf. Floats are cut to int32's range, NaN to 0."
)
NARROW = structural("narrow", "Conversion to float16 through the overflow gate.")
CONVERT = structural("convert", "Conversion of a storage dtype, by the host.")
RESHAPE = structural("reshape", "The same values in another shape.")
PERMUTE = structural("permute", "Axes in another order.")
EXPAND = structural("expand", "Axes of size 1 repeated.")
SLICE = structural("slice", "Elements at affine indices: ranges of axes, diagonals.")
PAD = structural("pad", "A border of one value.")
CONCAT = structural("concat", "Tensors one after another along an axis.")
TAKE = structural("take", "Entries along an axis, picked by int32 indices.")
GATHER = structural("gather", "Entries along an axis, picked by int32 indices beside them.")
SCATTER = structural("scatter", "Values put or added where int32 indices say.")
ARGSORT = structural("argsort", "The indices that sort the last axis.")
MATMUL = structural("matmul", "Matrix product.")
ATTENTION = structural("attention", "Scaled dot-product attention.")
RANDOM = structural("random", "Uniform floats of a counter-based generator (Philox).")
UPDATE = structural("update", "A tensor with a range of one axis replaced, in place.")
PARTIAL = structural("partial", "Results of the parts of a long reduction.")
CALL = structural("call", "A call of a traced function.")

VIEWS = ("reshape", "permute", "expand", "slice")
"""Kinds of ops that change indices only."""
