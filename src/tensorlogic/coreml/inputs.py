"""What a caller gives for the inputs of a Core ML model, as the tensors that its program takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import record
from tensorlogic.coreml.mil.values import DTYPES
from tensorlogic.coreml.program import Feature, Function, TensorType, ValueType
from tensorlogic.creation import tensor
from tensorlogic.devices.base import resolve
from tensorlogic.dtypes import DType
from tensorlogic.errors import DTypeError, FormatError, ShapeError
from tensorlogic.graph import shape_text
from tensorlogic.tensor import Tensor, wrap


def bind(
    function: Function,
    features: tuple[Feature, ...],
    values: Mapping[str, Any],
    device: str | None,
) -> list[Tensor]:
    """A tensor for each input of the function, in its order.

    Raises TypeError for inputs that are missing or unknown, ShapeError for a shape that the model
    does not take.
    """
    known = {name for name, _ in function.inputs}
    described = {f.name: f for f in features}
    unknown = [name for name in values if name not in known]
    missing = [name for name, _ in function.inputs if name not in values]
    if unknown or missing:
        what = (
            f"there is no input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing"
        )
        raise TypeError(f"predict: {what}; the model takes {', '.join(sorted(known))}")
    return [
        _bound(described.get(name) or Feature(name, "multiArray"), kind, values[name], device)
        for name, kind in function.inputs
    ]


def _bound(feature: Feature, kind: ValueType, value: Any, device: str | None) -> Tensor:
    if not isinstance(kind, TensorType) or kind.dtype not in DTYPES:
        raise FormatError(f"input {feature.name!r}: only tensors are taken, and it is none")
    dtype = DTYPES[kind.dtype]
    if isinstance(value, Tensor):
        given = wrap(record.convert(value._node, dtype, "raise"))
        given = (
            given if device is None or resolve(device) == given._node.device else given.to(device)
        )
    else:
        array = np.asarray(value)
        if feature.kind == "image":
            array = _planes(feature, array)
        given = tensor(_checked(feature, array, dtype), dtype, device)
    _check_shape(feature, kind, given.shape)
    return given


def _checked(feature: Feature, array: NDArray[Any], dtype: DType) -> NDArray[Any]:
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"input {feature.name!r}: numbers are taken, not {array.dtype}")
    if array.dtype.kind == "f" and dtype.kind == "int" and not (array == np.floor(array)).all():
        raise DTypeError(f"input {feature.name!r}: whole numbers are taken")
    return array


def _planes(feature: Feature, array: NDArray[Any]) -> NDArray[Any]:
    """An image [H, W], [H, W, 3] or [H, W, 4] as [1, C, H, W] in the model's order of colours.

    Red comes first in what is given; an alpha channel is left out. [1, C, H, W] is taken as it is.
    """
    grey = (feature.colour or "").startswith("grayscale")
    if array.ndim == 2 and grey:
        return array[None, None]
    if array.ndim == 3 and not grey and array.shape[2] in (3, 4):
        colours = array[:, :, :3]
        if feature.colour == "bgr":
            colours = colours[:, :, ::-1]
        return colours.transpose(2, 0, 1)[None]
    if array.ndim == 4 and array.shape[1] == (1 if grey else 3):
        return array
    form = "[H, W]" if grey else "[H, W, 3]"
    raise ShapeError(
        f"input {feature.name!r}: an image is {form} or [1, {1 if grey else 3}, H, W], "
        f"not {shape_text(array.shape)}"
    )


def _check_shape(feature: Feature, kind: TensorType, shape: tuple[int, ...]) -> None:
    if not _fits(feature, kind, shape):
        taken = f"the model takes [{_taken(feature, kind)}]"
        raise ShapeError(f"input {feature.name!r} has shape {shape_text(shape)}; {taken}")


def _fits(feature: Feature, kind: TensorType, shape: tuple[int, ...]) -> bool:
    """By the program's type and, where sizes are flexible, the model's description."""
    if "..." not in kind.shape and len(shape) != len(kind.shape):
        return False
    if any(isinstance(n, int) and n != m for n, m in zip(kind.shape, shape, strict=False)):
        return False
    if feature.kind != "multiArray":
        return True
    if feature.enumerated:
        return shape in feature.enumerated
    ranges = feature.ranges or ()
    return len(ranges) in (0, len(shape)) and all(
        low <= n and (high == -1 or n <= high)
        for n, (low, high) in zip(shape, ranges, strict=False)
    )


def _taken(feature: Feature, kind: TensorType) -> str:
    if feature.kind == "multiArray" and feature.enumerated:
        return "] or [".join(", ".join(map(str, s)) for s in feature.enumerated)
    if feature.kind == "multiArray" and feature.ranges:
        return ", ".join(_range_text(low, high) for low, high in feature.ranges)
    return ", ".join(str(n) if isinstance(n, int) else "any" for n in kind.shape)


def _range_text(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low} or more" if high == -1 else f"{low} to {high}"
