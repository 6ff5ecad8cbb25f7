"""Forms: what many nodes have in common, as one object that is told apart by identity.

Recorded nodes of equal op, attributes, shape and dtype share a `Recipe`, leaves that lie alike in
memory a `Layout`, and all values of equal shape, dtype and weakness a `Kind`. So the rules of an op
are found, and the key of a graph is made and compared, without a look into shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from tensorlogic.dtypes import DType

if TYPE_CHECKING:
    from tensorlogic.ops import Op

_V = TypeVar("_V")
MAX_RECENT = 2048
"""Entries of a table after which it starts anew."""


class Recent(dict[Any, _V]):
    """A table that may forget: when it has grown long, it starts anew."""

    def add(self, key: Hashable, value: _V) -> _V:
        if len(self) >= MAX_RECENT:
            self.clear()
        self[key] = value
        return value


def _interned(make: Callable[..., _V]) -> Callable[..., _V]:
    """Gives the one object made of some facts, for as long as anything has it."""
    recent: Recent[_V] = Recent()
    every: WeakValueDictionary[Any, _V] = WeakValueDictionary()

    def of(*facts: Any) -> _V:
        found = recent.get(facts)
        if found is None:
            found = every.get(facts)
            if found is None:
                found = every[facts] = make(*facts)
            recent.add(facts, found)
        return found

    return of


class Kind:
    """What the rules of ops ask of a value."""

    __slots__ = ("__weakref__", "dtype", "shape", "weak")

    def __init__(self, shape: tuple[int, ...], dtype: DType, weak: bool):
        self.shape, self.dtype, self.weak = shape, dtype, weak


kind_of = _interned(Kind)
"""The kind of a shape, a dtype and a weakness."""


class Recipe:
    """How a node is made of its arguments, and of which kind it is."""

    __slots__ = ("__weakref__", "attrs", "dtype", "kind", "op", "shape", "weak")

    def __init__(
        self, op: Op, attrs: tuple[Any, ...], shape: tuple[int, ...], dtype: DType, weak: bool
    ):
        self.op, self.attrs, self.shape, self.dtype, self.weak = op, attrs, shape, dtype, weak
        self.kind = kind_of(shape, dtype, weak)

    @property
    def facts(self) -> tuple[Any, ...]:
        return self.op, self.attrs, self.shape, self.dtype, self.weak


recipe_of = _interned(Recipe)
"""The recipe of an op, its attributes, and the shape, dtype and weakness of what it makes."""


class Layout:
    """How the values of a leaf lie in memory; that of a Python number has neither storage nor
    strides."""

    __slots__ = ("__weakref__", "facts")

    def __init__(self, *facts: Any):
        self.facts = facts


layout_of = _interned(Layout)
"""The layout of a shape, a dtype, a weakness, a storage, an offset, strides and a device."""
