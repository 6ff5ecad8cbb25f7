"""Kernels whose folds are rows of blocks times a vector (`BlockDot`).

A thread rounds each vector to integers once, into its scratch memory. Then it takes some rows at a
time: their sums come from `dots` (llvm_dots.py), and what the kernel does with them is a loop over
these rows, in lanes where nothing else is folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tensorlogic.codegen import llvm_interleaved
from tensorlogic.codegen.emit import Module, Value
from tensorlogic.codegen.instructions import STORED
from tensorlogic.codegen.llvm import Emitter, emit_kernel, row_loops
from tensorlogic.codegen.llvm_blocks import BLOCKS
from tensorlogic.codegen.llvm_dots import (
    dots_library,
    dots_name,
    quantize_library,
    quantize_name,
    record_bytes,
)
from tensorlogic.codegen.llvm_interleaved import ROWS
from tensorlogic.codegen.llvm_unit import Target
from tensorlogic.kernels.ir import (
    BlockDot,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Stmt,
    Store,
    binary,
    bodies_of,
    expr_text,
    load,
    param,
)
from tensorlogic.kernels.rename import Renaming

TILE = 64
"""Rows whose sums are kept at a time."""
Types = frozenset[str]
"""The quantized types of which the processor has dots."""


def emit_dot_kernel(
    module: Module, kernel: Kernel, name: str, lanes: int, types: Types, streams: bool = False
) -> None:
    """Add the kernel's function to a module, with dots for these types."""
    found = vectors(kernel, types)
    if not found:
        emit_kernel(module, kernel, name, lanes, streams=streams)
        return
    areas = {key: record_size(dot) for key, dot in found.items()}
    emit_kernel(module, kernel, name, lanes, partial(RowEmitter, types=types), areas)


def dot_libraries(
    kernel: Kernel, types: Types, target: Target
) -> list[tuple[str, tuple[str, ...]]]:
    """The modules that such a kernel imports, and their functions."""
    made: dict[str, tuple[str, ...]] = {}
    for dot in vectors(kernel, types).values():
        made |= [quantize_library(dot.quant, dot.x.dtype, target)]
    for dot in dots_of(kernel, types):
        library = llvm_interleaved.dots_library if dot.interleaved else dots_library
        made |= [library(dot.quant, 1, target)]
    return list(made.items())


def vectors(kernel: Kernel, types: Types) -> dict[str, BlockDot]:
    """The vectors that a kernel rounds to integers, by a text that tells them apart: a dot of
    each."""
    return {_vector_of(dot): dot for dot in dots_of(kernel, types)}


def dots_of(kernel: Kernel, types: Types) -> list[BlockDot]:
    """The dots of the rows of a kernel."""
    return [s.dot for body in bodies_of(kernel) for s in _dots(body, types) if s.dot]


def record_size(dot: BlockDot) -> Expr:
    """Bytes of scratch memory for the records of a dot's vector (i64)."""
    t = BLOCKS[dot.quant]
    return binary("idiv", dot.blocks + (t.blocks - 1), t.blocks) * record_bytes(t)


def _dots(body: Sequence[Stmt], types: Types) -> list[Fold]:
    return [s for s in body if isinstance(s, Fold) and s.dot is not None and s.dot.quant in types]


def _vector_of(dot: BlockDot) -> str:
    return f"{dot.quant} {dot.x.name}[{expr_text(dot.x_at)}] {expr_text(dot.blocks)}"


class RowEmitter(Emitter):
    """An emitter whose rows use dots where their folds are that."""

    def __init__(self, *args: Any, types: Types) -> None:
        super().__init__(*args)
        self._types = types

    def before(self, kernel: Kernel) -> None:
        """The records of each vector are made, too."""
        super().before(kernel)
        folds = [fold for loop in row_loops(kernel.body[-1]) for fold in self._strides(loop)]
        for key, dot in {_vector_of(fold.dot): fold.dot for fold in folds if fold.dot}.items():
            x = self.f.gep(STORED[dot.x.dtype], self.pointers[dot.x], self.scalar(dot.x_at))
            given = (("ptr", x), ("ptr", self.areas[key]), ("i64", self.scalar(dot.blocks)))
            self.f.call("void", quantize_name(dot.quant, dot.x.dtype), *given)

    def rows(self, s: Loop, first: Value, last: Value) -> None:
        strides = self._strides(s)
        if not strides:
            self.loop(s, first, last)
            return
        f = self.f
        with f.when(f.icmp("slt", "i64", first, last)), self.scope():
            sums = {d: Buffer(f"sums{i}", "f32") for i, d in enumerate(strides)}
            # Groups of interleaved rows reach beyond both ends of a tile.
            rooms = {b: f.alloca("float", TILE + 2 * ROWS) for b in sums.values()}
            self.pointers |= {b: f.gep("float", room, ROWS) for b, room in rooms.items()}
            by = {d: self.scalar(n) if isinstance(n, Expr) else str(n) for d, n in strides.items()}
            top, bottom = param("tile_top"), param("tile_bottom")
            with f.loop(first, last, TILE) as tile, self.scope():
                end = f.smin(f.add(tile.index, TILE), last)
                self.bind(top, tile.index)
                self.bind(bottom, end)
                for fold, buffer in sums.items():
                    self._sums(s, fold, (tile.index, f.sub(end, tile.index)), by, buffer)
                body = self._with_sums(s, sums, top)
                plain = all(isinstance(t, Store | Check) for t in body)
                kind = "vector" if plain else "serial"
                self.loop(Loop(s.index, top, bottom, kind, body), tile.index, end)

    def _strides(self, s: Loop) -> dict[Fold, int | Expr]:
        """The dots of the rows, with the bytes from row to row of their blocks."""
        found: dict[Fold, int | Expr] = {}
        with self.scope(0, (), (s.index,)):
            for fold in _dots(s.body, self._types):
                assert fold.dot is not None
                at, x_at = (self.known.intern(e) for e in (fold.dot.at, fold.dot.x_at))
                stride = self.step(at)
                if stride is not None and not self.varies(x_at):
                    found[fold] = stride
                elif fold.dot.interleaved:
                    raise ValueError("a dot of interleaved rows whose rows can't be told")
        return found

    def _sums(
        self,
        s: Loop,
        fold: Fold,
        rows: tuple[Value, Value],
        strides: Mapping[Fold, Value],
        to: Buffer,
    ) -> None:
        """The sums of some rows: `rows` are the first one and their number."""
        f, dot = self.f, fold.dot
        assert dot is not None
        with self.scope():
            self.bind(s.index, rows[0])
            at = self.scalar(dot.at)
        blocks, count, out, name = self.scalar(dot.blocks), rows[1], self.pointers[to], dots_name
        if dot.interleaved:  # from the first row of a group on, and so are the sums
            name = llvm_interleaved.dots_name
            before = f.op("and", "i64", f.op("sdiv", "i64", at, strides[fold]), str(ROWS - 1))
            at = f.sub(at, f.mul(before, strides[fold]))
            out, count = f.gep("float", out, f.sub(0, before)), f.add(count, before)
        w = f.gep("i8", self.pointers[dot.weights], at)
        given = [("ptr", w), ("i64", strides[fold]), ("i64", count)]
        given += [("ptr", self.areas[_vector_of(dot)]), ("i64", "0"), ("i64", blocks)]
        given += [("ptr", out), ("i64", "0")]
        f.call("void", name(dot.quant, 1), *given)

    @staticmethod
    def _with_sums(s: Loop, sums: Mapping[Fold, Buffer], top: Expr) -> tuple[Stmt, ...]:
        """The body without these folds, and with their results read from memory."""
        by = {fold.acc[0].attr: load(b, s.index - top) for fold, b in sums.items()}
        rename = Renaming({}, by)
        return tuple(rename(t) for t in s.body if t not in sums)
