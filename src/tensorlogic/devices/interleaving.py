"""Which steps read their quantized weights from lines of sixteen rows (llvm_interleaved.py).

Those that multiply with a whole leaf, or with whole groups of its rows. A leaf that is used in
another way too is read there from where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensorlogic.codegen.llvm_interleaved import LINES, ROWS, available
from tensorlogic.devices.products import target
from tensorlogic.graph import Node
from tensorlogic.kernels.interpret import evaluate
from tensorlogic.kernels.ir import (
    BlockDot,
    Buffer,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    bodies_of,
    exprs_of,
    nodes_of,
    walk,
    with_bodies,
)
from tensorlogic.kernels.spec import Matmul
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.emit import Step

_LINEAR = frozenset({"add", "mul", "const", "param", "index"})
Numbers = dict[str, float]


def interleaved(steps: Sequence[Step]) -> list[Step]:
    """The steps, of which some read interleaved rows."""
    if not available(target()):
        return list(steps)
    made: dict[tuple[int, frozenset[int]], Kernel] = {}
    return [_product(s) if isinstance(s.kernel, Matmul) else _rows(s, made) for s in steps]


def row_bytes(node: Node, quant: str) -> int:
    """Bytes of a row of a leaf that can be interleaved as that type, else 0."""
    data, lines = node.data, LINES.get(quant)
    if data is None or lines is None or data.storage != quant or not data.memory.constant:
        return 0
    depth = node.shape[-1]
    if not depth or depth % lines.type.unit or node.size // depth % ROWS:
        return 0
    return depth // lines.type.unit * lines.type.nbytes


def _product(step: Step) -> Step:
    spec, use = step.kernel, step.buffers[1]
    assert isinstance(spec, Matmul)
    if spec.exact or use is None or spec.b_dtype not in LINES:
        return step
    (node, offset), size = use, step.sizes()
    stride = row_bytes(node, spec.b_dtype)
    if not stride or step.problem[2] != node.shape[-1] or size["b_n"] != stride:
        return step
    assert node.data is not None
    if (offset - node.data.offset) % (ROWS * stride) or size["b_batch"] % (ROWS * stride):
        return step
    kernel = replace(spec, interleaved=True)
    return replace(step, kernel=kernel, interleaved=frozenset([1]))


def _rows(step: Step, made: dict[tuple[int, frozenset[int]], Kernel]) -> Step:
    kernel = step.kernel
    if not isinstance(kernel, Kernel):
        return step
    numbers = step.sizes()
    folds = {s: s.dot for s in _direct_folds(kernel) if s.dot is not None}
    good = {s for s, dot in folds.items() if _suits(step, kernel, dot, numbers)}
    rest = tuple(s for body in bodies_of(kernel) for s in body if s not in good)
    others = [e for s in walk((*kernel.body[:-1], *rest)) for e in exprs_of(s)]
    read = {_buffer(n) for n in nodes_of(*others)}
    read |= {dot.weights for s, dot in folds.items() if s not in good}
    chosen = {s for s in good if folds[s].weights not in read}
    if not chosen:
        return step
    where = frozenset(kernel.buffers.index(folds[s].weights) for s in chosen)
    key = id(kernel), where
    if key not in made:
        made[key] = _with_lines(kernel, chosen)
    return replace(step, kernel=made[key], interleaved=where)


def _buffer(e: Expr) -> Buffer | None:
    return e.attr if e.op == "load" else None


def _direct_folds(kernel: Kernel) -> list[Fold]:
    return [s for body in bodies_of(kernel) for s in body if isinstance(s, Fold)]


def _suits(step: Step, kernel: Kernel, dot: BlockDot, numbers: Numbers) -> bool:
    """Whether the rows of a dot are neighbouring rows of a leaf."""
    use = step.buffers[kernel.buffers.index(dot.weights)]
    if use is None or dot.quant not in LINES:
        return False
    stride = row_bytes(use[0], dot.quant)
    data = use[0].data
    if not stride or data is None or use[1] != data.offset:
        return False
    last = kernel.body[-1]
    assert isinstance(last, Loop | Split)
    row = last.index.attr
    fixed = all(n.attr != row for n in nodes_of(dot.x_at, dot.blocks) if n.op == "index")
    if not fixed or any(n.op not in _LINEAR for n in nodes_of(dot.at)):
        return False
    if any(n.op == "param" and n.attr not in numbers for n in nodes_of(dot.at, dot.blocks)):
        return False
    if any(n.op == "index" and n.attr != row for n in nodes_of(dot.at)):
        return False
    first, second, third = (int(evaluate(dot.at, {**numbers, row: i})) for i in range(3))
    depth = int(evaluate(dot.blocks, numbers)) * QUANTS[dot.quant].block
    even = third - second == second - first == stride and first % stride == 0
    return even and depth == use[0].shape[-1]


def _with_lines(kernel: Kernel, folds: set[Fold]) -> Kernel:
    def changed(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return tuple(
            replace(s, dot=replace(s.dot, interleaved=True)) if s in folds and s.dot else s
            for s in body
        )

    return with_bodies(kernel, tuple(map(changed, bodies_of(kernel))))
