"""Building: the launches that compute one stored node, or several over the same loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from tensorlogic import ops
from tensorlogic.dtypes import float16
from tensorlogic.graph import Node, may_overwrite, topological
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.affine import ZERO, Affine, LoopVar, SplitNeeded, dot, reshape_index
from tensorlogic.schedule.attention import attention_step
from tensorlogic.schedule.emit import Output, Step, kernel_step, matmul_step, split_step
from tensorlogic.schedule.lower import Lowering, Materialise, Part, index_key, split_of
from tensorlogic.schedule.partial import first_stage
from tensorlogic.schedule.placing import ONE_BY_ONE, placed_output, product_below
from tensorlogic.schedule.repeats import Built, Template, structure
from tensorlogic.schedule.rules import RULES, is_long
from tensorlogic.schedule.scan import scan_step
from tensorlogic.schedule.scatter import scatter_step
from tensorlogic.schedule.sort import sort_steps
from tensorlogic.schedule.stored import MAX_BUFFERS, choose_stored
from tensorlogic.schedule.traits import Traits
from tensorlogic.schedule.turned import turned_step
from tensorlogic.schedule.update import take_over, updated_place
from tensorlogic.schedule.wide import wide_step
from tensorlogic.settings import Settings
from tensorlogic.storage import contiguous_strides

MAX_PARTS = 8
"""Parts of a concatenation in one kernel at most; many equal ones share a kernel."""

_STORED_AS = ("scan",)
"""Kernels of their own that can store into a reshaped result."""
_IN_PLACE = (ops.UPDATE, ops.SCATTER)


Made = tuple[list[Step], list[Node]]
"""The launches that compute a node, and the nodes that have to be there before."""
Place = Callable[[Lowering, list[Affine]], Affine]
"""Where the value at some indices is stored."""
Factors = dict[tuple[int, int], tuple[tuple[int, bool], ...]]


def indices_above(top: Node, below: Node, at: list[Affine] | None = None) -> list[Affine] | None:
    """The indices of a chain of permutations and reshapes at its top, from those of the node below
    it; None where they are no sums of loops."""
    chain = []
    while top is not below:
        chain.append(top)
        top = top.args[0]
    if at is None:
        loops = [LoopVar(f"i{i}", n, (0, i, 0)) for i, n in enumerate(below.shape)]
        at = [Affine.of(v) if v.extent > 1 else ZERO for v in loops]
    for x in reversed(chain):
        if x.op is ops.PERMUTE:
            at = [at[axis] for axis in x.attrs[0]]
            continue
        try:
            found = reshape_index(at, x.args[0].shape, x.shape)
        except SplitNeeded:
            return None
        if found is None:
            return None
        at = found
    return at


class Builder:
    """Makes the launches of each stored node of a graph, and finds out what has to be stored
    besides."""

    def __init__(self, roots: Sequence[Node], settings: Settings, traits: Traits):
        self._root_ids = {id(r) for r in roots}
        self._traits = traits
        self._exact = settings.precision == "exact"
        order = topological(roots)
        self._rank = {id(n): i for i, n in enumerate(order)}
        self._consumers = Counter(id(a) for n in order for a in n.args)
        self._stored = choose_stored(order, roots, traits)
        self._found: list[Node] = []
        """What had to be stored besides, in the order in which it was found."""
        self._taken_over: set[int] = set()
        self._alone: set[int] = set()
        """Launches that have no siblings."""
        self._templates: dict[Hashable, Template | None] = {}

    # ---- kernels ----

    def memory_type(self, n: Node) -> str:
        if not self._exact or n.dtype is not float16:
            return n.dtype.ir
        # An update in place keeps the type of the memory that it takes over.
        own = n.op in _IN_PLACE or id(n) in self._taken_over or id(n) in self._root_ids
        return n.dtype.ir if own else "f32"

    def _lowering(self, roots: Sequence[Node], factors: Factors) -> Lowering:
        own = {id(r) for r in roots}

        def stored(n: Node) -> bool:
            return id(n) in self._stored and id(n) not in own

        return Lowering(stored, self.memory_type, factors, RULES, self._traits, self._exact)

    def _restarting(self, root: Node, build: Callable[[Factors], Made]) -> Made:
        """Lower until nothing has to be split or stored any more."""
        factors: Factors = {}
        while True:
            try:
                return build(factors)
            except SplitNeeded as split:
                self._split(factors, split)
            except Materialise as need:
                if need.node is root or id(need.node) in self._stored:
                    raise AssertionError(f"{root.op}: {need.node.op} cannot be lowered") from None
                self._stored.add(id(need.node))
                self._found.append(need.node)
                factors.clear()  # it may have been what asked for a split

    def _reads_rounded(self, roots: Sequence[Node], cores: Sequence[Node]) -> bool:
        """Whether a root is made of another that is rounded when it is stored: whoever reads that
        must read the same value, so that x - mean(x) is what it says."""
        pairs = list(zip(roots, cores, strict=True))
        rounded = {
            id(n) for r, c in pairs if self.memory_type(r) in ("f16", "bf16") for n in (r, c)
        }
        for r, c in pairs:
            below, seen = list(c.args), {id(r), id(c)}
            for n in below:  # it grows
                if id(n) in rounded - {id(r), id(c)}:
                    return True
                if id(n) not in seen and id(n) not in self._stored:
                    below += n.args
                seen.add(id(n))
        return False

    @staticmethod
    def _split(factors: Factors, split: SplitNeeded) -> None:
        owner, axis, place = split.variable.origin
        old = factors.get((owner, axis), ((split.variable.extent, False),))
        new = [(n, split.static and i > 0) for i, n in enumerate(split.factors)]
        factors[owner, axis] = (*old[:place], *new, *old[place + 1 :])

    def _only_read_by_one(self, x: Node) -> bool:
        return self._consumers[id(x)] == 1 and id(x) not in self._root_ids

    def _core(self, root: Node) -> Node:
        """The node whose loops compute the root: a contiguous result may be reshaped for free."""
        x = root
        while x.op is ops.RESHAPE:
            inner = x.args[0]
            own = inner.op is not None and inner.op.kind in _STORED_AS
            kept = id(inner) in self._stored and not (own and self._only_read_by_one(inner))
            strided = inner.data is not None and inner.data.strides is not None
            if kept or (inner.op is None and not strided):
                break
            x = inner
        return x

    def _attention(self, root: Node) -> Node | None:
        """Attention of which the root is the result in another order and shape."""
        x = root
        while x.op in (ops.RESHAPE, ops.PERMUTE) and self._only_read_by_one(x.args[0]):
            x = x.args[0]
        return x if x.op is ops.ATTENTION and indices_above(root, x) is not None else None

    def _kernel(self, root: Node, factors: Factors) -> Made:
        core = self._core(root)
        placed = self._placed_product(root, factors)
        if placed is not None:
            return placed
        long = self._long_reduction(core)
        if long is not None:
            return self._two_stages(root, core, long, factors)
        low = self._lowering([root], factors)
        low.cores = [core]
        outs = self._outputs(low, [root], [core])
        if low.product:
            step = matmul_step(low, outs)
        else:
            special = self._special(low, outs[0])
            step = special or kernel_step(low, outs)
            if special:
                self._alone.add(id(step))
        if low.products:  # rows of different products have nothing but the vector in common
            self._alone.add(id(step))
        return [step], list(low.dependencies.values())

    def _placed_product(self, root: Node, factors: Factors) -> Made | None:
        """A product with all that follows, stored where the root has its elements."""
        if not self._traits.gpu:
            return None
        low = self._lowering([root], factors)
        chain = product_below(root, low.stored)
        if chain is None:
            return None
        try:
            out = placed_output(low, chain)
        except Materialise as need:
            if need.node is not chain[0]:
                raise
            return None
        if out is None or low.product is None:
            return None
        return [matmul_step(low, [out])], list(low.dependencies.values())

    def _special(self, low: Lowering, out: Output) -> Step | None:
        """A launch of a form of its own, where one pays: turned copies, sums over lines."""
        return turned_step(low, out, self._traits) or wide_step(low, out, self._traits)

    def _long_reduction(self, core: Node) -> Node | None:
        """A long reduction of whose results each one of a node's is made."""
        near, seen = [core], {id(core)}
        for x in near:  # `near` grows
            if x.op is not None and x.op.kind == "reduce" and is_long(x):
                return x
            if x.op is not None and x.op.kind in (*ONE_BY_ONE, "reshape"):
                for a in x.args:
                    if a.size == core.size and id(a) not in self._stored and id(a) not in seen:
                        seen.add(id(a))
                        near.append(a)
        return None

    def _two_stages(self, root: Node, core: Node, long: Node, factors: Factors) -> Made:
        first, second = self._lowering([root], factors), self._lowering([root], factors)
        first.cores = [long]
        step, parts = first_stage(long, first)
        stored, memory_type = second.stored, second.memory_type
        second.stored = lambda n: n in parts or stored(n)
        second.memory_type = lambda n: n.dtype.ir if n in parts else memory_type(n)
        second.partials[id(long)] = parts
        second.cores = [core]
        last = kernel_step(second, self._outputs(second, [root], [core]))
        needed = [*first.dependencies.values(), *second.dependencies.values()]
        return [step, last], [n for n in needed if n not in parts]

    def _outputs(self, low: Lowering, roots: Sequence[Node], cores: Sequence[Node]) -> list[Output]:
        """The values of roots in the loops of their cores, which have one shape."""
        _, at = low.axes(cores[0], cores[0].shape)
        low.identity = at
        for core in cores:
            self._lower_row_reductions(low, core, at)
        place = dot(at, contiguous_strides(cores[0].shape))
        return [Output(r, place, low.value(c, at)) for r, c in zip(roots, cores, strict=True)]

    def fuse(self, roots: Sequence[Node], inner: Sequence[Node]) -> Step | None:
        """One launch for roots over the same loops; the inner nodes are not stored."""
        every = [*roots, *inner]
        cores = [self._core(r) for r in roots]
        opened = {id(n) for n in (*every, *cores)}
        key, nodes = structure(
            every, opened, self._stored, self.memory_type, self._only_read_by_one
        )
        key = (len(roots), len(inner), key)
        if key in self._templates:
            known = self._templates[key]
            return known.again(nodes).steps[0] if known is not None else None
        step = self._fused(roots, inner, cores)
        built = None if step is None else Template(nodes, Built([step], [], []))
        self._templates[key] = built
        return step

    def _fused(
        self, roots: Sequence[Node], inner: Sequence[Node], cores: Sequence[Node]
    ) -> Step | None:
        if self._reads_rounded(roots, cores):
            return None
        factors: Factors = {}
        while True:
            low = self._lowering([*roots, *inner], factors)
            low.cores = [*cores, *inner]
            try:
                outs = self._outputs(low, roots, cores)
                step = None if low.product or low.products else kernel_step(low, outs)
            except SplitNeeded as split:
                self._split(factors, split)
            except Materialise:
                return None
            else:
                return step if step and len(step.buffers) <= MAX_BUFFERS else None

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

    def _concatenations(self, top: Node) -> list[Node]:
        """Concatenations, split alike, of which a node's elements are made one by one."""
        found: list[Node] = []
        near, seen = [top], {id(top)}
        for x in near:  # `near` grows
            if x.op is ops.CONCAT:
                found.append(x)
            elif x.op is not None and x.op.kind in ONE_BY_ONE:
                for a in x.args:
                    if a.shape == top.shape and id(a) not in self._stored and id(a) not in seen:
                        seen.add(id(a))
                        near.append(a)
        return [c for c in found if split_of(c) == split_of(found[0])]

    def _parts(
        self, root: Node, top: Node, concat: Node, place: Place, factors: Factors
    ) -> tuple[list[tuple[Lowering, Output]], list[Node]]:
        """The value of `top` for each part of its concatenations, and where it is stored."""
        (axis,) = concat.attrs
        parts, needed, start = [], [], 0
        for i, part in enumerate(concat.args):
            if part.size:
                low = self._lowering([root], factors)
                _, at = low.axes(part, part.shape)
                low.identity = list(at)
                at[axis] = at[axis] + start
                low.part = Part(split_of(concat), i, start, index_key(at))
                spot = place(low, at)
                value = low.value(top, at)
                if low.product is not None:
                    raise Materialise(part)
                parts.append((low, Output(root, spot, value)))
                needed += list(low.dependencies.values())
            start += part.shape[axis]
        return parts, needed

    def _concat(self, root: Node, top: Node, concat: Node, factors: Factors) -> Made:
        def place(low: Lowering, at: list[Affine]) -> Affine:
            return dot(at, contiguous_strides(top.shape))

        parts, needed = self._parts(root, top, concat, place, factors)
        some = range(0, len(parts), MAX_PARTS)
        return [split_step(parts[i : i + MAX_PARTS]) for i in some], needed

    def _update(self, root: Node, factors: Factors) -> Made:
        """An update in place: the new rows are stored where the old ones lay."""
        new = root.args[2]

        def place(low: Lowering, at: list[Affine]) -> Affine:
            return updated_place(low, root, at)

        concats = [] if id(new) in self._stored else self._concatenations(new)
        if concats:
            parts, needed = self._parts(root, new, concats[0], place, factors)
            step = split_step(parts)
        else:
            low = self._lowering([root], factors)
            _, at = low.axes(new, new.shape)
            low.identity = at
            out = Output(root, place(low, at), low.value(new, at))
            if low.product is not None:  # its blocks of results do not lie in one piece
                raise Materialise(low.product.node)
            step = kernel_step(low, [out])
            needed = list(low.dependencies.values())
        take_over(root, step, needed)
        return [step], needed

    def _in_place(self, n: Node) -> bool:
        """Whether nobody else will read the tensor that an update consumes."""
        x = n.args[0]
        if not n.args[2].size:
            return False
        if x.op is None:
            return may_overwrite(x)
        return id(x) not in self._root_ids and x.uses <= 1

    def _take_over(self, x: Node) -> None:
        if x.op is not None:
            self._stored.add(id(x))
            self._taken_over.add(id(x))

    def build(self, root: Node) -> Built:
        """The launches of a node, as they were built for another of the same structure if there
        is one."""
        in_place = root.op is ops.UPDATE and self._in_place(root)
        if in_place or root.op is ops.SCATTER:
            self._take_over(root.args[0])
        core, attention = self._core(root), self._attention(root)
        opened = {id(n) for n in (root, core, attention) if n is not None}
        key, nodes = structure(
            [root], opened, self._stored, self.memory_type, self._only_read_by_one
        )
        key = (in_place, key)
        known = self._templates.get(key)
        if known is not None:
            built = known.again(nodes)
            self._stored.update(id(n) for n in built.stored)
            return built
        before = len(self._found)
        steps, needed = self._make(root, core, attention, in_place)
        plain = self._is_plain(core, attention, in_place, steps)
        built = Built(steps, needed, self._found[before:], core if plain else None)
        self._templates[key] = Template(nodes, built)
        return built

    def _make(self, root: Node, core: Node, attention: Node | None, in_place: bool) -> Made:
        concats = self._concatenations(core)
        if concats:
            return self._restarting(root, lambda f: self._concat(root, core, concats[0], f))
        if attention is not None:

            def place(at: list[Affine]) -> Affine:
                above = indices_above(root, attention, at)
                assert above is not None
                return dot(above, contiguous_strides(root.shape))

            return self._restarting(
                root,
                lambda f: attention_step(
                    root, attention, self._lowering([root], f), place, self._traits
                ),
            )
        if core.op is not None and core.op.kind == "scan":
            return self._restarting(
                root, lambda f: scan_step(root, core, self._lowering([root], f))
            )
        if in_place:
            return self._restarting(root, lambda f: self._update(root, f))
        if root.op is ops.ARGSORT:
            return self._restarting(root, lambda f: sort_steps(root, self._lowering([root], f)))
        if root.op is ops.SCATTER:
            return self._restarting(root, lambda f: scatter_step(root, self._lowering([root], f)))
        return self._restarting(root, lambda f: self._kernel(root, f))

    def _is_plain(
        self, core: Node, attention: Node | None, in_place: bool, steps: Sequence[Step]
    ) -> bool:
        """Whether the launch is one of `_kernel`, in loops over the shape of its core."""
        other = attention is not None or in_place or len(steps) != 1
        if (
            other
            or id(steps[0]) in self._alone
            or core.op is None
            or core.op.kind in (*_STORED_AS, "argsort", "scatter")
        ):
            return False
        return isinstance(steps[0].kernel, Kernel) and not self._concatenations(core)
