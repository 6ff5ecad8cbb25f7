"""What lowering notes down for emission: buffers, checks, folds and products of one kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorlogic import ops
from tensorlogic.graph import Node
from tensorlogic.kernels.ir import Expr
from tensorlogic.schedule.affine import Affine, LoopVar
from tensorlogic.schedule.windows import Borders


@dataclass(eq=False)
class BufferRef:
    """A buffer of a kernel: the memory of a node, seen as elements of `dtype`."""

    node: Node
    dtype: str
    written: bool = False


@dataclass(eq=False)
class CheckRecord:
    """What a status slot counts: `kind` and `node` say which error it stands for."""

    kind: str
    node: Node
    ok: Expr


@dataclass(eq=False)
class FoldRecord:
    """A reduction inside a kernel: its loops, what it folds, and where its result is."""

    variables: list[LoopVar]
    fold: ops.Fold
    element: tuple[Expr, ...]
    result: tuple[Expr, ...]
    init: tuple[Expr, ...]
    checks: list[CheckRecord] = field(default_factory=list)
    dot: DotRecord | None = None


@dataclass(frozen=True)
class DotRecord:
    """A fold that is a row of blocks times a vector: byte address and vector without the fold's
    loops."""

    quant: str
    blocks: int
    weights: BufferRef
    at: Affine
    x: BufferRef
    x_at: Affine


@dataclass(frozen=True)
class Product:
    """A matrix product that the kernel is built around: the loads of its operands, its depth, and
    what b is read through. Of a quantized b (`quant` is its type) the address counts elements."""

    node: Node
    a: Expr
    b: Expr
    k: Affine
    borders: Borders
    quant: str = ""
