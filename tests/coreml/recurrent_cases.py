"""Cases: recurrent layers, and quantization at run time."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from tests.coreml.cases import Array, between, case, normal

# ---- recurrent layers --------------------------------------------------------------------------

STEPS, N, I, H = 4, 2, 3, 5
SEQUENCE, STATE, CELL = normal(STEPS, N, I), normal(N, H), normal(N, H)


def gates(weight: Array, order: list[int]) -> Array:
    """Rows of weights by gates, in another order of these."""
    size = len(weight) // len(order)
    return np.concatenate([weight[i * size : (i + 1) * size] for i in order])


def layer(kind: type[torch.nn.RNNBase], count: int, both: bool = False) -> torch.nn.RNNBase:
    made = kind(I, H, bidirectional=both)
    for p in made.parameters():
        p.data = torch.from_numpy(normal(*p.shape) * 0.6)
    return made


LSTM, TWO = layer(torch.nn.LSTM, 4), layer(torch.nn.LSTM, 4, True)
GRU, RNN = layer(torch.nn.GRU, 3), layer(torch.nn.RNN, 1)


def weights(module: torch.nn.RNNBase, suffix: str, order: list[int]) -> list[Array]:
    own = {n: p.detach().numpy() for n, p in module.named_parameters()}
    ih, hh = (gates(own[f"weight_{w}_l0{suffix}"], order) for w in ("ih", "hh"))
    return [ih, hh, gates(own[f"bias_ih_l0{suffix}"] + own[f"bias_hh_l0{suffix}"], order)]


def ran(module: torch.nn.RNNBase, back: bool, sequence: bool):  # type: ignore[no-untyped-def]
    """What PyTorch's layer gives, in the form of MIL."""

    def outputs(x: Array, *states: Array) -> list[Array]:
        directions = 2 if module.bidirectional else 1
        start = [
            torch.from_numpy(s).reshape(N, directions, H).transpose(0, 1).contiguous()
            for s in states
        ]
        given = torch.from_numpy(x[::-1].copy() if back else x)
        with torch.no_grad():
            out, last = module(given, tuple(start) if len(start) > 1 else start[0])
        finals = [
            s.transpose(0, 1).reshape(N, -1).numpy() for s in (last if len(start) > 1 else (last,))
        ]
        shown = out.numpy()[::-1] if back else out.numpy()
        return [shown if sequence else finals[0][None], *finals]

    return outputs


IFOZ = [0, 1, 3, 2]
for back, sequence in itertools.product((False, True), repeat=2):
    direction = {"direction": "reverse" if back else "forward", "output_sequence": sequence}
    for op, module, order in (("lstm", LSTM, IFOZ), ("rnn", RNN, [0])):
        w = weights(module, "", order)
        states = {"initial_h": STATE} | ({"initial_c": CELL} if op == "lstm" else {})
        case(
            op,
            {"x": SEQUENCE, **states},
            ran(module, back, sequence),
            opset=17,
            half=False,
            weight_ih=w[0],
            weight_hh=w[1],
            bias=w[2],
            ulps=32,
            **direction,
        )
    ROZ = [0, 2, 1]
    own = {n: gates(p.detach().numpy(), ROZ) for n, p in GRU.named_parameters()}
    case(
        "gru",
        {"x": SEQUENCE, "initial_h": STATE},
        ran(GRU, back, sequence),
        opset=18,
        half=False,
        weight_ih=own["weight_ih_l0"],
        weight_hh=own["weight_hh_l0"],
        bias=own["bias_hh_l0"],
        input_bias=own["bias_ih_l0"],
        reset_after=True,
        ulps=32,
        **direction,
    )
first, second = weights(TWO, "", IFOZ), weights(TWO, "_reverse", IFOZ)
case(
    "lstm",
    {"x": SEQUENCE, "initial_h": normal(N, 2 * H), "initial_c": normal(N, 2 * H)},
    ran(TWO, False, True),
    opset=17,
    half=False,
    weight_ih=first[0],
    weight_hh=first[1],
    bias=first[2],
    weight_ih_back=second[0],
    weight_hh_back=second[1],
    bias_back=second[2],
    direction="bidirectional",
    output_sequence=True,
    ulps=32,
)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def reset_before(x: Array, h: Array) -> list[Array]:
    """A GRU whose state is reset before it is multiplied: coremltools' test of the operation."""
    w, u, b = (
        gates(p, [0, 1, 2]) for p in (own["weight_ih_l0"], own["weight_hh_l0"], own["bias_ih_l0"])
    )
    (wr, wo, wz), (ur, uo, uz), (br, bo, bz) = (np.split(v, 3) for v in (w, u, b))
    shown = []
    for step in x:
        r = sigmoid(step @ wr.T + h @ ur.T + br)
        z = sigmoid(step @ wz.T + h @ uz.T + bz)
        o = np.tanh(step @ wo.T + (r * h) @ uo.T + bo)
        h = (1 - z) * o + z * h
        shown.append(h)
    return [np.stack(shown), h]


case(
    "gru",
    {"x": SEQUENCE, "initial_h": STATE},
    reset_before,
    opset=17,
    half=False,
    ulps=32,
    weight_ih=own["weight_ih_l0"],
    weight_hh=own["weight_hh_l0"],
    bias=own["bias_ih_l0"],
    output_sequence=True,
)
PEEP = normal(3 * H)


def peeping(x: Array, h: Array, c: Array) -> list[Array]:
    """An LSTM whose gates see the cell, whose cell gate is clipped to [-0.5, 0.5]."""
    w, u, b = weights(LSTM, "", IFOZ)
    pi, pf, po = np.split(PEEP, 3)
    for step in x:
        i, f, o, z = np.split(step @ w.T + h @ u.T + b, 4, axis=1)
        c = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * np.tanh(np.clip(z, -0.5, 0.5))
        h = sigmoid(o + po * c) * np.tanh(c)
    return [h[None], h, c]


w = weights(LSTM, "", IFOZ)
case(
    "lstm",
    {"x": SEQUENCE, "initial_h": STATE, "initial_c": CELL},
    peeping,
    opset=17,
    half=False,
    weight_ih=w[0],
    weight_hh=w[1],
    bias=w[2],
    peephole=PEEP,
    clip=np.float32(0.5),
    ulps=64,
    name="peephole",
)

# ---- quantization ------------------------------------------------------------------------------

SCALE = between(0.05, 0.2, 3)
for dtype, low in (("int8", -128), ("uint8", 0)):
    zero = np.array([3, 0, 5], dtype)
    case(
        "quantize",
        {"input": normal(2, 3, 4) * 20},
        opset=17,
        scale=SCALE,
        zero_point=zero,
        axis=1,
        output_dtype=dtype,
        half=False,
        expected=lambda x, z=zero, a=low: np.clip(
            np.round(x / SCALE[:, None]) + z[:, None], a, a + 255
        ).astype(np.int32),
    )
case(
    "quantize",
    {"input": normal(2, 3)},
    lambda x: np.round(x / np.float32(0.1)).astype(np.int32),
    opset=17,
    scale=np.float32(0.1),
    output_dtype="int8",
    half=False,
    name="one",
)
