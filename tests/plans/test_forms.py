"""Keys of graphs: equal for graphs of equal structure, and for no others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import tensorlogic as tl
from tensorlogic import forms, settings
from tensorlogic.devices.planned import plan_key
from tensorlogic.forms import Recent, kind_of, layout_of, recipe_of
from tensorlogic.graph import topological
from tensorlogic.ops import OPS


def key(*roots: tl.Tensor) -> tuple[Any, ...]:
    nodes = [r._node for r in roots]
    return plan_key(topological(nodes), nodes, settings.current())


def leaves() -> tuple[tl.Tensor, tl.Tensor]:
    return tl.ones([2, 3]), tl.ones([2, 3])


GRAPHS: dict[str, Callable[[tl.Tensor, tl.Tensor], list[tl.Tensor]]] = {
    "products, the same way round": lambda x, y: [x * y + x * y],
    "products, the other way round": lambda x, y: [x * y + y * x],
    "one product": lambda x, y: [(p := x * y) + p],
    "of one leaf": lambda x, y: [x * x + x * x],
    "two views of one memory": lambda x, y: [x * x.T.T + y],
    "a number": lambda x, y: [x * 2.0 + y],
    "an int": lambda x, y: [x * 2 + y],
    "a square": lambda x, y: [x**2 + y],
    "a cube": lambda x, y: [x**3 + y],
    "two roots": lambda x, y: [x + y, x - y],
    "two roots in another order": lambda x, y: list(reversed([x + y, x - y])),
    "a sum": lambda x, y: [(x + y).sum(axis=0)],
    "another sum": lambda x, y: [(x + y).sum(axis=1)],
    "of a transposed leaf": lambda x, y: [(x.T + y.T).sum(axis=1)],
    "three parts": lambda x, y: [tl.concat([x, y, x])],
    "three other parts": lambda x, y: [tl.concat([x, y, y])],
}


def test_equal_graphs_have_equal_keys_and_others_do_not() -> None:
    keys = {name: key(*graph(*leaves())) for name, graph in GRAPHS.items()}
    again = {name: key(*graph(*leaves())) for name, graph in GRAPHS.items()}
    assert keys == again
    assert len(set(keys.values())) == len(keys)
    with tl.precision("exact"):
        assert not {key(*graph(*leaves())) for graph in GRAPHS.values()} & set(keys.values())


@pytest.mark.parametrize("name", GRAPHS)
def test_a_key_outlives_its_graph_and_the_tables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(*GRAPHS[name](*leaves()))
    monkeypatch.setattr(forms, "MAX_RECENT", 1)
    for size in range(3, 6):
        key(*GRAPHS[name](tl.ones([2, size]), tl.ones([2, size])))
    gc.collect()
    assert key(*GRAPHS[name](*leaves())) == before


def test_values_of_equal_facts_share_one_object() -> None:
    x, y = leaves()
    a, b = x + y, y + x
    assert a._node.form is b._node.form
    assert a._node.kind is b._node.kind
    assert a._node.kind is kind_of((2, 3), tl.float16, False)
    assert (a + 1)._node.form is recipe_of(OPS["add"], (tl.float16,), (2, 3), tl.float16, False)
    tl.eval(a)
    assert a._node.form is None
    assert a.tolist() == b.tolist()


def test_forms_go_with_what_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_RECENT", 1)
    made = [weakref.ref(layout_of("gone", i)) for i in range(5)]
    gc.collect()
    assert [ref() is None for ref in made[:-1]] == [True] * 4


def test_a_table_that_is_full_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_RECENT", 3)
    table: Recent[int] = Recent()
    for i in range(10):
        assert table.add(i, i) == i
        assert table[i] == i
        assert len(table) <= 3


def test_errors_are_raised_each_time() -> None:
    x, y = tl.ones([2, 3]), tl.ones([4, 3])
    for _ in range(3):
        with pytest.raises(tl.ShapeError):
            x + y
        with pytest.raises(tl.ShapeError):
            x @ y
        with pytest.raises(tl.DTypeError):
            tl.ones([2], "int32") + 1.5


def test_a_square_keeps_the_dtype_of_a_power() -> None:
    for dtype in (tl.float16, tl.float32, tl.int32):
        x = tl.full([3], 3, dtype)
        for _ in range(2):
            assert (x**2).dtype is dtype
            assert (x**2).tolist() == [9, 9, 9]
            assert (x**3).tolist() == [27, 27, 27]
