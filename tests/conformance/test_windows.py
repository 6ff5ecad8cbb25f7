"""Convolutions, pooling and resampling: PyTorch, special values, layouts, kernels, errors."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tensorlogic as tl
from tensorlogic.graph import inline_calls
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings
from tests.compare import Array
from tests.conformance.harness import compute, numbers

NAN, INF = np.nan, np.inf


def against_torch(got: Any, want: torch.Tensor) -> None:
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_as_pytorch(seed: int, device: str) -> None:
    """Every function with random settings, which PyTorch understands in the same way."""
    pick, rng = Random(seed), np.random.default_rng(seed)
    rank = 1 + seed % 2

    def some(*values: int) -> list[int]:
        return [pick.choice(values) for _ in range(rank)]

    def run(function: str, *args: Any) -> Array:
        return np.asarray(compute(lambda t: getattr(tl, function)(t, *args), x, device=device))

    def check(ours: str, settings: tuple[Any, ...], theirs: torch.Tensor) -> None:
        against_torch(run(ours, *settings), theirs)

    groups, each, out = pick.choice([1, 2, 3]), pick.choice([1, 4]), pick.choice([1, 5])
    kernel, stride, gap, pad = some(1, 2, 3, 4), some(1, 2, 3), some(1, 2), some(0, 1, 2)
    x = numbers(rng, (2, groups * each, *some(7, 8, 12)), "float32")
    b = numbers(rng, (groups * out,), "float32")
    t, bias = torch.from_numpy(x), torch.from_numpy(b)

    def tensors(w: Array) -> tuple[tl.Tensor, tl.Tensor]:
        return tl.from_numpy(w, device=device), tl.from_numpy(b, device=device)

    w = numbers(rng, (groups * out, each, *kernel), "float32")
    theirs = getattr(F, f"conv{rank}d")(t, torch.from_numpy(w), bias, stride, pad, gap, groups)
    check(f"conv{rank}d", (*tensors(w), stride, pad, gap, groups), theirs)
    if max(kernel) % 2:
        same = getattr(F, f"conv{rank}d")(t, torch.from_numpy(w), bias, 1, "same", gap, groups)
        check(f"conv{rank}d", (*tensors(w), 1, "same", gap, groups), same)
    w = numbers(rng, (groups * each, out, *kernel), "float32")
    more = [pick.randrange(max(s, d)) for s, d in zip(stride, gap, strict=True)]
    name = f"conv_transpose{rank}d"
    theirs = getattr(F, name)(t, torch.from_numpy(w), bias, stride, pad, more, groups, gap)
    check(name, (*tensors(w), stride, pad, more, gap, groups), theirs)
    pad = [min(p, k // 2) for p, k in zip(pad, kernel, strict=True)]
    ceil, flag = pick.choice([True, False]), pick.choice([True, False])
    settings: tuple[Any, ...] = (kernel, stride, pad, gap, ceil)
    check(f"max_pool{rank}d", settings, getattr(F, f"max_pool{rank}d")(t, *settings))
    settings = (kernel, stride, pad, ceil, flag)
    check(f"avg_pool{rank}d", settings, getattr(F, f"avg_pool{rank}d")(t, *settings))
    size, scale = some(1, 2, 5, 16), [pick.choice([0.5, 1.3, 2.0]) for _ in range(rank)]
    linear = "linear" if rank == 1 else "bilinear"
    check("interpolate", (size,), F.interpolate(t, size))
    check("interpolate", (None, scale), F.interpolate(t, None, scale))
    corners = F.interpolate(t, size, mode=linear, align_corners=flag)
    check("interpolate", (size, None, "linear", flag), corners)
    scaled = F.interpolate(t, None, scale, linear, align_corners=flag)
    check("interpolate", (None, scale, "linear", flag), scaled)


def test_a_window_that_hangs_over_a_short_axis(device: str) -> None:
    x = np.array([[[3.0]]], np.float32)
    for pool in (tl.max_pool1d, tl.avg_pool1d):
        got = compute(lambda t, f=pool: f(t, 2, ceil_mode=True), x, device=device)
        assert got.tolist() == [[[3.0]]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_special_values(dtype: str, device: str) -> None:
    x = np.array([[[1, NAN, 2, -INF, -INF, INF]]], dtype)
    for call, want in (
        (lambda t: tl.max_pool1d(t, 2), [NAN, 2, INF]),
        (lambda t: tl.max_pool1d(t, 2, 2, 1), [1, NAN, -INF, INF]),
        (lambda t: tl.avg_pool1d(t, 2), [NAN, -INF, NAN]),
        (lambda t: tl.conv1d(t, tl.ones([1, 1, 2], dtype, device)), [NAN, NAN, -INF, -INF, NAN]),
        (lambda t: tl.interpolate(t, 3), [1, 2, -INF]),
    ):
        got = compute(call, x, device=device)
        np.testing.assert_array_equal(got, np.array([[want]], dtype))


def test_float16_sums_in_float32(device: str) -> None:
    """What is beyond float16 on the way is no infinity, and nothing small is lost."""
    x = np.full((1, 1, 64), 300, np.float16)
    x[0, 0, 0] = 299
    w = np.where(np.arange(64) % 2, -300, 300).astype(np.float16).reshape(1, 1, -1)
    want = float((x.astype(np.float64) * w).sum())
    got = compute(lambda a, b: tl.conv1d(a, b), x, w, device=device)
    assert got.item() == np.float16(want)
    large = np.full((1, 1, 1024), 60000, np.float16)
    assert compute(lambda a: tl.avg_pool1d(a, 1024), large, device=device).item() == 60000


def test_strided_inputs(device: str) -> None:
    rng = np.random.default_rng(3)
    x, w = numbers(rng, (9, 12, 2, 8), "float32"), numbers(rng, (3, 3, 4, 6), "float32")
    view, weight = x.transpose(2, 3, 0, 1)[:, ::2, ::-1], w.transpose(3, 2, 0, 1)
    got = compute(lambda a, b: tl.conv2d(a, b, None, 1, 1), view, weight, device=device)
    plain = torch.from_numpy(view.copy()), torch.from_numpy(weight.copy())
    against_torch(got, F.conv2d(*plain, None, 1, 1))
    got = compute(lambda a: tl.max_pool2d(a[..., ::-1].permute(0, 1, 3, 2), 3), view, device=device)
    against_torch(got, F.max_pool2d(plain[0].flip(-1).transpose(2, 3), 3))


def steps(result: tl.Tensor) -> list[str]:
    """The op that each launch stores."""
    return [str(s.writes[0].op) for s in schedule(inline_calls([result._node]), Settings()).steps]


def test_kernels() -> None:
    """A large convolution is a product that reads its windows where they lie, with all that follows
    as its epilogue; small ones, those of few channels a group, and pooling are folds."""
    x, w = tl.zeros([1, 32, 40, 40]), tl.zeros([64, 32, 3, 3])
    scale, other = tl.zeros([64, 1, 1]), tl.zeros([1, 64, 40, 40])
    block = tl.relu(tl.conv2d(x, w, tl.zeros([64]), padding=1) * scale + other)
    assert steps(block) == ["pad", "relu"]
    assert steps(tl.conv2d(x, w[..., :1, :1])) == ["cast"]
    assert steps(tl.relu(tl.conv2d(x[..., :4, :4], w, padding=1))) == ["relu"]
    wide = tl.zeros([1, 32, 80, 80])
    assert steps(tl.conv2d(wide, w[:32, :1], padding=1, groups=32)) == ["pad", "cast"]
    transposed = tl.conv_transpose2d(x, w[:32, :, :2, :2], stride=2)
    assert steps(transposed) == ["reshape", "matmul", "cast"]
    assert len(steps(tl.max_pool2d(x, 3, 2, 1))) == len(steps(tl.avg_pool2d(x, 3, 2, 1))) == 1
    assert len(steps(tl.interpolate(x, scale=2, mode="linear"))) == 1


X1, X2 = tl.zeros([2, 4, 5]), tl.zeros([2, 4, 5, 6])
W1, W2 = tl.zeros([6, 4, 3]), tl.zeros([6, 4, 3, 3])
SHAPES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: tl.conv1d(X2, W1),
        "conv1d: x is [N, C, L], weight has as many axes: x [2, 4, 5, 6], weight [6, 4, 3], "
        "groups 1",
    ),
    (
        lambda: tl.conv2d(X2, W2, groups=2),
        "conv2d: weight is [O, C / groups, ...] with groups that divide C and O: x [2, 4, 5, 6], "
        "weight [6, 4, 3, 3], groups 2",
    ),
    (
        lambda: tl.conv_transpose1d(X1, W1),
        "conv_transpose1d: weight is [C, O / groups, ...] with groups that divide C and O: "
        "x [2, 4, 5], weight [6, 4, 3], groups 1",
    ),
    (lambda: tl.conv1d(X1, W1, tl.zeros([4])), "conv1d: bias has shape [6], not [4]"),
    (
        lambda: tl.conv2d(X2, W2, dilation=(1, 3)),
        "conv2d: a window of 7 does not fit axis 3 of [2, 4, 5, 6], padded by (0, 0)",
    ),
    (
        lambda: tl.conv2d(X2, W2, stride=(1, 0)),
        "conv2d: stride is 2 ints of at least 1, or one, not (1, 0)",
    ),
    (
        lambda: tl.conv2d(X2, W2, stride=2, padding="same"),
        'conv2d: padding="same" takes stride 1, not (2, 2)',
    ),
    (lambda: tl.conv2d(X2, W2, padding=(1, 1, 1)), "conv2d: padding is for 2 axes, not (1, 1, 1)"),
    (
        lambda: tl.conv1d(X1, W1, padding=-1),
        "conv1d: padding is 2 ints of at least 0, or one, not (-1, -1)",
    ),
    (
        lambda: tl.conv_transpose1d(X1, W1[:4], stride=2, output_padding=2),
        "conv_transpose1d: output_padding is below stride 2 or dilation 1, not 2",
    ),
    (
        lambda: tl.conv_transpose1d(X1, W1[:4], padding=4),
        "conv_transpose1d: padding 4 leaves nothing of axis 2 of [2, 4, 5]",
    ),
    (
        lambda: tl.conv_transpose1d(X1[..., :0], W1[:4]),
        "conv_transpose1d: padding 0 leaves nothing of axis 2 of [2, 4, 0]",
    ),
    (
        lambda: tl.max_pool2d(X1[0], 2),
        "max_pool2d: x has channels and 2 more axes, not [4, 5]",
    ),
    (
        lambda: tl.avg_pool1d(X1, 3, padding=2),
        "avg_pool1d: padding 2 is more than half of kernel 3",
    ),
    (
        lambda: tl.max_pool1d(X1, 6),
        "max_pool1d: a window of 6 does not fit axis 2 of [2, 4, 5], padded by (0, 0)",
    ),
    (
        lambda: tl.interpolate(X1[0], 3),
        "interpolate: x is [N, C, L] or [N, C, H, W], not [4, 5]",
    ),
    (lambda: tl.interpolate(X2, (3,)), "interpolate: size (3,) for x [2, 4, 5, 6]"),
    (lambda: tl.interpolate(X2, scale=-1.0), "interpolate: scale -1.0 for x [2, 4, 5, 6]"),
    (
        lambda: tl.window(X1, -1, 4, dilation=2),
        "window: 4 taps (stride 1, dilation 2) do not fit axis 2 of [2, 4, 5]",
    ),
]
VALUES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: tl.conv1d(X1, W1, padding="full"),
        'conv1d: padding is ints, pairs, "same" or "valid", not \'full\'',
    ),
    (
        lambda: tl.interpolate(X1, 3, mode="cubic"),
        'interpolate: mode is "nearest" or "linear", not \'cubic\'',
    ),
    (
        lambda: tl.interpolate(X1, 3, align_corners=True),
        'interpolate: align_corners is for mode="linear"',
    ),
    (lambda: tl.interpolate(X1), "interpolate: give size or scale, one of them"),
]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [*((c, tl.ShapeError, t) for c, t in SHAPES), *((c, ValueError, t) for c, t in VALUES)],
)
def test_errors(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_only_floats() -> None:
    for call in (
        lambda: tl.max_pool1d(tl.arange(6).reshape(1, 6), 2),
        lambda: tl.conv1d(X1, W1 > 0),
    ):
        with pytest.raises(tl.DTypeError, match="takes float values, not"):
            call()
