"""Which nodes get memory of their own: roots, what has a kernel of its own, what products read,
what several kernels would compute again, and cuts where a kernel would grow too large."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic import ops
from tensorlogic.graph import Node
from tensorlogic.schedule.traits import Traits

MAX_OPS = 128
"""Ops in one kernel at most; longer chains are cut."""
MAX_BUFFERS = 24
"""Inputs of one kernel at most: Metal binds 31 buffers."""
CHEAP_OPS = 3
"""A value of one input and so few ops is computed again rather than stored for two kernels."""

_OWN_KERNEL = ("attention", "update", "scan", "scatter", "argsort")
_READ_OFTEN = (ops.MATMUL, ops.ATTENTION, ops.ARGSORT)
"""Ops that read what they are given many times."""
_FREE = (*ops.VIEWS, "cast")
_COSTLY = ("reduce", "matmul", "take", "random", "gather", "concat")
_MANY = 1000
_SEVERAL = -1
"""Stands for more than one node where only none, one or several matters."""


def choose_stored(order: Sequence[Node], roots: Sequence[Node], traits: Traits) -> set[int]:
    """The ids of the nodes to store, of a graph in topological order."""
    choice = _Choice(order, roots, traits)
    choice.shared()
    choice.cut()
    return choice.stored


def _either(a: int, b: int) -> int:
    """One node or another, 0 for none."""
    return a if a == b or not b else b if not a else _SEVERAL


class _Choice:
    def __init__(self, order: Sequence[Node], roots: Sequence[Node], traits: Traits):
        self._order = order
        self._borders = traits.borders
        self._rank = {id(n): i + 1 for i, n in enumerate(order)}
        self.stored = {id(r) for r in roots}
        for n in order:
            if n.op is not None and (n.op.kind in _OWN_KERNEL or counts_exactly(n)):
                self.stored.add(id(n))
            if n.op in _READ_OFTEN:
                self._operands(n)

    def _operands(self, n: Node) -> None:
        """What a product reads many times is computed once, not for each time."""
        for x in n.args:
            windows = False
            while x.op is not None and (x.op.kind in ops.VIEWS or (windows and x.op is ops.PAD)):
                windows |= self._borders and is_window(x)
                x = x.args[0]
            if n.op is ops.ATTENTION and x.size == 1:
                continue  # its length or scale
            if x.op is not None and not (x.op is ops.CAST and x.args[0].is_leaf):
                self.stored.add(id(x))

    def shared(self) -> None:
        """What several stored nodes need and costs more to compute again than to store."""
        worth = self._worth()
        sinks = dict.fromkeys(self._rank, 0)
        stored, rank = self.stored, self._rank
        for n in reversed(self._order):
            mine = sinks[id(n)]
            if mine == _SEVERAL and id(n) in worth:
                stored.add(id(n))
            passed = rank[id(n)] if id(n) in stored else mine
            for a in n.args:
                sinks[id(a)] = _either(sinks[id(a)], passed)

    def _worth(self) -> set[int]:
        """Nodes that it costs less to store than to compute in a second kernel. Only "few" or
        "many" matters, so that costs are cut off."""
        worth: set[int] = set()
        size: dict[int, int] = {}
        source: dict[int, int] = {}
        for n in self._order:
            key = id(n)
            if n.op is None:
                size[key], source[key] = 0, self._rank[key]
                continue
            kind = n.op.kind
            cost = _MANY if kind in _COSTLY else 0 if kind in _FREE else 1
            inputs = 0
            for a in n.args:
                if id(a) in self.stored:
                    inputs = _either(inputs, self._rank[id(a)])
                else:
                    cost += size[id(a)]
                    inputs = _either(inputs, source[id(a)])
            size[key], source[key] = min(cost, _MANY), inputs
            if kind not in _FREE and (cost > CHEAP_OPS or inputs == _SEVERAL):
                worth.add(key)
        return worth

    def cut(self) -> None:
        """Cut what grows beyond one kernel. Members and inputs of kernels are sets of bits."""
        members: dict[int, int] = {}
        inputs: dict[int, int] = {}
        for n in self._order:
            key = id(n)
            bit = 1 << self._rank[key]
            if n.op is None:
                members[key], inputs[key] = 0, bit
                continue
            mine, read = bit, 0
            for a in n.args:
                if id(a) in self.stored:
                    read |= 1 << self._rank[id(a)]
                else:
                    mine |= members[id(a)]
                    read |= inputs[id(a)]
            too_many = read.bit_count() > MAX_BUFFERS and len(n.args) <= MAX_BUFFERS
            if too_many or mine.bit_count() > MAX_OPS:
                mine, read = bit, 0
                for a in n.args:
                    read |= 1 << self._rank[id(a)]
                    if a.op is not None:
                        self.stored.add(id(a))
            members[key], inputs[key] = mine, read


def is_window(n: Node) -> bool:
    """Whether a view has positions and taps along one axis."""
    sums = n.op is not None and n.op.kind == "slice"
    return sums and any(len(steps) > 1 for _, steps in n.attrs)


def spreads(n: Node) -> bool:
    """Whether an elementwise op makes more values than any of its inputs has."""

    def values(x: Node) -> int:
        while x.op is not None and x.op.kind in _FREE:
            x = x.args[0]
        return x.size

    return n.op is not None and n.op.kind == "elementwise" and max(map(values, n.args)) < n.size


def counts_exactly(n: Node) -> bool:
    """The gate over computed values has a kernel of its own, so that each is counted once."""
    return n.op is ops.NARROW and n.attrs[0] == "raise" and not n.args[0].is_leaf
