"""einsum: every kind of pattern against NumPy's, and errors that name the label."""

from __future__ import annotations

import string
from random import Random

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.harness import compute, numbers, wide
from tests.plans.printed import steps_of

PATTERNS = [
    "ij->ji",
    "ii->i",
    "ii",
    "iij->j",
    "iji->ij",
    "iiij->ji",
    "ij->",
    "ij,jk->ik",
    "ij,kj",
    "ij,ij->",
    "i,j->ij",
    "i,i->i",
    "bij,bjk->bik",
    "ijb,bjk->kbi",
    "aibj,ja->bi",
    "iij,jk->ik",
    "ij,jj->i",
    "i,i,i->i",
    "ab,bc,cd,de->ae",
    "ijk,jl,kl->il",
    "ij,kl->",
    "...ij,...jk",
    "...ij,jk->...ik",
    "b...d,b...d->b...",
    "...,...->...",
    "i...,...->i...",
    "ij ... , jk -> ik ...",
    "...ii->...i",
    "ij,,jk->ik",
]


def shapes_of(pattern: str, random: Random) -> list[tuple[int, ...]]:
    """Sizes for each label, and axes of `...` that broadcast."""
    terms = pattern.replace(" ", "").split("->")[0].split(",")
    size = {c: random.choice([1, 2, 3, 5]) for c in string.ascii_letters}
    rest = [random.choice([1, 2, 3]) for _ in range(2)]
    shapes = []
    for term in terms:
        shape: list[int] = []
        for part in term.replace("...", ".").strip():
            if part == ".":
                own = [random.choice([1, n]) for n in rest]
                shape += own[random.randrange(3) :]
            else:
                shape.append(size[part])
        shapes.append(tuple(shape))
    return shapes


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str, dtype: str, device: str) -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        arrays = [numbers(rng, s, dtype) for s in shapes_of(pattern, Random(seed))]
        got = compute(lambda *t: tl.einsum(pattern, *t), *arrays, device=device)
        exact = [wide(a) for a in arrays]
        scale = np.einsum(pattern, *[np.abs(a) for a in exact])
        assert got.dtype == dtype
        assert_close(got, np.einsum(pattern, *exact), 8, scale, pattern)


def test_sizes_of_zero(device: str) -> None:
    a, b = np.ones((3, 0), np.float32), np.ones((0, 4), np.float32)
    for pattern in ("ij,jk->ik", "ij,jk->", "ij,jk->jk"):
        got = compute(lambda *t, p=pattern: tl.einsum(p, *t), a, b, device=device)
        np.testing.assert_array_equal(got, np.einsum(pattern, a, b))


def test_mixed_dtypes_meet(device: str) -> None:
    a, b = tl.ones([2, 3], device=device), tl.ones([3], "float32", device)
    assert tl.einsum("ij,j", a, b).dtype is tl.float32


def test_sums_between_are_float32(device: str) -> None:
    x = tl.full([4], 300, device=device)
    assert tl.einsum("i,i,i->", x, x, tl.full([4], 1e-4, device=device)).item() == pytest.approx(
        36, 1e-2
    )


def test_the_order_of_contraction_is_greedy() -> None:
    """Two matrices and a vector are contracted from the vector on: no large product."""
    a, b, v = tl.ones([64, 64]), tl.ones([64, 64]), tl.ones([64])
    steps = steps_of(tl.einsum("ab,bc,c->a", a, b, v))
    assert all(s.problem == (0, 0, 0) for s in steps.values())  # folds
    assert len(steps_of(tl.einsum("bhqd,bhkd->bhqk", *[tl.ones([2, 3, 9, 8])] * 2))) == 1


def test_errors() -> None:
    x, y = tl.ones([2, 3]), tl.ones([4, 5])
    for pattern, tensors, error, text in (
        (
            "ij,jk->ik",
            (x, y),
            tl.ShapeError,
            'einsum "ij,jk->ik": label `j` is 3 in tensor 0 [2, 3] but 4 in tensor 1 [4, 5]',
        ),
        (
            "ii",
            (x,),
            tl.ShapeError,
            'einsum "ii": label `i` is 2 in tensor 0 [2, 3] but 3 in tensor 0 [2, 3]',
        ),
        (
            "...,...",
            (x, y),
            tl.ShapeError,
            'einsum "...,...": label `...2` is 2 in tensor 0 [2, 3] but 4 in tensor 1 [4, 5]',
        ),
        (
            "ijk",
            (x,),
            tl.ShapeError,
            'einsum "ijk": tensor 0 is [2, 3], its labels `ijk` stand for 3 axes',
        ),
        (
            "i",
            (x,),
            tl.ShapeError,
            'einsum "i": tensor 0 is [2, 3], its labels `i` stand for 1 axes',
        ),
        ("ij,jk", (x,), ValueError, 'einsum "ij,jk" names 2 tensors, not 1'),
        ("i1", (x,), ValueError, 'einsum "i1": `1` is no label; labels are letters'),
        ("ij->ii", (x,), ValueError, 'einsum "ij->ii": the result has label `i` twice'),
        ("ij->k", (x,), ValueError, 'einsum "ij->k": label `k` of the result has no tensor'),
        (
            "ij",
            (x > 0,),
            tl.DTypeError,
            "einsum takes float or int values, not bool; convert with `.to(...)`",
        ),
    ):
        with pytest.raises(error) as caught:
            tl.einsum(pattern, *tensors)
        assert str(caught.value) == text
