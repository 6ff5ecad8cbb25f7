"""Kernels over the same loops are one launch, which stores several results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.kernels.ir import Kernel, Store, walk
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.settings import Settings

Results = tuple[tl.Tensor, ...]


def arrays(count: int = 4) -> list[tl.Tensor]:
    rng = np.random.default_rng(0)
    return [tl.tensor(rng.uniform(0.5, 1, (6, 8)), dtype="float32") for _ in range(count)]


def steps_of(results: Results) -> list[Step]:
    return schedule([t._node for t in results], Settings()).steps


def adam(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    """One step of Adam (Kingma and Ba 2015) without its corrections of the first steps."""
    m, v = m * 0.9 + g * 0.1, v * 0.99 + g * g * 0.01
    return w - 0.001 * m / (tl.sqrt(v) + 1e-8), m, v


def shared(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    both = tl.exp(tl.tanh(w * g) + m)
    return both * 2 + v, both - v


def normed(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    return tl.softmax(w), tl.layer_norm(w), tl.rms_norm(w + g)


def with_a_copy(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    x = tl.tanh(w + g) * m
    return x, tl.softmax(x)


ONE = {f.__name__: f for f in (adam, shared, normed, with_a_copy)}


@pytest.mark.parametrize("name", ONE)
def test_one_launch_stores_all_results(name: str) -> None:
    results = ONE[name](*arrays())
    (step,) = steps_of(results)
    assert {id(n) for n in step.writes} == {id(t._node) for t in results}
    assert isinstance(step.kernel, Kernel)
    stores = [s for s in walk(step.kernel.body) if isinstance(s, Store) and not s.buffer.local]
    assert len(stores) == len(results)
    reference = ONE[name](*(t.to("reference") for t in arrays()))
    tl.eval(*results)
    for ours, theirs in zip(results, reference, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_shared_is_computed_once() -> None:
    (step,) = steps_of(adam(*arrays()))
    assert len(step.reads) == 4
    assert str(step.kernel).count("b0[") <= 1


def turned(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    """The second reads the first from its end on."""
    x = tl.exp(w * g)
    return x, tl.flip(x, 1) * m + x


def through_another(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    """Between the two stands a kernel of other loops."""
    x = tl.exp(w * g)
    return x, tl.cumsum(x, axis=1).sum(axis=0) + x


def of_other_shapes(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    return w * g, w.reshape(4, 12) * 2


def of_other_inputs(w: tl.Tensor, g: tl.Tensor, m: tl.Tensor, v: tl.Tensor) -> Results:
    return w * g, m * v


SEVERAL: list[tuple[Callable[..., Results], int]] = [
    (turned, 2),
    (through_another, 3),
    (of_other_shapes, 2),
    (of_other_inputs, 2),
]


@pytest.mark.parametrize(("build", "launches"), SEVERAL)
def test_what_cannot_be_one_launch(build: Callable[..., Results], launches: int) -> None:
    results = build(*arrays())
    assert len(steps_of(results)) == launches
    reference = build(*(t.to("reference") for t in arrays()))
    tl.eval(*results)
    for ours, theirs in zip(results, reference, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_a_result_that_is_rounded_is_read_as_it_was_stored() -> None:
    """Or what is left of the row after its mean would be the error of rounding."""
    x = tl.tanh(tl.tensor(np.random.default_rng(1).uniform(0.1, 1, (4, 8))))
    mean = x.to("float32").mean(axis=1, keepdims=True)
    wide = x.to("float32") * 3
    steps = steps_of((x, mean, wide))
    assert all(len(s.writes) == 1 or x._node not in s.writes for s in steps)
    tl.eval(x, mean, wide)
    np.testing.assert_array_equal(wide.numpy(), x.numpy().astype(np.float32) * 3)
    np.testing.assert_allclose(mean.numpy()[:, 0], x.numpy().astype(float).mean(axis=1), 1e-6)
