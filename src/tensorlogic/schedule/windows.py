"""Operands of products that are windows: which loops are channels, taps and positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tensorlogic.graph import Node
from tensorlogic.kernels.ir import Expr
from tensorlogic.schedule.affine import Affine, LoopVar, collapse

Digits = list[list[LoopVar] | None]
"""What the digits of an index count, outermost first; None counts to 1."""


@dataclass(eq=False)
class Borders:
    """What an operand is read through where nothing padded is stored: its elements are there where
    each index lies within 0 and its size; elsewhere stands `fill`."""

    pads: list[Node]
    inside: list[tuple[Affine, int]]
    fill: Expr | None = None


@dataclass(frozen=True)
class Window:
    """The numbers of a product over windows: strides as in MATMUL_PARAMS (a_batch, b_batch, b_k,
    b_n), WINDOW_PARAMS, and PAD_PARAMS where there are borders."""

    batch: tuple[int, int]
    b_k: int
    b_n: int
    numbers: list[int]
    padding: list[int]


def window_of(
    loops: Sequence[list[LoopVar]], a: Affine, b: Affine, inside: Sequence[tuple[Affine, int]]
) -> Window | None:
    """How b is read as windows, where it can be: `loops` are those over the batches, the columns
    and the depth, a and b what the operands' addresses are."""
    batch, cols, depth = loops
    every = [b, *(at for at, _ in inside)]
    images_groups = _images_and_groups(collapse(batch, [a, *every], set()), a)
    columns, deep = collapse(cols, every, set()), collapse(depth, every, set())
    if images_groups is None or not _fit(images_groups, inside, 2):
        return None
    for taps in _placed(deep, 3):
        for places in _placed(columns, 2):
            padding = _padding(taps, places, inside)
            if padding is not None:
                padding.append(b.const)
                return _window(images_groups, taps, places, (a, b), padding)
    return None


def _window(
    batch: Digits, taps: Digits, places: Digits, operands: tuple[Affine, Affine], padding: list[int]
) -> Window:
    a, b = operands
    images, groups = batch
    (c, i, j), (y, x) = taps, places
    numbers = [_count(i), _count(j), _step(b, i), _step(b, j), _count(x), _step(b, x)]
    numbers += [_count(groups), _step(b, images)]
    return Window((_step(a, groups), _step(b, groups)), _step(b, c), _step(b, y), numbers, padding)


def _count(digit: list[LoopVar] | None) -> int:
    return math.prod(v.extent for v in digit or ())


def _step(at: Affine, digit: list[LoopVar] | None) -> int:
    return at.coefficient(digit[-1]) if digit else 0


def _images_and_groups(digits: list[list[LoopVar]], a: Affine) -> Digits | None:
    """Batches as (images, groups): all images have the same a."""
    if len(digits) == 1:
        return [digits[0], None] if not _step(a, digits[0]) else [None, digits[0]]
    if len(digits) == 2 and not _step(a, digits[0]):
        return [*digits]
    return [None, None] if not digits else None


def _fit(batch: Digits, inside: Sequence[tuple[Affine, int]], most: int) -> bool:
    """Whether borders lie in the windows alone."""
    own = {v for digit in batch for v in digit or ()}
    return len(inside) <= most and not any(at.variables & own or at.opaque for at, _ in inside)


def _placed(digits: list[list[LoopVar]], slots: int) -> Iterator[Digits]:
    """Ways to have digits in so many places, the innermost first."""
    for places in reversed(list(combinations(range(slots), len(digits)))):
        found: Digits = [None] * slots
        for place, digit in zip(places, digits, strict=True):
            found[place] = digit
        yield found


def _padding(
    taps: Digits, places: Digits, inside: Sequence[tuple[Affine, int]]
) -> list[int] | None:
    """PAD_PARAMS but for the last: of lines, then within a line, what a tap and a position count,
    where the first one is, and how many there are; None where a border depends on other digits."""
    _, i, j = taps
    y, x = places
    pairs: list[list[int] | None] = [None, None]
    for at, size in inside:
        for n, (tap, place) in enumerate(((i, y), (j, x))):
            own = {v for digit in (tap, place) for v in digit or ()}
            if pairs[n] is None and at.variables <= own:
                pairs[n] = [_step(at, tap), _step(at, place), at.const, size]
                break
        else:
            return None
    return [v for pair in pairs for v in pair or [0, 0, 0, 1]]
