"""Panels of words out of lines of sixteen rows (llvm_interleaved.py), for products of many rows.

A line has its rows side by side as a panel has its columns, so that nothing is transposed: words
are digits two bytes apart.
"""

from __future__ import annotations

from tensorlogic.codegen.emit import Module, Value, constant, vector
from tensorlogic.codegen.llvm_block_panels import PANEL_ARGS
from tensorlogic.codegen.llvm_interleaved import (
    LINE,
    LINES,
    REAL,
    ROWS,
    WHOLE,
    Lines,
    Scales,
    Unit,
)
from tensorlogic.codegen.llvm_unit import RUN

_PAIRS = ((0, None, 1, None), (2, None, 3, None))
"""The bytes of a word as two words."""
_HALVES = vector("i16", 2 * ROWS)


def pack_columns_name(name: str, nr: int) -> str:
    return f"columns{nr}_{name}_lines"


def pack_columns(module: Module, name: str, nr: int) -> None:
    """columns(w, stride, last, blocks, words, scales, least, columns): as llvm_block_panels.py has
    it, of groups from w on; in place of a group beyond the one with `last` that one is taken."""
    lines = LINES[name]
    f = module.function(pack_columns_name(name, nr), PANEL_ARGS)
    units = f.op("sdiv", "i64", "%blocks", str(lines.type.blocks))
    last = f.op("and", "i64", "%last", str(-ROWS))
    with f.loop(0, nr, ROWS) as c:
        group = f.gep("i8", "%w", f.mul(f.smin(c.index, last), "%stride"))
        with f.loop(0, units) as u:
            unit = Unit(f, f.gep("i8", group, f.mul(u.index, ROWS * lines.type.nbytes)))
            _Panel(lines, unit, nr, u.index, c.index).write()
    f.ret()


class _Panel:
    """A unit of a group in the panel of `nr` columns: unit `u`, from column `column` on."""

    def __init__(self, lines: Lines, unit: Unit, nr: int, u: Value, column: Value) -> None:
        self.f, self.lines, self.unit, self.nr = unit.f, lines, unit, nr
        self.u, self.column = u, column

    def write(self) -> None:
        scales = self.lines.scales(self.unit)
        for s, words in enumerate(self.lines.parts):
            by = self._factor(scales, s) if scales.numbers else ""
            for word in words:
                digits = self.unit.digits(word, moved=True)
                for i, order in enumerate(_PAIRS):
                    pair = self._word(self.unit.bytes(digits, order), by)
                    self._store("%words", (RUN * word.run + word.at) // 2 + i, WHOLE, pair)
        if scales.numbers:
            self._whole_scales(scales)
            return
        for s, scale in enumerate(scales.real):
            self._store("%scales", s, REAL, scale)

    def _factor(self, scales: Scales, s: int) -> Value:
        """The scale of a part in both halves of each word."""
        found = self.unit.bytes(scales.numbers[s // 4], (s % 4, None, s % 4, None))
        return self.f.cast("bitcast", WHOLE, found, _HALVES)

    def _word(self, pair: Value, by: Value) -> Value:
        """Two digits less the zero, times the scale if that is a whole number."""
        f, zero = self.f, self.lines.zero
        x = f.cast("bitcast", WHOLE, pair, _HALVES)
        if zero:
            x = f.op("sub", _HALVES, x, constant("i16", 2 * ROWS, str(zero)))
        if by:
            x = f.op("mul", _HALVES, x, by)
        return f.cast("bitcast", _HALVES, x, WHOLE)

    def _whole_scales(self, scales: Scales) -> None:
        """What is left of scales and minimums that are whole numbers; a slice is one unit then."""
        factor, of_least = scales.factors
        self._store("%scales", 0, REAL, factor)
        pairs = [self.unit.bytes(x, order) for x in scales.least for order in _PAIRS]
        for i, pair in enumerate(pairs):
            self._store("%least", i, WHOLE, pair)
        self._store("%least", len(pairs), REAL, self.f.op("fneg", REAL, of_least))

    def _store(self, base: Value, line: int, type_: str, x: Value) -> None:
        """Line `line` of the unit in a part of the panel."""
        f, t = self.f, self.lines.type
        own = t.unit // 2 if base == "%words" else t.subs
        place = f.mul(f.add(f.mul(self.u, own), line), self.nr)
        f.store(type_, x, f.gep("float", base, f.add(place, self.column)), LINE)
