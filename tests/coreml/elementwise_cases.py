"""Cases: activations, and operations element by element."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.coreml.cases import Array, between, bools, case, ints, normal


def torched(fn):  # type: ignore[no-untyped-def]
    """A function of torch tensors as one of arrays."""

    def arrays(*args: Array) -> Array:
        result: Array = fn(*(torch.from_numpy(np.asarray(a)) for a in args)).numpy()
        return result

    return arrays


X = normal(2, 3, 5) * 3
IMAGE = normal(2, 3, 4, 5)
CHANNELS = between(0.2, 1.5, 3)

# ---- activations -------------------------------------------------------------------------------

for op in ("relu", "relu6", "sigmoid", "softplus", "softsign", "tanh"):
    case(op, {"x": X})
case("silu", {"x": X}, torched(F.silu))
case("softplus", {"x": np.array([-200.0, -20.0, 0.0, 20.0, 200.0], np.float32)}, name="far")
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    case("gelu", {"x": X}, mode=mode)
for op in ("clamped_relu", "scaled_tanh", "sigmoid_hard", "linear_activation"):
    case(op, {"x": X}, alpha=0.3, beta=0.7)
for op in ("elu", "leaky_relu", "thresholded_relu"):
    case(op, {"x": X}, alpha=0.4)
case("prelu", {"x": IMAGE}, alpha=CHANNELS)
case("softplus_parametric", {"x": IMAGE}, alpha=CHANNELS, beta=CHANNELS[::-1].copy())
for axis in (-1, 1):
    case("softmax", {"x": X}, axis=axis)

# ---- one value ---------------------------------------------------------------------------------

for op in ("abs", "ceil", "cos", "exp", "exp2", "floor", "sign", "sin", "sinh", "cosh", "square"):
    case(op, {"x": X})
case("erf", {"x": X})
case("round", {"x": np.array([-2.5, -1.5, -0.4, 0.5, 1.5, 2.51], np.float32)})
case("tan", {"x": between(-1.4, 1.4, 40)})
case("atan", {"x": np.concatenate([X.ravel(), [-6e4, -2.5, 0.0, 0.4, 2.4, 6e4]]).astype("f4")})
for op in ("asin", "acos"):
    case(op, {"x": np.concatenate([between(-1, 1, 40), [-1.0, 0.0, 1.0]]).astype(np.float32)})
case("atanh", {"x": between(-0.95, 0.95, 40)})
case("sinh", {"x": np.array([-80.0, -1e-4, 1e-4, 0.9, 1.1, 80.0], np.float32)}, half=False)
case("sqrt", {"x": between(0, 9, 30)})
case("rsqrt", {"x": between(0.1, 9, 30)}, epsilon=0.01)
case("log", {"x": between(0.1, 9, 30)}, epsilon=0.01)
case("inverse", {"x": between(0.1, 9, 30)}, lambda x: 1 / (x + 0.01), epsilon=0.01)
case("clip", {"x": X}, alpha=-1.0, beta=0.5)
case("threshold", {"x": X}, alpha=0.25)
case("logical_not", {"x": bools(2, 5)})
case("identity", {"x": X})
for x in (X, ints(-3, 4, 2, 5)):
    for dtype in ("fp32", "fp16", "int32", "bool"):
        case("cast", {"x": x}, dtype=dtype, half=False, name=f"{x.dtype}-{dtype}", ulps=5000)
case("cast", {"x": bools(6)}, dtype="fp32", name="bool-fp32")
WIDE = np.array([-300, -129, -1, 0, 127, 128, 255, 256, 1000], np.int32)
for dtype in ("int8", "uint8", "int16", "uint16"):
    case(
        "cast",
        {"x": WIDE},
        lambda x, d=dtype: x.astype(d).astype(np.int32),
        dtype=dtype,
        opset=17,
        name=f"int32-{dtype}",
    )

# ---- two and three values ----------------------------------------------------------------------

A, B = normal(2, 3, 4), normal(3, 1)
for op in ("add", "sub", "mul", "maximum", "minimum"):
    case(op, {"x": A, "y": B})
    case(op, {"x": ints(-9, 9, 2, 3), "y": ints(-9, 9, 3)}, name="int32")
    case(op, {"x": A}, y=np.float32(0.5), name="number")
for op in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
    case(op, {"x": ints(0, 3, 4, 5), "y": ints(0, 3, 5)})
    case(op, {"x": np.round(A), "y": np.round(B)}, name="float")
case("real_div", {"x": A, "y": B + 3})
case("floor_div", {"x": A * 5, "y": between(1, 2, 3, 4)})
case("floor_div", {"x": ints(-9, 9, 4, 5), "y": ints(1, 5, 5)}, name="int32")
case("mod", {"x": A * 5, "y": between(1, 2, 3, 4)}, half=False)
case("mod", {"x": ints(-9, 9, 4, 5), "y": ints(1, 5, 5)}, name="int32")
case(
    "real_div",
    {"x": ints(-9, 9, 4, 5), "y": ints(1, 5, 5)},
    lambda x, y: np.trunc(x / y).astype(np.int32),
    name="int32",
)
case("pow", {"x": between(0.1, 3, 3, 4), "y": normal(4)})
for op in ("logical_and", "logical_or", "logical_xor"):
    case(op, {"x": bools(3, 4), "y": bools(4)})
case("select", {"cond": bools(3, 4), "a": normal(3, 4), "b": normal(3, 4)})
case(
    "select",
    {"cond": bools(3, 1), "a": normal(3, 4)},
    b=np.float32(-1),
    name="number",
    expected=lambda cond, a: np.where(cond, a, np.float32(-1)),
)
