"""Images in other sizes, and values between pixels."""

from __future__ import annotations

import math

import numpy as np

from tensorlogic.coreml.mil.elementwise import as_float
from tensorlogic.coreml.mil.table import Ints, row, unsupported
from tensorlogic.coreml.mil.values import Array, like, wide
from tensorlogic.creation import from_numpy
from tensorlogic.dtypes import float32, int32
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor

# ---- along one axis, at places that are known --------------------------------------------------


def grid(op: str, old: int, new: int, mode: str) -> Array:
    """Where in an axis of `old` values the `new` ones lie, by MIL's sampling modes."""
    at = np.arange(new, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        places = at * ((old - 1) / (new - 1) if new > 1 else 0)
        if new == 1 and mode == "ALIGN_CORNERS":
            places = places + (old - 1) / 2
    elif mode == "DEFAULT":
        places = at * (old / new)
    elif mode == "OFFSET_CORNERS":
        places = (at + 0.5) * (max(1, old - 1) / new)
    elif mode == "UNALIGN_CORNERS":
        places = (at + 0.5) * (old / new) - 0.5
    else:
        raise unsupported(op, f"sampling_mode {mode!r} is none that is known")
    return np.clip(places, 0, old - 1)


def _between(x: Tensor, axis: int, places: Array) -> Tensor:
    """A float32 tensor at places along an axis, between two neighbours where they are no ints."""
    low = np.minimum(np.floor(places), x.shape[axis] - 1).astype(np.int32)
    part = (places - low).astype(np.float32)
    first = x.take(from_numpy(low), axis)
    if not part.any():
        return first
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = from_numpy(part.reshape(-1, *[1] * (x.ndim - axis - 1)))
    return first * (1.0 - share) + x.take(from_numpy(high), axis) * share


def _linear(op: str, x: Tensor, sizes: Ints, mode: str) -> Tensor:
    """The last axes in other sizes, by linear interpolation."""
    result = like(x, float32)
    for axis, new in enumerate(sizes, x.ndim - len(sizes)):
        if new != x.shape[axis] or mode == "OFFSET_CORNERS":
            result = _between(result, axis, grid(op, x.shape[axis], new, mode))
    return like(result, x.dtype)


def _nearest(op: str, x: Tensor, sizes: Ints, mode: str = "DEFAULT") -> Tensor:
    """The last axes in other sizes: the pixel to the left of a place (mode DEFAULT), or nearest."""
    for axis, new in enumerate(sizes, x.ndim - len(sizes)):
        places = grid(op, x.shape[axis], new, mode)
        picked = np.floor(places + (1e-9 if mode == "DEFAULT" else 0.5)).astype(np.int32)
        x = x.take(from_numpy(np.minimum(picked, x.shape[axis] - 1)), axis)
    return x


def _scaled(x: Tensor, height: float, width: float) -> Ints:
    return math.floor(x.shape[-2] * height), math.floor(x.shape[-1] * width)


@row()
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    sizes = _scaled(x, scale_factor_height, scale_factor_width)
    return _nearest("upsample_nearest_neighbor", x, sizes)


@row()
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _nearest("resize_nearest_neighbor", x, (target_size_height, target_size_width))


@row()
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise unsupported("upsample_bilinear", "corners aligned and centres at half a pixel")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    sizes = _scaled(x, scale_factor_height, scale_factor_width)
    return _linear("upsample_bilinear", x, sizes, mode)


@row()
def resize_bilinear(
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    sizes = (target_size_height, target_size_width)
    return _linear("resize_bilinear", x, sizes, sampling_mode)


@row()
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes to the last sizes of `shape`; 0 leaves a size as it is."""
    if not resized_dims:
        return x
    pairs = zip(shape[-resized_dims:], x.shape[-resized_dims:], strict=True)
    sizes = tuple(new or old for new, old in pairs)
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest("resize", x, sizes, sampling_mode)
    if interpolation_mode != "LINEAR":
        raise unsupported("resize", f"interpolation_mode {interpolation_mode!r}")
    return _linear("resize", x, sizes, sampling_mode)


# ---- at places that are values -----------------------------------------------------------------


def _at(x: Tensor, column: Tensor, line: Tensor, outside: float | None) -> Tensor:
    """Pixels of x [N, C, H, W] at whole float32 coordinates [N, ...]: [N, C, ...]; outside of the
    image `outside`, or the nearest pixel if it is None."""
    n, c, h, w = x.shape
    inside = column.clip(0.0, w - 1.0), line.clip(0.0, h - 1.0)
    place = like(inside[1], int32) * w + like(inside[0], int32)
    picked = x.reshape(n, c, h * w).gather(place.reshape(n, 1, -1), 2)
    picked = picked.reshape(n, c, *column.shape[1:])
    if outside is None:
        return picked
    within = (inside[0] == column) & (inside[1] == line)
    return within.unsqueeze(1).where(picked, outside)


def _bilinear(x: Tensor, column: Tensor, line: Tensor, outside: float | None) -> Tensor:
    """Between the four pixels around each place."""
    left, top = column.floor(), line.floor()
    right, low = (column - left).unsqueeze(1), (line - top).unsqueeze(1)
    above = _at(x, left, top, outside) * (1.0 - right) + _at(x, left + 1.0, top, outside) * right
    below = _at(x, left, top + 1.0, outside) * (1.0 - right)
    below = below + _at(x, left + 1.0, top + 1.0, outside) * right
    return above * (1.0 - low) + below * low


def _folded(at: Tensor, size: int, mode: str) -> Tensor:
    """Coordinates brought into the image: at its border, or mirrored there with the border pixel
    once ("reflection") or twice ("symmetric")."""
    if mode == "border":
        return at.clip(0.0, size - 1.0)
    start, span = (0.0, size - 1.0) if mode == "reflection" else (-0.5, float(size))
    if span <= 0:
        return at * 0.0
    turn = (at - start).abs() % (2.0 * span)
    return (turn > span).where(2.0 * span - turn, turn) + start


def _pixels(at: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates in pixels, of those in MIL's coordinates_mode."""
    if mode == "unnormalized":
        return at
    if mode == "normalized_minus_one_to_one":
        at = (at + 1.0) * 0.5
    elif mode != "normalized_zero_to_one":
        raise unsupported("resample", f"coordinates_mode {mode!r} is none that is known")
    return at * (size - 1.0) if align_corners else at * float(size) - 0.5


@row()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x [N, C, H, W] at coordinates [N, H2, W2, 2] of (column, line)."""
    places = as_float(wide(coordinates))
    sizes = (x.shape[3], x.shape[2])
    column, line = (
        _pixels(places[..., i], n, coordinates_mode, align_corners) for i, n in enumerate(sizes)
    )
    modes = ("constant", "border", "reflection", "symmetric")
    if padding_mode not in modes or sampling_mode not in ("bilinear", "nearest"):
        raise unsupported("resample", f"{sampling_mode!r} sampling with {padding_mode!r} padding")
    outside = padding_value if padding_mode == "constant" else None
    if outside is None:
        column, line = (
            _folded(at, n, padding_mode) for at, n in zip((column, line), sizes, strict=True)
        )
    if sampling_mode == "nearest":
        return _at(x, column.round(), line.round(), outside)
    return like(_bilinear(wide(x), column, line, outside), x.dtype)


@row()
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x at places that a matrix [[a0, a1, a2], [b0, b1, b2]] makes of the output's own, which run
    from -1 to 1."""
    if coordinates_mode != "normalized_minus_one_to_one" or not align_corners:
        raise unsupported("affine", "other than normalized_minus_one_to_one with aligned corners")
    line, column = (
        np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else np.zeros(1, np.float32)
        for n in (output_height, output_width)
    )
    own = [from_numpy(np.ascontiguousarray(v)) for v in np.meshgrid(column, line)]
    m = wide(transform_matrix)
    m = m.expand(x.shape[0], 6).reshape(-1, 6, 1, 1)
    places = [own[0] * m[:, i] + own[1] * m[:, i + 1] + m[:, i + 2] for i in (0, 3)]
    stacked = FUNCTIONS["stack"](places, -1)
    sampled: Tensor = resample(
        x, stacked, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners
    )
    return sampled


@row()
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Parts of x in another size. With `boxes` [N, 4] the result is [N, C, H, W]; `roi`, which
    iOS 15 and 16 have, gives [N, 1, C, H, W] with an index of the image before each box [N, 5],
    else [N, B, C, H, W]."""
    if boxes is not None:
        images = x if box_indices is None else x.take(like(box_indices, int32))
        images, each = images[: boxes.shape[0]], as_float(wide(boxes))
    elif roi is not None:
        images, each = _regions(x, as_float(wide(roi)).reshape(roi.shape[0], -1))
    else:
        raise unsupported("crop_resize", "without roi or boxes")
    found = _cropped(
        images,
        each,
        (target_height, target_width),
        normalized_coordinates,
        spatial_scale,
        box_coordinate_mode,
        sampling_mode,
        pad_value,
    )
    result = like(found, x.dtype)
    return result if roi is None else result.reshape(roi.shape[0], -1, *found.shape[1:])


def _regions(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The image and the box of each pair of a row and an image that it is for."""
    if rows.shape[1] == 5:
        return x.take(like(rows[:, 0], int32)), rows[:, 1:]
    count, batch = rows.shape[0], x.shape[0]
    images = x.unsqueeze(0).expand(count, *x.shape).reshape(count * batch, *x.shape[1:])
    return images, rows.unsqueeze(1).expand(count, batch, 4).reshape(count * batch, 4)


def _cropped(
    x: Tensor,
    boxes: Tensor,
    sizes: Ints,
    normalized: bool,
    scale: float,
    order: str,
    mode: str,
    outside: float,
) -> Tensor:
    """The box of each image, float32."""
    parts = [boxes[:, i] for i in range(4)]
    if order.endswith("WIDTH_FIRST"):
        parts = [parts[1], parts[0], parts[3], parts[2]]
    ends = list(zip(parts[:2], parts[2:], strict=True))
    if order.startswith("CENTER_SIZE"):
        ends = [(at - size * 0.5, at + size * 0.5) for at, size in ends]
    elif not order.startswith("CORNERS"):
        raise unsupported("crop_resize", f"box_coordinate_mode {order!r} is none that is known")
    places = []
    for (first, last), old, new in zip(ends, x.shape[2:], sizes, strict=True):
        factor = scale * ((old - 1) if normalized else 1)
        places.append(_inside_box(first * factor, last * factor, new, mode))
    line, column = places
    n = boxes.shape[0]
    line = line.unsqueeze(2).expand(n, *sizes)
    column = column.unsqueeze(1).expand(n, *sizes)
    h, w = x.shape[2:]
    within = (line >= 0.0) & (line <= h - 1.0) & (column >= 0.0) & (column <= w - 1.0)
    found = _bilinear(wide(x), column, line, None)
    return within.unsqueeze(1).where(found, outside)


def _inside_box(first: Tensor, last: Tensor, new: int, mode: str) -> Tensor:
    """`new` places of boxes from `first` to `last` [N]: [N, new]; spaced as `grid` has it for an
    axis whose first and last pixels they are."""
    span = (last - first).unsqueeze(1)
    start = first.unsqueeze(1)
    at = np.arange(new, dtype=np.float32)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        share = at / (new - 1) if new > 1 else at + (0.5 if mode == "ALIGN_CORNERS" else 0)
        return start + span * from_numpy(share.astype(np.float32))
    steps = from_numpy((at / new).astype(np.float32))
    middles = from_numpy(((at + 0.5) / new).astype(np.float32))
    if mode == "DEFAULT":
        return start + (span + 1.0) * steps
    if mode == "OFFSET_CORNERS":
        return start + span.maximum(1.0) * middles
    if mode == "UNALIGN_CORNERS":
        return start + (span + 1.0) * middles - 0.5
    raise unsupported("crop_resize", f"sampling_mode {mode!r} is none that is known")
