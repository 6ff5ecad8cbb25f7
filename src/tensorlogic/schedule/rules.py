"""The rules of the lowering: for each kind of op, its value at given indices as an expression.

Views change the indices, elementwise ops combine expressions, reductions become folds.
"""

from __future__ import annotations

from tensorlogic import ops
from tensorlogic.dtypes import FLOAT16_MAX
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import Expr, cast, const, fma, select, unary
from tensorlogic.kernels.spec import ACC
from tensorlogic.philox import philox
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.affine import (
    ZERO,
    Affine,
    LoopVar,
    SplitNeeded,
    dense,
    dot,
    reshape_index,
)
from tensorlogic.schedule.lower import (
    Lowering,
    Materialise,
    Rule,
    affine_value,
    index_key,
    ir_type,
    is_load,
    load_of,
    split_of,
)
from tensorlogic.schedule.records import Product
from tensorlogic.schedule.windows import Borders
from tensorlogic.storage import contiguous_strides

SMALL_PRODUCT = 4
"""Matrix products of so few rows are folds over weights that do not lie along their depth."""
LONG = 1 << 17
"""Values that one result folds from which on it is done in two stages."""
FEW = 8
"""Results that are too few to keep all cores busy."""


def is_long(node: Node) -> bool:
    """Whether a reduction folds so many values into so few that two stages pay."""
    return 0 < node.size <= FEW and node.args[0].size // node.size >= LONG


def broadcast_index(x: Node, at: list[Affine]) -> list[Affine]:
    """The indices into x, which broadcasts to a shape of which `at` are the indices."""
    own = at[len(at) - len(x.shape) :]
    return [ZERO if n == 1 else i for n, i in zip(x.shape, own, strict=True)]


def _elementwise(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    assert node.op is not None
    assert node.op.expr is not None
    (meet,) = node.attrs
    args = []
    for i, a in enumerate(node.args):
        value = low.value(a, broadcast_index(a, at), where)
        condition = node.op is ops.where and i == 0
        args.append(value if condition else cast(value, ir_type(meet)))
    return node.op.expr(*args)


def _cast(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    (x,) = node.args
    try:
        value = low.value(x, at, where)
    except Materialise as need:
        if need.node is x and node not in low.cores and node.dtype.itemsize < x.dtype.itemsize:
            raise Materialise(node) from None  # store what is smaller
        raise
    return cast(value, ir_type(node.dtype))


def _narrow(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    """The overflow gate: finite values beyond ±65504 are counted, or saturated."""
    value = cast(low.value(node.args[0], at, where), "f32")
    (mode,) = node.attrs
    size = unary("abs", value)
    beyond = (size > FLOAT16_MAX) & (size < float("inf"))
    if mode == "saturate":
        limit = select(value < 0.0, const(-FLOAT16_MAX, "f32"), const(FLOAT16_MAX, "f32"))
        return select(beyond, limit, value)
    if mode == "raise":
        low.check("overflow", node, unary("not", beyond))
    return value


def _reshape(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    x = _same_order(low, node.args[0])
    if low.stored(x) and x.op is not None:
        flat = dot(at, contiguous_strides(node.shape))
        return load_of(low.ref(x, low.memory_type(x)), flat, where)
    if x.op is None and (x.data is None or x.data.strides is None) and not x.weak:
        # A quantized leaf (or a placeholder) is contiguous: only its flat index matters.
        flat = dot(at, contiguous_strides(node.shape))
        return low.value(x, [ZERO] * (len(x.shape) - 1) + [flat], where)
    inner = reshape_index(at, node.shape, x.shape)
    if inner is None:
        raise Materialise(node)
    return low.value(x, inner, where)


def _same_order(low: Lowering, x: Node) -> Node:
    """What x is but for its shape: below reshapes, and permutations that move axes of 1 alone."""
    while x.op in (ops.RESHAPE, ops.PERMUTE) and not low.stored(x):
        (inner,) = x.args
        if x.op is ops.PERMUTE:
            order = [axis for axis in x.attrs[0] if inner.shape[axis] > 1]
            if order != sorted(order):
                break
        x = inner
    return x


def _permute(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    (order,) = node.attrs
    inner = [ZERO] * len(at)
    for i, axis in enumerate(order):
        inner[axis] = at[i]
    return low.value(node.args[0], inner, where)


def _expand(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    (x,) = node.args
    return low.value(x, broadcast_index(x, at), where)


def _slice(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    inner = []
    for start, steps in node.attrs:
        own = Affine(start)
        for axis, step in steps:
            own = own + at[axis] * step
        if len(steps) > 1:  # a window: its positions, then its taps
            low.unroll(at[steps[-1][0]])
        inner.append(own)
    return low.value(node.args[0], inner, where)


def _pad(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    x, fill = node.args
    if low.borders is not None and where is None and 0 not in x.shape:
        return _within_borders(low, low.borders, node, at)
    inside: Expr | None = where
    inner = []
    for i, n, (before, after) in zip(at, x.shape, node.attrs, strict=True):
        inner.append(i + -before)
        if before or after:
            ix = affine_value(i + -before)
            ok = (ix >= 0) & (ix < affine_value(Affine(n)))
            inside = ok if inside is None else inside & ok
    border = cast(low.value(fill, [], where), ir_type(node.dtype))
    if 0 in x.shape:
        return border
    assert inside is not None
    folds = len(low.folds)
    value = low.value(x, inner, inside)
    if len(low.folds) != folds:
        raise Materialise(x)  # a fold computed at indices outside its axis
    return select(inside, value, border)


def _within_borders(low: Lowering, borders: Borders, node: Node, at: list[Affine]) -> Expr:
    """A padded operand of a product: its borders are noted, and what is inside is read."""
    x, fill = node.args
    border = low.value(fill, [])
    if border.op != "param" or border.dtype != "f32" or borders.fill not in (None, border):
        raise Materialise(node)
    inner = [i + -before for i, (before, _) in zip(at, node.attrs, strict=True)]
    sizes = zip(inner, x.shape, node.attrs, strict=True)
    borders.inside += [(i, n) for i, n, (before, after) in sizes if before or after]
    borders.pads.append(node)
    borders.fill = border
    return low.value(x, inner)


def _concat(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    """A kernel around a concatenation has a body for each part; another one reads the whole."""
    part = low.part
    if part is None or part.split != split_of(node) or part.at != index_key(at):
        raise Materialise(node)
    (axis,) = node.attrs
    inner = [*at[:axis], at[axis] + -part.start, *at[axis + 1 :]]
    return low.value(node.args[part.number], inner, where)


def _take(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    x, indices = node.args
    axis, _ = node.attrs
    rank = len(indices.shape)
    spot, _ = checked_index(low, node, at[axis : axis + rank], where)
    return low.value(x, [*at[:axis], spot, *at[axis + rank :]], where)


def _gather(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    x, indices = node.args
    (axis,) = node.attrs
    spot, _ = checked_index(low, node, broadcast_index(indices, at), where)
    return low.value(x, broadcast_index(x, [*at[:axis], spot, *at[axis + 1 :]]), where)


def checked_index(
    low: Lowering, node: Node, at: list[Affine], where: Expr | None
) -> tuple[Affine, Expr]:
    """An index of `node` into its first axis attribute, and whether it is right: it is clamped, so
    that nothing outside is read, and a wrong one is counted."""
    x, indices, *_ = node.args
    given = low.value(indices, at, where)
    size = cast(affine_value(Affine(x.shape[node.attrs[0]])), "i32")
    wraps = node.op is not ops.TAKE or node.attrs[1]
    wrapped = select(given < 0, given + size, given) if wraps else given
    ok = (wrapped >= 0) & (wrapped < size)
    low.check("index", node, ok if where is None else ok | unary("not", where))
    return Affine.of(cast(select(ok, wrapped, 0), "i64")), ok


def position(low: Lowering, node: Node) -> Expr:
    """Where an update begins (i64), clamped into its axis; a wrong one is counted."""
    x, at, new = node.args
    (axis,) = node.attrs
    room = affine_value(Affine(x.shape[axis] - new.shape[axis]))
    given = cast(low.value(at, []), "i64")
    ok = (given >= 0) & (given <= room)
    low.check("update", node, ok)
    return select(ok, given, 0)


def _update(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    """An update that is not done in place: the new rows inside their range, else the old ones."""
    x, _, new = node.args
    (axis,) = node.attrs
    offset = affine_value(at[axis]) - position(low, node)
    inside = (offset >= 0) & (offset < affine_value(Affine(new.shape[axis])))
    guard = inside if where is None else inside & where
    inner = [*at[:axis], Affine.of(offset), *at[axis + 1 :]]
    return select(inside, low.value(new, inner, guard), low.value(x, at, where))


def _random(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    """The counter is the flat index and the stream, the key is the seed."""
    word, digits = node.attrs
    *words, scale, shift = (low.value(a, []) for a in node.args)
    flat = cast(affine_value(dot(at, contiguous_strides(node.shape))), "i32")
    bits = philox([flat, const(0, "i32"), *words[2:]], words[:2])[word]
    return fma(cast(bits >> (32 - digits), "f32"), scale, shift)


def _reduce(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    assert node.op is not None
    assert node.op.fold is not None
    (x,) = node.args
    if id(node) in low.partials:
        return _reduce_parts(low, node, at)
    if where is not None or (is_long(node) and node not in low.cores):
        raise Materialise(node)
    (axes,) = node.attrs
    variables: list[LoopVar] = []
    inner = list(at)
    for a in axes:
        vs, index = low.axis(node, a, x.shape[a])
        variables += vs
        inner[a] = index
    fold = node.op.fold
    wanted = ir_type(x.dtype)

    def element() -> tuple[Expr, ...]:
        value = cast(low.value(x, inner), wanted)
        spot = dot([inner[a] for a in axes], contiguous_strides(tuple(x.shape[a] for a in axes)))
        return fold.element(value, affine_value(spot))

    return low.fold(node, at, fold, wanted, variables, element)


def _reduce_parts(low: Lowering, node: Node, at: list[Affine]) -> Expr:
    """The second stage of a long reduction: a fold over what the first one stored."""
    assert node.op is not None
    assert node.op.fold is not None
    parts = low.partials[id(node)]
    variables, index = low.axis(node, len(node.shape) + 1, low.traits.parts)

    def element() -> tuple[Expr, ...]:
        return tuple(low.value(p, [*at, index]) for p in parts)

    return low.fold(node, at, node.op.fold, ir_type(node.args[0].dtype), variables, element)


def _matmul(low: Lowering, node: Node, at: list[Affine], where: Expr | None) -> Expr:
    """A product of few rows is a fold; else the kernel is built around the product."""
    if where is not None and where is not low.cropped:
        raise Materialise(node)
    a, b = node.args

    def operand(x: Node, row: Affine, col: Affine) -> list[Affine]:
        batch = at[len(at) - len(x.shape) : -2]
        batch = [ZERO if n == 1 else i for n, i in zip(x.shape[:-2], batch, strict=True)]
        pair = [ZERO if n == 1 else i for n, i in zip(x.shape[-2:], (row, col), strict=True)]
        return [*batch, *pair]

    quant = _quant(b)
    taken = quant in low.traits.block_operands and not _quant(a)
    if low.traits.gpu:  # whose matrix units take halfs: both operands are rounded to them
        taken = taken and not low.exact and _is_half(low, a)
    as_blocks = taken and _along_depth(low, b, QUANTS[quant].block)
    decoded = (quant or _quant(a)) and not as_blocks
    rows = node.shape[-2]
    few = rows <= low.traits.fold_rows
    if not few and rows <= SMALL_PRODUCT:
        few = not (as_blocks or _along_depth(low, b, 1))
    if few or a.shape[-1] == 0 or decoded:
        if where is not None:
            raise Materialise(node)
        depth, axis = a.shape[-1], len(node.shape)
        low.fold_once(node, at)
        variables, k = low.axis(node, axis, depth)
        fold = ops.reduce_sum.fold
        assert fold is not None

        factors: list[Expr] = []

        def element() -> tuple[Expr, ...]:
            factors[:] = [low.value(a, operand(a, at[-2], k)), low.value(b, operand(b, k, at[-1]))]
            return (factors[0] * factors[1],)

        folds = len(low.folds)
        result = low.fold(node, at, fold, "f32", variables, element)
        if len(low.folds) > folds:
            low.folds[-1].dot = low.dot_of(k, *factors)
            vector = not low.traits.gpu and not low.exact and a.size == depth
            fast = low.folds[-1].dot is not None if vector else low.is_walked(factors[1])
            if as_blocks and not fast and a.op is not None and not low.stored(a):
                raise Materialise(a)  # its order does not let the fold follow the blocks
        return result
    loops, wanted = dense(at), dense(low.identity)
    plain = loops is not None and loops == wanted
    busy = low.product is not None or low.row_variables is not None
    if not plain or busy or not low.folds_allowed:
        raise Materialise(node)
    low.identity = at  # the same loops, though axes may be split otherwise
    low.row_variables = {v for i in at for v in i.variables}
    _, k = low.axis(node, len(node.shape), a.shape[-1])
    loads = []
    borders = Borders([], [])
    for x, pair, side in ((a, (at[-2], k), "a"), (b, (k, at[-1]), "b")):
        pending = list(low.pending_checks)
        low.whole_blocks = as_blocks and side == "b"
        low.borders = borders if low.traits.borders and side == "b" and not as_blocks else None
        load = low.value(x, operand(x, *pair))
        low.whole_blocks, low.borders = False, None
        if not is_load(load) or load.args or load.attr[1].opaque or low.pending_checks != pending:
            raise Materialise(x)
        loads.append(load)
    for pad in borders.pads:  # its fill is rounded as what is read is
        if loads[1].attr[0].dtype not in (pad.dtype.ir, low.memory_type(pad)):
            raise Materialise(pad)
    low.product = Product(node, loads[0], loads[1], k, borders, quant if as_blocks else "")
    low._fold_variables |= k.variables
    return ACC


def _is_half(low: Lowering, x: Node) -> bool:
    """Whether the operand of a product is float16 in memory."""
    while x.op is not None and x.op.kind in ops.VIEWS:
        x = x.args[0]
    if x.op is ops.CAST and x.args[0].is_leaf:
        x = x.args[0]
    if x.data is not None:
        return x.data.storage == "float16"
    return low.memory_type(x) == "f16"


def _quant(x: Node) -> str:
    """The quantized type of the leaf under a chain of views and casts, "" if it is another."""
    while x.op is not None and x.op.kind in (*ops.VIEWS, "cast"):
        x = x.args[0]
    if x.op is not None or (x.data is not None and x.data.strides is not None):
        return ""
    storage = str(x.attrs[0]) if x.data is None and x.attrs else x.data.storage if x.data else ""
    return storage if storage in QUANTS else ""


def _along_depth(low: Lowering, b: Node, block: int) -> bool:
    """Whether the elements of an operand b, or its rows of blocks, run along the depth of a product
    without a gap."""
    loops = [LoopVar(f"q{i}", n, (id(b), i, 0)) for i, n in enumerate(b.shape)]
    low.whole_blocks = True
    try:
        load = low.value(b, [Affine.of(v) if v.extent > 1 else ZERO for v in loops])
    except (Materialise, SplitNeeded):
        return False
    finally:
        low.whole_blocks = False
    if not is_load(load) or load.attr[1].opaque:
        return False
    at, depth = load.attr[1], loops[-2]
    others = (c for t, c in at.terms.items() if t is not depth)
    whole = all(n % block == 0 for n in (at.const, depth.extent, *others))
    return whole and at.coefficient(depth) == 1


RULES: dict[str, Rule] = {
    "elementwise": _elementwise,
    "cast": _cast,
    "narrow": _narrow,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "take": _take,
    "gather": _gather,
    "reduce": _reduce,
    "matmul": _matmul,
    "update": _update,
    "random": _random,
}
