"""Convolutions on GPUs: products that read their windows where they lie, beyond borders too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlogic as tl
from tensorlogic.functions import convolution
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings
from tests.compare import Array
from tests.metal import traced
from tests.metal.test_bytes import moved, replays

F = torch.nn.functional
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def products() -> Iterator[None]:
    """Small convolutions are products too."""
    old, convolution.SMALL = convolution.SMALL, 0
    yield
    convolution.SMALL = old


def numbers(dtype: str, *shape: int) -> Array:
    """Of which products and short sums are exact."""
    return (RNG.integers(-16, 17, shape) / 8).astype(dtype)


def steps_of(result: tl.Tensor) -> list[Step]:
    return schedule([result._node], Settings(), GPU).steps


def against_torch(
    call: Callable[..., Any], theirs: Callable[..., Any], *arrays: Array, launches: int | None = 1
) -> None:
    """All accesses of the launches are traced; results are compared with PyTorch's of float64."""
    found, got = replays(call, *arrays)
    want = theirs(*(torch.from_numpy(a.astype(np.float64)) for a in arrays)).numpy()
    exact = 2.0**-10 if arrays[0].dtype == np.float16 else 2.0**-20
    np.testing.assert_allclose(got, want, exact, 1e-5)
    if launches is not None:
        assert len(found) == launches


Shape = tuple[int, ...]
CASES: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
    "padded": ((1, 3, 9, 7), (6, 3, 3, 3), {"padding": 1}),
    "without padding": ((1, 3, 9, 7), (6, 3, 2, 3), {}),
    "unlike axes": ((1, 3, 9, 7), (6, 3, 2, 3), {"padding": ((0, 1), (2, 1)), "stride": (1, 2)}),
    "stride 2": ((1, 5, 12, 13), (9, 5, 3, 3), {"stride": 2, "padding": 1}),
    "stride 3, dilation 2": ((2, 4, 16, 15), (7, 4, 2, 3), {"stride": 3, "dilation": 2}),
    "groups and images": ((3, 6, 6, 5), (15, 2, 3, 3), {"padding": 1, "groups": 3}),
    "one channel a group": ((2, 3, 7, 7), (18, 1, 3, 3), {"padding": 1, "groups": 3}),
    "one tap of several images": ((2, 6, 5, 4), (10, 3, 1, 1), {"groups": 2}),
    "one tap, stride 2": ((1, 9, 9, 9), (6, 9, 1, 1), {"stride": 2}),
    "one tap, padded": ((1, 9, 5, 5), (6, 9, 1, 1), {"padding": 1}),
    "one channel": ((1, 1, 40), (8, 1, 5), {"padding": 2}),
    "one dimension": ((2, 4, 45), (7, 4, 5), {"padding": 2, "stride": 2}),
    "lines alone": ((2, 3, 8, 6), (6, 3, 3, 1), {"padding": (1, 0)}),
    "places alone": ((2, 3, 8, 6), (6, 3, 1, 3), {"padding": (0, 1)}),
    "a window larger than the image": ((1, 2, 3, 3), (6, 2, 5, 5), {"padding": 3}),
    "small images share a tile": ((40, 3, 3, 3), (6, 3, 3, 3), {"padding": 1}),
    "several tiles": ((1, 9, 12, 13), (70, 9, 3, 3), {"padding": 1}),
}


def of(x_shape: Shape) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (tl.conv2d, F.conv2d) if len(x_shape) == 4 else (tl.conv1d, F.conv1d)


def padded(x: torch.Tensor, more: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """PyTorch has no unlike sides."""
    pads = more.get("padding", 0)
    if not isinstance(pads, tuple) or not isinstance(pads[0], tuple):
        return x, more
    return F.pad(x, [n for pair in reversed(pads) for n in pair]), {**more, "padding": 0}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_one_launch_without_anything_stored(name: str, dtype: str) -> None:
    x_shape, w_shape, more = CASES[name]
    ours, theirs = of(x_shape)

    def torch_says(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x, rest = padded(x, more)
        return theirs(x, w, **rest)

    x, w = numbers(dtype, *x_shape), numbers(dtype, *w_shape)
    against_torch(lambda a, b: ours(a, b, **more), torch_says, x, w)
