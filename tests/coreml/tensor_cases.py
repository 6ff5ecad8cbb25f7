"""Cases: reductions, norms, products, shapes, slices, lookups, sorting."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from tests.coreml.cases import Array, between, bools, case, ints, normal
from tests.coreml.elementwise_cases import torched

X = normal(2, 3, 4, 5)
POSITIVE = between(0.2, 2, 2, 3, 4)
WHOLE = ints(-5, 9, 2, 3, 4)

# ---- reductions --------------------------------------------------------------------------------

for op in (
    "sum",
    "mean",
    "max",
    "min",
    "prod",
    "l1_norm",
    "l2_norm",
    "log_sum",
    "log_sum_exp",
    "sum_square",
):
    for axes, keep in (([1], False), ([0, -1], True), (None, False)):
        case(
            f"reduce_{op}",
            {"x": POSITIVE},
            name=f"{axes}-{keep}",
            **({} if axes is None else {"axes": axes}),
            keep_dims=keep,
        )
for op in ("sum", "max", "min", "prod", "sum_square"):
    case(f"reduce_{op}", {"x": WHOLE}, axes=[2], name="int32")
case("reduce_mean", {"x": WHOLE}, lambda x: np.trunc(x.mean(2)).astype("i4"), axes=[2], name="int")
for op, axis in itertools.product(("reduce_argmax", "reduce_argmin"), (0, -1)):
    case(op, {"x": POSITIVE}, axis=axis, keep_dims=axis == 0)
    case(op, {"x": POSITIVE}, axis=axis, opset=17, output_dtype="int32")

# ---- norms -------------------------------------------------------------------------------------

C = 3
GAMMA, BETA = between(0.5, 2, C), normal(C)
MEAN, VARIANCE = normal(C), between(0.5, 2, C)


def batch_normed(x: Array) -> Array:
    return torched(
        lambda t: F.batch_norm(t, *map(torch.from_numpy, (MEAN, VARIANCE, GAMMA, BETA)), eps=1e-3)
    )(x)


for shape in ((2, C, 6), (2, C, 4, 5), (1, C, 2, 3, 4)):
    case(
        "batch_norm",
        {"x": normal(*shape)},
        batch_normed,
        mean=MEAN,
        variance=VARIANCE,
        gamma=GAMMA,
        beta=BETA,
        epsilon=np.float32(1e-3),
        half=False,
        name=str(len(shape)),
    )
case(
    "batch_norm",
    {"x": X},
    lambda x: (x - MEAN[:, None, None]) / np.sqrt(VARIANCE + 1e-5)[:, None, None],
    mean=MEAN,
    variance=VARIANCE,
    half=False,
    name="plain",
)
case(
    "instance_norm",
    {"x": X},
    torched(lambda t: F.instance_norm(t, None, None, *map(torch.from_numpy, (GAMMA, BETA)))),
    gamma=GAMMA,
    beta=BETA,
    epsilon=np.float32(1e-5),
    half=False,
)
case("instance_norm", {"x": normal(2, 3, 8)}, torched(F.instance_norm), half=False, name="plain")
case("layer_norm", {"x": X}, axes=[-1], gamma=between(0.5, 2, 5), beta=normal(5), half=False)
case("layer_norm", {"x": X}, axes=[2, 3], epsilon=np.float32(1e-3), name="two", ulps=32)
case("layer_norm", {"x": X}, axes=[1], gamma=GAMMA, beta=BETA, half=False, name="channels")
case(
    "layer_norm",
    {"x": X},
    lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-5),
    axes=[0, 1, 2, 3],
    half=False,
    name="all",
)
case("l2_norm", {"x": X}, epsilon=np.float32(1e-3))
case("l2_norm", {"x": normal(3, 4, 5)}, epsilon=np.float32(1e-3), name="rank3")
for size in (2, 3):
    case(
        "local_response_norm",
        {"x": normal(2, 6, 4, 4) * 3},
        torched(lambda t, n=size: F.local_response_norm(t, n, 0.5, 0.6, 1.5)),
        size=size,
        alpha=0.5,
        beta=0.6,
        k=1.5,
        half=False,
    )

# ---- products ----------------------------------------------------------------------------------

case("linear", {"x": normal(2, 4)}, weight=normal(3, 4), bias=normal(3), ulps=32)
case("linear", {"x": normal(2, 3, 4)}, weight=normal(5, 4), name="plain", ulps=32)
for tx, ty in itertools.product((False, True), repeat=2):
    a, b = normal(2, *((4, 3) if tx else (3, 4))), normal(*((5, 4) if ty else (4, 5)))
    case("matmul", {"x": a, "y": b}, transpose_x=tx, transpose_y=ty, ulps=32)
case("matmul", {"x": normal(4), "y": normal(4, 3)}, np.matmul, name="vector", ulps=32)
case("matmul", {"x": ints(-5, 5, 2, 3, 4), "y": ints(-5, 5, 4, 5)}, name="int32")
case(
    "linear",
    {"x": ints(-5, 5, 2, 4)},
    lambda x: x @ np.arange(12).reshape(3, 4).T,
    weight=np.arange(12, dtype=np.int32).reshape(3, 4),
    bias=np.zeros(3, np.int32),
    name="int32",
)
case(
    "scaled_dot_product_attention",
    {"query": normal(1, 2, 3, 4), "key": normal(1, 2, 5, 4), "value": normal(1, 2, 5, 6)},
    opset=18,
    ulps=32,
)
case(
    "scaled_dot_product_attention",
    {"query": normal(2, 3, 4), "key": normal(2, 5, 4), "value": normal(2, 5, 4)},
    opset=18,
    ulps=32,
    attn_mask=normal(3, 5),
    name="mask",
    half=False,
)
MASK = np.tril(np.ones((3, 5), bool), 2)
case(
    "scaled_dot_product_attention",
    {"query": normal(2, 3, 4), "key": normal(2, 5, 4), "value": normal(2, 5, 4)},
    torched(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.from_numpy(MASK))),
    opset=18,
    ulps=32,
    attn_mask=MASK,
    name="bools",
)

# ---- shapes ------------------------------------------------------------------------------------

case("shape", {"x": X})
case("reshape", {"x": X}, shape=[6, -1])
case("reshape", {"x": X}, shape=[0, -1, 0, 5], name="zeros")
case("flatten2d", {"x": X}, axis=2)
case("flatten2d", {"x": X}, axis=-1)
case("transpose", {"x": X}, perm=[0, 2, -1, 1])
case("expand_dims", {"x": X}, axes=[0, -1])
case("squeeze", {"x": normal(1, 3, 1, 2)}, axes=[0, -2])
case("squeeze", {"x": normal(1, 3, 1, 2)}, name="all")
case("squeeze", {"x": normal(1, 3, 1, 2)}, lambda x: x[0], axes=[0, 1], name="not-one")
for sizes in ({"num_splits": 2}, {"split_sizes": [1, 3]}):
    case("split", {"x": X}, axis=2, name=str(*sizes), **sizes)
case(
    "depth_to_space",
    {"x": normal(2, 8, 2, 3)},
    lambda x: x.reshape(2, 2, 2, 2, 2, 3).transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 4, 6),
    block_size=2,
)
case(
    "depth_to_space",
    {"x": np.array([9, 5, 1, 3], np.float32).reshape(1, 4, 1, 1)},
    lambda x: np.array([[[[9, 5], [1, 3]]]], np.float32),
    block_size=2,
    name="apple",
)
case(
    "space_to_depth",
    {"x": normal(2, 2, 4, 6)},
    lambda x: x.reshape(2, 2, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(2, 8, 2, 3),
    block_size=2,
)
case(
    "pixel_shuffle",
    {"x": normal(2, 8, 2, 3)},
    torched(lambda t: F.pixel_shuffle(t, 2)),
    upscale_factor=2,
)
case(
    "pixel_unshuffle",
    {"x": normal(2, 2, 4, 6)},
    torched(lambda t: F.pixel_unshuffle(t, 2)),
    opset=16,
    downscale_factor=np.uint32(2),
)
BATCH = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 2, 4)
PARTS = np.array(
    [[0, 1, 3], [0, 9, 11], [0, 2, 4], [0, 10, 12], [0, 5, 7], [0, 13, 15], [0, 6, 8], [0, 14, 16]],
    np.float32,
).reshape(8, 1, 1, 3)
case("space_to_batch", {"x": BATCH}, lambda x: PARTS, block_shape=[2, 2], paddings=[[0, 0], [2, 0]])
case("batch_to_space", {"x": PARTS}, lambda x: BATCH, block_shape=[2, 2], crops=[[0, 0], [2, 0]])

# ---- slices ------------------------------------------------------------------------------------

case("slice_by_index", {"x": X}, begin=[0, 1, -3, 0], end=[2, 3, -1, 5])
case(
    "slice_by_index",
    {"x": X},
    begin=[0, 2, 0, 4],
    end=[2, 0, 4, 0],
    stride=[1, -1, 2, -2],
    name="strides",
)
case(
    "slice_by_index",
    {"x": X},
    begin=[1, 0, 3, 1],
    end=[0, 0, 0, 2],
    stride=[1, 1, -1, 1],
    begin_mask=[False, True, False, False],
    end_mask=[False, True, True, False],
    squeeze_mask=[True, False, False, True],
    name="masks",
)
case("slice_by_size", {"x": X}, begin=[0, 1, -3, 0], size=[1, -1, 2, 4])
case(
    "sliding_windows",
    {"x": X},
    lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 3)[..., ::2, :],
    axis=-1,
    size=2,
    stride=2,
)
case("pad", {"x": X}, pad=[1, 2, 0, 3], mode="constant", constant_val=np.float32(0.5))
for mode in ("reflect", "replicate"):
    case("pad", {"x": X}, pad=[1, 2, 3, 1], mode=mode)
case("crop", {"x": X}, lambda x: x[..., 1:-1, 2:-1], crop_height=[1, 1], crop_width=[2, 1])
case("tile", {"x": X}, reps=[1, 2, 1, 3])
case("reverse", {"x": X}, axes=[1, -1])
case("reverse", {"x": X}, name="all")


def reversed_parts(x: Array) -> Array:
    out = x.copy()
    for b, n in enumerate((2, 0, 4)):
        out[:, b, :n] = x[:, b, :n][:, ::-1]
    return out


case("reverse_sequence", {"x": X}, reversed_parts, lengths=[2, 0, 4], seq_axis=2, batch_axis=1)


def updated(x: Array, update: Array) -> Array:
    out = x.copy()
    out[:, 2:0:-1, 1, ::2] = update
    return out


case(
    "slice_update",
    {"x": X, "update": normal(2, 2, 3)},
    updated,
    opset=18,
    begin=[0, 2, 1, 0],
    end=[0, 0, 0, 5],
    stride=[1, -1, 1, 2],
    begin_mask=[True, False, False, False],
    end_mask=[True, False, False, False],
    squeeze_mask=[False, False, True, False],
)

# ---- made of shapes and numbers ----------------------------------------------------------------

case(
    "fill_like",
    {"ref_tensor": X},
    lambda x: np.full(x.shape, 2.5, np.float32),
    opset=16,
    value=np.float32(2.5),
    half=False,
)
LABELS = np.array([[0, 2], [3, 7]], np.int32)
for axis in (-1, 0, 1):
    hot = (LABELS[..., None] == np.arange(4)).astype(np.float32) * 3 - 1
    case(
        "one_hot",
        {"indices": LABELS},
        lambda i, h=hot, a=axis: np.moveaxis(h, -1, a),
        one_hot_vector_size=4,
        axis=axis,
        on_value=np.float32(2),
        off_value=np.float32(-1),
    )
case(
    "one_hot",
    {"indices": LABELS},
    lambda i: (i[..., None] == np.arange(4)).astype(np.int32),
    one_hot_vector_size=4,
    name="default",
)
for lower, upper in ((0, -1), (-1, 0), (1, 2)):
    case("band_part", {"x": X}, lower=lower, upper=upper)
case("non_zero", {"x": np.round(X)}, lambda x: np.argwhere(x).astype(np.int32))

# ---- lookups -----------------------------------------------------------------------------------

case("gather", {"x": X}, indices=np.array([2, 0, -1], np.int32), axis=1)
case("gather", {"x": X, "indices": ints(0, 5, 2, 2)}, lambda x, i: x[..., i], axis=-1, name="two")
case("gather", {"x": X}, lambda x: x[:, 1], indices=np.int32(1), axis=1, name="one")
case(
    "gather",
    {"x": X, "indices": ints(0, 4, 2, 3)},
    opset=16,
    axis=2,
    batch_dims=1,
    expected=lambda x, i: np.stack([x[b].take(i[b], axis=1) for b in range(2)]),
)
case(
    "gather_along_axis",
    {"x": X, "indices": ints(0, 4, 2, 3, 6, 5)},
    lambda x, i: np.take_along_axis(x, i, 2),
    axis=2,
)
PAIRS = np.array([[0, 1], [1, -1], [1, 0]], np.int32)
case("gather_nd", {"x": X}, lambda x: x[PAIRS[:, 0], PAIRS[:, 1]], indices=PAIRS)
DEEP = ints(0, 3, 2, 4, 1)
case(
    "gather_nd",
    {"x": X},
    lambda x: np.stack([x[b][DEEP[b, :, 0]] for b in range(2)]),
    indices=DEEP,
    batch_dims=1,
    opset=16,
)

MODES = {
    "update": None,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
AT = np.array([2, 0, 2], np.int32)


def scattered(mode: str, out: Array, key: object, updates: Array) -> Array:
    if MODES[mode] is None:
        out[key] = updates
    else:
        MODES[mode].at(out, key, updates)  # type: ignore[union-attr]
    return out


for mode in MODES:
    case(
        "scatter",
        {"data": normal(2, 4), "updates": between(0.5, 2, 2, 3)},
        lambda d, u, m=mode: scattered(m, d.T.copy(), AT, u.T).T,
        indices=AT,
        axis=1,
        mode=mode,
        half=False,
    )
    case(
        "scatter_nd",
        {"data": normal(2, 3, 4), "updates": between(0.5, 2, 3, 4)},
        lambda d, u, m=mode: scattered(m, d.copy(), tuple(PAIRS.T), u),
        indices=PAIRS,
        mode=mode,
        half=False,
    )
    case(
        "scatter_along_axis",
        {"data": normal(3, 4), "indices": ints(0, 3, 2, 4), "updates": between(0.5, 2, 2, 4)},
        lambda d, i, u, m=mode: scattered(m, d.copy(), (i, np.arange(4)), u),
        axis=0,
        mode=mode,
        half=False,
    )
case(
    "scatter",
    {"data": WHOLE[0], "updates": ints(-9, 9, 2, 4)},
    lambda d, u: scattered("max", d.copy(), AT[:2], u),
    indices=AT[:2],
    axis=0,
    mode="max",
    opset=17,
    name="int32",
)

# ---- sorting, sums along an axis ---------------------------------------------------------------

for axis, ascending in itertools.product((0, -1), (True, False)):
    case(
        "argsort",
        {"x": X},
        lambda x, a=axis, up=ascending: np.argsort(x if up else -x, a).astype("i4"),
        axis=axis,
        ascending=ascending,
    )
    case("topk", {"x": X}, axis=axis, ascending=ascending, k=2)
case(
    "topk", {"x": X}, lambda x: -np.sort(-x, 1)[:, :2], k=2, axis=1, return_indices=False, opset=16
)
for exclusive, reverse in itertools.product((False, True), repeat=2):

    def sums(x: Array, exclusive: bool = exclusive, reverse: bool = reverse) -> Array:
        x = x[:, ::-1] if reverse else x
        total = np.cumsum(x, 1) - (x if exclusive else 0)
        return total[:, ::-1] if reverse else total

    case("cumsum", {"x": X}, sums, axis=1, exclusive=exclusive, reverse=reverse, half=False)
case("cumsum", {"x": bools(5).astype(np.int32)}, np.cumsum, axis=0, name="int32")
