"""Kernels whose rows are products of quantized blocks and a vector, as CUDA text (`gpu_dots.py`).

A group computes the sums of 16 rows together; then each of its simdgroups has rows of its own, for
what is made of the sums. Where a sum is not finite, or memory begins at odd addresses, the row is
computed once more as the fold that it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as changed

from tensorlogic.codegen import forms, gpu_dots
from tensorlogic.codegen.c_text import bare
from tensorlogic.codegen.clike import Printer
from tensorlogic.codegen.dialects import assemble
from tensorlogic.codegen.gpu_dots import ROWS, Shape
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import (
    BlockDot,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    const,
    nodes_of,
    replaced,
)
from tensorlogic.quants import QUANTS

MEMORY = 48 * 1024
"""Bytes of threadgroup memory that such a kernel may use."""
FEW_GROUPS = 128
"""With fewer groups most of a large GPU would have nothing to do."""
MANY_GROUPS = 1024
"""With more groups two simdgroups each are enough, which then have longer ways to go."""


def shape_for(kernel: Kernel, sizes: Mapping[str, float]) -> Shape | None:
    """How groups share out the rows of a launch of these sizes; None if the kernel is of another
    kind or its rows do not lie in whole pieces."""
    parts = _parts(kernel)
    if not parts or kernel.locals:
        return None
    try:
        groups = sum(-(-forms.uniform(count, sizes) // ROWS) for count, _ in parts)
        folds = [(f, index) for _, body in parts for f in _folds(body) for index in [_row(kernel)]]
        if not all(_suits(f, row, sizes) for f, row in folds):
            return None
    except KeyError:
        return None
    if groups < FEW_GROUPS:
        return None
    return Shape(3, 2) if groups >= MANY_GROUPS else Shape(2, 4)


def _row(kernel: Kernel) -> Expr:
    last = kernel.body[-1]
    assert isinstance(last, Loop | Split)
    return last.index


def _parts(kernel: Kernel) -> list[tuple[Expr, tuple[Stmt, ...]]]:
    """Counts of rows and what each row does, if all of them are dots and what is stored of them."""
    last = kernel.body[-1]
    if len(kernel.body) != 1:
        return []
    if isinstance(last, Split):
        parts = list(zip(last.counts, last.bodies, strict=True))
    elif isinstance(last, Loop) and last.kind == "parallel" and _is_zero(last.start):
        parts = [(last.stop, last.body)]
    else:
        return []
    for _, body in parts:
        folds = _folds(body)
        if not folds or not all(isinstance(s, Store | Check) for s in body[len(folds) :]):
            return []
        if any(f.dot is None for f in folds):
            return []
    return parts


def _is_zero(e: Expr) -> bool:
    return e.op == "const" and e.attr == 0


def _folds(body: tuple[Stmt, ...]) -> list[Fold]:
    """The folds that a row begins with."""
    out: list[Fold] = []
    for s in body:
        if not isinstance(s, Fold):
            break
        out.append(s)
    return out


def _suits(fold: Fold, row: Expr, sizes: Mapping[str, float]) -> bool:
    """Whether rows of blocks are whole chunks, a multiple of 16 bytes apart."""
    d = fold.dot
    assert d is not None
    if d.x.dtype != "f16" or not gpu_dots.can_multiply(d.quant) or not _linear(d.at, row):
        return False
    blocks = forms.uniform(d.blocks, sizes)
    first, second = (_address(d, row, n, sizes) for n in (0, 1))
    whole = blocks % gpu_dots.blocks_at_once(QUANTS[d.quant]) == 0
    return whole and first % 16 == 0 and (second - first) % 16 == 0


def _address(d: BlockDot, row: Expr, at: int, sizes: Mapping[str, float]) -> int:
    by = {n: const(at, "i64") for n in nodes_of(d.at) if _is_row(n, row)}
    return int(evaluate(replaced(d.at, by, {}), sizes))


def _is_row(n: Expr, row: Expr) -> bool:
    return n.op == "index" and n.attr == row.attr


def _linear(e: Expr, row: Expr) -> bool:
    """Whether an address is a multiple of the row and what does not depend on it."""
    if not any(_is_row(n, row) for n in nodes_of(e)) or _is_row(e, row):
        return True
    within = [any(_is_row(n, row) for n in nodes_of(a)) for a in e.args]
    parts = all(_linear(a, row) for a in e.args)
    return parts and (e.op in ("add", "sub") or (e.op == "mul" and not all(within)))


def groups(kernel: Kernel, sizes: Mapping[str, float]) -> int:
    return sum(-(-forms.uniform(count, sizes) // ROWS) for count, _ in _parts(kernel))


def render(kernel: Kernel, name: str, shape: Shape, index: str) -> str:
    """The whole text of a kernel that has a shape."""
    printer = DotText(kernel, shape, index)
    printer.top(kernel.body)
    kinds = {f.dot.quant for _, body in _parts(kernel) for f in _folds(body) if f.dot is not None}
    functions = "".join(gpu_dots.functions(QUANTS[k], shape) for k in sorted(kinds))
    body = functions + printer.text(name, shape.threads)
    return assemble("cuda", body, index, gpu_dots.PRELUDE)


class DotText(Printer):
    """Prints the rows of such a kernel."""

    def __init__(self, kernel: Kernel, shape: Shape, index: str) -> None:
        super().__init__(kernel, forms.Form(width=forms.SIMD, index=index))
        self.shape = shape
        self._group_memory = MEMORY
        every = [_folds(body) for _, body in _parts(kernel)]
        kinds = {f.dot.quant for folds in every for f in folds if f.dot is not None}
        size = max(gpu_dots.stage_bytes(QUANTS[k], shape) for k in kinds)
        self.stage = self.array("uchar", self.unique("stage"), size)
        count = max(len(folds) for folds in every) * self.sums_of_fold
        self.totals = self.array("float", self.unique("sums"), count)

    @property
    def sums_of_fold(self) -> int:
        return self.shape.simds * ROWS

    def range(self, last: Stmt, place: str) -> None:
        at, first = self.unique("at"), "0"
        self.line(f"const index_t {at} = GROUP;")
        assert isinstance(last, Loop | Split)
        for count, part in _counted(last):
            end = self.unique("end")
            stop = self.expr(count)
            sets = f"({stop} + {ROWS - 1}) / {ROWS}"
            self.line(f"const index_t {end} = {sets if first == '0' else f'{first} + {sets}'};")
            with self.block(f"if ({at} < {end})"):
                self.load_floor = len(self.chain) - 1
                row0 = self.unique(f"{last.index.attr}0")
                turn = at if first == "0" else f"({at} - {first})"
                self.line(f"const index_t {row0} = {turn} * {ROWS};")
                self.start_rows()
                self.sixteen(last.index, row0, stop, part)
                self.line("return;")
            first = end

    def sixteen(self, row: Expr, first: str, stop: str, body: tuple[Stmt, ...]) -> None:
        """The rows from `first` on."""
        folds = _folds(body)
        for k, fold in enumerate(folds):
            self.dots(k, fold, row, first, stop)
        self.line("GROUP_BARRIER();")
        i = self.unique("i")
        header = f"for (int {i} = int(SIMDGROUP); {i} < {ROWS}; {i} += {self.shape.simds})"
        with self.block(header):
            mine = self.unique(row.attr)
            self.line(f"const index_t {mine} = {first} + {i};")
            self.line(f"if ({mine} >= {stop}) break;")
            self.env["index", row.attr] = (mine, len(self.chain) - 1)
            self.load_floor = len(self.chain) - 1
            for k, fold in enumerate(folds):
                self.total(k, fold, i)
            self.statements(body[len(folds) :])

    def dots(self, k: int, fold: Fold, row: Expr, first: str, stop: str) -> None:
        """The sums of a fold for all of the rows."""
        d = fold.dot
        assert d is not None
        self.env["index", row.attr] = (first, len(self.chain) - 1)
        by = {n: n + 1 for n in nodes_of(d.at) if _is_row(n, row)}
        begin, second = self.expr(d.at), self.expr(replaced(d.at, by, {}))
        chunks = f"int({self.expr(d.blocks)} / {gpu_dots.blocks_at_once(QUANTS[d.quant])})"
        weights, x = self.c_names[d.weights], self.c_names[d.x]
        self.line(
            f"dots_{d.quant}({weights} + {begin}, {second} - {begin}, int({stop} - {first}), "
            f"{x} + {self.expr(d.x_at)}, {chunks}, {self.stage}, "
            f"{self.totals} + {k * self.sums_of_fold});"
        )

    def total(self, k: int, fold: Fold, i: str) -> None:
        """The sum of one row, computed anew as the fold if it is not finite."""
        (acc,) = fold.acc
        name = self.unique(acc.attr)
        parts = [k * self.sums_of_fold + s * ROWS for s in range(self.shape.simds)]
        sums = " + ".join(f"{self.totals}[{p} + {i}]" for p in parts)
        self.line(f"float {name} = {sums};")
        before = {p: set(h) for p, h in self.hazards.state.items()}
        with self.block(f"if ((as_int({name}) & 0x7f800000) == 0x7f800000)"):
            self.load_floor = len(self.chain) - 1
            self.loop(changed(fold, dot=None))
            self.line(f"{name} = {bare(self.env['var', acc.attr][0])};")
        self.hazards.leave(before)
        self.env["var", acc.attr] = (name, len(self.chain) - 1)


def _counted(last: Loop | Split) -> list[tuple[Expr, tuple[Stmt, ...]]]:
    if isinstance(last, Split):
        return list(zip(last.counts, last.bodies, strict=True))
    return [(last.stop, last.body)]
