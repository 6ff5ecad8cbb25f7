"""The attention family of the CPU, by vector width, on memory with a forbidden page behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen.llvm_attention_base import shares_keys
from tensorlogic.devices import native
from tensorlogic.kernels.spec import Attention, attention_text
from tests.conformance.cases import attention
from tests.conformance.harness import numbers, wide
from tests.kernels.family_running import run, steps_of

LANES = sorted({4, 8, native.host().lanes})
SDPA = tl.scaled_dot_product_attention
Array = Any
CASES: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "one block": ((2, 5, 32), (2, 7, 32), (2, 7, 32), {}),
    "odd sizes": ((2, 37, 5), (1, 101, 5), (1, 101, 3), {}),
    "blocks of both": ((2, 70, 64), (1, 210, 64), (1, 210, 48), {"causal": True}),
    "heads within a block": ((6, 3, 16), (2, 50, 16), (2, 50, 16), {"causal": True}),
    "a mask": ((4, 20, 16), (2, 30, 16), (2, 30, 16), {"mask": True, "causal": True}),
    "one row": ((4, 1, 64), (4, 300, 64), (4, 300, 64), {}),
    "few rows": ((8, 1, 64), (2, 300, 64), (2, 300, 96), {"mask": True}),
    "rows that are no power of two": ((3, 1, 48), (1, 130, 48), (1, 130, 16), {}),
    "few causal rows": ((4, 2, 16), (2, 40, 16), (2, 40, 16), {"causal": True}),
    "eight rows": ((8, 1, 128), (1, 290, 128), (1, 290, 128), {}),
    "parts": ((2, 1, 32), (2, 2500, 32), (2, 2500, 32), {"length": 2345}),
    "odd parts": ((2, 3, 5), (1, 2500, 5), (1, 2500, 6), {"causal": True}),
}


def inputs(name: str, dtype: str) -> tuple[list[Array], dict[str, Any]]:
    rng = np.random.default_rng(3)
    *shapes, more = CASES[name]
    q, k, v = (numbers(rng, s, dtype) for s in shapes)
    more = dict(more)
    if more.pop("mask", False):
        mask = rng.standard_normal((*q.shape[:-1], k.shape[-2])).astype(np.float16)
        mask[rng.random(mask.shape) < 0.3] = -np.inf
        more["mask"] = mask
    return [q, k, v], more


def result_of(arrays: list[Array], more: dict[str, Any]) -> tl.Tensor:
    def leaf(x: Any) -> Any:
        return tl.tensor(x, dtype=x.dtype) if isinstance(x, np.ndarray) else x

    return SDPA(*map(leaf, arrays), **{n: leaf(x) for n, x in more.items()})


def close(got: Array, want: Array) -> bool:
    eps = 2.0**-10 if got.dtype == np.float16 else 2.0**-19
    return bool((np.abs(got - want) <= eps * (1 + np.abs(want))).all())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str, dtype: str, lanes: int) -> None:
    arrays, more = inputs(name, dtype)
    got = run(result_of(arrays, more), lanes)
    wanted = {n: wide(x) if isinstance(x, np.ndarray) else x for n, x in more.items()}
    assert close(got, attention(*map(wide, arrays), **wanted))


def test_the_bound_of_these_tests_rejects_a_wrong_result() -> None:
    arrays, more = inputs("few rows", "float32")
    got = run(result_of(arrays, more), native.host().lanes)
    want = attention(*map(wide, arrays), mask=wide(more["mask"]))
    assert close(got, want)
    got[3, 0, 5] += 1e-5
    assert not close(got, want)


def spec_of(name: str) -> Attention:
    arrays, more = inputs(name, "float16")
    kernel = steps_of(result_of(arrays, more))[0].kernel
    assert isinstance(kernel, Attention)
    return kernel


def test_few_rows_share_the_keys_that_they_read() -> None:
    many = [name for name in CASES if not shares_keys(spec_of(name), 16)]
    names = ["one block", "odd sizes", "blocks of both", "heads within a block", "a mask"]
    assert many == [*names, "few causal rows", "odd parts"]


def test_many_keys_for_few_rows_are_cut_into_parts() -> None:
    for name in CASES:
        steps = steps_of(result_of(*inputs(name, "float16")))
        assert len(steps) == (2 if "parts" in name else 1), name


def test_lengths_and_positions_are_no_part_of_the_kernel() -> None:
    texts = set()
    for length, keys in ((3, 40), (7, 40), (7, 50)):
        q, k = tl.ones([4, 1, 16]), tl.ones([2, keys, 16])
        at = tl.tensor(length, dtype="int32")
        (step,) = steps_of(SDPA(q + 0, k + 0, k + 0, length=at, causal=True))[-1:]
        assert isinstance(step.kernel, Attention)
        texts.add(attention_text(step.kernel))
    assert len(texts) == 1
