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
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.functions import convolution
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings
from tests.compare import Array
from tests.metal import traced
from tests.metal.test_bytes import moved
from tests.metal.traced import Replay

F = torch.nn.functional
RNG = np.random.default_rng(3)
NAN, INF = np.nan, np.inf


@pytest.fixture(autouse=True, scope="module")
def products() -> Iterator[None]:
    """Small convolutions are products too."""
    old, convolution.SMALL = convolution.SMALL, 0
    yield
    convolution.SMALL = old


def numbers(dtype: str, *shape: int) -> Array:
    """Few bits, so that sums are exact in any order."""
    return (RNG.integers(-16, 17, shape) / 8).astype(dtype)


def steps_of(result: tl.Tensor) -> list[Step]:
    return schedule([result._node], Settings(), GPU).steps


def replays(call: Callable[..., Any], *arrays: Array) -> tuple[list[Replay], Array]:
    """The launches, each of whose accesses was checked, and the result."""
    with traced.registered() as device:
        result = call(*[tl.tensor(a, dtype=a.dtype, device="traced") for a in arrays]).numpy()
        return list(device.launches), result


def against_torch(
    call: Callable[..., Any], theirs: Callable[..., Any], *arrays: Array
) -> tuple[list[Replay], Array]:
    found, got = replays(call, *arrays)
    want = theirs(*(torch.from_numpy(a.astype(np.float64)) for a in arrays)).numpy()
    np.testing.assert_array_equal(got, want.astype(got.dtype))
    return found, got


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
def test_one_launch_that_stores_nothing_but_its_result(name: str, dtype: str) -> None:
    x_shape, w_shape, more = CASES[name]
    ours, theirs = of(x_shape)

    def torch_says(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x, rest = padded(x, more)
        return theirs(x, w, **rest)  # type: ignore[no-any-return]

    x, w = numbers(dtype, *x_shape), numbers(dtype, *w_shape)
    (launch,), got = against_torch(lambda a, b: ours(a, b, **more), torch_says, x, w)
    stored = sum(launch.traffic.written.values())
    assert stored == got.nbytes
    if all("stride" not in key for key in more) and min(x_shape[2:]) >= max(w_shape[2:]):
        assert (
            moved(launch) == x.nbytes + w.nbytes + got.nbytes
        )  # each value is read by some window


def test_bytes_are_those_of_input_and_result_where_windows_skip_some() -> None:
    """Of every second line and place nothing else is read."""
    x, w = numbers("float16", 1, 8, 9, 9), numbers("float16", 6, 8, 1, 1)
    (launch,), got = replays(lambda a, b: tl.conv2d(a, b, stride=2), x, w)
    assert moved(launch) == 2 * 8 * 5 * 5 + w.nbytes + got.nbytes


sizes = st.integers(1, 9)


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(5, 6),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes(
    n: int,
    groups: int,
    each: int,
    out: int,
    places: Shape,
    taps: Shape,
    stride: Shape,
    dilation: Shape,
    pads: Shape,
    half: bool,
) -> None:
    sides = (pads[:2], pads[2:])
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, taps, strict=True)]
    room = [size + sum(side) - span for size, side, span in zip(places, sides, spans, strict=True)]
    if min(room) < 0:
        return
    dtype = "float16" if half else "float32"
    x = numbers(dtype, n, groups * each, *places)
    w, b = numbers(dtype, groups * out, each, *taps), numbers(dtype, groups * out)

    def torch_says(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, [*sides[1], *sides[0]])
        return F.relu(F.conv2d(x, w, b, stride, 0, dilation, groups))

    def ours(x: tl.Tensor, w: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
        return tl.relu(tl.conv2d(x, w, b, stride, sides, dilation, groups))

    launches, _ = against_torch(ours, torch_says, x, w, b)
    assert len(launches) == 1


def test_what_follows_is_its_epilogue() -> None:
    """Bias, a norm with fixed statistics, a residual and relu: one launch reads each value once."""
    x, w = numbers("float16", 2, 8, 9, 7), numbers("float16", 8, 8, 3, 3)
    b, mean, scale = (numbers("float16", 8) for _ in range(3))

    def block(x: Any, w: Any, b: Any, mean: Any, scale: Any, conv: Any, relu: Any) -> Any:
        y = conv(x, w, b, padding=1)
        y = (y - mean.reshape(-1, 1, 1)) * scale.reshape(-1, 1, 1)
        return relu(y + x)

    found, got = replays(lambda *a: block(*a, tl.conv2d, tl.relu), x, w, b, mean, scale)
    args = (torch.from_numpy(a.astype(np.float64)) for a in (x, w, b, mean, scale))
    want = block(*args, F.conv2d, F.relu).numpy()
    np.testing.assert_allclose(got, want, 2**-9, 2**-9)
    (launch,) = found
    assert moved(launch) == sum(a.nbytes for a in (x, w, b, mean, scale)) + got.nbytes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_layouts_of_the_input(dtype: str) -> None:
    """Channels last, part of the channels, reversed lines: views are read where they lie."""
    x, w = numbers(dtype, 2, 7, 6, 9), numbers(dtype, 6, 4, 3, 3)

    def ours(x: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
        return tl.conv2d(x.permute(0, 3, 1, 2)[:, 1:5, ::-1], w, padding=1)

    def theirs(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2)[:, 1:5].flip(2), w, padding=1)

    launches, _ = against_torch(ours, theirs, x, w)
    assert len(launches) == 1


@pytest.mark.parametrize("groups", [1, 2])
def test_parts_of_the_channels_of_several_images(groups: int) -> None:
    x, w = numbers("float16", 3, 9, 6, 6), numbers("float16", 10, 4 // groups, 3, 3)
    launches, _ = against_torch(
        lambda x, w: tl.conv2d(x[:, 2:6], w, padding=1, groups=groups),
        lambda x, w: F.conv2d(x[:, 2:6], w, padding=1, groups=groups),
        x,
        w,
    )
    assert len(launches) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("fill", [1.5, -INF])
def test_borders_of_any_number(fill: float, dtype: str) -> None:
    """The number is read anew by each run; beyond the depth there is nothing of it."""
    x, w = np.abs(numbers(dtype, 1, 3, 5, 5)) + 1, np.abs(numbers(dtype, 6, 3, 3, 3)) + 1

    def ours(x: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
        return tl.conv2d(tl.pad(x, [(0, 0), (0, 0), (1, 1), (2, 0)], fill), w)

    def theirs(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, [2, 0, 1, 1], value=fill), w)

    launches, _ = against_torch(ours, theirs, x, w)
    assert len(launches) == 1


def test_a_border_in_another_border_is_stored() -> None:
    x, w = numbers("float16", 1, 3, 5, 5), numbers("float16", 6, 3, 3, 3)

    def ours(x: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
        return tl.conv2d(tl.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], 2.0), w, padding=1)

    def theirs(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, [1, 1, 1, 1], value=2.0), w, padding=1)

    launches, _ = against_torch(ours, theirs, x, w)
    assert len(launches) == 2


def test_padded_channels_are_stored() -> None:
    """A border along the depth is none of lines or places."""
    x, w = numbers("float32", 2, 3, 5, 5), numbers("float32", 6, 4, 3, 3)
    launches, _ = against_torch(
        lambda x, w: tl.conv2d(tl.pad(x, [(0, 0), (1, 0), (0, 0), (0, 0)], 0.0), w),
        lambda x, w: F.conv2d(F.pad(x, [0, 0, 0, 0, 1, 0]), w),
        x,
        w,
    )
    assert len(launches) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_special_values_reach_their_windows_alone(dtype: str) -> None:
    x, w = numbers(dtype, 1, 2, 9, 9), np.abs(numbers(dtype, 6, 2, 3, 3)) + 1
    x[0, 0, 0, 0], x[0, 1, 8, 4] = NAN, INF
    _, got = replays(lambda a, b: tl.conv2d(a, b, padding=1), x, w)
    bad = np.zeros((9, 9), bool)
    bad[:2, :2] = bad[7:, 3:6] = True
    np.testing.assert_array_equal(np.isfinite(got), np.broadcast_to(~bad, got.shape))


def test_what_is_exact_stays_float32_between_two() -> None:
    x, w = numbers("float16", 1, 5, 7, 7), numbers("float16", 5, 5, 3, 3)

    def twice(x: Any, w: Any, conv: Any) -> Any:
        return conv(conv(x, w, padding=1), w, padding=1)

    with tl.precision("exact"):
        launches, _ = against_torch(
            lambda x, w: twice(x, w, tl.conv2d), lambda x, w: twice(x, w, F.conv2d), x, w
        )
    assert len(launches) == 2


@pytest.mark.parametrize("each", [1, 4])
def test_few_channels_a_group_are_folds_over_the_taps(each: int) -> None:
    """One launch, nothing stored besides."""
    groups = 8
    x, w = numbers("float16", 2, groups, 9, 9), numbers("float16", groups * each, 1, 3, 3)
    b = numbers("float16", groups * each)
    result = tl.relu(tl.conv2d(*map(tl.tensor, (x, w, b)), padding=1, groups=groups))
    (step,) = steps_of(result)
    assert isinstance(step.kernel, Kernel)
    (launch,), got = against_torch(
        lambda x, w, b: tl.relu(tl.conv2d(x, w, b, padding=1, groups=groups)),
        lambda x, w, b: F.relu(F.conv2d(x, w, b, padding=1, groups=groups)),
        x,
        w,
        b,
    )
    assert moved(launch) == x.nbytes + w.nbytes + b.nbytes + got.nbytes


def test_a_fold_reads_what_was_reduced_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of a small convolution over pooled values are not stored."""
    monkeypatch.setattr(convolution, "SMALL", 1 << 19)
    x, w = tl.zeros([1, 8, 16, 16]), tl.zeros([8, 8, 3, 3])
    first, second = steps_of(tl.conv2d(tl.max_pool2d(x, 2), w, padding=1))
    assert [n.size for n in (*first.writes, *second.writes)] == [8 * 8 * 8, 8 * 8 * 8]


@given(
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(2, 5),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
@settings(max_examples=50, deadline=None)
def test_transposed_of_any_sizes(
    n: int,
    groups: int,
    each: int,
    out: int,
    places: Shape,
    taps: Shape,
    stride: Shape,
    dilation: Shape,
    padding: Shape,
    extra: Shape,
) -> None:
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    whole = zip(places, stride, padding, dilation, taps, extra, strict=True)
    if min((size - 1) * s - 2 * p + d * (k - 1) + e for size, s, p, d, k, e in whole) < 0:
        return
    x = numbers("float16", n, groups * each, *places)
    w, b = numbers("float16", groups * each, out, *taps), numbers("float16", groups * out)
    more = (stride, padding, extra)
    against_torch(
        lambda x, w, b: tl.relu(tl.conv_transpose2d(x, w, b, *more, dilation, groups)),
        lambda x, w, b: F.relu(F.conv_transpose2d(x, w, b, *more, groups, dilation)),
        x,
        w,
        b,
    )


@pytest.mark.parametrize(("taps", "padding"), [(2, 0), (4, 1), (3, 0), (6, 2)])
def test_what_is_transposed_is_stored_where_it_belongs(taps: int, padding: int) -> None:
    """Beside the result no more than the weights in another order."""
    stride = 3 if taps % 3 == 0 else 2
    x, w, b = numbers("float16", 2, 5, 6, 7), numbers("float16", 5, 4, taps, taps), numbers("f2", 4)
    launches, got = against_torch(
        lambda x, w, b: tl.conv_transpose2d(x, w, b, stride, padding),
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding),
        x,
        w,
        b,
    )
    *before, last = launches
    assert sum(last.traffic.written.values()) == got.nbytes
    assert sum(sum(r.traffic.written.values()) for r in before) == (w.nbytes if before else 0)


def test_a_product_in_another_order_is_stored_in_it() -> None:
    """The heads of a product; what follows them sums stays a launch of its own."""
    x, w = numbers("float16", 9, 12), numbers("float16", 12, 20)

    def heads(x: Any, w: Any) -> Any:
        return (x @ w).reshape(9, 4, 5).permute(1, 0, 2)

    launches, _ = against_torch(heads, heads, x, w)
    assert len(launches) == 1
    launches, got = replays(lambda x, w: tl.softmax(heads(x, w), axis=1), x, w)
    want = F.softmax(heads(*(torch.from_numpy(a.astype(np.float64)) for a in (x, w))), 1).numpy()
    np.testing.assert_allclose(got, want, 2**-9, 2**-11)
    assert len(launches) == 2


def test_sizes_are_no_part_of_the_kernel() -> None:
    texts = set()
    for n, size, padding in ((2, 20, 1), (3, 31, 2)):
        x, w = tl.zeros([n, 32, size, size]), tl.zeros([64, 32, 3, 3])
        (step,) = steps_of(tl.conv2d(x, w, padding=padding))
        assert isinstance(step.kernel, Matmul)
        texts.add(gpu_launch(step.kernel, "conv", "metal", step.sizes()).source)
    assert len(texts) == 1
