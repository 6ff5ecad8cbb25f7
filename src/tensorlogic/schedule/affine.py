"""Affine indices: how an element's address depends on the loops of a kernel.

An index of an axis is `const + sum of coefficient * term`, where a term is a loop variable or an
opaque expression (a gathered index). Extents are known numbers here; in the kernel they become
run-time parameters, all but those of static variables (the digits of a quantized block).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tensorlogic.kernels.ir import Expr, index


class LoopVar:
    """One loop of a kernel. `origin` is the axis that it runs over, with its place among the
    factors into which that axis was split."""

    __slots__ = ("expr", "extent", "name", "origin", "static")

    def __init__(self, name: str, extent: int, origin: tuple[int, int, int], static: bool = False):
        self.name = name
        self.extent = extent
        self.origin = origin
        self.static = static
        self.expr = index(name)

    def __repr__(self) -> str:
        return f"{self.name}<{self.extent}>"


Term = LoopVar | Expr


class Affine:
    """const + sum of coefficient * term; immutable."""

    __slots__ = ("const", "terms")

    def __init__(self, const: int = 0, terms: dict[Term, int] | None = None):
        self.const = const
        self.terms = {t: c for t, c in (terms or {}).items() if c}

    @classmethod
    def of(cls, term: Term) -> Affine:
        return cls(0, {term: 1})

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.const + other, self.terms)
        terms = dict(self.terms)
        for t, c in other.terms.items():
            terms[t] = terms.get(t, 0) + c
        return Affine(self.const + other.const, terms)

    def __mul__(self, factor: int) -> Affine:
        return Affine(self.const * factor, {t: c * factor for t, c in self.terms.items()})

    def key(self) -> tuple[int, frozenset[tuple[int, int]]]:
        """Equal keys mean equal indices (terms count by identity)."""
        return self.const, frozenset((id(t), c) for t, c in self.terms.items())

    def coefficient(self, term: Term) -> int:
        return self.terms.get(term, 0)

    @property
    def variables(self) -> set[LoopVar]:
        return {t for t in self.terms if isinstance(t, LoopVar)}

    @property
    def opaque(self) -> bool:
        return any(not isinstance(t, LoopVar) for t in self.terms)


ZERO = Affine()


def dense(indices: Iterable[Affine]) -> list[LoopVar] | None:
    """The loops of indices, outermost first, if each counts through all of its own; else None."""
    found: list[LoopVar] = []
    for i in indices:
        weight = 1
        digits = sorted(i.terms.items(), key=lambda item: item[1])
        for t, c in digits:
            if c != weight or i.const or not isinstance(t, LoopVar):
                return None
            weight *= t.extent
        found += [t for t, _ in reversed(digits) if isinstance(t, LoopVar)]
    return found


def dot(indices: Iterable[Affine], strides: Iterable[int]) -> Affine:
    """sum of index * stride."""
    total = ZERO
    for i, s in zip(indices, strides, strict=True):
        total = total + i * s
    return total


class SplitNeeded(Exception):
    """A loop must be split into factors (outermost first) before an index can be expressed."""

    def __init__(self, variable: LoopVar, factors: tuple[int, ...], static: bool = False):
        super().__init__(variable, factors)
        self.variable = variable
        self.factors = factors
        self.static = static


def split_index(flat: Affine, sizes: Sequence[int]) -> list[Affine] | None:
    """The indices of axes of `sizes` whose row-major combination is `flat`, or None.

    `flat` has to be a mixed-radix number of loop variables; a variable that straddles two axes is
    asked to be split (SplitNeeded).
    """
    if flat.const or flat.opaque:
        return None
    digits = sorted(flat.terms.items(), key=lambda item: item[1])  # least significant first
    out: list[Affine] = []
    position = 0
    weight = 1  # of the next digit
    for size in reversed(sizes):
        axis, base = ZERO, weight
        room = size
        while room > 1:
            if position == len(digits):
                break
            variable, coefficient = digits[position]
            assert isinstance(variable, LoopVar)
            if coefficient != weight:
                if coefficient % weight or coefficient // weight > room:
                    return None
                # A digit that is always zero lies between: skip over its range.
                skip = coefficient // weight
                if room % skip:
                    return None
                room //= skip
                weight = coefficient
                continue
            if variable.extent > room:
                if variable.extent % room:
                    return None
                raise SplitNeeded(variable, (variable.extent // room, room))
            if room % variable.extent:
                return None
            axis = axis + Affine(0, {variable: coefficient // base})
            room //= variable.extent
            weight *= variable.extent
            position += 1
        weight = base * size
        out.append(axis)
    return list(reversed(out)) if position == len(digits) else None


def reshape_index(
    indices: Sequence[Affine], shape: Sequence[int], source: Sequence[int]
) -> list[Affine] | None:
    """Indices into `source` of the element that `indices` name in `shape`, or None.

    Axes are matched group by group, so that an index which is not a plain loop passes through a
    reshape that leaves its axis alone.
    """
    if 0 in source:
        return [ZERO] * len(source)
    out: list[Affine] = []
    i = j = 0
    while i < len(shape) or j < len(source):
        left = shape[i] if i < len(shape) else 1
        right = source[j] if j < len(source) else 1
        i_end, j_end = min(i + 1, len(shape)), min(j + 1, len(source))
        while left != right:
            if left < right and i_end < len(shape):
                left *= shape[i_end]
                i_end += 1
            elif j_end < len(source):
                right *= source[j_end]
                j_end += 1
            else:
                return None
        flat = ZERO
        weight = 1
        for k in range(i_end - 1, i - 1, -1):
            flat = flat + indices[k] * weight
            weight *= shape[k]
        sizes = source[j:j_end]
        real = [k for k, s in enumerate(sizes) if s != 1]
        if len(real) <= 1:
            out += [flat if k in real else ZERO for k in range(len(sizes))]
        else:
            parts = split_index(flat, sizes)
            if parts is None:
                return None
            out += parts
        i, j = i_end, j_end
    return out


def collapse(
    variables: Sequence[LoopVar], indices: Sequence[Affine], pinned: set[LoopVar]
) -> list[list[LoopVar]]:
    """Groups of adjacent loops (outermost first) that every index walks as one."""
    groups: list[list[LoopVar]] = []
    for v in variables:
        if groups and not v.static and v not in pinned:
            u = groups[-1][-1]
            together = all(a.coefficient(u) == a.coefficient(v) * v.extent for a in indices)
            if together and not u.static and u not in pinned:
                groups[-1].append(v)
                continue
        groups.append([v])
    return groups


def strides_along(at: Affine, *loops: list[LoopVar]) -> list[int] | None:
    """The stride of an address along each of several loops; None where one is not even."""
    groups = [collapse(g, [at], set()) for g in loops]
    if any(len(g) > 1 for g in groups):
        return None
    return [at.coefficient(g[-1][-1]) if g else 0 for g in groups]
