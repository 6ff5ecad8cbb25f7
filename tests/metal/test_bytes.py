"""What launches move: the distinct bytes that each reads and writes of its buffers, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tests.compare import Array
from tests.metal import traced
from tests.metal.traced import Replay

RNG = np.random.default_rng(9)


def f16(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float16)


def replays(call: Callable[..., Any], *arrays: Array) -> tuple[list[Replay], Array]:
    with traced.registered() as device:
        result = call(*[tl.tensor(a, device="traced") for a in arrays]).numpy()
        return list(device.launches), result


def moved(launch: Replay) -> int:
    """Bytes of all buffers but the one of parameters, which is the last."""
    slots = [s for s in launch.traffic.read if s != max(launch.traffic.read)]
    return sum(launch.traffic.read[s] + launch.traffic.written[s] for s in slots)


IN_ONE_LAUNCH: dict[str, tuple[Callable[..., Any], list[Array]]] = {
    "softmax": (tl.softmax, [f16(5, 33)]),
    "rms_norm": (tl.rms_norm, [f16(5, 33), f16(33)]),
    "layer_norm": (tl.layer_norm, [f16(5, 33), f16(33), f16(33)]),
    "gelu chain": (lambda x: tl.gelu(x * 0.5 + 1) * 2, [f16(5, 33)]),
    "linear with bias and relu": (
        lambda x, w, b: tl.relu(tl.linear(x, w, b)),
        [f16(33, 48), f16(40, 48), f16(40)],
    ),
    "sum of two": (lambda x, y: x + y, [f16(5, 33), f16(33)]),
}


@pytest.mark.parametrize("name", IN_ONE_LAUNCH)
def test_inputs_are_read_and_the_result_is_written_and_nothing_else(name: str) -> None:
    call, arrays = IN_ONE_LAUNCH[name]
    launches, result = replays(call, *arrays)
    assert len(launches) == 1
    assert moved(launches[0]) == sum(a.nbytes for a in arrays) + result.nbytes


def test_a_slice_reads_its_part() -> None:
    launches, result = replays(lambda x: x[1:3] * 2, f16(10, 20))
    assert [moved(r) for r in launches] == [2 * result.nbytes]


def test_an_intermediate_that_is_stored_is_counted() -> None:
    """A product is read many times by the next, so that it is stored: written once, read once."""
    x, w = f16(33, 48), f16(48, 40)

    def gram(a: Any, b: Any) -> Any:
        y = a @ b
        return y @ y.T

    launches, result = replays(gram, x, w)
    middle = 2 * 33 * 40
    assert len(launches) == 2
    assert sum(map(moved, launches)) == x.nbytes + w.nbytes + 2 * middle + result.nbytes
