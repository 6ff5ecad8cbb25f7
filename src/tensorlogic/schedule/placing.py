"""Products whose results views then reorder or crop: each element is stored where they put it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

from tensorlogic import ops
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import Expr
from tensorlogic.schedule.affine import Affine, dot, reshape_index
from tensorlogic.schedule.emit import Output
from tensorlogic.schedule.lower import Lowering, affine_value
from tensorlogic.schedule.rules import SMALL_PRODUCT
from tensorlogic.storage import contiguous_strides

NEAR = 8
"""How far apart neighbouring columns may be stored: further, a copy in squares is as good."""
ONE_BY_ONE = ("elementwise", "cast", "narrow")
"""Kinds of ops whose elements are made one from one."""
_MOVED = ("reshape", "permute", "slice")


def product_below(root: Node, stored: Callable[[Node], bool]) -> list[Node] | None:
    """From a product up to a root that is made of it element by element, in another order; None if
    there is none, or if the root needs anything else that has to be summed."""
    chain, x = [root], root
    while x.op is not ops.MATMUL:
        if x.op is None or (x is not root and stored(x)):
            return None
        if x.op.kind in ONE_BY_ONE:
            inner = [a for a in x.args if a.shape == x.shape and a.op is not None and not stored(a)]
        else:
            inner = [*x.args] if x.op.kind in _MOVED else []
        if not inner:
            return None
        x = inner[0]
        chain.append(x)
    moved = any(map(_moves, chain))
    if stored(x) or x.shape[-2] <= SMALL_PRODUCT or not moved or not _only_of(root, x, stored):
        return None
    return chain[::-1]


def _moves(n: Node) -> bool:
    """Whether elements stand elsewhere than in the node below: in another order, or a part that
    does not begin at the first."""
    kind = "" if n.op is None else n.op.kind
    return kind == "permute" or (kind == "slice" and any(start for start, _ in n.attrs))


def _only_of(root: Node, product: Node, stored: Callable[[Node], bool]) -> bool:
    """Whether all that a root needs is stored, the product, or made one by one."""
    near, seen = [root], {id(root), id(product)}
    for x in near:  # it grows
        if x.op is not None and x.op.kind not in (*ONE_BY_ONE, *ops.VIEWS):
            return False
        new = [a for a in x.args if id(a) not in seen and not stored(a)]
        near += new
        seen |= {id(a) for a in new}
    return True


def placed_output(low: Lowering, chain: Sequence[Node]) -> Output | None:
    """The root's element that each element of the product is a part of, in the loops of the
    product; None where views do not tell, or where lines would be torn apart."""
    product, root = chain[0], chain[-1]
    _, at = low.axes(product, product.shape)
    low.identity = at
    inside: list[Expr] = []
    for below, x in pairwise(chain):
        assert x.op is not None
        if x.op.kind == "permute":
            at = [at[axis] for axis in x.attrs[0]]
        elif x.op.kind == "reshape":
            found = reshape_index(at, below.shape, x.shape)
            if found is None:
                return None
            at = found
        elif x.op.kind == "slice":
            cut = _cut(x, below, at)
            if cut is None:
                return None
            at, more = cut
            inside += more
    place = dot(at, contiguous_strides(root.shape))
    column = min(low.identity[-1].terms.items(), key=lambda item: item[1], default=None)
    nearest = 2 if low.traits.library else 1  # a library's rows are moved as they are
    if column is None or not nearest <= place.coefficient(column[0]) <= NEAR:
        return None
    low.cropped = reduce(lambda a, b: a & b, inside) if inside else None
    return Output(root, place, low.value(root, at, low.cropped), low.cropped)


def _cut(x: Node, below: Node, at: list[Affine]) -> tuple[list[Affine], list[Expr]] | None:
    """Indices into a part of a node, and what holds for those that are in it."""
    inner, inside = [], []
    for axis, (start, steps) in enumerate(x.attrs):
        if tuple(steps) not in (((axis, 1),), ()):
            return None
        i = at[axis] + -start
        if x.shape[axis] < below.shape[axis]:
            own = affine_value(i)
            inside += [own >= 0, own < affine_value(Affine(x.shape[axis]))]
        inner.append(i)
    return inner, inside
