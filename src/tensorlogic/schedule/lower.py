"""Lowering: from a node and what it needs to the expressions of one kernel.

The value of a node at given indices is an expression; `rules.py` has a rule for each kind of op.
What cannot be part of the kernel is asked to be computed before it (`Materialise`); a loop that has
to be split restarts the lowering (`SplitNeeded`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorlogic import ops
from tensorlogic.dtypes import DType
from tensorlogic.graph import Node
from tensorlogic.kernels import ir
from tensorlogic.kernels.ir import Expr, cast, const, var
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.affine import ZERO, Affine, LoopVar, SplitNeeded, dot
from tensorlogic.schedule.records import BufferRef, CheckRecord, DotRecord, FoldRecord, Product
from tensorlogic.schedule.stored import spreads
from tensorlogic.schedule.traits import Traits
from tensorlogic.schedule.windows import Borders
from tensorlogic.storage import contiguous_strides

_IR_TYPE = {"float": "f32", "int": "i32", "bool": "bool"}
ONE_ROW = 1 << 14
"""Elements at most that are computed as one row, by one worker, after a reduction of all."""
MAX_TAPS = 8
"""Taps of a window that are unrolled at most."""
_POINTWISE = ("elementwise", "cast")
_LOADABLE = ("f16", "bf16", "f32", "i32", "bool")


Rule = Callable[["Lowering", Node, list[Affine], "Expr | None"], Expr]
"""How the value of one kind of node at given indices, where a guard holds, is expressed."""


class Materialise(Exception):
    """`node` has to be computed by a kernel of its own first."""

    def __init__(self, node: Node):
        super().__init__(node)
        self.node = node


Split = tuple[int, tuple[int, ...]]
"""The axis of a concatenation and how long its parts are."""


@dataclass(frozen=True)
class Part:
    """The part of each concatenation of one split that a kernel computes: which one, where it
    begins along the axis, and the indices at which the whole is wanted."""

    split: Split
    number: int
    start: int
    at: Any


def split_of(concat: Node) -> Split:
    (axis,) = concat.attrs
    return axis, tuple(a.shape[axis] for a in concat.args)


def index_key(at: Sequence[Affine]) -> Any:
    """Equal keys mean equal indices."""
    return tuple(i.key() for i in at)


def ir_type(dtype: DType) -> str:
    return _IR_TYPE[dtype.kind]


def load_of(ref: BufferRef, at: Affine, where: Expr | None) -> Expr:
    """A load whose address is still affine; `emit` makes it an expression."""
    args = () if where is None else (where,)
    return Expr("load", ir.LOADED_AS[ref.dtype], args, (ref, at))


def affine_value(at: Affine) -> Expr:
    """An affine index as a value (i64)."""
    return Expr("affine", "i64", (), at)


def is_load(e: Expr) -> bool:
    return e.op == "load" and isinstance(e.attr, tuple)


class Lowering:
    """The expressions of one kernel around a root node."""

    def __init__(
        self,
        stored: Callable[[Node], bool],
        memory_type: Callable[[Node], str],
        factors: dict[tuple[int, int], tuple[tuple[int, bool], ...]],
        rules: Mapping[str, Rule],
        traits: Traits,
        exact: bool,
    ):
        self.stored = stored
        self.memory_type = memory_type
        self.factors = factors
        self.rules = rules
        self.traits = traits
        self.exact = exact
        self._decoded: dict[int, tuple[Node, str, Affine]] = {}
        self.whole_blocks = False
        """Whether a quantized value is wanted as a load of its element, which is not decoded."""
        self.borders: Borders | None = None
        """Those of an operand, whose value is then wanted without them."""
        self.folds_allowed = True
        self._memo: dict[Any, Expr] = {}
        self._keep: list[Any] = []
        self._refs: dict[tuple[int, str], BufferRef] = {}
        self._fold_variables: set[LoopVar] = set()
        self.taps: set[LoopVar] = set()
        self._checked: set[int] = set()
        self.pending_checks: list[CheckRecord] = []
        self._count = 0
        self.identity: list[Affine] = []
        self.cores: Sequence[Node] = ()
        """The nodes whose loops are the kernel's; of several, each is computed in them alone, and
        again where a row is folded."""
        self.folds: list[FoldRecord] = []
        self.checks: list[CheckRecord] = []
        self.row_variables: set[LoopVar] | None = None
        self.product: Product | None = None
        self.cropped: Expr | None = None
        """Where alone the elements of a product are stored."""
        self.part: Part | None = None
        self.partials: dict[int, list[Node]] = {}
        """By long reduction, where the results of its parts are."""
        self.products: dict[int, Any] = {}
        """Where each product that is a fold is wanted."""
        self.scalars: dict[int, Expr] = {}
        self.scalar_nodes: list[Node] = []
        self.dependencies: dict[int, Node] = {}

    # ---- loops ----

    def axis(self, owner: Node, axis: int, extent: int) -> tuple[list[LoopVar], Affine]:
        """The loops over one axis, split into the factors that were asked for, and its index."""
        key = (id(owner), axis)
        factors = self.factors.get(key, ((extent, False),))
        variables, index, weight = [], ZERO, max(extent, 1)
        for place, (n, static) in enumerate(factors):
            weight //= max(n, 1)  # of an empty axis there is a loop too, that never runs
            if n == 1:
                continue
            v = LoopVar(f"i{self._count}", n, (*key, place), static)
            self._count += 1
            variables.append(v)
            index = index + Affine(0, {v: weight})
        return variables, index

    def axes(self, owner: Node, shape: Sequence[int]) -> tuple[list[LoopVar], list[Affine]]:
        variables: list[LoopVar] = []
        indices: list[Affine] = []
        for i, n in enumerate(shape):
            vs, index = self.axis(owner, i, n)
            variables += vs
            indices.append(index)
        return variables, indices

    def unroll(self, taps: Affine) -> None:
        """A fold over the few taps of a window is text, and lanes run along another axis."""
        for v in taps.variables & self._fold_variables:
            if v.extent <= MAX_TAPS:
                v.static = True
                self.taps.add(v)

    # ---- values ----

    def ref(self, node: Node, dtype: str, written: bool = False) -> BufferRef:
        key = (id(node), dtype)
        found = self._refs.get(key)
        if found is None:
            found = self._refs[key] = BufferRef(node, dtype, written)
            if node.data is None:
                self.dependencies[id(node)] = node
        return found

    def value(self, node: Node, at: Sequence[Affine], where: Expr | None = None) -> Expr:
        """The value of `node` at the indices; loads happen only where `where` holds."""
        key = self._key(node, at, where)
        if key not in self._memo:
            # The deepest first, so that a long chain of ops is no deep recursion.
            for n in reversed(self._chain(node)):
                own = self._key(n, at, where)
                if own not in self._memo:
                    self._memo[own] = self._compute(n, list(at), where)
                    self._keep.append((n, at, where))
        return self._memo[key]

    def _key(self, node: Node, at: Sequence[Affine], where: Expr | None) -> Any:
        guard = id(where) if where is not None else None
        return id(node), index_key(at), guard, self.borders is not None

    def _chain(self, node: Node) -> list[Node]:
        """The node, and below it those elementwise ops that have the same indices."""
        chain = [node]
        while node.op is not None and node.op.kind in _POINTWISE and not self.stored(node):
            alike = [
                a
                for a in node.args
                if a.shape == node.shape and a.op is not None and a.op.kind in _POINTWISE
            ]
            if not alike:
                break
            node = max(alike, key=lambda a: a.pending)
            chain.append(node)
        return chain

    def _compute(self, node: Node, at: list[Affine], where: Expr | None) -> Expr:
        if node.op is None:
            return self._leaf(node, at, where)
        if self.stored(node):
            strides = contiguous_strides(node.shape)
            return load_of(self.ref(node, self.memory_type(node)), dot(at, strides), where)
        rule = self.rules.get(node.op.kind)
        own = len(self.cores) > 1 and node in self.cores
        if rule is None or (own and not self._in_own_row(at)):
            raise Materialise(node)
        return rule(self, node, at, where)

    def _in_own_row(self, at: Sequence[Affine]) -> bool:
        """Whether indices are those of the kernel's loops, or along an axis those of a fold."""
        for i, own in zip(at, self.identity, strict=True):
            folded = i.variables and i.variables <= self._fold_variables and not i.opaque
            if not folded and i.key() != own.key():
                return False
        return True

    def _leaf(self, node: Node, at: list[Affine], where: Expr | None) -> Expr:
        data = node.data
        if data is None or node.number is not None:
            if node.shape == () and node.weak:
                return self._scalar(node)
            storage = node.attrs[0]  # a placeholder: contiguous, when a trace is explained
            if storage in QUANTS:
                return self._quantized(node, storage, at, where)
            strides = contiguous_strides(node.shape)
            return load_of(self.ref(node, node.dtype.ir), dot(at, strides), where)
        if data.strides is None:
            return self._quantized(node, data.storage, at, where)
        if node.dtype.ir not in _LOADABLE:
            raise Materialise(node)
        return load_of(self.ref(node, node.dtype.ir), dot(at, data.strides) + data.offset, where)

    def _scalar(self, node: Node) -> Expr:
        found = self.scalars.get(id(node))
        if found is None:
            found = ir.param(f"s{len(self.scalar_nodes)}", _IR_TYPE[node.dtype.kind])
            if node.dtype.kind == "bool":
                found = ir.param(f"s{len(self.scalar_nodes)}", "i32")
            self.scalars[id(node)] = found
            self.scalar_nodes.append(node)
        return cast(found, "bool") if node.dtype.kind == "bool" else found

    def _quantized(self, node: Node, storage: str, at: list[Affine], where: Expr | None) -> Expr:
        """A value decoded from its block: the row of quants.py at the block's bytes."""
        quant = QUANTS[storage]
        flat = dot(at, contiguous_strides(node.shape))
        if self.whole_blocks:
            args = () if where is None else (where,)
            return Expr("load", "f32", args, (self.ref(node, "u8"), flat))
        block = Affine(
            flat.const // quant.block,
            {t: c // quant.block for t, c in flat.terms.items() if c % quant.block == 0},
        )
        inside = {t: c for t, c in flat.terms.items() if c % quant.block}
        start = flat.const % quant.block
        digits: list[Expr] | None = None
        walks = False
        if not inside:
            digits = [const(d, "i64") for d in _digits_of(start, quant.digits)]
        elif not start:
            weights = contiguous_strides(quant.digits)
            wanted = {(w, n) for w, n in zip(weights, quant.digits, strict=True)}
            have = {(c, t.extent if isinstance(t, LoopVar) else 0): t for t, c in inside.items()}
            walks = set(have) == wanted
            if walks:
                digits = [
                    have[w, n].expr  # type: ignore[union-attr]
                    for w, n in zip(weights, quant.digits, strict=True)
                ]
            elif len(inside) == 1:
                ((t, c),) = inside.items()
                if isinstance(t, LoopVar) and c == 1 and t.extent % quant.block == 0:
                    raise SplitNeeded(t, (t.extent // quant.block, *quant.digits), static=True)
        if digits is None:
            if any(c < 0 for c in inside.values()):  # idiv rounds towards zero
                block, start, inside = ZERO, flat.const, flat.terms
            whole = affine_value(Affine(start, inside))
            size = const(quant.block, "i64")
            block = block + Affine.of(ir.binary("idiv", whole, size))
            rest = ir.binary("irem", whole, size)
            digits = []
            for w, n in zip(contiguous_strides(quant.digits), quant.digits, strict=True):
                digit = ir.binary("idiv", rest, const(w, "i64"))
                digits.append(ir.binary("irem", digit, const(n, "i64")))
        u8, f16 = self.ref(node, "u8"), self.ref(node, "f16")

        def byte(offset: Expr) -> Expr:
            return load_of(u8, _plus(block * quant.nbytes, offset), where)

        def half(offset: Expr) -> Expr:
            if offset.op == "const":
                return load_of(f16, block * (quant.nbytes // 2) + offset.attr // 2, where)
            return load_of(f16, _plus(block * (quant.nbytes // 2), offset >> 1), where)

        value = quant.decode(byte, half, tuple(digits))
        if walks and where is None:
            self._decoded[id(value)] = node, storage, flat
            self._keep.append(value)
        return value

    def is_walked(self, value: Expr) -> bool:
        """Whether it is an element of blocks whose digits are loops."""
        return id(value) in self._decoded

    def dot_of(self, k: Affine, left: Expr, right: Expr) -> DotRecord | None:
        """What sum over k of left * right is, if left is a vector and right a row of blocks."""
        decoded = self._decoded.get(id(right))
        if self.exact or decoded is None or not is_load(left) or left.args:
            return None
        (x, at), (node, storage, flat) = left.attr, decoded
        quant, own = QUANTS[storage], k.variables
        row = Affine(flat.const, {t: c for t, c in flat.terms.items() if t not in own})
        rest = {t: c for t, c in at.terms.items() if t not in own}
        along = all(at.coefficient(v) == flat.coefficient(v) == k.coefficient(v) for v in own)
        whole = all(c % quant.block == 0 for c in (row.const, *row.terms.values()))
        if rest or not (along and whole) or x.dtype not in ("f16", "bf16", "f32"):
            return None
        start = Affine(
            row.const // quant.block, {t: c // quant.block for t, c in row.terms.items()}
        )
        count = math.prod(v.extent for v in own) // quant.block
        weights = self.ref(node, "u8")
        return DotRecord(storage, count, weights, start * quant.nbytes, x, Affine(at.const))

    # ---- folds ----

    def fold(
        self,
        node: Node,
        at: list[Affine],
        fold: ops.Fold,
        dtype: str,
        variables: list[LoopVar],
        element: Callable[[], tuple[Expr, ...]],
    ) -> Expr:
        """A reduction whose result depends on the variables of `at` alone."""
        outer: set[LoopVar] = set()
        for i in at:
            if i.opaque:
                raise Materialise(node)
            outer |= i.variables
        if outer & self._fold_variables or self.product is not None or not self.folds_allowed:
            raise Materialise(node)
        if not variables:
            return element()[fold.pick]
        if any(v.extent == 0 for v in variables):
            return fold.init(dtype)[fold.pick]  # nothing is read, not even out of the loop
        if self.row_variables is None:
            size = math.prod(v.extent for i in self.identity for v in i.variables)
            if not outer and size > ONE_ROW:
                raise Materialise(node)
            self.row_variables = outer
        elif outer != self.row_variables:
            raise Materialise(node)
        self._fold_variables |= set(variables)
        before = self.pending_checks
        self.pending_checks = []
        try:
            entries = element()
        except Materialise as need:
            whole, op = self._prologue(node), need.node.op
            alone = need.node.size == 1  # costs nothing to store
            if whole is None or op is None or op.kind not in ("reduce", "matmul") or alone:
                raise
            raise Materialise(whole) from None
        init = fold.init(dtype)
        result = tuple(var(f"a{len(self.folds)}_{i}", e.dtype) for i, e in enumerate(init))
        record = FoldRecord(variables, fold, entries, result, init)
        record.checks = self.pending_checks
        self.checks += self.pending_checks
        self.pending_checks = before
        self.folds.append(record)
        return result[fold.pick]

    def fold_once(self, node: Node, at: Sequence[Affine]) -> None:
        """A product that is wanted at two places of a kernel is better stored than folded twice."""
        spot = index_key(at)
        if self.products.setdefault(id(node), spot) != spot:
            raise Materialise(node)

    def _prologue(self, node: Node) -> Node | None:
        """What a reduction reads, if it has to be computed first: better the whole of it than the
        reductions inside it one by one, but where the whole is larger than all it is made of."""
        x = node.args[0]
        while x.op is not None and not self.stored(x):
            (*_, inner) = x.args
            widens = x.op is ops.CAST and inner.dtype.itemsize <= x.dtype.itemsize
            if x.op.kind not in ops.VIEWS and not widens:
                return None if spreads(x) else x
            x = inner
        return None

    def finish(self) -> list[CheckRecord]:
        """The checks that belong to the last pass of the kernel."""
        pending, self.pending_checks = self.pending_checks, []
        self.checks += pending
        return pending

    def drop_unused_folds(self, roots: Sequence[Expr]) -> None:
        """Folds whose result nothing reads."""
        kept: list[FoldRecord] = []
        wanted = {n.attr for n in ir.nodes_of(*roots) if n.op == "var"}
        for f in reversed(self.folds):
            if any(v.attr in wanted for v in f.result):
                kept.append(f)
                wanted |= {n.attr for n in ir.nodes_of(*f.element) if n.op == "var"}
        self.folds = list(reversed(kept))

    def check(self, kind: str, node: Node, ok: Expr) -> None:
        """Count where `ok` is false; each node is counted in one place only."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            self.pending_checks.append(CheckRecord(kind, node, ok))


def _plus(base: Affine, offset: Expr) -> Affine:
    return base + (offset.attr if offset.op == "const" else Affine.of(offset))


def _digits_of(e: int, digits: Sequence[int]) -> list[int]:
    out = []
    for w, n in zip(contiguous_strides(tuple(digits)), digits, strict=True):
        out.append(e // w % n)
    return out
