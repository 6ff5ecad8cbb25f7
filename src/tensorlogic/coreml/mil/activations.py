"""Activations."""

from __future__ import annotations

from tensorlogic.coreml.mil.table import row, unsupported
from tensorlogic.tensor import Tensor


@row()
def relu(x: Tensor) -> Tensor:
    return x.relu()


@row()
def relu6(x: Tensor) -> Tensor:
    return x.clip(0.0, 6.0)


@row(wide=True)
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x >= 0).where(x, x * alpha).minimum(beta)


@row(wide=True)
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return (x >= 0).where(x, x * alpha)


@row()
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return (x >= alpha).where(x, 0.0)


def per_channel(x: Tensor, values: Tensor) -> Tensor:
    """[C] laid along axis 1 of x [N, C, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


@row(wide=True)
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return (x > 0).where(x, x * per_channel(x, alpha))


@row(wide=True)
def elu(x: Tensor, alpha: float) -> Tensor:
    return (x > 0).where(x, x.expm1() * alpha)


@row()
def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


@row(wide=True)
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha + beta).clip(0.0, 1.0)


@row()
def silu(x: Tensor) -> Tensor:
    return x.silu()


@row(wide=True)
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * (x * 1.702).sigmoid()
    forms = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    if mode not in forms:
        raise unsupported("gelu", f"mode {mode!r} is none that is known")
    return x.gelu(forms[mode])


def smooth_relu(x: Tensor) -> Tensor:
    """log(1 + exp(x)), which does not overflow."""
    return (-x.abs()).exp().log1p() + x.relu()


@row(wide=True)
def softplus(x: Tensor) -> Tensor:
    return smooth_relu(x)


@row(wide=True)
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return smooth_relu(x * per_channel(x, beta)) * per_channel(x, alpha)


@row(wide=True)
def softsign(x: Tensor) -> Tensor:
    return x / (x.abs() + 1.0)


@row(wide=True)
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * beta).tanh() * alpha


@row(wide=True)
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


@row()
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


CELLS = {
    "linear": lambda x: x,
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "hard_sigmoid": lambda x: (x * 0.2 + 0.5).clip(0.0, 1.0),
    "sigmoid_hard": lambda x: (x * 0.2 + 0.5).clip(0.0, 1.0),
    "scaled_tanh": lambda x: (x * (2.0 / 3.0)).tanh() * 1.7159,
}
"""Activations of recurrent cells by name."""
