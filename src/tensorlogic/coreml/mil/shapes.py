"""Operations that change shapes, put tensors together and take them apart."""

from __future__ import annotations

import math

import numpy as np

from tensorlogic.coreml.mil.table import Ints, Sizes, Tensors, row
from tensorlogic.coreml.mil.values import Array
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor


@row()
def shape(x: Tensor) -> Array:
    return np.array(x.shape, np.int32)


@row()
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """A 0 stands for the size that x has there, one -1 for what is left."""
    return x.reshape(*(x.shape[i] if n == 0 and x.size else n for i, n in enumerate(shape)))


@row()
def reshape_like(
    x: Tensor, ref_tensors: Tensors, begins: Sizes, ends: Sizes, end_masks: Sizes
) -> Tensor:
    """To the sizes of parts of other tensors' shapes, one after another."""
    parts = zip(ref_tensors, begins, ends, end_masks, strict=True)
    sizes = [n for t, a, b, to_end in parts for n in (t.shape[a:] if to_end else t.shape[a:b])]
    return x.reshape(*sizes)


@row()
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    at = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))


@row()
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(*perm) if perm else x


@row()
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    sizes = list(x.shape)
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        sizes.insert(axis, 1)
    return x.reshape(*sizes) if sizes else x


@row()
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Axes that are not 1 stay, as in PyTorch."""
    gone = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    return x.reshape([n for i, n in enumerate(x.shape) if i not in gone or n != 1])


@row()
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    """Interleaved: the first entries of all, then the second ones, and so on."""
    if not interleave:
        joined: Tensor = FUNCTIONS["concat"](values, axis)
        return joined
    at = axis % values[0].ndim
    sizes = list(values[0].shape)
    sizes[at] *= len(values)
    return stack(values, at + 1).reshape(*sizes)


@row()
def stack(values: Tensors, axis: int) -> Tensor:
    stacked: Tensor = FUNCTIONS["stack"](values, axis)
    return stacked


@row()
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    return x.split(list(split_sizes) if split_sizes is not None else num_splits, axis)


# ---- blocks of images [N, C, H, W] -------------------------------------------------------------


def _to_space(x: Tensor, order: Ints, block: Ints, groups: Ints) -> Tensor:
    """x seen as [*groups, H, W], whose axes `order` names as [N, C, H, block, W, block]."""
    h, w = x.shape[2:]
    seen = x.reshape(*groups, h, w).permute(*order)
    n, c = seen.shape[:2]
    return seen.reshape(n, c, h * block[0], w * block[1])


def _blocks(x: Tensor, block: Ints) -> Tensor:
    """[N, C, H, W] as [N, C, H / block, block, W / block, block]."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // block[0], block[0], w // block[1], block[1])


@row()
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channels [block, block, C] to [C, H * block, W * block], as TensorFlow has it."""
    n, c = x.shape[:2]
    groups = (n, block_size, block_size, c // block_size**2)
    return _to_space(x, (0, 3, 4, 1, 5, 2), (block_size, block_size), groups)


@row()
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    seen = _blocks(x, (block_size, block_size)).permute(0, 3, 5, 1, 2, 4)
    return seen.reshape(x.shape[0], -1, *seen.shape[4:])


@row()
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels [C, factor, factor] to [C, H * factor, W * factor], as PyTorch has it."""
    n, c = x.shape[:2]
    groups = (n, c // upscale_factor**2, upscale_factor, upscale_factor)
    return _to_space(x, (0, 1, 4, 2, 5, 3), (upscale_factor, upscale_factor), groups)


@row()
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    seen = _blocks(x, (downscale_factor, downscale_factor)).permute(0, 1, 3, 5, 2, 4)
    return seen.reshape(x.shape[0], -1, *seen.shape[4:])


@row()
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Batch [block, block, N], as TensorFlow has it."""
    padded = x.pad([(0, 0), (0, 0), tuple(paddings[:2]), tuple(paddings[2:])])
    seen = _blocks(padded, block_shape).permute(3, 5, 0, 1, 2, 4)
    return seen.reshape(-1, *seen.shape[3:])


@row()
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    n, c = x.shape[0] // math.prod(block_shape), x.shape[1]
    whole = _to_space(x, (2, 3, 4, 0, 5, 1), block_shape, (*block_shape, n, c))
    h, w = whole.shape[2:]
    return whole[:, :, crops[0] : h - crops[1], crops[2] : w - crops[3]]
