"""Rows whose mean and squared distances from it take one loop instead of two.

With sums about a pivot p, s = sum(x - p) and q = sum((x - p)**2), and d = m - p:

    sum((x - m)**2) = q + d * (n * d - 2 * s)

for any m. Here p is the mean of the first elements of a row. A row of n has no k elements whose
mean is further than sqrt(n / k) deviations from its own, so q is at most 1 + n / k times the sum
that is asked for: the difference loses some bits of float32 at worst, and next to none of a row
whose first elements are like its others. Results that are rounded to float16 have bits to spare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tensorlogic.codegen.rewrite import differing_names
from tensorlogic.kernels.ir import (
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    binary,
    cast,
    const,
    fold_of,
    nodes_of,
    var,
    walk,
)
from tensorlogic.kernels.rename import Renaming
from tensorlogic.schedule.emit import Step

FIRST = 64
"""Elements of a row that give its pivot."""
LENGTHS = range(8 * FIRST, 128 * FIRST + 1)
"""Rows that are worth a pivot, and lose no more than 7 bits of 24 to it."""


def one_pass(steps: Sequence[Step]) -> list[Step]:
    """The steps, with kernels whose rows are read once for both sums."""
    return [_changed(s) for s in steps]


def _changed(step: Step) -> Step:
    kernel = step.kernel
    if not isinstance(kernel, Kernel):
        return step
    stores = (s for s in walk(kernel.body) if isinstance(s, Store) and not s.buffer.local)
    if any(s.buffer.dtype != "f16" for s in stores):
        return step
    last = kernel.body[-1]
    sizes = step.sizes()
    bodies = last.bodies if isinstance(last, Split) else (last.body,)  # type: ignore[union-attr]
    new = tuple(_body(b, sizes) for b in bodies)
    if all(a is b for a, b in zip(new, bodies, strict=True)):
        return step
    changed: Stmt
    if isinstance(last, Split):
        changed = replace(last, bodies=new)
    else:
        assert isinstance(last, Loop)
        changed = replace(last, body=new[0])
    made = Kernel(kernel.buffers, kernel.params, (*kernel.body[:-1], changed))
    return replace(step, kernel=made)


def _body(body: tuple[Stmt, ...], sizes: Mapping[str, float]) -> tuple[Stmt, ...]:
    """The statements of a row; the very same where nothing fits."""
    for i, a in enumerate(body):
        x = _summed(a, sizes)
        if x is None:
            continue
        assert isinstance(a, Fold)
        for j in range(i + 1, len(body)):
            b = body[j]
            mean = _mean(b, a, x, sizes)
            if mean is not None and not any(isinstance(s, Store) for s in walk(body[i:j])):
                assert isinstance(b, Fold)
                pivot, both, by = _moments(a, b, x, mean)
                rest = (*body[i + 1 : j], *body[j + 1 :])
                return (*body[:i], pivot, both, *Renaming({}, by)(rest))
    return body


def _term(s: Stmt) -> Expr | None:
    """What a plain sum in lanes adds up."""
    if not isinstance(s, Fold) or s.kind != "vector" or s.body or s.dot or len(s.acc) != 1:
        return None
    (step,), (init,), (merge,) = s.step, s.init, s.merge
    sums = step.op == merge.op == "add" and init.op == "const" and init.attr == 0
    if not (sums and step.dtype == "f32" and _is_var(step.args[0], s.acc[0])):
        return None
    return step.args[1]


def _summed(s: Stmt, sizes: Mapping[str, float]) -> Expr | None:
    """What is summed over a row of a length that is worth it."""
    x = _term(s)
    if x is None:
        return None
    assert isinstance(s, Fold)
    begins = s.start.op == "const" and s.start.attr == 0
    fits = s.stop.op == "param" and sizes.get(s.stop.attr, 0) in LENGTHS
    return x if begins and fits else None


def _is_var(e: Expr, v: Expr) -> bool:
    return e.op == "var" and e.attr == v.attr


def _mean(s: Stmt, a: Fold, x: Expr, sizes: Mapping[str, float]) -> Expr | None:
    """What a fold takes from each x before it sums the squares, if it is made of the sum of x and
    of nothing that changes along the row."""
    square = _term(s)
    if square is None or square.op != "mul" or square.args[0] is not square.args[1]:
        return None
    assert isinstance(s, Fold)
    distance = square.args[0]
    if distance.op != "sub":
        return None
    y, mean = distance.args
    own = any(n.op in ("index", "load") for n in nodes_of(mean))
    if own or not any(_is_var(n, a.acc[0]) for n in nodes_of(mean)):
        return None
    same = differing_names([(a.start, s.start), (a.stop, s.stop), (x, y)], a, s, sizes)
    return mean if same is not None else None


def _moments(a: Fold, b: Fold, x: Expr, mean: Expr) -> tuple[Fold, Fold, dict[str, Expr]]:
    """The fold for the pivot, the one for both sums, and what the sums were."""
    name = a.acc[0].attr
    first, s, q = (var(name + suffix, "f32") for suffix in ("_first", "_s", "_q"))
    zero = const(0.0, "f32")
    few = binary("min", a.stop, const(FIRST, "i64"))

    def merge(left: tuple[Expr, ...], right: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(l + r for l, r in zip(left, right, strict=True))

    pivot = fold_of(a.index, (a.start, few), "vector", (first,), (zero,), (first + x,), merge)
    p, n = first / cast(few, "f32"), cast(a.stop, "f32")
    t = x - p
    sums = (s + t, q + t * t)
    both = fold_of(a.index, (a.start, a.stop), "vector", (s, q), (zero, zero), sums, merge)
    total = s + n * p
    d = Renaming({}, {name: total})(mean) - p
    return pivot, both, {name: total, b.acc[0].attr: q + d * (n * d - 2.0 * s)}
