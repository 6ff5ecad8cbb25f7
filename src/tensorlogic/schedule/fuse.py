"""Scheduling: which nodes get memory of their own, and the kernels that compute them, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tensorlogic import ops
from tensorlogic.dtypes import float16
from tensorlogic.graph import Node, shape_text, topological
from tensorlogic.schedule.affine import ZERO, Affine, SplitNeeded, dot
from tensorlogic.schedule.attention import attention_step
from tensorlogic.schedule.emit import (
    Output,
    Step,
    kernel_step,
    matmul_step,
    split_step,
)
from tensorlogic.schedule.lower import Lowering, Materialise
from tensorlogic.schedule.partial import two_stage_steps
from tensorlogic.schedule.rules import RULES, is_long
from tensorlogic.schedule.scan import scan_step
from tensorlogic.schedule.scatter import scatter_step
from tensorlogic.schedule.sort import sort_steps
from tensorlogic.schedule.traits import CPU, Traits
from tensorlogic.schedule.update import update_step
from tensorlogic.settings import Settings
from tensorlogic.storage import contiguous_strides

MAX_OPS = 128
"""Ops in one kernel at most; longer chains are cut."""
MAX_BUFFERS = 24
"""Inputs of one kernel at most: Metal binds 31 buffers."""
MAX_PARTS = 8
"""Parts of a concatenation in one kernel at most; many equal ones share a kernel."""
CHEAP_OPS = 3
"""A value of one input and so few ops is computed again rather than stored for two kernels."""

_OWN_KERNEL = ("concat", "attention", "update", "scan", "scatter", "argsort")
_STORED_AS = ("concat", "attention", "scan")
"""Kernels of their own that can store into a reshaped result."""
_READ_OFTEN = (ops.MATMUL, ops.ATTENTION, ops.ARGSORT)
"""Ops that read what they are given many times."""
_IN_PLACE = (ops.UPDATE, ops.SCATTER)
_FREE = (*ops.VIEWS, "cast")
_COSTLY = ("reduce", "matmul", "take", "random", "gather")
_MANY = 1000


def may_overwrite(x: Node) -> bool:
    """Whether the memory of a leaf is ours, whole, and read by its one consumer only."""
    data = x.data
    return (
        data is not None
        and data.memory.owned
        and not data.memory.shared
        and x.uses <= 1
        and data.offset == 0
        and data.strides == contiguous_strides(x.shape)
    )


Built = tuple[list[Step], list[Node]]
"""The launches that compute a node, and the nodes that have to be there before."""
Factors = dict[tuple[int, int], tuple[tuple[int, bool], ...]]


@dataclass(eq=False)
class Schedule:
    """Steps in order, and the memory type of each node that they store."""

    roots: list[Node]
    steps: list[Step]
    memory_types: dict[int, str]

    def text(self) -> str:
        """One line a step: what it computes, its extents, what it reads."""
        names = {id(n): f"%{i}" for i, n in enumerate(topological(self.roots))}
        lines = []
        for i, s in enumerate(self.steps):
            what = ", ".join(
                f"{names[id(n)]} = {n.op} {self.memory_types[id(n)]}{shape_text(n.shape)}"
                for n in s.writes
            )
            reads = ", ".join(names.get(id(n), "?") for n in s.reads)
            size = f"product {s.problem}" if s.problem[0] else f"{s.work} rows of {s.cost}"
            lines.append(f"{i}: {what}  from {reads}  ({size})")
        return "\n".join(lines) + "\n"


class Scheduler:
    """Turns a graph without calls into steps."""

    def __init__(self, roots: Sequence[Node], settings: Settings, traits: Traits):
        self._roots = list(roots)
        self._traits = traits
        self._settings = settings
        self._order = topological(roots)
        self._stored: set[int] = set()
        self._taken_over: set[int] = set()
        self._inputs: dict[int, frozenset[int]] = {}
        self._members: dict[int, frozenset[int]] = {}
        self._rank = {id(n): i for i, n in enumerate(self._order)}
        self._size: dict[int, int] = {}
        self._leaves: dict[int, frozenset[int]] = {}
        self._consumers = Counter(id(a) for n in self._order for a in n.args)

    # ---- what is stored ----

    def _choose_stored(self) -> None:
        """Roots, what has a kernel of its own, what products read, what several kernels would
        compute again; and then cuts where a kernel would grow too large."""
        self._stored = {id(r) for r in self._roots}
        for n in self._order:
            if n.op is not None and (n.op.kind in _OWN_KERNEL or self._counts_exactly(n)):
                self._stored.add(id(n))
            if n.op in _READ_OFTEN:
                self._store_operands(n)
        worth = {id(n) for n in self._order if self._worth_storing(n)}
        sinks: dict[int, set[int]] = {id(n): set() for n in self._order}
        for n in reversed(self._order):
            mine = sinks[id(n)]
            if len(mine) > 1 and id(n) in worth:
                self._stored.add(id(n))
            passed = {id(n)} if id(n) in self._stored else mine
            for a in n.args:
                sinks[id(a)] |= passed
        for n in self._order:
            self._limit(n)

    def _store_operands(self, n: Node) -> None:
        """What a product reads many times is computed once, not for each time."""
        for x in n.args:
            while x.op is not None and x.op.kind in ops.VIEWS:
                x = x.args[0]
            if x.op is not None and not (x.op is ops.CAST and x.args[0].is_leaf):
                self._stored.add(id(x))

    @staticmethod
    def _counts_exactly(n: Node) -> bool:
        """The gate over computed values has a kernel of its own, so that each is counted once."""
        return n.op is ops.NARROW and n.attrs[0] == "raise" and not n.args[0].is_leaf

    def _limit(self, n: Node) -> None:
        """Cut what grows beyond one kernel."""
        if n.op is None:
            self._members[id(n)], self._inputs[id(n)] = frozenset(), frozenset((id(n),))
            return
        members = frozenset((id(n),)).union(*(self._members_of(a) for a in n.args))
        inputs = frozenset[int]().union(*(self._inputs_of(a) for a in n.args))
        if len(members) > MAX_OPS or (len(inputs) > MAX_BUFFERS and len(n.args) <= MAX_BUFFERS):
            for a in n.args:
                if a.op is not None:
                    self._stored.add(id(a))
            members = frozenset((id(n),))
            inputs = frozenset(id(a) for a in n.args)
        self._members[id(n)], self._inputs[id(n)] = members, inputs

    def _members_of(self, n: Node) -> frozenset[int]:
        return frozenset() if id(n) in self._stored else self._members[id(n)]

    def _inputs_of(self, n: Node) -> frozenset[int]:
        return frozenset((id(n),)) if id(n) in self._stored else self._inputs[id(n)]

    def _worth_storing(self, n: Node) -> bool:
        """Whether it costs less to store a value than to compute it in a second kernel."""
        if n.op is None:
            self._size[id(n)], self._leaves[id(n)] = 0, frozenset((id(n),))
            return False
        args = [a for a in n.args if id(a) not in self._stored]
        stored = {id(a) for a in n.args if id(a) in self._stored}
        # Only "few" or "many" matters, so that both are cut off and stay cheap.
        own = _MANY if n.op.kind in _COSTLY else 0 if n.op.kind in _FREE else 1
        self._size[id(n)] = min(own + sum(self._size[id(a)] for a in args), _MANY)
        leaves = frozenset(stored).union(*(self._leaves[id(a)] for a in args))
        self._leaves[id(n)] = frozenset(sorted(leaves)[:2])
        if n.op.kind in _FREE:
            return False
        return self._size[id(n)] > CHEAP_OPS or len(self._leaves[id(n)]) > 1

    # ---- kernels ----

    def _memory_type(self, n: Node) -> str:
        exact = self._settings.precision == "exact" and n.dtype is float16
        # An update in place keeps the type of the memory that it takes over.
        own = n.op in _IN_PLACE or id(n) in self._taken_over or any(n is r for r in self._roots)
        return "f32" if exact and not own else n.dtype.ir

    def _lowering(self, root: Node, factors: Factors) -> Lowering:
        def stored(n: Node) -> bool:
            return n is not root and id(n) in self._stored

        dots = self._settings.precision == "default"
        return Lowering(stored, self._memory_type, factors, RULES, dots)

    def _restarting(self, root: Node, build: Callable[[Factors], Built]) -> Built:
        """Lower until nothing has to be split or stored any more."""
        factors: Factors = {}
        while True:
            try:
                return build(factors)
            except SplitNeeded as split:
                owner, axis, place = split.variable.origin
                old = factors.get((owner, axis), ((split.variable.extent, False),))
                new = [(n, split.static and i > 0) for i, n in enumerate(split.factors)]
                factors[owner, axis] = (*old[:place], *new, *old[place + 1 :])
            except Materialise as need:
                if need.node is root or id(need.node) in self._stored:
                    raise AssertionError(f"{root.op}: {need.node.op} cannot be lowered") from None
                self._stored.add(id(need.node))

    def _core(self, root: Node) -> Node:
        """The node whose loops compute the root: a contiguous result may be reshaped for free."""
        x = root
        while x.op is ops.RESHAPE:
            inner = x.args[0]
            alone = self._consumers[id(inner)] == 1 and not any(inner is r for r in self._roots)
            free = alone and inner.op is not None and inner.op.kind in _STORED_AS
            kept = id(inner) in self._stored and not free
            strided = inner.data is not None and inner.data.strides is not None
            if kept or (inner.op is None and not strided):
                break
            x = inner
        return x

    def _kernel(self, root: Node, factors: Factors) -> Built:
        core = self._core(root)
        low = self._lowering(root, factors)
        low.core = core
        if core.op is not None and core.op.kind == "reduce" and is_long(core):
            return two_stage_steps(root, core, low)
        _, at = low.axes(core, core.shape)
        low.identity = at
        self._lower_row_reductions(low, core, at)
        value = low.value(core, at)
        out = Output(root, dot(at, contiguous_strides(core.shape)), value)
        step = matmul_step(low, [out]) if low.product else kernel_step(low, [out])
        return [step], list(low.dependencies.values())

    def _lower_row_reductions(self, low: Lowering, core: Node, at: list[Affine]) -> None:
        """The reduction nearest to the result decides which loops are rows. Those over the same
        axes are lowered first, inner ones before outer ones: what lies under them and folds over
        other axes then belongs, as a whole, to another kernel."""
        nearest: Node | None = None
        found = [core]
        seen = {id(core)}
        for n in found:  # breadth first: `found` grows
            if n.op is not None and n.op.kind == "reduce" and nearest is None:
                nearest = n
            for a in n.args:
                if id(a) not in seen and id(a) not in self._stored:
                    seen.add(id(a))
                    found.append(a)
        if nearest is None or nearest is core or len(nearest.shape) != len(core.shape):
            return
        sizes = list(zip(nearest.shape, core.shape, strict=True))
        if any(a not in (1, b) for a, b in sizes):
            return
        spot = [ZERO if a == 1 else i for (a, _), i in zip(sizes, at, strict=True)]
        same = [
            n
            for n in found
            if n.op is not None
            and n.op.kind == "reduce"
            and (n.shape, n.attrs) == (nearest.shape, nearest.attrs)
        ]
        for n in sorted(same, key=lambda n: self._rank[id(n)]):
            low.value(n, spot)

    def _concat(self, root: Node, node: Node, factors: Factors) -> Built:
        (axis,) = node.attrs
        strides = contiguous_strides(node.shape)
        parts, needed, start = [], [], 0
        for part in node.args:
            if part.size:
                low = self._lowering(root, factors)
                _, at = low.axes(part, part.shape)
                low.identity = at
                value = low.value(part, at)
                if low.product is not None or low.folds:
                    raise Materialise(part)
                at_root = dot(at, strides) + start * strides[axis]
                parts.append((low, Output(root, at_root, value)))
                needed += list(low.dependencies.values())
            start += part.shape[axis]
        some = range(0, len(parts), MAX_PARTS)
        return [split_step(parts[i : i + MAX_PARTS]) for i in some], needed

    def _in_place(self, n: Node) -> bool:
        """Whether nobody else will read the tensor that an update consumes."""
        x = n.args[0]
        if not n.args[2].size:
            return False
        if x.op is None:
            return may_overwrite(x)
        if any(x is r for r in self._roots) or x.uses > 1:
            return False
        self._take_over(x)
        return True

    def _take_over(self, x: Node) -> None:
        self._stored.add(id(x))
        self._taken_over.add(id(x))

    def _build(self, root: Node) -> Built:
        core = self._core(root)
        if core.op is ops.CONCAT:
            return self._restarting(root, lambda f: self._concat(root, core, f))
        if core.op is ops.ATTENTION:
            return self._restarting(
                root, lambda f: attention_step(root, core, self._lowering(root, f))
            )
        if core.op is not None and core.op.kind == "scan":
            return self._restarting(root, lambda f: scan_step(root, core, self._lowering(root, f)))
        if root.op is ops.UPDATE and self._in_place(root):
            return self._restarting(root, lambda f: update_step(root, self._lowering(root, f)))
        if root.op is ops.ARGSORT:
            return self._restarting(root, lambda f: sort_steps(root, self._lowering(root, f)))
        if root.op is ops.SCATTER:
            self._take_over(root.args[0])
            return self._restarting(root, lambda f: scatter_step(root, self._lowering(root, f)))
        return self._restarting(root, lambda f: self._kernel(root, f))

    def run(self) -> Schedule:
        self._choose_stored()
        steps: list[Step] = []
        built: dict[int, Built] = {}
        placed: set[int] = set()
        stack = [(r, False) for r in reversed(self._roots)]
        while stack:
            node, ready = stack.pop()
            if id(node) in placed or node.op is None:
                continue
            if id(node) not in built:
                built[id(node)] = self._build(node) if node.size else ([], [])
            made, needed = built[id(node)]
            if not ready:
                stack.append((node, True))
                stack += [(n, False) for n in needed]
                continue
            placed.add(id(node))
            steps += made
        types = {id(n): self._memory_type(n) for s in steps for n in s.writes}
        types |= {id(r): r.dtype.ir for r in self._roots}
        return Schedule(self._roots, steps, types)


def schedule(roots: Sequence[Node], settings: Settings, traits: Traits = CPU) -> Schedule:
    """The steps that compute the roots (a graph without calls and host conversions) on a device."""
    return Scheduler(roots, settings, traits).run()
