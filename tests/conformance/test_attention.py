"""Attention: grouped heads, masks, causality, a length known at run time, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import assert_close
from tests.conformance.cases import SDPA, attention
from tests.conformance.harness import FLOATS, compute, numbers, wide

VERIFIES = ("scaled_dot_product_attention",)
SHAPES = {
    "one head": ((5, 8), (7, 8), (7, 6)),
    "equal heads": ((3, 5, 8), (3, 5, 8), (3, 5, 8)),
    "grouped": ((6, 4, 16), (2, 9, 16), (2, 9, 5)),
    "batched": ((2, 4, 3, 8), (2, 2, 6, 8), (2, 2, 6, 8)),
    "decode": ((9, 1, 64), (3, 70, 64), (3, 70, 64)),
    "long": ((2, 33, 32), (1, 130, 32), (1, 130, 32)),
    "tiles": ((2, 70, 64), (2, 150, 64), (2, 150, 64)),
    "deep": ((2, 20, 128), (1, 40, 128), (1, 40, 112)),
    "deepest": ((1, 17, 256), (1, 50, 256), (1, 50, 256)),
    "parts": ((8, 1, 32), (2, 2100, 32), (2, 2100, 32)),
    "parts of odd sizes": ((3, 2, 5), (1, 2049, 5), (1, 2049, 7)),
    "odd": ((3, 2, 1, 3), (3, 1, 1, 3), (3, 1, 1, 1)),
    "units": ((1, 1, 3), (1, 1, 3), (1, 1, 3)),
    "no queries": ((2, 0, 4), (2, 3, 4), (2, 3, 4)),
    "no keys": ((2, 3, 4), (2, 0, 4), (2, 0, 5)),
}


def check(
    name: str, dtype: str, device: str, mask: Any = None, length: Any = None, **more: Any
) -> None:
    rng = np.random.default_rng(8)
    q, k, v = (numbers(rng, s, dtype) for s in SHAPES[name])
    if callable(mask):
        mask = mask(rng, (q.shape[-2], k.shape[-2]))
    given = None if length is None else np.array(length, np.int32)

    def call(q: Any, k: Any, v: Any, m: Any) -> Any:
        at = length if given is None or more.get("scale") else tl.from_numpy(given, device=device)
        return SDPA(q, k, v, mask=m, length=at, **more)

    got = compute(call, q, k, v, mask, device=device)
    want = attention(*map(wide, (q, k, v, mask)), length=length, **more)
    assert got.dtype == dtype
    scale = 30 * np.abs(wide(v)).max(initial=0)
    assert_close(got, want, 4, scale, f"{name} {more}")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, causal: bool, dtype: str, device: str) -> None:
    check(name, dtype, device, causal=causal)


@pytest.mark.parametrize("name", ["one head", "grouped", "batched", "long", "tiles", "parts"])
@pytest.mark.parametrize("causal", [False, True])
def test_bool_mask(name: str, causal: bool, device: str) -> None:
    check(name, "float32", device, lambda rng, s: rng.random(s) < 0.4, causal=causal)


@pytest.mark.parametrize("name", ["one head", "grouped", "batched", "tiles", "deep", "parts"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_mask(name: str, dtype: str, device: str) -> None:
    def mask(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
        some = rng.standard_normal(shape).astype(dtype)
        some[rng.random(shape) < 0.4] = -np.inf
        return some

    check(name, dtype, device, mask)


@pytest.mark.parametrize("name", ["one head", "grouped", "decode"])
@pytest.mark.parametrize("scale", [None, 0.7], ids=["tensor", "number"])
@pytest.mark.parametrize("causal", [False, True])
def test_length(name: str, scale: float | None, causal: bool, device: str) -> None:
    for length in (0, 1, 5, 7):
        check(name, "float32", device, length=length, scale=scale, causal=causal)


@pytest.mark.parametrize("name", ["tiles", "deep", "parts", "parts of odd sizes"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_length_within_blocks_of_keys(name: str, causal: bool, dtype: str, device: str) -> None:
    for length in (0, 1, 33, 40):
        check(name, dtype, device, length=length, causal=causal)


@pytest.mark.parametrize("name", ["grouped", "tiles", "decode", "parts"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_keys_beyond_the_length_are_never_read(name: str, dtype: str, device: str) -> None:
    """What a cache holds there may be anything: even NaN times a weight of 0 must not be added."""
    rng = np.random.default_rng(12)
    q, k, v = (numbers(rng, s, dtype) for s in SHAPES[name])
    keys = k.shape[-2] - 3
    k[..., keys:, :] = v[..., keys:, :] = np.nan
    got = compute(lambda *t: SDPA(*t, length=keys), q, k, v, device=device)
    want = attention(*map(wide, (q, k[..., :keys, :], v[..., :keys, :])))
    assert_close(got, want, 4, 30 * np.abs(v[..., :keys, :]).max())


@pytest.mark.parametrize("name", ["grouped", "tiles", "decode", "parts"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_in_its_row(name: str, dtype: str, device: str) -> None:
    q, k, v = (numbers(np.random.default_rng(13), s, dtype) for s in SHAPES[name])
    q[1, -1, 2] = np.nan
    got = compute(lambda *t: SDPA(*t), q, k, v, device=device)
    hit = np.isnan(got)
    assert hit[1, -1].all()
    assert hit.sum() == got.shape[-1]
    k[0, 1, 3] = np.nan  # now all rows that see this key
    got = compute(lambda *t: SDPA(*t), q, k, v, device=device)
    assert np.isnan(got[0]).all()


def test_mask_that_broadcasts(device: str) -> None:
    mask = np.random.default_rng(9).random((2, 1, 1, 6)) < 0.5
    check("batched", "float32", device, mask)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_that_see_nothing_are_zero(dtype: str, device: str) -> None:
    rng = np.random.default_rng(10)
    q, k, v = (numbers(rng, (2, 3, 4), dtype) for _ in range(3))
    shut = np.zeros((3, 3), bool)
    low = np.full((3, 3), -np.inf, dtype)
    assert not compute(lambda *t: SDPA(*t), q, k, v, shut, device=device).any()
    assert not compute(lambda *t: SDPA(*t), q, k, v, low, device=device).any()
    assert not compute(lambda q, k, v: SDPA(q, k, v, length=0), q, k, v, device=device).any()
    # Queries before the first key see nothing: S - T + i < 0.
    first = compute(
        lambda q, k, v: SDPA(q, k, v, causal=True), q, k[:, :1], v[:, :1], device=device
    )
    assert not first[:, :2].any()
    assert np.array_equal(first[:, 2], v[:, 0])


def test_large_scores_do_not_overflow(device: str) -> None:
    q = np.full((1, 1, 2), 30000, np.float16)
    k = np.array([[[1, 1], [2, 2]]], np.float16)
    v = np.array([[[5], [7]]], np.float16)
    assert compute(lambda q, k, v: SDPA(q, k, v), q, k, v, device=device).item() == 7


def test_inputs_that_are_views_and_expressions(device: str) -> None:
    rng = np.random.default_rng(11)
    x = numbers(rng, (5, 4, 8), "float32")  # [T, H, D], as projections give them
    wide_x = wide(x).transpose(1, 0, 2)

    def call(t: Any) -> Any:
        heads = t.permute(1, 0, 2)
        return SDPA(heads * 0.5, heads[:2], heads[::2] + 1).permute(1, 0, 2).reshape(5, 32)

    got = compute(call, x, device=device)
    want = attention(wide_x * 0.5, wide_x[:2], wide_x[::2] + 1).transpose(1, 0, 2).reshape(5, 32)
    assert_close(got, want, 4, 100)


def test_lengths_outside_the_keys_are_refused(device: str) -> None:
    x = tl.ones([1, 3, 4], device=device)
    for length in (-1, 4):
        with pytest.raises(tl.IndexRangeError, match=rf"length {length} is outside \[0, 3\]"):
            SDPA(x, x, x, length=length).numpy()


def test_views_that_split_axes(device: str) -> None:
    """Heads that are repeated for their groups, and depths, keys and widths made of two axes."""
    rng = np.random.default_rng(9)
    q, k, v = (numbers(rng, s, "float32") for s in ((4, 5, 8), (2, 3, 4), (2, 3, 3)))

    def spread(x: Any, repeat: Any) -> Any:
        for axis in range(3):
            x = repeat(x, 2, axis)
        return x

    def call(q: Any, k: Any, v: Any) -> Any:
        return SDPA(q, spread(k, tl.repeat), spread(v, tl.repeat), causal=True)

    got = compute(call, q, k, v, device=device)
    want = attention(q, spread(k, np.repeat), spread(v, np.repeat), causal=True)
    np.testing.assert_allclose(got, want, 0, 1e-5)
