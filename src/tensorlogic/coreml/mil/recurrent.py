"""Recurrent layers, step by step: x [S, N, I], states [N, H], weights [gates * H, I or H].

The products with x of all steps are one matrix product; each step then has one with the state.
Gates and states within a layer are float32.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorlogic.coreml.mil.activations import CELLS
from tensorlogic.coreml.mil.table import row, unsupported
from tensorlogic.functions import FUNCTIONS
from tensorlogic.tensor import Tensor

Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""From a step's share of x [N, gates * H] and the states, the next states; the first is shown."""


def _activation(op: str, name: str) -> Callable[[Tensor], Tensor]:
    if name.lower() not in CELLS:
        raise unsupported(op, f"activation {name!r} is none that is known")
    return CELLS[name.lower()]


def _run(
    inputs: Tensor, states: tuple[Tensor, ...], step: Step, backwards: bool, sequence: bool
) -> tuple[Tensor, ...]:
    """The shown states [S or 1, N, H] and the last states. Backwards, the sequence is in the order
    of x, and what is shown without it is the state after the first entry of x."""
    count = inputs.shape[0]
    shown = []
    for i in reversed(range(count)) if backwards else range(count):
        states = step(inputs[i], states)
        shown.append(states[0])
    if not sequence:
        return states[0].unsqueeze(0), *states
    out: Tensor = FUNCTIONS["stack"](shown[::-1] if backwards else shown, 0)
    return out, *states


def _gates(total: Tensor, count: int) -> tuple[Tensor, ...]:
    return total.split(count, 1)


def _backwards(op: str, direction: str) -> bool:
    if direction not in ("forward", "reverse"):
        raise unsupported(op, f"direction {direction!r} is none that is known")
    return direction == "reverse"


@row(wide=True)
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, ...]:
    act = _activation("rnn", activation)
    hidden = weight_hh.transpose()

    def step(part: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (act(part + states[0] @ hidden),)

    inputs = x.linear(weight_ih, bias)
    return _run(inputs, (initial_h,), step, _backwards("rnn", direction), output_sequence)


@row(wide=True)
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order reset, output, update. Before `reset_after`, what is reset is the state
    that goes into the product of the output gate, else that product with its bias."""
    gate, act = _activation("gru", recurrent_activation), _activation("gru", activation)
    size = initial_h.shape[1]
    hidden = weight_hh.transpose()
    outer, inner = hidden[:, size : 2 * size], (bias if reset_after else None)
    inputs = x.linear(weight_ih, input_bias)
    if bias is not None and not reset_after:
        inputs = inputs + bias

    def step(part: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = states
        own = _gates(part, 3)
        products = h @ hidden
        if inner is not None:
            products = products + inner
        theirs = _gates(products, 3)
        r, z = gate(own[0] + theirs[0]), gate(own[2] + theirs[2])
        reset = r * theirs[1] if reset_after else (r * h) @ outer
        o = act(own[1] + reset)
        return ((1.0 - z) * o + z * h,)

    return _run(inputs, (initial_h,), step, _backwards("gru", direction), output_sequence)


@row(wide=True)
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order input, forget, output, cell. Of both directions the results lie side by
    side along the last axis."""
    acts = tuple(
        _activation("lstm", name) for name in (recurrent_activation, cell_activation, activation)
    )

    def one(h: Tensor, c: Tensor, weights: tuple[Tensor | None, ...], back: bool) -> list[Tensor]:
        own, hidden, shift, peeps = weights
        if own is None or hidden is None:
            raise unsupported("lstm", "both directions without weights of the second")
        step = _lstm_step(hidden.transpose(), peeps, acts, clip)
        return list(_run(x.linear(own, shift), (h, c), step, back, output_sequence))

    first = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        return tuple(one(initial_h, initial_c, first, _backwards("lstm", direction)))
    second = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    (h, h_back), (c, c_back) = initial_h.split(2, 1), initial_c.split(2, 1)
    both = zip(one(h, c, first, False), one(h_back, c_back, second, True), strict=True)
    return tuple(FUNCTIONS["concat"](list(pair), -1) for pair in both)


def _lstm_step(
    hidden: Tensor,
    peeps: Tensor | None,
    acts: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
) -> Step:
    gate, cell, act = acts
    peep = None if peeps is None else peeps.split(3, 0)

    def step(part: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = states
        i, f, o, z = _gates(part + h @ hidden, 4)
        if peep is not None:
            i, f = i + peep[0] * c, f + peep[1] * c
        new = z if clip is None else z.clip(-clip, clip)
        c = gate(f) * c + gate(i) * cell(new)
        if peep is not None:
            o = o + peep[2] * c
        return gate(o) * act(c), c

    return step
