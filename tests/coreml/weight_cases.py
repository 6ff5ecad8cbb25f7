"""Cases: compressed weights, against what coremltools materializes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.coreml.cases import Array, between, case, ints, normal
from tests.coreml.programs import OPSETS, mb, types

X = normal(4, 6)


def materialized(make: Callable[[], Any], opset: int) -> Array:
    """The dense weight that coremltools computes of constexpr operations."""
    values: list[Any] = []

    def build() -> Any:
        made = make()
        values.append(made.op.materialized_val_inference())
        return made

    mb.program(input_specs=[], opset_version=OPSETS[opset])(build)
    dense: Array = np.asarray(values[0])
    return dense


def weight(op: str, opset: int, make: Callable[[], Any], name: str = "") -> None:
    """A program that adds a compressed weight [4, 6] to its input."""
    dense = materialized(make, opset).astype(np.float32)
    case(
        op,
        {"x": X},
        lambda x: x + dense,
        opset=opset,
        half=False,
        name=name,
        build=lambda x: mb.add(x=x, y=make()),
    )


def bits(name: str, values: Array) -> Array:
    """An array of a type narrower than a byte, as coremltools has it."""
    found: Array = values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))
    return found


SCALE, DATA = between(0.1, 0.5, 4), ints(-9, 9, 4, 6).astype(np.int8)
for scale, zero in ((SCALE, np.int8([1, 0, 2, -3])), (np.float32(0.3), np.int8(2))):
    weight(
        "constexpr_affine_dequantize",
        16,
        lambda s=scale, z=zero: mb.constexpr_affine_dequantize(  # type: ignore[misc]
            quantized_data=DATA, zero_point=z, scale=s, axis=0
        ),
        name=str(scale.ndim),
    )
weight(
    "constexpr_cast",
    16,
    lambda: mb.constexpr_cast(source_val=X.astype(np.float16), output_dtype="fp32"),
)
for count in (2, 4, 16, 64, 256):
    width = count.bit_length() - 1
    packed = np.random.default_rng(count).integers(0, 256, 24 * width // 8).astype(np.uint8)
    weight(
        "constexpr_lut_to_dense",
        16,
        lambda n=count, p=packed: mb.constexpr_lut_to_dense(  # type: ignore[misc]
            indices=p, lut=np.linspace(-1, 1, n, dtype=np.float32), shape=np.uint32([4, 6])
        ),
        name=f"{width}-bits",
    )
KEPT = np.random.default_rng(3).random((4, 6)) < 0.4
VALUES = X[KEPT]
weight(
    "constexpr_sparse_to_dense",
    16,
    lambda: mb.constexpr_sparse_to_dense(
        nonzero_data=VALUES,
        mask=np.packbits(KEPT.reshape(-1), bitorder="little"),
        shape=np.uint32([4, 6]),
    ),
)

# ---- iOS 18 ------------------------------------------------------------------------------------

BLOCKS, MASK = between(0.1, 0.5, 2, 3), bits("uint1", KEPT)
for dtype, low in (("int4", -8), ("uint4", 0), ("int8", -100), ("uint8", 0)):
    data = bits(dtype, ints(low, low + 16, 4, 6))
    weight(
        "constexpr_blockwise_shift_scale",
        18,
        lambda d=data: mb.constexpr_blockwise_shift_scale(  # type: ignore[misc]
            data=d, scale=BLOCKS, offset=d[:2, :3].copy()
        ),
        name=dtype,
    )
for width in (1, 2, 3, 4, 6, 8):
    table = normal(2, 1, 1 << width, 1)
    weight(
        "constexpr_lut_to_dense",
        18,
        lambda w=width, t=table: mb.constexpr_lut_to_dense(  # type: ignore[misc]
            indices=bits(f"uint{w}", np.arange(24).reshape(4, 6) % (1 << w)), lut=t
        ),
        name=f"{width}-bits",
    )
VECTORS = normal(1, 1, 4, 2)
PLACES = bits("uint2", ints(0, 4, 4, 3))
weight(
    "constexpr_lut_to_dense",
    18,
    lambda: mb.constexpr_lut_to_dense(indices=PLACES, lut=VECTORS, vector_axis=1),
    name="vectors",
)
weight(
    "constexpr_sparse_to_dense",
    18,
    lambda: mb.constexpr_sparse_to_dense(nonzero_data=VALUES, mask=MASK),
)


def sparse_palette(vectors: bool) -> Any:
    shown = KEPT[:, :3] if vectors else KEPT
    mask, values = mb.constexpr_lut_to_sparse(
        indices_mask=bits("uint1", shown),
        indices_nonzero_data=bits("uint2", np.arange(shown.sum()) % 4),
        lut=VECTORS if vectors else VECTORS[..., :1],
        **({"vector_axis": 1} if vectors else {}),
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def sparse_scale() -> Any:
    mask, values = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=MASK,
        nonzero_data=(np.arange(KEPT.sum()) - 4).astype(np.int8),
        scale=BLOCKS,
        offset=np.int8([[1, 2, 3], [-1, 0, 4]]),
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


for vectors in (False, True):
    weight("constexpr_lut_to_sparse", 18, lambda v=vectors: sparse_palette(v), name=f"{vectors}")  # type: ignore[misc]
weight("constexpr_sparse_blockwise_shift_scale", 18, sparse_scale)
