"""Sizes that Hypothesis chooses: parts, padding and windows, against coremltools and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlogic as tl
from tensorlogic.coreml.mil import ROWS
from tests.coreml.programs import Array, quiet

with quiet():
    from coremltools.converters.mil.mil.ops.defs._utils import (
        solve_slice_by_index_shape,
        solve_slice_by_index_slice,
        spatial_dimensions_out_shape,
    )


few = settings(max_examples=40, deadline=None)


def counted(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def on_reference(op: str, x: Array, **arguments: Any) -> Array:
    found: Array = ROWS[op].fn(tl.tensor(x, tl.float32, "reference"), **arguments).numpy()
    return found


@st.composite
def slices(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A shape, and slice_by_index arguments that leave at least one entry."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    begin, end, stride, masks = [], [], [], []
    for n in shape:
        step = draw(st.sampled_from([1, 2, 3, -1, -2]))
        first = draw(st.integers(0, n - 1))
        last = draw(st.integers(first + 1, n) if step > 0 else st.integers(-1, first - 1))
        open_end = last == -1  # which no number but a mask says
        start = first - n if draw(st.booleans()) else first
        begin.append(start)
        end.append(0 if open_end else last)
        stride.append(step)
        masks.append((draw(st.booleans()), open_end or draw(st.booleans()), draw(st.booleans())))
    opens, ends, gone = (tuple(m[i] for m in masks) for i in range(3))
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    values = (tuple(begin), tuple(end), tuple(stride), opens, ends, gone)
    return shape, dict(zip(names, values, strict=True))


@few
@given(slices())
def test_slice_by_index(example: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    shape, arguments = example
    given_ = [shape, *map(list, arguments.values())]
    wanted = counted(*shape)[solve_slice_by_index_slice(*given_)]
    squeezed = tuple(i for i, gone in enumerate(arguments["squeeze_mask"]) if gone)
    wanted = wanted.squeeze(squeezed)
    assert list(wanted.shape) == [int(n) for n in solve_slice_by_index_shape(*given_)]
    np.testing.assert_array_equal(
        on_reference("slice_by_index", counted(*shape), **arguments), wanted
    )


SIZES = st.integers(1, 3).flatmap(
    lambda rank: st.tuples(
        *(st.lists(st.integers(1, high), min_size=rank, max_size=rank) for high in (9, 4, 4, 3))
    )
)


@few
@given(SIZES, st.sampled_from(["valid", "same", "same_lower"]))
def test_convolutions_have_the_sizes_of_their_padding(
    sizes: tuple[list[int], ...], pad_type: str
) -> None:
    space, kernel, strides, dilations = sizes
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    space = [max(n, s) for n, s in zip(space, spans, strict=True)]
    wanted = spatial_dimensions_out_shape(
        pad_type, tuple(space), tuple(kernel), tuple(strides), tuple(dilations)
    )
    weight = tl.ones([1, 1, *kernel], tl.float32)
    found = ROWS["conv"].fn(
        tl.ones([1, 1, *space], tl.float32),
        weight,
        strides=tuple(strides),
        dilations=tuple(dilations),
        pad_type=pad_type,
    )
    assert found.shape == (1, 1, *wanted)


@few
@given(SIZES, st.booleans(), st.data())
def test_pools_have_pytorchs_sizes_and_values(
    sizes: tuple[list[int], ...], ceil: bool, data: st.DataObject
) -> None:
    space, kernel, strides, _ = sizes
    rank = len(space)
    kernel = [min(k, n) for k, n in zip(kernel, space, strict=True)]
    pad = [data.draw(st.integers(0, k // 2)) for k in kernel]
    if ceil and not all(pad):
        strides = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    x = np.random.default_rng(len(space)).standard_normal((1, 2, *space)).astype(np.float32)
    t = torch.from_numpy(x)
    pools = {1: (F.max_pool1d, F.avg_pool1d), 2: (F.max_pool2d, F.avg_pool2d)}
    largest, mean = pools.get(rank, (F.max_pool3d, F.avg_pool3d))
    arguments = {
        "kernel_sizes": tuple(kernel),
        "strides": tuple(strides),
        "pad_type": "custom",
        "pad": tuple(p for p in pad for _ in range(2)),
        "ceil_mode": ceil,
    }
    found = on_reference("max_pool", x, **arguments)
    np.testing.assert_array_equal(found, largest(t, kernel, strides, pad, 1, ceil).numpy())
    for exclude in (False, True):
        found = on_reference("avg_pool", x, exclude_padding_from_average=exclude, **arguments)
        wanted = mean(t, kernel, strides, pad, ceil, not exclude).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@few
@given(
    st.lists(
        st.tuples(st.integers(2, 5), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=3
    ),
    st.sampled_from(["constant", "reflect", "replicate"]),
)
def test_pad(axes: list[tuple[int, int, int]], mode: str) -> None:
    x = counted(2, *(n for n, _, _ in axes))
    limits = [(n - 1 if mode == "reflect" else n) for n, _, _ in axes]
    pairs = [(min(a, m), min(b, m)) for (_, a, b), m in zip(axes, limits, strict=True)]
    found = on_reference("pad", x, pad=tuple(n for p in pairs for n in p), mode=mode)
    name: Any = {"replicate": "edge"}.get(mode, mode)
    np.testing.assert_array_equal(found, np.pad(x, [(0, 0), *pairs], mode=name))


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_reshape_with_sizes_taken_over_and_one_left_open(
    shape: list[int], data: st.DataObject
) -> None:
    x = counted(*shape)
    kept = data.draw(st.integers(0, len(shape) - 1))
    wanted = [*shape[:kept], int(np.prod(shape[kept:])), *[1] * (len(shape) - kept - 1)]
    said = [
        0 if data.draw(st.booleans()) and n == m else n for n, m in zip(wanted, shape, strict=True)
    ]
    said[kept] = -1
    np.testing.assert_array_equal(on_reference("reshape", x, shape=tuple(said)), x.reshape(wanted))
