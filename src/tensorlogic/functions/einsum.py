"""einsum: sums of products by index labels, as permutes, reshapes and matrix products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import reduce

from tensorlogic import ops, record
from tensorlogic.dtypes import DType, float32, promote
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.functions.arrange import diagonal_of
from tensorlogic.functions.registry import function, node_of
from tensorlogic.graph import Node, shape_text
from tensorlogic.ops import OPS
from tensorlogic.tensor import Tensor, wrap

Operand = tuple[Node, list[str]]
"""A tensor and the labels of its axes; those of `...` are "...1", "...2", from the last one on."""


@function
def einsum(pattern: str, *tensors: Tensor) -> Tensor:
    """Products of tensors, summed over the labels that the result does not have.

    pattern: labels of each tensor, "->" and those of the result, as in "bij,bjk->bik". A label that
    one tensor repeats is its diagonal; `...` stands for axes that broadcast; without "->" the
    result has the labels that occur once, in alphabetical order, after `...`. Several tensors are
    contracted by two and two, at each step those whose product grows least; sums and what lies
    between are float32. Raises ShapeError naming a label whose sizes differ, ValueError for a
    pattern that cannot be read.

    >>> import tensorlogic as tl
    >>> a, b = tl.tensor([[1.0, 2.0], [3.0, 4.0]]), tl.ones([2, 3])
    >>> tl.einsum("ij,jk->ik", a, b).tolist(), tl.einsum("ii", a).item()
    ([[3.0, 3.0, 3.0], [7.0, 7.0, 7.0]], 5.0)
    """
    nodes = [node_of("einsum", t) for t in tensors]
    operands, out = _parse(pattern, nodes)
    sizes = _sizes(pattern, operands)
    dtype = reduce(lambda a, b: promote("einsum", a, b), (n.dtype for n in nodes))
    if dtype.kind not in ("float", "int"):
        raise DTypeError(f"einsum takes float or int values, not {dtype}; convert with `.to(...)`")
    for label in out:
        if label not in sizes:
            raise ValueError(f'einsum "{pattern}": label `{label}` of the result has no tensor')
    work = [_own_axes(o, sizes) for o in operands]
    work = [_summed(o, _others(work, i, out), dtype) for i, o in enumerate(work)]
    while len(work) > 1:
        pairs = itertools.combinations(range(len(work)), 2)
        i, j = min(pairs, key=lambda pair: _cost(work, pair, out, sizes))
        kept = _others(work, i, out, j)
        product = _contract(work[i], work[j], kept, dtype)
        work = [o for k, o in enumerate(work) if k not in (i, j)] + [product]
    ((node, labels),) = work
    node = record.permute(node, [labels.index(label) for label in out])
    return wrap(record.cast(node, dtype))


def _parse(pattern: str, nodes: Sequence[Node]) -> tuple[list[Operand], list[str]]:
    """The labels of each tensor and of the result."""
    inputs, arrow, output = pattern.replace(" ", "").partition("->")
    terms = inputs.split(",")
    letters = [t.replace("...", "", 1) for t in (*terms, output)]
    wrong = next((c for t in letters for c in t if not c.isalpha()), None)
    if wrong is not None or (output and not arrow):
        raise ValueError(f'einsum "{pattern}": `{wrong}` is no label; labels are letters')
    if len(terms) != len(nodes):
        raise ValueError(f'einsum "{pattern}" names {len(terms)} tensors, not {len(nodes)}')
    operands: list[Operand] = []
    for i, (term, own, node) in enumerate(zip(terms, letters, nodes, strict=False)):
        rest = len(node.shape) - len(own)
        if rest < 0 or (rest and "..." not in term):
            raise ShapeError(
                f'einsum "{pattern}": tensor {i} is {shape_text(node.shape)}, '
                f"its labels `{term}` stand for {len(own)} axes"
            )
        operands.append((node, _labels(term, rest)))
    most = max(len(n.shape) - len(own) for n, own in zip(nodes, letters, strict=False))
    if arrow:
        out = _labels(output, most)
        twice = next((c for c in out if out.count(c) > 1), None)
        if twice is not None:
            raise ValueError(f'einsum "{pattern}": the result has label `{twice}` twice')
        return operands, out
    every = "".join(letters)
    return operands, _labels("...", most) + sorted(c for c in set(every) if every.count(c) == 1)


def _labels(term: str, rest: int) -> list[str]:
    """The labels of a term whose `...` stands for `rest` axes."""
    before, dots, after = term.partition("...")
    middle = [f"...{i}" for i in range(rest, 0, -1)] if dots else []
    return [*before, *middle, *after]


def _sizes(pattern: str, operands: Sequence[Operand]) -> dict[str, int]:
    """The size of each label; axes of `...` that are 1 broadcast."""
    found: dict[str, tuple[int, int]] = {}
    for i, (node, labels) in enumerate(operands):
        for size, label in zip(node.shape, labels, strict=True):
            old, where = found.setdefault(label, (size, i))
            dots = label.startswith("...")
            if dots and old == 1:
                found[label] = (size, i)
            elif old != size and not (dots and size == 1):
                raise ShapeError(
                    f'einsum "{pattern}": label `{label}` is {old} in tensor {where} '
                    f"{shape_text(operands[where][0].shape)} but {size} in tensor {i} "
                    f"{shape_text(node.shape)}"
                )
    return {label: size for label, (size, _) in found.items()}


def _own_axes(operand: Operand, sizes: dict[str, int]) -> Operand:
    """Each label once: repeated ones are a diagonal, axes that broadcast are left out."""
    node, labels = operand
    kept = [n == sizes[label] for n, label in zip(node.shape, labels, strict=True)]
    node = record.reshape(node, tuple(n for n, k in zip(node.shape, kept, strict=True) if k))
    labels = [label for label, k in zip(labels, kept, strict=True) if k]
    while len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        a = labels.index(twice)
        b = labels.index(twice, a + 1)
        node = diagonal_of(node, 0, a, b)
        labels = [label for i, label in enumerate(labels) if i not in (a, b)] + [twice]
    return node, labels


def _others(work: Sequence[Operand], i: int, out: Iterable[str], j: int = -1) -> set[str]:
    """The labels that are needed without tensors i and j."""
    return set(out).union(*(labels for k, (_, labels) in enumerate(work) if k not in (i, j)))


def _wide(x: Node, dtype: DType) -> Node:
    return record.cast(x, float32 if dtype.kind == "float" else dtype)


def _summed(operand: Operand, kept: set[str], dtype: DType) -> Operand:
    """Labels that nothing else needs summed away."""
    node, labels = operand
    gone = tuple(i for i, label in enumerate(labels) if label not in kept)
    if gone:
        node = record.reduce(ops.reduce_sum, _wide(node, dtype), gone)
    return node, [label for label in labels if label in kept]


def _cost(
    work: Sequence[Operand], pair: tuple[int, int], out: Iterable[str], sizes: dict[str, int]
) -> tuple[int, int]:
    """By how much a product is larger than its factors, then how many multiplications it takes."""
    i, j = pair
    every = {*work[i][1], *work[j][1]}
    size = math.prod(sizes[label] for label in _others(work, i, out, j) & every)
    grown = size - work[i][0].size - work[j][0].size
    return grown, math.prod(sizes[label] for label in every)


def _contract(left: Operand, right: Operand, kept: set[str], dtype: DType) -> Operand:
    """The product of two tensors, summed over the labels that both have and nothing else needs."""
    if set(right[1]) <= set(left[1]):
        left, right = right, left  # a vector stands left: a product of one row is a fold
    (a, la), (b, lb) = left, right
    batch = [x for x in la if x in lb and x in kept]
    inner = [x for x in la if x in lb and x not in kept]
    rows, columns = [x for x in la if x not in lb], [x for x in lb if x not in la]
    size = dict(zip((*la, *lb), (*a.shape, *b.shape), strict=True))

    def laid(x: Node, labels: list[str], *groups: list[str]) -> Node:
        """x with its axes in groups, each one axis but the first, whose axes stay apart."""
        order = [label for group in groups for label in group]
        x = record.permute(x, [labels.index(label) for label in order])
        merged = [math.prod(size[label] for label in group) for group in groups[1:]]
        return record.reshape(x, (*(size[label] for label in groups[0]), *merged))

    if inner and dtype.kind == "float":
        product = record.matmul(
            laid(a, la, batch, rows, inner), laid(b, lb, batch, inner, columns), wide=True
        )
    else:
        factors = [_wide(laid(a, la, batch, rows, [], inner), dtype)]
        factors.append(_wide(laid(b, lb, batch, [], columns, inner), dtype))
        product = record.elementwise(OPS["mul"], *factors)
        product = record.reduce(ops.reduce_sum, product, -1)
    labels = [*batch, *rows, *columns]
    return record.reshape(product, tuple(size[label] for label in labels)), labels
