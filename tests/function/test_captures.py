"""Tensors that a traced function captures: a rebinding is noticed, wherever it happens."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest

import tensorlogic as tl
from tensorlogic import Tensor

W = tl.full([2], 1.0)
SCALE = 1.0
PARAMS = {"layers": [tl.full([2], 1.0)], "other": [tl.zeros([1])]}


def helper(x: Tensor) -> Tensor:
    return x * W


class Holder:
    shared = tl.full([2], 1.0)

    def __init__(self) -> None:
        self.weight = tl.full([2], 1.0)
        self.parts = {"a": [tl.full([2], 1.0)]}
        self.scale = 1.0

    def apply(self, x: Tensor) -> Tensor:
        return x * self.weight


class Slotted:
    __slots__ = ("__weakref__", "weight")

    def __init__(self) -> None:
        self.weight = tl.full([2], 1.0)


holder = Holder()
slotted = Slotted()
space = types.SimpleNamespace(weight=tl.full([2], 1.0))


def set_global(name: str) -> Callable[[Any], None]:
    return lambda value: globals().__setitem__(name, value)


Case = tuple[Callable[[Tensor], Tensor], Callable[[Any], None]]


def closure() -> Case:
    weight = tl.full([2], 1.0)

    def f(x: Tensor) -> Tensor:
        return x * weight

    def rebind(value: Any) -> None:
        nonlocal weight
        weight = value

    return f, rebind


def default() -> Case:
    weights = [tl.full([2], 1.0)]

    def f(x: Tensor, ws: Any = None, *, hidden: Any = lambda: weights) -> Tensor:
        return x * hidden()[0]

    return f, lambda value: weights.__setitem__(0, value)


def partial() -> Case:
    weights = [tl.full([2], 1.0)]
    multiply = functools.partial(lambda ws, x: x * ws[0], weights)
    return lambda x: multiply(x), lambda value: weights.__setitem__(0, value)


CASES: dict[str, Callable[[], Case]] = {
    "global": lambda: (lambda x: x * W, set_global("W")),
    "global number": lambda: (lambda x: x * SCALE, lambda v: set_global("SCALE")(v.tolist()[0])),
    "helper's global": lambda: (lambda x: helper(x), set_global("W")),
    "helper itself": lambda: (
        lambda x: helper(x),
        lambda v: set_global("helper")(lambda x: x * v),
    ),
    "view": lambda: (lambda x: x * W[None].T.reshape(2), set_global("W")),
    "container": lambda: (
        lambda x: x * PARAMS["layers"][0],
        lambda v: PARAMS["layers"].__setitem__(0, v),
    ),
    "container replaced": lambda: (
        lambda x: x * PARAMS["layers"][0],
        lambda v: PARAMS.__setitem__("layers", [v]),
    ),
    "attribute": lambda: (lambda x: x * holder.weight, lambda v: setattr(holder, "weight", v)),
    "deep attribute": lambda: (
        lambda x: x * holder.parts["a"][0],
        lambda v: holder.parts["a"].__setitem__(0, v),
    ),
    "method": lambda: (lambda x: holder.apply(x), lambda v: setattr(holder, "weight", v)),
    "bound method": lambda: (holder.apply, lambda v: setattr(holder, "weight", v)),
    "class attribute": lambda: (
        lambda x: x * Holder.shared,
        lambda v: setattr(Holder, "shared", v),
    ),
    "attribute number": lambda: (
        lambda x: x * holder.scale,
        lambda v: setattr(holder, "scale", v.tolist()[0]),
    ),
    "slot": lambda: (lambda x: x * slotted.weight, lambda v: setattr(slotted, "weight", v)),
    "namespace": lambda: (lambda x: x * space.weight, lambda v: setattr(space, "weight", v)),
    "object replaced": lambda: (
        lambda x: x * space.weight,
        lambda v: set_global("space")(types.SimpleNamespace(weight=v)),
    ),
    "closure": closure,
    "default": default,
    "partial": partial,
    "inner tl.function": lambda: (lambda x: INNER(x), set_global("W")),
    "inner tl.function, not inlined": lambda: (lambda x: x * INNER(ONE), set_global("W")),
}
INNER = tl.function(lambda x: x * W)
ONE = tl.ones([2])


@pytest.mark.parametrize("case", CASES)
def test_a_rebinding_is_noticed(case: str) -> None:
    body, rebind = CASES[case]()
    f = tl.function(body)
    x = tl.ones([2])
    first = f(x)
    expected = body(x).tolist()
    assert first.tolist() == expected
    f(x)
    assert bound(f).traces == 1
    for value in (5.0, 6.0):
        rebind(tl.full([2], value))
        assert f(x).tolist() == [value, value]
        assert f(x).tolist() == [value, value]
    assert bound(f).traces == 3
    assert first.tolist() == expected


def bound(f: Any) -> Any:
    return getattr(f, "__func__", f)


def test_a_new_entry_of_a_captured_list_is_noticed() -> None:
    weights = [tl.ones([2])]

    def f(x: Tensor) -> Tensor:
        for w in weights:
            x = x + w
        return x

    traced = tl.function(f)
    assert traced(tl.zeros([2])).tolist() == [1.0, 1.0]
    weights.append(tl.ones([2]))
    assert traced(tl.zeros([2])).tolist() == [2.0, 2.0]


def test_a_first_entry_of_a_captured_list_is_noticed() -> None:
    weights: list[Tensor] = []
    traced = tl.function(lambda x: x + sum(w.tolist()[0] for w in weights))
    assert traced(tl.zeros([2])).tolist() == [0.0, 0.0]
    weights.append(tl.ones([2]))
    assert traced(tl.zeros([2])).tolist() == [1.0, 1.0]


def test_a_list_that_the_body_only_writes_to_is_not_watched() -> None:
    runs = [0]
    f = tl.function(lambda x, name: (runs.append(1), x + 1)[1])
    for _ in range(2):
        for name in "abc":
            f(tl.ones([2]), name)
    assert len(runs) == 4


def test_what_does_not_matter_is_not_watched() -> None:
    f = tl.function(lambda x: x * PARAMS["layers"][0])
    f(tl.ones([2]))
    PARAMS["other"][0] = tl.ones([1])
    f(tl.ones([2]))
    assert f.traces == 1  # type: ignore[attr-defined]


def test_a_pending_captured_tensor() -> None:
    weight = tl.ones([2]) * 3
    f = tl.function(lambda x: x * weight)
    first = f(tl.ones([2]))
    tl.eval(weight)
    assert f(tl.ones([2])).tolist() == first.tolist() == [3.0, 3.0]
    assert f.traces == 1  # type: ignore[attr-defined]


def test_a_model_is_captured() -> None:
    model = tl.Model({"w": tl.full([2], 3.0)})
    f = tl.function(lambda m, x: x * m["w"])
    for _ in range(2):
        assert f(model, tl.ones([2])).tolist() == [3.0, 3.0]
    assert f.traces == 1  # type: ignore[attr-defined]
    assert f(tl.Model({"w": tl.full([2], 4.0)}), tl.ones([2])).tolist() == [4.0, 4.0]


def hidden(weight: Tensor) -> Any:
    """An object that shows nobody what it holds."""

    def held() -> Any:
        while True:
            yield weight

    return held()


@pytest.mark.parametrize("make", [lambda: tl.ones([2]), lambda: tl.ones([2]) * 2])
def test_a_tensor_without_a_way_to_it(make: Callable[[], Tensor]) -> None:
    source = hidden(make())

    @tl.function
    def f(x: Tensor) -> Tensor:
        return x * next(source)

    with pytest.raises(
        tl.TraceError, match=r"test_captures.py:\d+: f\(\) uses a tensor of shape \[2\].*argument"
    ):
        f(tl.ones([2]))


def test_a_captured_tensor_is_not_consumed() -> None:
    cache = tl.zeros([2])
    f = tl.function(lambda x: cache.update(0, x))
    with pytest.raises(tl.TraceError, match="captures and consumes, which only one call could do"):
        f(tl.ones([1]))


def test_a_tensor_made_in_the_body_needs_none() -> None:
    f = tl.function(lambda x: x * next(hidden(tl.tensor([2.0, 3.0]) * 2)) + tl.eye(2)[0])
    for _ in range(2):
        assert f(tl.ones([2])).tolist() == [5.0, 6.0]
    assert f.traces == 1  # type: ignore[attr-defined]
