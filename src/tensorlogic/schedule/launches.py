"""Which launches become one: independent ones with something in common, and what is computed
before a product in its own launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Fold, Kernel, Loop, Split, Stmt, exprs_of, nodes_of, walk
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.join import Joiner, is_flat
from tensorlogic.schedule.siblings import needs
from tensorlogic.schedule.traits import Traits

MAX_BUFFERS = 30
"""Buffers of one launch at most: Metal binds 31, one of which holds the parameters."""
MAX_PARTS = 8
"""Unlike bodies of one launch at most."""
MAX_NODES = 720
"""Operations of unlike bodies at most: larger ones fall out of a GPU's instruction caches."""
MAX_FLAT = 1 << 16
"""Elements of a flat loop from which on it stays alone: it has enough work, and its own way to
share it out is faster."""
MAX_PROLOGUE = 8
"""Rows of what is computed before the rows of another launch, by each worker alone."""
MIN_ROWS = 64
"""Rows of a launch that may have something computed before them: workers take many each."""
WORTH = 32
"""Elements that a launch touches for each that is computed before its rows."""
LOCAL_BYTES = {False: 1 << 16, True: 1 << 14}
"""Local memory for what is computed before: on a CPU (a worker's scratch) and on a GPU."""
_WIDE = ("f16", "bf16")


class _Launch:
    """Steps that are to be one launch, and what is known of them. Launches run in the order of
    their places."""

    def __init__(self, kind: str):
        self.kind = kind
        self.place = 0
        self.steps: list[Step] = []
        self.buffers: set[tuple[int, str]] = set()
        self.parts = 0
        self.nodes = 0
        self.read = False
        """Whether a later launch reads what this one computes, so that it has to stay."""

    def add(self, step: Step, nodes: int) -> None:
        self.steps.append(step)
        self.buffers |= _buffers(step)
        self.parts += _parts(step)
        self.nodes += nodes

    def has_room(self, step: Step, kind: str, nodes: int) -> bool:
        return (
            bool(self.kind)
            and (self.kind == "serial") == (kind == "serial")
            and self.parts + _parts(step) <= MAX_PARTS
            and self.nodes + nodes <= MAX_NODES
            and len(self.buffers | _buffers(step)) <= MAX_BUFFERS
        )


def joined(
    steps: Sequence[Step], roots: Sequence[Node], traits: Traits, joiner: Joiner
) -> list[Step]:
    """The steps in fewer launches, in an order in which they can run."""
    merged = [
        joiner.side_by_side(x.steps) if len(x.steps) > 1 else x.steps[0]
        for x in _Grouping(steps, traits).launches()
    ]
    return _with_prologues(merged, {id(r) for r in roots}, traits, joiner)


# ---- side by side ----


class _Grouping:
    """Puts each step into the last launch that it has something in common with, if all that the
    step needs is there before. A launch that nothing has read yet may be put off for that."""

    def __init__(self, steps: Sequence[Step], traits: Traits):
        self._steps = steps
        self._traits = traits
        self._readers = _readers(steps)
        self._made: dict[int, _Launch] = {}
        self._reading: dict[tuple[int, bool], list[_Launch]] = {}
        self._kinds: dict[int, tuple[str, int]] = {}
        self._last = 0

    def launches(self) -> list[_Launch]:
        found: dict[_Launch, None] = {}
        for step in self._steps:
            found[self._put(step)] = None
        return sorted(found, key=lambda x: x.place)

    def _put(self, step: Step) -> _Launch:
        if id(step.kernel) not in self._kinds:
            self._kinds[id(step.kernel)] = _kind(step), _nodes(step, self._traits)
        kind, nodes = self._kinds[id(step.kernel)]
        if kind and is_flat(step) and step.work > MAX_FLAT:
            kind = ""
        needed = {self._made[id(n)] for n in needs(step) if id(n) in self._made}
        first = 1 + max((x.place for x in needed), default=0)
        home = self._home(step, kind, nodes, first, needed)
        if home is None or home.place < first:  # a new one, or one that is put off
            home = home or _Launch(kind)
            self._last += 1
            home.place = self._last
        home.add(step, nodes)
        for x in needed:
            x.read = True
        for n in step.writes:
            self._made[id(n)] = home
        for n in step.reads:
            self._reading.setdefault((id(n), kind == "fold"), []).append(home)
        return home

    def _home(
        self, step: Step, kind: str, nodes: int, first: int, needed: set[_Launch]
    ) -> _Launch | None:
        if not kind:
            return None
        found = [
            x
            for x in self._related(step, kind) - needed
            if (x.place >= first or not x.read) and x.has_room(step, kind, nodes)
        ]
        return max(found, key=lambda x: x.place, default=None)

    def _related(self, step: Step, kind: str) -> set[_Launch]:
        """Launches that read what a step reads (a computed value, or anything if both fold), and
        those of which something reads the results together with the step's. What has nothing in
        common stays apart: other company would be another kernel each time."""
        out: set[_Launch] = set()
        for n in step.reads:
            if id(n) in self._made:
                out.update(self._reading.get((id(n), False), ()))
            if id(n) in self._made or kind == "fold":
                out.update(self._reading.get((id(n), True), ()))
        for n in step.writes:
            for reader in self._readers.get(id(n), ()):
                both = needs(self._steps[reader])
                out.update(self._made[id(m)] for m in both if id(m) in self._made)
        return out


def _readers(steps: Sequence[Step]) -> dict[int, set[int]]:
    """By node, the steps that read it."""
    readers: dict[int, set[int]] = {}
    for i, step in enumerate(steps):
        for n in needs(step):
            readers.setdefault(id(n), set()).add(i)
    return readers


def _kind(step: Step) -> str:
    """Kernels of one kind suit one launch; "" is a step that stays alone. The rows of a "serial"
    kernel are one thread's each on a GPU, those of a "fold" fold something."""
    kernel = step.kernel
    if not isinstance(kernel, Kernel) or kernel.locals:
        return ""
    loops = [s for s in walk(kernel.body) if isinstance(s, Loop | Fold)]
    if all(s.kind not in ("vector", "flat") for s in loops):
        return "serial"
    return "fold" if any(isinstance(s, Fold) for s in loops) else "plain"


def _nodes(step: Step, traits: Traits) -> int:
    if not isinstance(step.kernel, Kernel):
        return 0
    stmts = _unlike(step.kernel.body) if traits.shared_dots else walk(step.kernel.body)
    return len(nodes_of(*(e for s in stmts for e in exprs_of(s))))


def _unlike(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """The statements but for folds whose text the parts of a launch share."""
    for s in body:
        if isinstance(s, Fold) and s.dot is not None and s.dot.x.dtype == "f16":
            continue
        yield s
        if isinstance(s, Loop | Fold):
            yield from _unlike(s.body)


def _parts(step: Step) -> int:
    last = step.kernel.body[-1] if isinstance(step.kernel, Kernel) else None
    return len(last.bodies) if isinstance(last, Split) else 1


def _buffers(step: Step) -> set[tuple[int, str]]:
    """Each is bound once, as one type: quantized blocks are bytes and halves."""
    pairs = zip(step.all_buffers, step.buffers, strict=True)
    return {(id(use[0]) if use else 0, b.dtype) for b, use in pairs}


# ---- prologues ----


def _with_prologues(
    steps: list[Step], roots: set[int], traits: Traits, joiner: Joiner
) -> list[Step]:
    readers = _readers(steps)
    slots: list[Step | None] = list(steps)
    for i in range(len(slots)):
        step = slots[i]
        if step is None or not _can_go_before(step, roots, traits):
            continue
        used = readers.get(id(step.writes[0]), set())
        if len(used) != 1:
            continue
        (k,) = used
        host = slots[k]
        if host is not None and _can_have(host, step, traits):
            slots[k] = joiner.before(step, host, _local_type(step, traits))
            slots[i] = None
            for n in needs(step):
                readers[id(n)] = readers[id(n)] - {i} | {k}
    return [s for s in slots if s is not None]


def _local_type(step: Step, traits: Traits) -> str:
    """What a value is kept as in local memory: on a CPU wide, so that it is converted once."""
    (stored,) = [b.dtype for b in step.all_buffers if b.written]
    return "f32" if stored in _WIDE and not traits.gpu else stored


def _bytes(step: Step, traits: Traits) -> int:
    return step.writes[0].size * ir.BYTES[_local_type(step, traits)]


def _can_go_before(step: Step, roots: set[int], traits: Traits) -> bool:
    """Whether a step is short and nothing but its one result comes of it."""
    if not isinstance(step.kernel, Kernel) or step.checks or step.in_place or step.scratch:
        return False
    if len(step.writes) != 1 or id(step.writes[0]) in roots or len(step.kernel.body) != 1:
        return False
    (last,) = step.kernel.body
    if not isinstance(last, Loop) or (last.kind != "flat" and step.work > MAX_PROLOGUE):
        return False
    return _bytes(step, traits) <= LOCAL_BYTES[traits.gpu]


def _can_have(host: Step, step: Step, traits: Traits) -> bool:
    """Whether the rows of a launch are worth a prologue in each worker."""
    if not isinstance(host.kernel, Kernel):
        return False
    node = step.writes[0]
    own = bool(host.scratch) and not host.setup  # local memory of another kind
    if is_flat(host) or own or host.work < MIN_ROWS or any(old is node for _, old in host.in_place):
        return False
    buffers = _buffers(host) | _buffers(step)
    room = host.scratch + _bytes(step, traits) <= LOCAL_BYTES[traits.gpu]
    worth = host.work * host.cost >= WORTH * (host.setup + step.work * step.cost)
    return room and worth and len(buffers) <= MAX_BUFFERS
