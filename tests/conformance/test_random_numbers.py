"""Random numbers: Philox's published vectors, the same bits everywhere, distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices.base import REGISTRY
from tensorlogic.kernels import interpret
from tensorlogic.kernels.ir import Kernel, var
from tensorlogic.philox import philox, philox_words, signed
from tests.compare import reference_forbidden
from tests.cuda.checker import check_cuda
from tests.metal.checker import check_metal
from tests.plans.printed import steps_of, together

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
VECTORS = [
    ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]
"""Counter and key, and the four words: kat_vectors of Random123, the paper's own library."""
DRAWN: dict[str, Callable[[str], tl.Tensor]] = {
    "uniform": lambda d: tl.random.uniform([3, 70], 7, device=d),
    "uniform float32": lambda d: tl.random.uniform([211], 7, -3, 5, tl.float32, d),
    "normal": lambda d: tl.random.normal([2, 5, 7], 7, device=d),
    "normal float32": lambda d: tl.random.normal([1000], 7, tl.float32, d),
    "bernoulli": lambda d: tl.random.bernoulli(0.3, [100], 7, d),
    "categorical": lambda d: tl.random.categorical(tl.zeros([20, 9], device=d), 7),
}


@pytest.mark.parametrize(("given", "want"), VECTORS)
def test_known_vectors(given: tuple[int, ...], want: tuple[int, ...]) -> None:
    words = [np.uint32(w) for w in given]
    assert tuple(map(int, philox_words(words[:4], words[4:]))) == want
    names = {f"w{i}": np.int32(signed(w)) for i, w in enumerate(given)}
    leaves = [var(n, "i32") for n in names]
    got = [interpret.evaluate(e, names) for e in philox(leaves[:4], leaves[4:])]
    assert tuple(int(g) % 2**32 for g in got) == want


def test_the_counter_is_the_index_and_the_offset_and_the_key_is_the_seed(device: str) -> None:
    seed, offset = PI[4] + (PI[5] << 32), PI[2] + (PI[3] << 32)
    got = tl.random.uniform([9], seed, dtype=tl.float32, device=device, offset=offset).numpy()
    want = philox_words([np.arange(9), 0, *PI[2:4]], list(PI[4:]))[0] >> np.uint32(8)
    np.testing.assert_array_equal(got, want * np.float32(2.0**-24))


@pytest.mark.parametrize("name", DRAWN)
def test_devices_agree(name: str) -> None:
    with reference_forbidden("cpu"):
        got = DRAWN[name]("cpu").numpy()
    want = DRAWN[name]("reference").numpy()
    assert got.dtype == want.dtype
    if name.startswith("normal"):
        np.testing.assert_allclose(got, want, rtol=1e-5 if "32" in name else 1e-3, atol=2e-6)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("dialect", "check"), [("metal", check_metal), ("cuda", check_cuda)])
def test_kernels_are_printed(dialect: str, check: Callable[[str], None]) -> None:
    found: dict[str, Any] = {}
    for draw in DRAWN.values():
        found |= {t: s.kernel for t, s in steps_of(draw("cpu")).items()}
    assert all(isinstance(k, Kernel) for k in found.values())
    for text in together(found.items(), dialect, 256):
        check(text)


def test_calls_repeat_and_differ_by_seed_and_offset(device: str) -> None:
    def draw(seed: int, offset: int = 0) -> Any:
        return tl.random.uniform([50], seed, device=device, offset=offset).tolist()

    assert draw(1) == draw(1)
    others = [draw(1), draw(2), draw(-1), draw(1 << 32), draw(1, 1), draw(1, 1 << 32), draw(2, 1)]
    assert len({tuple(values) for values in others}) == len(others)


def test_a_seed_may_be_a_tensor_and_compiles_nothing_new() -> None:
    @tl.function
    def draw(seed: Any, offset: Any) -> tl.Tensor:
        return tl.random.normal([33], seed, offset=offset)

    cpu: Any = REGISTRY.get("cpu")
    compiled = []
    for seed, offset in ((3, 0), (-4, 7), (5, -1)):
        want = tl.random.normal([33], seed, offset=offset).tolist()
        assert draw(seed, offset).tolist() == want
        ints = tl.tensor(seed, "int32"), tl.tensor(offset, "int32")
        assert tl.random.normal([33], ints[0], offset=ints[1]).tolist() == want
        compiled.append(cpu.compiled)
    assert compiled[0] == compiled[-1]


def test_uniform_fills_its_range(device: str) -> None:
    x = tl.random.uniform([40_000], 11, -1, 3, tl.float32, device).numpy()
    assert x.min() >= -1
    assert x.max() < 3
    assert np.abs(np.histogram(x, 16, (-1, 3))[0] - 2500).max() < 250  # five deviations
    half = tl.random.uniform([40_000], 12, device=device).numpy()
    assert half.max() == 1 - 2.0**-11
    assert half.min() == 0


def test_normal_has_its_moments(device: str) -> None:
    x = tl.random.normal([60_000], 13, tl.float32, device).numpy().astype(np.float64)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 5 * (spread / x.size) ** 0.5, power
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.02
    assert 3.5 < np.abs(x).max() < 5.8


def test_bernoulli(device: str) -> None:
    p = tl.tensor([0.0, 0.25, 0.9, 1.0], device=device)
    drawn = tl.random.bernoulli(p, [20_000, 4], 14).numpy()
    assert drawn.dtype == bool
    np.testing.assert_allclose(drawn.mean(0), [0, 0.25, 0.9, 1], atol=0.015)
    assert drawn[:, 0].sum() == 0
    assert drawn[:, 3].all()


def test_categorical(device: str) -> None:
    logits = np.log(np.array([0.5, 0.2, 0.3, 1e-30], np.float32))
    rows = tl.from_numpy(np.broadcast_to(logits, (20_000, 4)), device=device)
    drawn = tl.random.categorical(rows, 15).numpy()
    assert drawn.dtype == np.int32
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, np.exp(logits), atol=0.015)
    masked = tl.tensor([[-np.inf, 0, -np.inf], [-np.inf] * 3], device=device)
    assert tl.random.categorical(masked, 1).tolist() == [1, 0]


def test_no_values(device: str) -> None:
    assert tl.random.normal([0, 3], 1, device=device).numpy().shape == (0, 3)
    assert tl.random.categorical(tl.zeros([0, 3], device=device), 1).numpy().shape == (0,)
    assert tl.random.uniform([], 0, device=device).item() == np.float16(0x6627E8D5 >> 21) / 2048


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: tl.random.normal([2], 1, "int32"),
            tl.DTypeError,
            "normal: values are float16 or float32, not int32",
        ),
        (
            lambda: tl.random.uniform([2], tl.ones([])),
            tl.DTypeError,
            "random: the seed is one int32, not float16[]",
        ),
        (
            lambda: tl.random.uniform([2], 1, offset=tl.arange(2)),
            tl.DTypeError,
            "random: the offset is one int32, not int32[2]",
        ),
        (
            lambda: tl.random.uniform([1 << 17, 1 << 16], 1),
            tl.ShapeError,
            "random: [131072, 65536] has more than 2**32 values",
        ),
        (
            lambda: tl.random.categorical(tl.zeros([3, 0]), 1),
            tl.ShapeError,
            "categorical: logits of shape [3, 0] name no categories",
        ),
        (
            lambda: tl.random.bernoulli(tl.zeros([3]), [2], 1),
            tl.ShapeError,
            "expand: shapes [3] and [2] do not broadcast: axis -1 is 3 in one and 2 in another",
        ),
        (
            lambda: tl.random.uniform([2], 1.5),
            TypeError,
            "random: the seed is an int, not float",
        ),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text
