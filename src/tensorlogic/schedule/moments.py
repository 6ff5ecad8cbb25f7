"""Rows whose mean and squared distances from it take one loop instead of two.

With sums about a pivot p, s = sum(x - p) and q = sum((x - p)**2), and d = m - p:

    sum((x - m)**2) = q + d * (n * d - 2 * s)

for any m. Here p is the mean of the first elements of a row. A row of n has no k elements whose
mean is further than sqrt(n / k) deviations from its own, so q is at most 1 + n / k times the sum
that is asked for: the difference loses some bits of float32 at worst, and next to none of a row
whose first elements are like its others. Results that are rounded to float16 have bits to spare.
A GPU saves a barrier that all threads of a row wait at; there each thread looks at these elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tensorlogic.codegen.rewrite import differing_names
from tensorlogic.kernels.ir import (
    Expr,
    Fold,
    Kernel,
    Stmt,
    Store,
    binary,
    bodies_of,
    cast,
    const,
    fold_of,
    nodes_of,
    replaced,
    var,
    walk,
    with_bodies,
)
from tensorlogic.kernels.rename import Renaming
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.traits import Traits

LENGTHS = range(512, 8193)
"""Rows that are worth a pivot, and lose no more than 7 bits of 24 to one of 64 elements, 11 to one
of four."""


def one_pass(steps: Sequence[Step], traits: Traits) -> list[Step]:
    """The steps, with kernels whose rows are read once for both sums."""
    return [_changed(s, traits) for s in steps] if traits.pivot else list(steps)


def _changed(step: Step, traits: Traits) -> Step:
    kernel = step.kernel
    if not isinstance(kernel, Kernel):
        return step
    stores = (s for s in walk(kernel.body) if isinstance(s, Store) and not s.buffer.local)
    if any(s.buffer.dtype != "f16" for s in stores):
        return step
    sizes, bodies = step.sizes(), bodies_of(kernel)
    new = tuple(_body(b, sizes, traits) for b in bodies)
    if all(a is b for a, b in zip(new, bodies, strict=True)):
        return step
    return replace(step, kernel=with_bodies(kernel, new))


def _body(body: tuple[Stmt, ...], sizes: Mapping[str, float], traits: Traits) -> tuple[Stmt, ...]:
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
                before, pivot = _pivot(a, x, traits)
                both, by = _moments(a, b, (x, mean, pivot))
                rest = (*body[i + 1 : j], *body[j + 1 :])
                return (*body[:i], *before, both, *Renaming({}, by)(rest))
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


def _merged(left: tuple[Expr, ...], right: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple(l + r for l, r in zip(left, right, strict=True))


def _pivot(a: Fold, x: Expr, traits: Traits) -> tuple[tuple[Stmt, ...], Expr]:
    """The mean of the first elements of a row, and what has to stand before it."""
    if traits.gpu:
        given = [replaced(x, {a.index: const(i, "i64")}, {}) for i in range(traits.pivot)]
        return (), sum(given[1:], given[0]) * const(1 / traits.pivot, "f32")
    first, zero = var(f"{a.acc[0].attr}_first", "f32"), const(0.0, "f32")
    few = binary("min", a.stop, const(traits.pivot, "i64"))
    bounds = a.start, few
    fold = fold_of(a.index, bounds, "vector", (first,), (zero,), (first + x,), _merged)
    return (fold,), first / cast(few, "f32")


def _moments(a: Fold, b: Fold, given: tuple[Expr, Expr, Expr]) -> tuple[Fold, dict[str, Expr]]:
    """The fold for both sums, and what the sums were; `given` are x, its mean in terms of a's sum,
    and the pivot."""
    x, mean, p = given
    name = a.acc[0].attr
    s, q = (var(name + suffix, "f32") for suffix in ("_s", "_q"))
    zero, n = const(0.0, "f32"), cast(a.stop, "f32")
    t = x - p
    sums = (s + t, q + t * t)
    both = fold_of(a.index, (a.start, a.stop), "vector", (s, q), (zero, zero), sums, _merged)
    total = s + n * p
    d = Renaming({}, {name: total})(mean) - p
    return both, {name: total, b.acc[0].attr: q + d * (n * d - 2.0 * s)}
