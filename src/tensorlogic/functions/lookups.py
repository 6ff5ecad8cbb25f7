"""Functions whose indices are values: lookups, scatter, sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlogic import indexing, record
from tensorlogic.creation import arange, tensor
from tensorlogic.dtypes import as_dtype, float16, int32
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.functions.registry import function, indices_of, method, node_of
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, as_node, wrap


@function
def one_hot(indices: Tensor, classes: int, dtype: Any = float16) -> Tensor:
    """Rows of `classes` zeros with a one where the int32 indices [...] say: [..., classes].

    Negative indices count from the end; one outside [-classes, classes) raises IndexRangeError when
    the result is computed.

    >>> import tensorlogic as tl
    >>> tl.one_hot(tl.tensor([2, 0], dtype="int32"), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    wanted = as_dtype(dtype)
    if not wanted.computes:
        raise DTypeError(f"one_hot: {wanted} is a storage dtype; ask for float16 and convert")
    places = arange(classes)._node
    own = indexing.take(places, node_of("one_hot", indices), 0)  # checked, and none negative
    own = record.reshape(own, (*own.shape, 1))
    return wrap(record.cast(record.elementwise(OPS["equal"], own, places), wanted))


@method
def gather(x: Tensor, indices: Any, axis: int) -> Tensor:
    """Entries of x along `axis`, picked by int32 indices that lie beside them.

    result[..., i, ...] = x[..., indices[..., i, ...], ...], as PyTorch's gather and NumPy's
    take_along_axis; the other axes of x and indices are equal or broadcast. Negative indices count
    from the end; one outside the axis raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.gather(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), [[1], [0]], axis=1).tolist()
    [[2.0], [3.0]]
    """
    return wrap(indexing.gather(node_of("gather", x), indices_of("gather", indices), axis))


@method
def scatter(x: Tensor, indices: Any, values: Any, axis: int, reduce: str | None = None) -> Tensor:
    """x with `values` put where int32 indices say: the reverse of `gather`.

    result[..., indices[..., i, ...], ...] = values[..., i, ...]. `indices` has the sizes of x but
    along `axis`, or 1 there, and `values` broadcasts to it. Of equal indices the last one wins;
    with reduce="add" values are added to x one after another in the order of i, in float32: the
    same bits on every device. Negative indices count from the end; one outside the axis
    raises IndexRangeError when the result is computed.

    >>> import tensorlogic as tl
    >>> tl.scatter(tl.zeros([3]), [0, 2, 2], tl.tensor([1.0, 2.0, 3.0]), 0).tolist()
    [1.0, 0.0, 3.0]
    >>> tl.scatter(tl.zeros([3]), [0, 2, 2], tl.tensor([1.0, 2.0, 3.0]), 0, "add").tolist()
    [1.0, 0.0, 5.0]
    """
    if reduce not in (None, "add"):
        raise ValueError(f'scatter: reduce is None or "add", not {reduce!r}')
    node, given = node_of("scatter", x), as_node(values)
    return wrap(
        indexing.scatter(node, indices_of("scatter", indices), given, axis, reduce is not None)
    )


@method
def argsort(x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    """The indices (int32) that sort x along `axis`; equal values keep their order.

    NaN counts as the largest value: it comes last, and first if descending.

    >>> import tensorlogic as tl
    >>> tl.argsort(tl.tensor([3.0, 1.0, 2.0])).tolist()
    [1, 2, 0]
    """
    return wrap(indexing.argsort("argsort", node_of("argsort", x), axis, descending))


@method
def sort(x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    """x sorted along `axis`; NaN counts as the largest value.

    >>> import tensorlogic as tl
    >>> tl.sort(tl.tensor([3.0, 1.0, 2.0]), descending=True).tolist()
    [3.0, 2.0, 1.0]
    """
    node = node_of("sort", x)
    return wrap(indexing.gather(node, indexing.argsort("sort", node, axis, descending), axis))


@method
def topk(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest values along `axis`, largest first, and their indices (int32).

    Of equal values the first comes first; NaN counts as the largest.

    >>> import tensorlogic as tl
    >>> [t.tolist() for t in tl.topk(tl.tensor([1.0, 5.0, 3.0]), 2)]
    [[5.0, 3.0], [1, 2]]
    """
    node, k = node_of("topk", x), k.__index__()
    at = record.normal_axis("topk", axis, len(node.shape))
    if not 0 <= k <= node.shape[at]:
        raise ShapeError(f"topk: {k} of axis {axis} of {list(node.shape)}")
    picked = record.part(indexing.argsort("topk", node, at, True), at, 0, k)
    return wrap(indexing.gather(node, picked, at)), wrap(picked)


@method
def unique_consecutive(
    x: Tensor, return_inverse: bool = False, return_counts: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """The first of each run of equal values of the flattened x; of a sorted x, its unique values.

    With return_inverse also, for each element of x, the number of its run, and with return_counts
    the length of each run (both int32), in this order. A NaN equals no other. The size of the
    result depends on values, so that x is computed at once; while tracing this is a TraceError.

    >>> import tensorlogic as tl
    >>> values, counts = tl.unique_consecutive(tl.tensor([1, 1, 2, 1]), return_counts=True)
    >>> values.tolist(), counts.tolist()
    ([1.0, 2.0, 1.0], [2, 1, 1])
    """
    node = node_of("unique_consecutive", x)
    flat = wrap(record.reshape(node, (node.size,)))
    begins = np.ones(node.size, bool)
    begins[1:] = (flat[1:] != flat[:-1])._values()
    starts = np.flatnonzero(begins)
    out = [wrap(indexing.take(flat._node, tensor(starts, int32)._node, 0))]
    if return_inverse:
        numbers = (np.cumsum(begins) - 1).reshape(node.shape)
        out.append(tensor(numbers, int32, node.device))
    if return_counts:
        out.append(tensor(np.diff(starts, append=node.size), int32, node.device))
    return out[0] if len(out) == 1 else tuple(out)
