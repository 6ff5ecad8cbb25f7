"""Cases whose operations take several values, or no tensor at all."""

from __future__ import annotations

import numpy as np

from tests.coreml.cases import Array, case, normal
from tests.coreml.programs import mb

A, B, C = normal(2, 3, 4), normal(2, 5, 4), normal(2, 3, 4)

case(
    "concat",
    {"x": A, "y": B},
    lambda x, y: np.concatenate([x, y], 1),
    build=lambda x, y: mb.concat(values=[x, y], axis=1),
)
case(
    "concat",
    {"x": A, "y": C},
    lambda x, y: np.stack([x, y], 2).reshape(2, 6, 4),
    build=lambda x, y: mb.concat(values=[x, y], axis=-2, interleave=True),
    name="interleave",
)
case(
    "stack",
    {"x": A, "y": C},
    lambda x, y: np.stack([x, y], -1),
    build=lambda x, y: mb.stack(values=[x, y], axis=-1),
)
for equation, one, two in (
    ("nchw,nwhu->nchu", normal(2, 3, 4, 5), normal(2, 5, 4, 6)),
    ("chw,whu->chu", normal(3, 4, 5), normal(5, 4, 6)),
):
    case(
        "einsum",
        {"x": one, "y": two},
        lambda x, y, e=equation: np.einsum(e, x, y),
        name=equation,
        build=lambda x, y, e=equation: mb.einsum(values=[x, y], equation=e),
        ulps=32,
    )
case(
    "reshape_like",
    {"x": normal(6, 15), "a": A, "b": normal(1, 3, 5)},
    lambda x, a, b: x.reshape(2, 3, 3, 5),
    build=lambda x, a, b: mb.reshape_like(
        x=x,
        ref_tensors=(a, b),
        begins=(np.int32(0), np.int32(1)),
        ends=(np.int32(2), np.int32(0)),
        end_masks=(False, True),
    ),
    opset=16,
)


def over_shape(x: Array) -> Array:
    return np.full((x.shape[0], x.shape[-1]), 2.5, np.float32)


def sizes(x):  # type: ignore[no-untyped-def]
    """The first and last size of x, by operations over its shape."""
    found = mb.shape(x=x)
    ends = [mb.slice_by_index(x=found, begin=[i], end=[i + 1]) for i in (0, 2)]
    return mb.concat(values=ends, axis=0)


case(
    "fill",
    {"x": A},
    over_shape,
    build=lambda x: mb.fill(shape=sizes(x), value=np.float32(2.5)),
    half=False,
)
case(
    "fill",
    {"x": A},
    lambda x: over_shape(x) * 0,
    build=lambda x: mb.fill(shape=sizes(x)),
    half=False,
    name="default",
)
case(
    "range_1d",
    {"x": A},
    lambda x: np.arange(1, 4, 2, dtype=np.int32),
    name="sizes",
    build=lambda x: mb.range_1d(start=1, end=mb.gather(x=mb.shape(x=x), indices=2), step=2),
)
SCALE, ZERO = np.float32([0.1, 0.2, 0.3]), np.int8([1, 0, -2])
case(
    "dequantize",
    {"x": normal(2, 3, 4) * 9},
    opset=17,
    half=False,
    build=lambda x: mb.dequantize(
        input=mb.cast(x=x, dtype="int8"), scale=SCALE, zero_point=ZERO, axis=1
    ),
    expected=lambda x: (np.trunc(x) - ZERO[:, None]) * SCALE[:, None],
)
case(
    "slice_by_index",
    {"x": A, "n": np.array([1, 3], np.int32)},
    lambda x, n: x[:, 1:3],
    name="bounds-of-a-call",
    build=lambda x, n: mb.slice_by_index(
        x=x,
        begin=mb.concat(values=[[0], mb.slice_by_size(x=n, begin=[0], size=[1]), [0]], axis=0),
        end=mb.concat(values=[[2], mb.slice_by_size(x=n, begin=[1], size=[1]), [4]], axis=0),
    ),
)
case(
    "reshape",
    {"x": A},
    lambda x: x.reshape(4, 3, 2),
    name="sizes-of-shape",
    build=lambda x: mb.reshape(x=x, shape=mb.reverse(x=mb.shape(x=x))),
)
