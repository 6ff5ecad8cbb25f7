"""Kernels whose rows are products of quantized blocks and a vector, as CUDA text (`gpu_dots.py`).

A group computes the sums of 16 rows together; then 16 threads have a row each, for what is made of
the sums. Where a sum is not finite, as it is made to be if memory begins at odd addresses, the row
is computed once more as the fold that it is. The parts of a launch share one text of the sums of a
quantized type: eight copies of it would not stay in the caches of instructions.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorlogic.codegen import forms, gpu_dots
from tensorlogic.codegen.clike import Printer
from tensorlogic.codegen.dialects import assemble
from tensorlogic.codegen.gpu_dots import ROWS, SIMDS
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
THREADS = 32 * SIMDS
ROOM = ROWS * SIMDS
"""Sums of one fold."""
FEW_GROUPS = 512
"""With fewer groups most of a large GPU waits for the first copies to arrive."""


def suits(kernel: Kernel, sizes: Mapping[str, float]) -> bool:
    """Whether a launch of these sizes is one of enough such rows, which lie in whole pieces."""
    parts = _parts(kernel)
    if not parts or kernel.locals:
        return False
    row = _row(kernel)
    try:
        many = groups(kernel, sizes) >= FEW_GROUPS
        return many and all(_suits(f, row, sizes) for _, body in parts for f in _folds(body))
    except KeyError:
        return False


def _row(kernel: Kernel) -> Expr:
    last = kernel.body[-1]
    assert isinstance(last, Loop | Split)
    return last.index


def _parts(kernel: Kernel) -> list[tuple[Expr, tuple[Stmt, ...]]]:
    """Counts of rows and what each row does, if all of them are dots and what is stored of them."""
    last = kernel.body[-1]
    if len(kernel.body) != 1:
        return []
    if not isinstance(last, Loop | Split):
        return []
    if isinstance(last, Loop) and not (last.kind == "parallel" and _is_zero(last.start)):
        return []
    parts = _parts_of(last)
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
    if (
        d.x.dtype != "f16"
        or d.x.written
        or not gpu_dots.can_multiply(d.quant)
        or not _linear(d.at, row)
    ):
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
    """Groups of a launch."""
    return sum(-(-forms.uniform(count, sizes) // ROWS) for count, _ in _parts(kernel))


def render(kernel: Kernel, name: str, index: str) -> str:
    """The whole text of a kernel that has a shape."""
    printer = DotText(kernel, index)
    printer.top(kernel.body)
    functions = "".join(gpu_dots.functions(QUANTS[k]) for k in printer.kinds)
    body = functions + printer.text(name, THREADS)
    return assemble("cuda", body, index, gpu_dots.PRELUDE)


class DotText(Printer):
    """Prints the rows of such a kernel."""

    def __init__(self, kernel: Kernel, index: str) -> None:
        super().__init__(kernel, forms.Form(width=forms.SIMD, index=index))
        self._group_memory = MEMORY
        every = [_dots(body) for _, body in _parts(kernel)]
        self.kinds = sorted({d.quant for dots in every for d in dots})
        self.slots = max(map(len, every))
        size = max(gpu_dots.stages(QUANTS[k]) * gpu_dots.stage_bytes(QUANTS[k]) for k in self.kinds)
        self.stage = self.array("uchar", self.unique("stage"), size)
        self.totals = self.array("float", self.unique("totals"), self.slots * ROOM)

    def range(self, last: Stmt, place: str) -> None:
        """First what each group multiplies, then that, once in the text for each type, and then
        what its rows make of the sums."""
        assert isinstance(last, Loop | Split)
        at, row0 = self.unique("at"), self.unique(f"{last.index.attr}0")
        self.line(f"index_t {at} = GROUP, {row0};")
        parts = _parts_of(last)
        names = [
            {n: self.unique(n) for n in ("weights", "stride", "rows", "vector", "chunks", "kind")}
            for _ in range(self.slots)
        ]
        for k in names:
            self.line(
                f"const uchar* {k['weights']}; index_t {k['stride']}; const half* {k['vector']};"
            )
            self.line(f"int {k['rows']}, {k['chunks']}, {k['kind']} = -1;")
        part, first = self.unique("part"), "0"
        self.line(f"int {part} = -1;")
        for number, (count, body) in enumerate(parts):
            end, stop = self.unique("end"), self.expr(count)
            sets = f"({stop} + {ROWS - 1}) / {ROWS}"
            self.line(f"const index_t {end} = {sets if first == '0' else f'{first} + {sets}'};")
            with self.block(f"if ({at} >= {first} && {at} < {end})"):
                self.line(f"{part} = {number};")
                self.line(f"{row0} = ({at} - {first}) * {ROWS};")
                self.env["index", last.index.attr] = (row0, len(self.chain) - 1)
                for k, d in zip(names, _dots(body), strict=False):
                    self.operands(k, d, last.index, stop, row0)
            first = end
        for slot, k in enumerate(names):
            for kind, quant in enumerate(self.kinds):
                with self.block(f"if ({k['kind']} == {kind})"):
                    self.line(
                        f"dots_{quant}({k['weights']}, {k['stride']}, {k['rows']}, {k['vector']}, "
                        f"{k['chunks']}, {self.stage}, {self.totals} + {slot * ROOM});"
                    )
        self.line("GROUP_BARRIER();")
        for number, (count, body) in enumerate(parts):
            with self.block(f"if ({part} == {number})"):
                self.load_floor = len(self.chain) - 1
                self.start_rows()
                self.sixteen(last.index, row0, self.expr(count), body)

    def operands(self, k: Mapping[str, str], d: BlockDot, row: Expr, stop: str, row0: str) -> None:
        """What the rows from row0 on multiply."""
        by = {n: n + 1 for n in nodes_of(d.at) if _is_row(n, row)}
        begin, second = self.expr(d.at), self.expr(replaced(d.at, by, {}))
        chunks = f"{self.expr(d.blocks)} / {gpu_dots.blocks_at_once(QUANTS[d.quant])}"
        self.line(f"{k['weights']} = {self.c_names[d.weights]} + {begin};")
        self.line(f"{k['stride']} = {second} - {begin};")
        self.line(f"{k['rows']} = int({stop} - {row0});")
        self.line(f"{k['vector']} = {self.c_names[d.x]} + {self.expr(d.x_at)};")
        self.line(f"{k['chunks']} = int({chunks});")
        self.line(f"{k['kind']} = {self.kinds.index(d.quant)};")

    def sixteen(self, row: Expr, row0: str, stop: str, body: tuple[Stmt, ...]) -> None:
        """What the rows from row0 on make of their sums."""
        folds = _folds(body)
        for slot, fold in enumerate(folds):
            self.add_again_rows(slot, fold, row, row0, stop)
        mine = self.unique(row.attr)
        self.line(f"const index_t {mine} = {row0} + THREAD;")
        with self.block(f"if (THREAD < {ROWS} && {mine} < {stop})"):
            here = len(self.chain) - 1
            self.load_floor = here
            self.env["index", row.attr] = (mine, here)
            for slot, fold in enumerate(folds):
                (acc,) = fold.acc
                name = self.unique(acc.attr)
                self.line(f"const float {name} = {self.total(slot, 'THREAD')};")
                self.env["var", acc.attr] = (name, here)
            self.alone = True
            self.statements(body[len(folds) :])
            self.alone = False

    def total(self, slot: int, row: str) -> str:
        """A row's sum: that of what each simdgroup has found."""
        places = [slot * ROOM + s * ROWS for s in range(SIMDS)]
        return " + ".join(f"{self.totals}[{p} + {row}]" for p in places)

    def add_again_rows(self, slot: int, fold: Fold, row: Expr, row0: str, stop: str) -> None:
        """Sums that are not finite are made once more, as the folds that they are."""
        (acc,) = fold.acc
        with self.block(f"if (any_lane(not_finite({self.total(slot, f'LANE % {ROWS}')})))"):
            i, mine = self.unique("i"), self.unique(row.attr)
            self.line("GROUP_BARRIER();")
            with self.block(f"for (int {i} = int(SIMDGROUP); {i} < {ROWS}; {i} += {SIMDS})"):
                here = len(self.chain) - 1
                self.load_floor = here
                self.line(f"const index_t {mine} = {row0} + {i};")
                self.line(f"if ({mine} >= {stop} || !not_finite({self.total(slot, i)})) continue;")
                self.env["index", row.attr] = (mine, here)
                before = {p: set(h) for p, h in self.hazards.state.items()}
                self.loop(fold)
                self.hazards.leave(before)
                for s in range(SIMDS):
                    value = self.env["var", acc.attr][0] if s == 0 else "0.0f"
                    self.line(f"{self.totals}[{slot * ROOM + s * ROWS} + {i}] = {value};")
            self.line("GROUP_BARRIER();")


def _dots(body: tuple[Stmt, ...]) -> list[BlockDot]:
    return [f.dot for f in _folds(body) if f.dot is not None]


def _parts_of(last: Loop | Split) -> list[tuple[Expr, tuple[Stmt, ...]]]:
    if isinstance(last, Split):
        return list(zip(last.counts, last.bodies, strict=True))
    return [(last.stop, last.body)]
