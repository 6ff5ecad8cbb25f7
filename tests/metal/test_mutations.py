"""What the checks are worth: each barrier and each bounds check of a kernel's text is left out, one
at a time, and the launches that passed with the text as it is have to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen.dialects import BODY_MARK
from tensorlogic.functions import convolution
from tests.compare import Array
from tests.conformance.test_quantized import weight
from tests.metal import mutants, traced
from tests.metal.traced import Replay

RNG = np.random.default_rng(0)


def f16(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float16)


def f32(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def below(*shape: int) -> Array:
    """Negative numbers: a zero that got in is the largest."""
    return -1 - np.abs(f16(*shape))


def i32(end: int, *shape: int) -> Array:
    return RNG.integers(-end, end, shape).astype(np.int32)


def linear(storage: str) -> Callable[[Any], Any]:
    w, _ = weight(storage)
    return lambda x: tl.linear(x, w)


def convolved(conv: Callable[..., Any] = tl.conv2d, **more: Any) -> Callable[[Any, Any], Any]:
    """A convolution that is a product, however small."""

    def call(x: Any, w: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "SMALL", 0)
            return tl.relu(conv(x, w, **more))

    return call


COLUMNS = weight("q4_0")[0].shape[1]
FAMILIES: dict[str, tuple[Callable[..., Any], Sequence[Sequence[Array]]]] = {
    "chain": (lambda x: tl.gelu(x * 2 + 1), [[f16(1003)], [f16(4, 8)], [f16(3)]]),
    "chain that is not aligned": (lambda x: tl.gelu(x[1:] * 2 + 1), [[f16(1004)], [f16(32)]]),
    "broadcast": (
        lambda x, y: x + y,
        [[f16(5, 7), f16(5, 1)], [f16(1, 7), f16(5, 1)], [f16(3, 5, 3, 5), f16(3, 1, 3, 1)]],
    ),
    "softmax": (
        tl.softmax,
        [[f16(5, 33)], [below(5, 33)], [f16(3, 1100)], [f16(9, 7)], [below(2, 1026)]],
    ),
    "rms_norm": (
        lambda x, w: tl.rms_norm(x, w),
        [[f16(5, 33), f16(33)], [f16(3, 1100), f16(1100)], [f16(9, 7), f16(7)]],
    ),
    "argmax": (
        lambda x: tl.argmax(x, axis=-1),
        [[f16(5, 33)], [below(5, 33)], [below(3, 1100)], [below(9, 7)], [np.zeros((5, 9), "f2")]],
    ),
    "sum": (lambda x: tl.sum(x, axis=0), [[f32(33, 5)], [f32(300, 70)]]),
    "cumsum": (lambda x: tl.cumsum(x, axis=-1), [[f32(5, 33)], [f32(300, 3)]]),
    "few rows": (lambda x, w: x @ w, [[f16(2, 70), f16(70, 33)]]),
    "matmul": (
        lambda x, w: tl.relu(x @ w),
        [
            [f16(37, 70), f16(70, 45)],
            [f16(9, 33), f16(33, 17)],
            [f16(65, 64), f16(64, 66)],
            [f16(530, 9), f16(9, 70)],
            [f16(20, 150), f16(150, 30)],
        ],
    ),
    "matmul of float32": (
        lambda x, w: x @ w,
        [[f32(37, 70), f32(70, 45)], [f32(9, 33), f32(33, 17)], [f32(530, 9), f32(9, 70)]],
    ),
    "q4_0, few rows": (linear("q4_0"), [[f16(2, COLUMNS)]]),
    "q4_0, many rows": (linear("q4_0"), [[f16(9, COLUMNS)]]),
    "q6_K, many rows": (linear("q6_K"), [[f16(9, weight("q6_K")[0].shape[1])]]),
    "take": (
        lambda x, i: tl.take(x, i, axis=0),
        [[f16(7, 33), i32(20, 50)], [f16(7, 1100), i32(20, 50)], [f16(3, 5), i32(20, 50)]],
    ),
    "sort": (tl.argsort, [[f32(3, 50)], [f32(3, 200)]]),
    "concat": (
        lambda x, y: tl.concat([x * 2, y], axis=1),
        [[f16(5, 7), f16(5, 9)], [f16(5, 9), f16(5, 6)]],
    ),
    "convolution": (
        lambda x, w: tl.conv2d(x, w, padding=1),
        [[f16(1, 3, 9, 7), f16(2, 3, 3, 3)]],
    ),
    "convolution of many": (
        convolved(padding=1),
        [
            [f16(2, 3, 9, 7), f16(6, 3, 3, 3)],
            [f16(2, 9, 5, 6), f16(70, 9, 3, 3)],
            [f16(3, 15, 4, 5), f16(9, 15, 3, 3)],
            [f16(2, 1, 23, 31), f16(530, 1, 2, 2)],
            [f16(2, 64, 4, 4), f16(6, 64, 1, 1)],
        ],
    ),
    "convolution of groups, without borders": (
        convolved(groups=2, stride=2),
        [
            [f16(2, 6, 9, 7), f16(12, 3, 3, 3)],
            [f16(2, 18, 7, 6), f16(140, 9, 3, 3)],
            [f16(2, 128, 3, 3), f16(12, 64, 1, 1)],
            [f16(2, 2, 35, 33), f16(1060, 1, 2, 2)],
        ],
    ),
    "convolution of float32": (
        convolved(padding=1),
        [
            [f32(2, 3, 9, 7), f32(6, 3, 3, 3)],
            [f32(2, 9, 5, 6), f32(70, 9, 3, 3)],
            [f32(2, 1, 13, 11), f32(530, 1, 2, 2)],
        ],
    ),
    "transposed convolution": (
        convolved(tl.conv_transpose2d, stride=2, padding=1),
        [
            [f16(2, 3, 5, 6), f16(3, 5, 4, 4)],
            [f16(2, 16, 5, 6), f16(16, 18, 4, 4)],
            [f16(2, 1, 12, 11), f16(1, 140, 4, 4)],
        ],
    ),
    "attention": (
        tl.scaled_dot_product_attention,
        [
            [f16(1, 1, 5, 18), f16(1, 1, 37, 18), f16(1, 1, 37, 18)],
            [f16(1, 1, 5, 18), f16(1, 1, 300, 18), f16(1, 1, 300, 18)],
        ],
    ),
}
PACKS = "load_pack and store_pack look themselves at what is left, a turn too many of theirs too"
STAGES = (
    "tiles with two stages pass over the barrier of those with one; the last turn fetches nothing"
)
UNNEEDED = {
    # of family: barriers, bounds checks that change nothing, and why
    "chain": (0, 7, f"{PACKS}; whole lines have no end to meet"),
    "chain that is not aligned": (0, 2, "what is left matters to aligned packs alone"),
    "broadcast": (0, 17, PACKS),
    "softmax": (0, 14, f"{PACKS}; any number that is subtracted gives the same"),
    "rms_norm": (0, 16, f"{PACKS}; squares of zeros are added"),
    "argmax": (0, 9, f"{PACKS}; an index is taken with its value"),
    "matmul": (1, 2, STAGES),
    "matmul of float32": (0, 1, "a turn more adds zeros"),
    "q4_0, few rows": (0, 4, f"{PACKS}; the second sum is for infinite results"),
    "q4_0, many rows": (1, 4, f"{STAGES}; a turn more adds zeros; there is one band of tiles"),
    "q6_K, many rows": (1, 4, f"{STAGES}; K is whole steps; there is one band of tiles"),
    "convolution of many": (1, 2, STAGES),
    "convolution of groups, without borders": (1, 2, STAGES),
    "convolution of float32": (0, 1, "a turn more adds zeros"),
    "transposed convolution": (3, 2, f"{STAGES}; lines of the weights are copied one by one"),
    "sort": (0, 1, "a turn more of the bisection finds the same place"),
    "concat": (1, 8, f"{PACKS}; parts that do not overlap are taken for overlapping"),
    "attention": (
        *(1, 9),
        "few keys take one turn; zeros are added; rows that are not there are not stored",
    ),
}


def launches(name: str) -> dict[str, list[Replay]]:
    """The launches of a family by text."""
    call, inputs = FAMILIES[name]
    by_text: dict[str, list[Replay]] = {}
    with traced.registered() as device:
        for arrays in inputs:
            tensors = [tl.tensor(a, dtype=a.dtype, device="traced") for a in arrays]
            with suppress(tl.TensorLogicError):  # what a check found: the kernels ran nevertheless
                tl.eval(call(*tensors))
        for launch in device.launches:
            by_text.setdefault(launch.text, []).append(launch)
    return by_text


def survivors(
    by_text: dict[str, list[Replay]], make: Callable[[str], Iterator[tuple[str, str]]]
) -> tuple[int, list[str]]:
    """How many mutants there are, and those whose launches all give the same as before.

    Launches have a group more than is due: a grid may be rounded up.
    """
    count, alive = 0, []
    for text, found in by_text.items():
        for what, mutant in make(text):
            count += 1
            if not any(r.fault(mutant, r.groups + 1) for r in found):
                alive.append(what)
    return count, alive


@pytest.mark.parametrize("name", FAMILIES)
def test_each_barrier_and_each_bounds_check_is_needed(name: str) -> None:
    by_text = launches(name)
    assert by_text
    for text, found in by_text.items():
        assert [r.fault(text, r.groups + 1) for r in found] == [None] * len(found)
    barriers, bounds, _ = UNNEEDED.get(name, (0, 0, ""))
    _, alive = survivors(by_text, mutants.without_barriers)
    assert len(alive) <= barriers, alive
    count, alive = survivors(by_text, mutants.without_bounds)
    assert count
    assert len(alive) <= bounds, alive


def test_what_is_left_out() -> None:
    _, text = launches("softmax")  # of wide rows
    barriers = dict(mutants.without_barriers(text))
    body = text.split(BODY_MARK)[1]
    assert len(barriers) == body.count("GROUP_BARRIER();") == 2
    for what, mutant in (*barriers.items(), *mutants.without_bounds(text)):
        line = int(what.split(":")[0].removeprefix("line "))
        assert text.split("\n")[line - 1] not in mutant.split("\n")[line - 1 : line], what
