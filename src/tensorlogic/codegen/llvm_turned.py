"""Lines that are stored across local memory, as columns: tiles are transposed in registers.

Line by line each vector would be scattered, which costs a store for each element.
"""

from __future__ import annotations

from tensorlogic.codegen.emit import Value, vector
from tensorlogic.codegen.instructions import STORED, TYPES, stored
from tensorlogic.codegen.llvm_packing import transposed
from tensorlogic.codegen.values import Values
from tensorlogic.kernels.ir import BYTES, Fold, Loop, Store


def lines_of(v: Values, s: Loop | Fold) -> Loop | None:
    """The loop along a line, if the loop `s` stores lines of 32-bit elements as columns."""
    if s.kind != "serial" or isinstance(s, Fold) or len(s.body) != 1 or v.full < 4:
        return None
    (line,) = s.body
    if not isinstance(line, Loop) or line.kind != "vector":
        return None
    for t in line.body:
        if not isinstance(t, Store) or not t.buffer.local or t.where is not None:
            return None
        if BYTES[t.buffer.dtype] != 4:
            return None
        at = v.known.intern(t.at)
        for index, one in ((s.index, True), (line.index, False)):
            with v.scope(v.full, (), (index,)):
                v.bind(index, "0")
                if v.step(at) is None or (v.step(at) == 1) != one:
                    return None
    return line


def tiles(v: Values, s: Loop, line: Loop, start: Value, stop: Value) -> tuple[Value, Value]:
    """All whole tiles of the lines [start, stop): how many lines, and where in a line, they end."""
    f, lanes = v.f, v.full
    first = v.scalar(line.start)

    def whole(low: Value, high: Value) -> Value:
        length = f.smax(f.sub(high, low), 0)  # a square beyond the rim has fewer than none
        return f.add(low, f.op("and", "i64", length, str(-lanes)))

    last_line, last = whole(start, stop), whole(first, v.scalar(line.stop))
    with f.loop(start, last_line, lanes) as x, f.loop(first, last, lanes) as y, v.scope():
        for t in line.body:
            assert isinstance(t, Store)
            _tile(v, t, s, line, (x.index, y.index))
    return last_line, last


def _tile(v: Values, t: Store, s: Loop, line: Loop, corner: tuple[Value, Value]) -> None:
    f, lanes = v.f, v.full
    x, y = corner
    words = vector("i32", lanes)
    rows = []
    for i in range(lanes):
        with v.scope(lanes, (), (line.index,)):
            v.bind(s.index, f.add(x, i))
            v.bind(line.index, y)
            value = stored(f, t.buffer.dtype, v.vector(t.value), lanes)
        rows.append(f.cast("bitcast", vector(TYPES[t.value.dtype], lanes), value, words))
    for i, column in enumerate(transposed(f, rows, lanes)):
        with v.scope():
            v.bind(s.index, x)
            v.bind(line.index, f.add(y, i))
            place = f.gep(STORED[t.buffer.dtype], v.pointers[t.buffer], v.scalar(t.at))
        f.store(words, column, place, 4)
