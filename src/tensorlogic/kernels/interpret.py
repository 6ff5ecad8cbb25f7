"""The kernel IR run by NumPy: what a kernel means. Printers are tested against it, and
bounds of launches computed with it.

Parallel and vector loops run on array axes, a new one in front for each; serial and unrolled loops
and all folds turn by turn. Where bounds differ along the outer axes, a mask says who takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tensorlogic.kernels.ir import (
    LOADED_AS,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    nodes_of,
)

Array = Any
_VALUES: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "bool": np.bool_,
}
MEMORY: dict[str, type[np.generic]] = {
    "f16": np.float16,
    "bf16": np.uint16,
    "f32": np.float32,
    "i32": np.int32,
    "bool": np.bool_,
    "u8": np.uint8,
}
"""The NumPy types of buffers; bf16 is given as its bits."""


def run(
    kernel: Kernel, buffers: Mapping[str, Array], params: Mapping[str, float | int | bool]
) -> None:
    """Run a kernel on 1-d arrays by buffer name, writing into those it writes.

    Raises IndexError where an active lane leaves a buffer, TypeError for an array of another dtype.
    """
    arrays = {b: buffers[b.name] for b in kernel.buffers}
    for b, a in arrays.items():
        if a.dtype != MEMORY[b.dtype] or a.ndim != 1:
            raise TypeError(f"{b.name} is {b.dtype}, not {a.dtype} of {a.ndim} dimensions")
    with np.errstate(all="ignore"):
        _Run(arrays, {p: _VALUES[p.dtype](params[p.attr]) for p in kernel.params}).block(
            kernel.body
        )


def evaluate(e: Expr, names: Mapping[str, Array]) -> Array:
    """The value of an expression without loads; `names` gives params, indices and vars."""
    leaves = {n: names[n.attr] for n in nodes_of(e) if n.op in ("param", "index", "var")}
    with np.errstate(all="ignore"):
        return _Run({}, leaves).values(e)[0]


class _Run:
    def __init__(self, arrays: dict[Buffer, Array], names: Mapping[Expr, Array]) -> None:
        self.arrays = arrays
        self.names: dict[tuple[str, str], Array] = {
            (n.op, n.attr): np.asarray(v) for n, v in names.items()
        }
        self.shape: tuple[int, ...] = ()
        self.mask: Array = np.True_
        self.row: Array = np.int64(0)  # position in the parallel range; local memory is each row's
        self.rows = 1

    # Expressions

    def values(self, *roots: Expr) -> list[Array]:
        known: dict[Expr, Array] = {}
        for n in nodes_of(*roots):
            args = [known[a] for a in n.args]
            if n.op == "const":
                known[n] = _VALUES[n.dtype](n.attr)
            elif n.op in ("param", "index", "var"):
                known[n] = self.names[n.op, n.attr]
            elif n.op == "load":
                known[n] = self._load(n.attr, *args)
            else:
                known[n] = np.asarray(_OPERATIONS[n.op](n, *args)).astype(
                    _VALUES[n.dtype], copy=False
                )
        return [known[r] for r in roots]

    def _active(self, *arrays: Array) -> list[Array]:
        """The arrays and the mask, all of one shape; the mask comes first."""
        return list(np.broadcast_arrays(self.mask, *arrays))

    def _place(self, buffer: Buffer, at: Array, active: Array) -> Any:
        """Where the active lanes stand in the buffer's array, checked."""
        size = self._array(buffer).shape[-1]
        wrong = at[active & ((at < 0) | (at >= size))]
        if wrong.size:
            raise IndexError(f"{buffer.name}[{wrong.flat[0]}] of {size} elements")
        if buffer.local:
            return np.broadcast_to(self.row, at.shape)[active], at[active]
        return at[active]

    def _array(self, buffer: Buffer) -> Array:
        if buffer not in self.arrays:
            assert buffer.size is not None
            size = int(self.values(buffer.size)[0])
            self.arrays[buffer] = np.zeros((self.rows, size), MEMORY[buffer.dtype])
        return self.arrays[buffer]

    def _load(self, buffer: Buffer, at: Array, where: Array = np.True_) -> Array:
        active, at, where = self._active(at, where)
        active = active & where
        out = np.zeros(at.shape, MEMORY[buffer.dtype])
        out[active] = self._array(buffer)[self._place(buffer, at, active)]
        if buffer.dtype == "bf16":
            return (out.astype(np.uint32) << 16).view(np.float32)
        return out.astype(_VALUES[LOADED_AS[buffer.dtype]])

    # Statements

    def block(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            if isinstance(s, Store):
                self._store(s)
            elif isinstance(s, Check):
                slot, ok = self.values(s.slot, s.ok)
                active, ok, _ = self._active(ok, np.empty(self.shape, np.bool_))
                self.arrays[s.status][int(slot)] += np.count_nonzero(active & ~ok)
            elif isinstance(s, Fold):
                self._fold(s)
            elif isinstance(s, Loop):
                start, stop = self.values(s.start, s.stop)
                if s.kind in ("serial", "unrolled"):
                    self._turns(s.index, start, stop, partial(self.block, s.body))
                else:
                    self._side_by_side(s.index, start, stop, s.body, s.kind != "vector")
            elif isinstance(s, Split):
                for count, part in zip(self.values(*s.counts), s.bodies, strict=True):
                    self._side_by_side(s.index, np.int64(0), count, part, True)

    def _store(self, s: Store) -> None:
        where = self.values(s.where)[0] if s.where is not None else np.True_
        active, at, value, where = self._active(*self.values(s.at, s.value), where)
        active = active & where
        place = self._place(s.buffer, at, active)
        self._array(s.buffer)[place] = _stored(s.buffer.dtype, value[active])

    @contextmanager
    def _within(self, start: Array, stop: Array, index: Array) -> Iterator[None]:
        """Only who has the index in its bounds takes part."""
        outer = self.mask
        self.mask = outer & (index >= start) & (index < stop)
        yield
        self.mask = outer

    def _range(self, start: Array, stop: Array) -> tuple[int, int]:
        """The widest bounds of those that take part."""
        active, start, stop = self._active(start, stop)
        if not active.any():
            return 0, 0
        return int(start[active].min()), int(stop[active].max())

    def _side_by_side(
        self, index: Expr, start: Array, stop: Array, body: tuple[Stmt, ...], rows: bool
    ) -> None:
        first, last = self._range(start, stop)
        if first >= last:
            return
        outer = self.shape
        span = np.arange(first, last, dtype=np.int64).reshape(-1, *(1 for _ in outer))
        before = {b: a for b, a in self.arrays.items() if b.local}
        if rows:  # each has its own local memory, with what was put there before all rows
            self.row, self.rows = span - first, last - first
            self.arrays |= {b: np.repeat(a, last - first, axis=0) for b, a in before.items()}
        self.shape = (last - first, *outer)
        self.names["index", index.attr] = span
        with self._within(start, stop, span):
            self.block(body)
        self.shape = outer
        if rows:
            self.row, self.rows = np.int64(0), 1
            self.arrays = {b: a for b, a in self.arrays.items() if not b.local} | before

    def _turns(self, index: Expr, start: Array, stop: Array, turn: Callable[[], None]) -> None:
        for i in range(*self._range(start, stop)):
            self.names["index", index.attr] = np.int64(i)
            with self._within(start, stop, np.int64(i)):
                turn()

    def _fold(self, s: Fold) -> None:
        start, stop, *init = self.values(s.start, s.stop, *s.init)
        keys = [("var", v.attr) for v in s.acc]
        self.names.update(zip(keys, init, strict=True))

        def turn() -> None:
            before = [self.names[k] for k in keys]
            self.block(s.body)
            for k, new, old in zip(keys, self.values(*s.step), before, strict=True):
                self.names[k] = new if np.all(self.mask) else np.where(self.mask, new, old)

        self._turns(s.index, start, stop, turn)


def _stored(dtype: str, value: Array) -> Array:
    if dtype != "bf16":
        return value.astype(MEMORY[dtype])
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(value), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _fma(e: Expr, a: Array, b: Array, c: Array) -> Array:
    if e.dtype == "f32":
        return a.astype(np.float64) * b + c
    # Dekker's exact product and Knuth's exact sum: rounded once, but for ties of the remainder.
    split = [(x, (x * 134217729.0) - (x * 134217729.0 - x)) for x in (a, b)]
    (x, xh), (y, yh) = split
    product = a * b
    error = ((xh * yh - product) + xh * (y - yh) + (x - xh) * yh) + (x - xh) * (y - yh)
    total = product + c
    shadow = total - product
    exact = total + (((product - (total - shadow)) + (c - shadow)) + error)
    return np.where(np.isfinite(exact), exact, total)


def _divisor(e: Expr, a: Array, b: Array) -> Array:
    """1 instead of 0, and of -1 under the lowest number, as the printers have it."""
    lowest = np.iinfo(_VALUES[e.dtype]).min  # type: ignore[type-var]
    return np.where((b == 0) | ((b == -1) & (a == lowest)), b.dtype.type(1), b)


def _quotient(e: Expr, a: Array, b: Array) -> Array:
    b = _divisor(e, a, b)
    floor = a // b
    return floor + ((floor < 0) & (floor * b != a))


def _remainder(e: Expr, a: Array, b: Array) -> Array:
    return a - _quotient(e, a, b) * _divisor(e, a, b)


def _cast(e: Expr, a: Array) -> Array:
    if e.dtype == "bool":
        return a != 0
    if e.dtype in ("i32", "i64") and e.args[0].dtype in ("f32", "f64"):
        info = np.iinfo(_VALUES[e.dtype])  # type: ignore[type-var]
        wide = np.trunc(
            np.nan_to_num(np.asarray(a, np.float64), nan=0.0, posinf=2e19, neginf=-2e19)
        )
        inside = np.where(np.abs(wide) < 2.0**63, wide, 0.0).astype(np.int64)
        saturated = np.where(
            wide >= 2.0**63, info.max, np.where(wide < -(2.0**63), info.min, inside)
        )
        return np.clip(saturated, info.min, info.max)
    return a.astype(_VALUES[e.dtype])


def _shift(shift: Callable[[Array, Array], Array], unsigned: bool) -> Callable[..., Array]:
    def apply(e: Expr, a: Array, b: Array) -> Array:
        type_ = _VALUES[e.dtype]
        bits = np.dtype(type_).itemsize * 8
        amount = b & np.asarray(bits - 1, type_)
        if not unsigned:
            return shift(a, amount)
        plain = np.dtype(f"u{bits // 8}")
        return shift(a.view(plain), amount.astype(plain)).view(type_)

    return apply


def _high_product(e: Expr, a: Array, b: Array) -> Array:
    product = a.view(np.uint32).astype(np.uint64) * b.view(np.uint32)
    return (product >> np.uint64(32)).astype(np.uint32).view(np.int32)


def _plain(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda e, *args: function(*args)


def _precise(function: Callable[[Array], Array]) -> Callable[..., Array]:
    """In float64, so that the float32 result is the rounded truth."""
    return lambda e, a: function(np.asarray(a, np.float64))


def _ldexp(e: Expr, a: Array, n: Array) -> Array:
    steps = np.nan_to_num(np.floor(np.clip(n, -400, 400))).astype(np.int32)
    return np.ldexp(np.asarray(a, np.float64), steps) + np.where(np.isnan(n), n, 0)


_erf: Any = np.frompyfunc(math.erf, 1, 1)

_OPERATIONS: dict[str, Callable[..., Array]] = {
    "neg": _plain(np.negative),
    "abs": _plain(np.abs),
    "not": _plain(np.invert),
    "either": lambda e, fine, rough: fine,
    "fract": lambda e, a: np.where(np.isinf(a), 0, a - np.floor(a)),
    "ldexp": _ldexp,
    **{op: _plain(getattr(np, op)) for op in ("sqrt", "floor", "ceil", "trunc", "rint")},
    **{op: _precise(getattr(np, op)) for op in ("exp", "log", "sin", "cos", "tanh")},
    "erf": _precise(lambda a: np.asarray(_erf(a), np.float64)),
    "add": _plain(np.add),
    "sub": _plain(np.subtract),
    "mul": _plain(np.multiply),
    "div": _plain(np.divide),
    "min": _plain(np.minimum),
    "max": _plain(np.maximum),
    "idiv": _quotient,
    "irem": _remainder,
    "mulhi": _high_product,
    "and": _plain(np.bitwise_and),
    "or": _plain(np.bitwise_or),
    "xor": _plain(np.bitwise_xor),
    "shl": _shift(np.left_shift, False),
    "shr": _shift(np.right_shift, True),
    "sar": _shift(np.right_shift, False),
    "eq": _plain(np.equal),
    "ne": _plain(np.not_equal),
    "lt": _plain(np.less),
    "le": _plain(np.less_equal),
    "select": _plain(np.where),
    "fma": _fma,
    "cast": _cast,
    "bitcast": lambda e, a: a.view(_VALUES[e.dtype]),
}
