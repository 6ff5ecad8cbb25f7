"""Cases: images in other sizes, and values between pixels."""

from __future__ import annotations

import itertools

import numpy as np
import torch.nn.functional as F

from tests.coreml.cases import between, case, normal
from tests.coreml.elementwise_cases import torched

# ---- images ------------------------------------------------------------------------------------

IMAGE = normal(2, 3, 4, 5)


def resized(size: tuple[int, int], mode: str, corners: bool | None = None):  # type: ignore[no-untyped-def]
    return torched(lambda t: F.interpolate(t, size, mode=mode, align_corners=corners))


case(
    "upsample_nearest_neighbor",
    {"x": IMAGE},
    resized((8, 15), "nearest"),
    scale_factor_height=2,
    scale_factor_width=3,
)
case(
    "upsample_nearest_neighbor",
    {"x": IMAGE},
    resized((6, 7), "nearest"),
    scale_factor_height=1.5,
    scale_factor_width=1.5,
    name="parts",
    half=False,
)
case(
    "resize_nearest_neighbor",
    {"x": IMAGE},
    resized((7, 3), "nearest"),
    target_size_height=7,
    target_size_width=3,
)
for corners in (False, True):
    case(
        "upsample_bilinear",
        {"x": IMAGE},
        resized((8, 15), "bilinear", corners),
        scale_factor_height=2,
        scale_factor_width=3,
        align_corners=corners,
    )
LINE = np.array([0, 1], np.float32).reshape(1, 1, 2)
POINTS = {
    "STRICT_ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    "ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    "DEFAULT": ([0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
    "OFFSET_CORNERS": ([0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    "UNALIGN_CORNERS": ([0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
}
"""Of a line from 0 to 1, in 5 and 6 points: coremltools' documentation of resize_bilinear."""
for mode, lines in POINTS.items():
    for line in lines:
        case(
            "resize_bilinear",
            {"x": LINE},
            lambda x, v=line: np.float32(v).reshape(1, 1, -1),
            target_size_height=1,
            target_size_width=len(line),
            sampling_mode=mode,
        )
        case(
            "resize",
            {"x": LINE},
            lambda x, v=line: np.float32(v).reshape(1, 1, -1),
            opset=17,
            shape=[0, len(line)],
            resized_dims=np.uint32(2),
            interpolation_mode="LINEAR",
            sampling_mode=mode,
            name=f"{mode}-{len(line)}",
        )
case(
    "resize",
    {"x": IMAGE},
    resized((7, 3), "nearest"),
    opset=17,
    shape=[1, 7, 3],
    resized_dims=np.uint32(2),
    interpolation_mode="NEAREST_NEIGHBOR",
)

GRID = between(-1.4, 1.4, 2, 3, 6, 2)
PADDINGS = {"constant": "zeros", "border": "border", "reflection": "reflection"}
for padding, sampling, corners in itertools.product(
    PADDINGS, ("bilinear", "nearest"), (True, False)
):
    case(
        "resample",
        {"x": IMAGE, "coordinates": GRID},
        torched(
            lambda t, g, p=padding, s=sampling, c=corners: F.grid_sample(t, g, s, PADDINGS[p], c)
        ),
        sampling_mode=sampling,
        padding_mode=padding,
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=corners,
        half=False,
        ulps=64,
    ) if not (padding == "reflection" and not corners) else None
SQUARE = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
PLACES = np.array([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)
for values, chosen in (
    (
        [8.585, 6.17, 27.5, 6.17],
        ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True),
    ),
    ([11, 11, 11, 44], ("nearest", "border", -1.0, "unnormalized", False)),
    ([22, 36.3, 11, 34.1], ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True)),
    ([22, 33, 11, 33], ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False)),
):
    names = ("sampling_mode", "padding_mode", "padding_value", "coordinates_mode", "align_corners")
    case(
        "resample",
        {"x": SQUARE, "coordinates": PLACES},
        lambda x, c, v=values: np.float32(v).reshape(1, 1, 2, 2),
        half=False,
        ulps=64,
        name="apple-" + "-".join(map(str, chosen)),
        **dict(zip(names, chosen, strict=True)),
    )
MATRIX = np.array([[0.9, 0.2, 0.1, -0.3, 1.1, 0.2], [1, 0, 0, 0, 1, 0]], np.float32)
case(
    "affine",
    {"x": IMAGE, "transform_matrix": MATRIX},
    torched(
        lambda t, m: F.grid_sample(
            t, F.affine_grid(m.reshape(2, 2, 3), (2, 3, 6, 7), True), align_corners=True
        )
    ),
    output_height=6,
    output_width=7,
    sampling_mode="bilinear",
    padding_mode="constant",
    padding_value=0.0,
    coordinates_mode="normalized_minus_one_to_one",
    align_corners=True,
    half=False,
    ulps=64,
)

GREY = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
FINE = [
    6,
    19 / 3,
    20 / 3,
    7,
    22 / 3,
    23 / 3,
    8,
    25 / 3,
    26 / 3,
    9,
    28 / 3,
    29 / 3,
    10,
    31 / 3,
    32 / 3,
    11,
]
for box, size, normalized, values in (
    ([1, 1, 2, 2], 2, False, [6, 7, 10, 11]),
    ([1, 1, 2, 2], 4, False, FINE),
    ([1, 1, 2, 2], 1, False, [8.5]),
    ([0, 0, 0, 1 / 3, 1 / 3], 2, True, [1, 2, 5, 6]),
    ([2, 2, 1, 1], 2, False, [11, 10, 7, 6]),
):
    case(
        "crop_resize",
        {"x": GREY, "roi": np.float32(box).reshape(1, 1, -1, 1, 1)},
        lambda x, r, v=values, n=size: np.float32(v).reshape(1, 1, 1, n, n),
        target_height=size,
        target_width=size,
        normalized_coordinates=normalized,
        half=False,
        box_coordinate_mode="CORNERS_HEIGHT_FIRST",
        sampling_mode="ALIGN_CORNERS",
        name=f"apple-{box}-{size}",
    )
BOXES = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], np.float32)
INSIDE = [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3]
case(
    "crop_resize",
    {"x": GREY, "boxes": BOXES},
    lambda x, b: np.float32(INSIDE).reshape(3, 1, 2, 2),
    opset=17,
    box_indices=np.zeros(3, np.int32),
    target_height=2,
    target_width=2,
    normalized_coordinates=True,
    box_coordinate_mode="CORNERS_HEIGHT_FIRST",
    sampling_mode="ALIGN_CORNERS",
    pad_value=10.0,
    half=False,
    name="apple",
    ulps=64,
)
for order, box in (
    ("CORNERS_WIDTH_FIRST", [1, 0, 2, 1]),
    ("CENTER_SIZE_HEIGHT_FIRST", [0.5, 1.5, 1, 1]),
    ("CENTER_SIZE_WIDTH_FIRST", [1.5, 0.5, 1, 1]),
):
    case(
        "crop_resize",
        {"x": GREY, "boxes": np.float32([box])},
        lambda x, b: np.float32([2, 3, 6, 7]).reshape(1, 1, 2, 2),
        opset=17,
        target_height=2,
        target_width=2,
        box_coordinate_mode=order,
        sampling_mode="STRICT_ALIGN_CORNERS",
        half=False,
    )
ROW = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 1, 4)
for mode, points in (("DEFAULT", [1, 3]), ("UNALIGN_CORNERS", [1.5, 3.5])):
    case(
        "crop_resize",
        {"x": ROW, "boxes": np.array([[0, 0, 0, 3]], np.float32)},
        lambda x, b, v=points: np.float32(v).reshape(1, 1, 1, 2),
        opset=17,
        target_height=1,
        target_width=2,
        sampling_mode=mode,
        half=False,
        name=f"whole-{mode}",
    )
