"""How a kernel is laid out on threads: the forms that its text can take, and which one suits.

A form depends on classes of sizes alone, so that few texts serve all sizes: how many threads share
a row, how many elements move at once, how many of a thread's loads are in flight, how many rows a
team works on, whether a row fits into the registers of its team.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tensorlogic.codegen.dialects import GROUP_MEMORY
from tensorlogic.codegen.nests import Nest, nest_of
from tensorlogic.codegen.packing import can_pack, pack_width
from tensorlogic.codegen.rewrite import INNER, Ids, paired, unified, unified_blocks
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import (
    BYTES,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    bodies_of,
    exprs_of,
    nodes_of,
    walk,
)
from tensorlogic.kernels.spec import BATCH, COL, ROW, Matmul

FLAT_GROUP = 256
"""Threads of a group where each thread has an element of its own."""
SIMD = 32
TEAMS = 4
"""Rows that a group works on where a row has one simdgroup."""
WIDTHS = (32, 128, 256, 512, 1024)
PARTS = 1024  # bytes of threadgroup memory kept for the merging of folds
KEPT_TURNS = 4
"""Packs of a row that a thread keeps in registers at most."""


@dataclass(frozen=True)
class Form:
    """`width` threads (32 to 1024) share a row and move `pack` elements at once, `turns` such
    packs in flight; `whole`: the loops that move packs have multiples of them; `kept`: their range
    is at most width * pack * turns, so that what is read stays in registers; a team works on `rows`
    rows at the same time, which are those of `inner` if it names an index; `index` is the type of
    addresses; `lanes`: so many lanes at most share a quantized block; `early`: what a row reads is
    read before anything is computed, where it is kept."""

    width: int = 256
    pack: int = 1
    turns: int = 1
    rows: int = 1
    whole: bool = False
    kept: bool = False
    inner: str | None = None
    index: str = "i64"
    aligned: tuple[tuple[str, int], ...] = ()
    lanes: int = 32
    early: bool = False


def plain(kernel: Kernel, width: int = 256, index: str = "i64") -> Form:
    """A form for any sizes."""
    pack = pack_width(kernel) if can_pack(kernel, is_flat(kernel)) else 1
    return Form(width=SIMD if has_prologue(kernel) else width, pack=pack, index=index)


def is_flat(kernel: Kernel) -> bool:
    """Whether each thread has an element (or a row) of its own."""
    alone = all(s.kind != "vector" for s in walk(kernel.body) if isinstance(s, Loop | Fold))
    return alone and not kernel.locals


def has_prologue(kernel: Kernel) -> bool:
    """Whether each group first computes something for all of its rows together."""
    return any(isinstance(s, Loop | Fold | Store) for s in kernel.body[:-1])


def group_size(kernel: Kernel, form: Form) -> int:
    """Threads of a threadgroup."""
    if is_flat(kernel):
        return FLAT_GROUP
    return PROLOGUE_GROUP if has_prologue(kernel) else form.width * teams(form)


def teams(form: Form) -> int:
    """Rows, or sets of rows, that a group works on."""
    return TEAMS if form.width == SIMD else 1


PROLOGUE_GROUP = 256
"""Threads of a group that has a prologue: its simdgroups then take rows of their own."""
PROLOGUE_GROUPS = 528
"""At most so many groups repeat a prologue: four for each core of a large GPU."""


def groups(kernel: Kernel, sizes: Mapping[str, float], form: Form) -> int:
    """Groups of a launch; 0 where there is nothing to do."""
    last = kernel.body[-1]
    if isinstance(last, Split):
        counts = [max(0, uniform(c, sizes)) for c in last.counts]
    else:
        assert isinstance(last, Loop)
        counts = [max(0, uniform(last.stop, sizes) - uniform(last.start, sizes))]
    if is_flat(kernel):
        return -(-sum(counts) // (FLAT_GROUP * form.pack * form.turns))
    each = 1 if form.inner else form.rows
    count = sum(-(-c // each) for c in counts)
    if has_prologue(kernel):
        return min(-(-count * SIMD // PROLOGUE_GROUP), PROLOGUE_GROUPS)
    return -(-count // teams(form))


def spans(kernel: Kernel, form: Form, b: Buffer) -> int:
    """How often a group has a local buffer: once for each team, or once if a prologue fills it."""
    if not has_prologue(kernel):
        return teams(form)
    filled = any(isinstance(s, Store) and s.buffer is b for s in walk(kernel.body[:-1]))
    return 1 if filled else PROLOGUE_GROUP // SIMD


def local_capacity(kernel: Kernel, form: Form) -> dict[str, int]:
    """Elements that each local buffer holds in a kernel printed without `local_sizes`."""
    count = {b: spans(kernel, form, b) for b in kernel.locals}
    sizes = {b: int(b.size.attr) for b in kernel.locals if b.size and b.size.op == "const"}
    left = GROUP_MEMORY - PARTS
    left -= sum((n * BYTES[b.dtype] + 16) * count[b] for b, n in sizes.items())
    unknown = [b for b in kernel.locals if b not in sizes]
    for b in unknown:
        share = max(0, left) // (len(unknown) * count[b]) // 16 * 16
        sizes[b] = share // BYTES[b.dtype]
    return {b.name: n for b, n in sizes.items()}


def uniform(e: Expr, params: Mapping[str, float]) -> int:
    """The value of a bound that depends on parameters alone."""
    if any(n.op in ("index", "var", "load") for n in nodes_of(e)):
        raise KernelError(f"the bound of a grid depends on parameters alone: {e}")
    return int(evaluate(e, params))


# -- the choice


def chosen(kernel: Kernel, sizes: Mapping[str, float]) -> tuple[Kernel, Form]:
    """The form of a launch of these sizes, and the kernel as it is printed in it."""
    index = "i32" if fits(kernel, sizes) else "i64"
    if is_flat(kernel):
        return kernel, _flat(kernel, sizes, index)
    kernel = unified_blocks(kernel, sizes)
    thin, inner = paired(kernel, sizes)
    if inner > 1 and is_thin(thin):
        form = _thin(thin, sizes, index)
        pack = min(form.pack, 8)  # each row has elements of x of its own in registers
        return thin, replace(form, width=SIMD, rows=inner, inner=INNER, pack=pack)
    if is_thin(kernel):
        return kernel, _thin(kernel, sizes, index)
    kernel = unified(kernel, sizes)
    return kernel, _rows(kernel, sizes, index)


def _flat(kernel: Kernel, sizes: Mapping[str, float], index: str) -> Form:
    form = plain(kernel, index=index)
    if form.pack == 1:
        return form
    loop = kernel.body[-1]
    assert isinstance(loop, Loop)
    n = uniform(loop.stop, sizes) - uniform(loop.start, sizes)
    turns = FLAT_TURNS if n >= 1 << 22 else 1
    if n < FLAT_GROUP * form.pack * 64 and form.pack > 4:
        form = replace(form, pack=4)  # more groups
    return replace(form, whole=n % form.pack == 0, turns=turns)


FLAT_TURNS = 2


def _rows(kernel: Kernel, sizes: Mapping[str, float], index: str) -> Form:
    form = plain(kernel, index=index)
    extents = [_extent(s, sizes) for s in shared_loops(kernel)]
    longest = max((n for n in extents if n is not None), default=FLAT_GROUP)
    if has_prologue(kernel):
        return form
    if form.pack == 1:
        return replace(form, width=SIMD if longest <= 2 * SIMD else FLAT_GROUP)
    # Two packs for each thread, or one where there are too few rows to fill a large GPU.
    aim = 2 if _rows_of(kernel, sizes) >= FEW_ROWS else 1
    width = next((w for w in WIDTHS if longest <= aim * w * form.pack), WIDTHS[-1])
    form = replace(form, width=width)
    ranges = [n for n in extents if n is not None]
    known = len(ranges) == len(extents)
    whole = known and all(n % form.pack == 0 for n in ranges)
    turns = -(-longest // (width * form.pack))
    turns = next((t for t in (1, 2, 4) if turns <= t), 2)
    top = len(extents) == len(list(_row_loops(kernel)))
    kept = known and top and longest <= width * form.pack * KEPT_TURNS
    return replace(form, whole=whole, turns=turns if kept else 2, kept=kept, early=kept)


def _rows_of(kernel: Kernel, sizes: Mapping[str, float]) -> int:
    last = kernel.body[-1]
    if isinstance(last, Split):
        return sum(uniform(c, sizes) for c in last.counts)
    assert isinstance(last, Loop)
    return uniform(last.stop, sizes) - uniform(last.start, sizes)


def shared_loops(kernel: Kernel) -> list[Loop | Fold]:
    """The loops that threads share out."""
    return [s for s in walk(kernel.body) if isinstance(s, Loop | Fold) and s.kind == "vector"]


def _row_loops(kernel: Kernel) -> list[Loop | Fold]:
    """Those of them that stand in no other loop but that over rows."""
    return [
        s for b in bodies_of(kernel) for s in b if isinstance(s, Loop | Fold) and s.kind == "vector"
    ]


def _extent(s: Loop | Fold, sizes: Mapping[str, float]) -> int | None:
    nest = nest_of(s) if isinstance(s, Fold) else None
    try:
        n = uniform(s.stop, sizes) - uniform(s.start, sizes)
        if nest is not None:
            n *= uniform(nest.stop, sizes) - uniform(nest.start, sizes)
    except (KernelError, KeyError):
        return None
    return n


# -- rows that share what they read


def is_thin(kernel: Kernel) -> bool:
    """Whether rows are no more than folds and what is stored of them, as in a product of a matrix
    and a vector: then a simdgroup works on several rows at once."""
    if not can_pack(kernel, False):
        return False
    last = kernel.body[-1]
    if not isinstance(last, Loop | Split) or getattr(last, "kind", "parallel") != "parallel":
        return False
    for part in bodies_of(kernel):
        folds = [s for s in part if isinstance(s, Fold)]
        others = part[len(folds) :]
        ordered = all(isinstance(s, Fold) and s.kind == "vector" for s in part[: len(folds)])
        if not folds or not ordered or not all(isinstance(s, Store | Check) for s in others):
            return False
        if any(isinstance(s, Store) and s.buffer.local for s in others):
            return False
        if not any(_shares(s, last.index.attr) for s in folds):
            return False
    return True


def _shares(fold: Fold, row: str) -> bool:
    """Whether some of what a fold reads is the same for each row."""
    exprs = [e for s in walk((fold,)) for e in exprs_of(s)]
    loads = [n for n in nodes_of(*exprs) if n.op == "load"]
    names = [{x.attr for x in nodes_of(n) if x.op == "index"} for n in loads]
    return any(row not in seen for seen in names) and any(row in seen for seen in names)


def _thin(kernel: Kernel, sizes: Mapping[str, float], index: str) -> Form:
    form = plain(kernel, index=index)
    nests = [n for n in map(_nest, shared_loops(kernel)) if n is not None]
    if nests:
        form = replace(form, pack=min(16 if n.simple else 8 for n in nests))
    rows = _rows_of(kernel, sizes)
    extents = [_extent(s, sizes) for s in shared_loops(kernel)]
    longest = max((n for n in extents if n is not None), default=FLAT_GROUP)
    whole = all(n is not None and n % form.pack == 0 for n in extents)
    wide = rows < FEW_ROWS and longest >= 256 * form.pack and not has_prologue(kernel)
    each = 1 if wide or rows < 4 * FEW_ROWS else 4 if rows >= 16 * FEW_ROWS else 2 if nests else 1
    width = 256 if wide else SIMD
    aligned = _alignments(kernel, sizes) if nests else ()
    return replace(form, width=width, rows=each, whole=whole, aligned=aligned)


FEW_ROWS = 512
"""Rows that a simdgroup each would leave a large GPU idle with."""


def _nest(s: Loop | Fold) -> Nest | None:
    return nest_of(s) if isinstance(s, Fold) else None


def _alignments(kernel: Kernel, sizes: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
    """The largest power of two up to 16 that divides each integer parameter."""
    found = []
    for p in kernel.params:
        if p.dtype == "i64" and p.attr in sizes:
            n = int(sizes[p.attr])
            found.append((p.attr, min(n & -n, 16) if n else 16))
    return tuple(found)


# -- addresses of 32 bits

_ROOM = 2**31 - 2**20
"""Bounds below leave room for the turns of a loop beyond its end."""


def fits(kernel: Kernel, sizes: Mapping[str, float]) -> bool:
    """Whether each i64 value of a launch is known to be far below 2**31."""
    spans: dict[str, tuple[float, float]] = {}
    known: dict[Expr, tuple[float, float] | None] = {}

    def span(e: Expr) -> tuple[float, float] | None:
        for n in nodes_of(e, known=Ids(known)):
            if n not in known:
                known[n] = _span(n, [known[a] for a in n.args], spans, sizes)
        return known[e]

    def small(exprs: tuple[Expr, ...]) -> bool:
        nodes = [n for n in nodes_of(*exprs) if n.dtype == "i64"]
        found = [span(n) for n in nodes]
        return all(f is not None and f[0] > -_ROOM and f[1] < _ROOM for f in found)

    def block(body: tuple[Stmt, ...]) -> bool:
        for s in body:
            if isinstance(s, Loop | Fold):
                start, stop = span(s.start), span(s.stop)
                if start is None or stop is None:
                    return False
                spans[s.index.attr] = (start[0], max(start[0], stop[1]))
            if isinstance(s, Split):
                ends = [span(c) for c in s.counts]
                if any(e is None for e in ends):
                    return False
                spans[s.index.attr] = (0, sum(e[1] for e in ends if e is not None))
            if not small(exprs_of(s)):
                return False
            bodies = s.bodies if isinstance(s, Split) else (getattr(s, "body", ()),)
            if not all(block(b) for b in bodies):
                return False
        return True

    return block(kernel.body)


def product_fits(spec: Matmul, sizes: Mapping[str, float]) -> bool:
    """The same for a matrix product: what is read of its operands, and where results go."""
    if spec.windows:
        return False
    m, n, k, batches = (sizes[name] + TILE_ROOM for name in ("M", "N", "K", "batches"))
    step = {name: abs(sizes[name]) for name in sizes if name[:2] in ("a_", "b_")}
    a = m * step["a_m"] + k * step["a_k"] + batches * step["a_batch"]
    b = n * step["b_n"] + k * max(step["b_k"], 2) + batches * step["b_batch"]
    if max(a, b, m * n * batches) >= _ROOM:
        return False
    spans = {ROW.attr: (0.0, m), COL.attr: (0.0, n), BATCH.attr: (0.0, batches)}
    known: dict[Expr, tuple[float, float] | None] = {}
    for e in nodes_of(*(e for s in spec.stores for e in exprs_of(s))):
        known[e] = _span(e, [known[a] for a in e.args], spans, sizes)
    found = [v for e, v in known.items() if e.dtype == "i64"]
    return all(f is not None and f[0] > -_ROOM and f[1] < _ROOM for f in found)


TILE_ROOM = 128
"""Tiles go so far beyond the end of a matrix."""


def _span(
    n: Expr,
    a: list[tuple[float, float] | None],
    spans: Mapping[str, tuple[float, float]],
    sizes: Mapping[str, float],
) -> tuple[float, float] | None:
    if n.dtype != "i64":
        return None
    if n.op == "const":
        return n.attr, n.attr
    if n.op == "param":
        return (sizes[n.attr], sizes[n.attr]) if n.attr in sizes else None
    if n.op == "index":
        return spans.get(n.attr)
    if n.op == "cast":
        return (-(2**31), 2**31) if n.args[0].dtype != "i32" else None
    if not a or any(x is None for x in a):
        return None
    (x, *rest) = [v for v in a if v is not None]
    y = rest[0] if rest else x
    if n.op == "add":
        return x[0] + y[0], x[1] + y[1]
    if n.op == "sub":
        return x[0] - y[1], x[1] - y[0]
    if n.op == "mul":
        ends = [p * q for p in x for q in y]
        return min(ends), max(ends)
    if n.op == "idiv" and x[0] >= 0 and y[0] >= 1:
        return 0, x[1] // y[0]
    if n.op == "irem" and x[0] >= 0 and y[0] >= 1:
        return 0, min(x[1], y[1] - 1)
    if n.op in ("min", "max"):
        f = min if n.op == "min" else max
        return f(x[0], y[0]), f(x[1], y[1])
    return None
