"""Products over windows on the CPU, by vector width, on memory with a forbidden page behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tensorlogic as tl
from tensorlogic.devices import native
from tensorlogic.kernels.spec import Matmul, matmul_text
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings
from tests.conformance.harness import numbers
from tests.kernels.family_running import run, steps_of

LANES = sorted({4, 8, native.host().lanes})
Array = Any

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3 x 3": ((1, 20, 21, 19), (40, 20, 3, 3), {"padding": 1}),
    "without padding": ((1, 20, 20, 40), (40, 20, 3, 2), {}),
    "stride 2": ((1, 20, 40, 41), (40, 20, 3, 3), {"stride": 2, "padding": 1}),
    "stride 3, dilation 2": ((2, 33, 40, 40), (70, 33, 2, 3), {"stride": 3, "dilation": 2}),
    "groups": ((2, 32, 20, 20), (40, 16, 3, 3), {"padding": 1, "groups": 2}),
    "one tap, stride 2": ((1, 64, 50, 50), (64, 64, 1, 1), {"stride": 2}),
    "a line of K beyond a slice": ((1, 130, 10, 10), (60, 130, 3, 3), {"padding": 2}),
    "one dimension": ((2, 40, 300), (50, 40, 5), {"padding": 2, "stride": 2}),
}


def result_of(name: str, dtype: str) -> tuple[tl.Tensor, Array]:
    """A convolution, and the same by PyTorch in float64."""
    rng = np.random.default_rng(2)
    x_shape, w_shape, more = CASES[name]
    x, w = numbers(rng, x_shape, dtype), numbers(rng, w_shape, dtype)
    ours = tl.conv2d if x.ndim == 4 else tl.conv1d
    theirs = torch.nn.functional.conv2d if x.ndim == 4 else torch.nn.functional.conv1d
    wide = (torch.from_numpy(a.astype(np.float64)) for a in (x, w))
    leaves = (tl.tensor(a, dtype=dtype) for a in (x, w))
    return ours(*leaves, **more), theirs(*wide, **more).numpy()


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str, dtype: str, lanes: int) -> None:
    result, want = result_of(name, dtype)
    got = run(result, lanes)
    eps = 2.0**-10 if dtype == "float16" else 2.0**-18
    np.testing.assert_allclose(got, want, eps, 40 * eps)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_laid_out(name: str) -> None:
    """What is stored beside the result is the padded input."""
    result, _ = result_of(name, "float16")
    *before, last = steps_of(result)
    assert isinstance(last.kernel, Matmul)
    assert last.kernel.windows
    x_shape, _, more = CASES[name]
    assert len(before) == ("padding" in more)
    assert sum(n.size for s in before for n in s.writes) <= 2 * np.prod(x_shape)


def test_sizes_are_no_part_of_the_kernel() -> None:
    texts = set()
    for size in (20, 31):
        x, w = tl.zeros([1, 32, size, size]), tl.zeros([64, 32, 3, 3])
        kernel = steps_of(tl.conv2d(x, w))[-1].kernel
        assert isinstance(kernel, Matmul)
        texts.add(matmul_text(kernel))
    assert len(texts) == 1


@pytest.mark.parametrize("name", CASES)
def test_gpus_pad_nothing_either(name: str) -> None:
    result, _ = result_of(name, "float16")
    (step,) = schedule([result._node], Settings(), GPU).steps
    assert isinstance(step.kernel, Matmul)
    assert step.kernel.windows
    assert (step.kernel.fill is not None) == ("padding" in CASES[name][2])
