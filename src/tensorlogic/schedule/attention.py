"""Attention as one kernel: online softmax, grouped heads, a run-time length.

A row is one query of one head. It walks the keys once and keeps the largest score m, the sum l of
exp(score - m) and, in local memory, the weighted sum of the values; when a larger score comes, what
was summed is scaled down (Milakov and Gimelshein 2018). Scores are never stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tensorlogic.dtypes import bool_
from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import (
    Barrier,
    Buffer,
    Expr,
    Loop,
    Stmt,
    Store,
    binary,
    cast,
    const,
    fold_of,
    select,
    unary,
    var,
)
from tensorlogic.ops.reductions import SUM
from tensorlogic.schedule.affine import Affine
from tensorlogic.schedule.emit import ZERO64, Emitter, Output, Step
from tensorlogic.schedule.lower import Lowering, Materialise, affine_value

_LOWEST = const(-math.inf, "f32")


def attention_step(
    root: Node, node: Node, low: Lowering, stored_at: Callable[[list[Affine]], Affine]
) -> tuple[list[Step], list[Node]]:
    """The launch for an attention node, stored as `root` (the node, or another order and shape of
    it), in which `stored_at` says where the value at some indices of the node lies."""
    q, k, v, scale, *more = node.args
    causal, has_length, has_mask = node.attrs
    length_node = more[0] if has_length else None
    mask_node = more[-1] if has_mask else None
    heads, groups = q.shape[-3], k.shape[-3]
    width, depth, keys, queries = v.shape[-1], q.shape[-1], k.shape[-2], q.shape[-2]
    low.folds_allowed = False
    head_axis = len(node.shape) - 3
    each = heads // groups
    low.factors.setdefault((id(node), head_axis), ((groups, False), (each, False)))
    rows, at = low.axes(node, node.shape[:-1])
    low.identity = at
    *batch, head, query = at
    group = Affine(0, {t: c // each for t, c in head.terms.items() if c >= each})
    # The result has a loop of its own: where its address and that of a value are equal, the
    # expression of one must not stand in the loop of the other.
    (d_vars, d), (e_vars, e), (s_vars, s), (last_vars, last_e) = (
        low.axis(node, len(node.shape) + i, n) for i, n in enumerate((depth, width, keys, width))
    )

    emitter = Emitter()
    row = ir.index("r")
    emitter.digits([[x] for x in rows], row)
    places = [ir.index(name) for name in ("d", "e", "s")]
    for axis, place in zip((d_vars, e_vars, s_vars), places, strict=True):
        emitter.digits([[x] for x in axis], place)
    at_d, at_e, at_s = places

    seen = Affine(keys)
    stop: Expr = affine_value(seen)
    stmts: list[Stmt] = []
    if length_node is not None:
        given = low.value(length_node, [])
        limit = cast(affine_value(seen), "i32")
        ok = (given >= 0) & (given <= limit)
        low.check("length", node, ok)
        stop = cast(select(ok, given, 0), "i64")
    if causal:
        own = affine_value(query + (1 - queries)) + stop
        stop = binary("max", binary("min", own, stop), 0)
    q_value = low.value(q, [*batch, head, query, d])
    k_value = low.value(k, [*batch, group, s, d])
    v_value = low.value(v, [*batch, group, s, e])
    factor = cast(low.value(scale, []), "f32")
    dot_product, m, l = var("dot", "f32"), var("m", "f32"), var("l", "f32")
    score = dot_product * factor
    if mask_node is not None:
        mask = low.value(mask_node, [*batch, head, query, s])
        score = select(mask, score, _LOWEST) if mask_node.dtype is bool_ else score + mask
    emitter.name_scalars(low)
    for c in low.pending_checks:
        if c.node is not node:  # of a value, which this kernel would count many times over
            raise Materialise(c.node)
    stmts += [emitter.check(c) for c in low.finish()]
    top = binary("max", m, score)
    # Where nothing was seen yet, both are -inf, whose difference is NaN.
    rescale = select(m.eq(-math.inf), 0.0, unary("exp", m - top))
    weight = select(score.eq(-math.inf), 0.0, unary("exp", score - top))

    sums = Buffer("sums", "f32", True, const(width, "i64"))
    e_stop, zero = const(width, "i64"), const(0.0, "f32")
    product = ir.fma(emitter.rewrite(q_value), emitter.rewrite(k_value), dot_product)
    bounds = (ZERO64, const(depth, "i64"))
    inner = fold_of(at_d, bounds, "vector", (dot_product,), (zero,), (product,), SUM.merge)
    old = ir.load(sums, at_e)
    update = Store(sums, at_e, old * emitter.rewrite(rescale) + emitter.rewrite(weight * v_value))
    walk = fold_of(
        at_s,
        (ZERO64, emitter.rewrite(stop)),
        "serial",
        (m, l),
        (_LOWEST, zero),
        (emitter.rewrite(top), l * emitter.rewrite(rescale) + emitter.rewrite(weight)),
        None,
        (inner, Loop(at_e, ZERO64, e_stop, "vector", (update,))),
    )
    first, last = ir.index("e0"), ir.index("e1")
    total = select(l.eq(0.0), const(1.0, "f32"), l)
    emitter.digits([[x] for x in last_vars], last)
    out = Output(root, stored_at([*at, last_e]), ir.load(sums, last) / total)
    stmts += [
        Loop(first, ZERO64, e_stop, "vector", (Store(sums, first, zero),)),
        walk,
        Barrier(),
        Loop(last, ZERO64, e_stop, "vector", tuple(emitter.stores(low, [out]))),
    ]
    count = math.prod(node.shape[:-1])
    step = emitter.rows(row, count, stmts, count * (keys * (depth + width) if keys else width))
    step.scratch = 4 * width + 64
    return [step], list(low.dependencies.values())
