"""Products over windows for the CPU: convolutions whose windows are never laid out in memory.

The matmul family packs panels of its operands anyway. Here it packs those of b straight from where
the windows lie: the offset of an element is that of its k (a channel and a tap) plus that of its
column (a position). Both are written down once, for a slice of K and for a block of columns; then
a row of a panel is read in whole vectors where the positions are neighbours, or every second
element, and one by one where a vector goes beyond the end of a line.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorlogic.codegen.emit import Function, Module, Value, vector
from tensorlogic.codegen.instructions import STORED, loaded
from tensorlogic.codegen.llvm_matmul import TILES, Driver, Tile
from tensorlogic.kernels.ir import BYTES
from tensorlogic.kernels.spec import Matmul


def window_kernel(spec: Matmul, name: str, lanes: int) -> str:
    """A module with the kernel `name` (its arguments: see llvm.py), like `matmul_kernel`."""
    module = Module()
    tile = TILES[lanes]
    _pack_windows(module, spec.b_dtype, tile)
    _Driver(module, spec, name, tile).write()
    return module.text()


def window_scratch(lanes: int) -> int:
    """Bytes of scratch memory beyond those of other products."""
    tile = TILES[lanes]
    return 8 * (tile.kc + tile.nb) + 64


class _Driver(Driver):
    """Packs the panels of b by two tables of offsets."""

    def __init__(self, module: Module, spec: Matmul, name: str, tile: Tile) -> None:
        super().__init__(module, spec, name, tile)
        end = -(-tile.scratch_bytes // 64) * 64
        self.of_k = self.f.gep("i8", "%scratch", end)
        self.of_column = self.f.gep("i64", self.of_k, tile.kc)
        self.begin = ""

    def _first_of_b(self, batch: Value, n0: Value, n1: Value) -> Value:
        """Where the batch begins; the offsets of the columns n0 to n1, the last one repeated."""
        f, size = self.f, self.size
        panels = f.op("sdiv", "i64", f.add(f.sub(n1, n0), self.tile.nr - 1), str(self.tile.nr))
        whole = f.mul(panels, self.tile.nr)
        with f.loop(0, whole) as i:
            col = f.smin(f.add(n0, i.index), f.sub(n1, 1))
            digits = (f.op("sdiv", "i64", col, size["n1"]), f.op("srem", "i64", col, size["n1"]))
            self._note(self.of_column, i.index, digits, ("b_n", "b_n1"))
        image, group = self._image_and_group(batch)
        start = f.add(f.mul(image, size["b_image"]), f.mul(group, size["b_batch"]))
        self.begin = f.gep(STORED[self.spec.b_dtype], self.b, start)
        return self.begin

    def _image_and_group(self, batch: Value) -> tuple[Value, Value]:
        f, groups = self.f, self.size["groups"]
        return f.op("sdiv", "i64", batch, groups), f.op("srem", "i64", batch, groups)

    def _element(
        self, base: Value, dtype: str, operand: str, batch: Value, along: tuple[str, Value]
    ) -> Value:
        """Of a, which all images share."""
        return super()._element(base, dtype, operand, self._image_and_group(batch)[1], along)

    def _before_panels(self, k0: Value, kc: Value) -> None:
        """The offsets of the k of a slice."""
        f, size = self.f, self.size
        with f.loop(0, kc) as i:
            k = f.add(k0, i.index)
            rest, j = f.op("sdiv", "i64", k, size["k2"]), f.op("srem", "i64", k, size["k2"])
            c, tap = f.op("sdiv", "i64", rest, size["k1"]), f.op("srem", "i64", rest, size["k1"])
            self._note(self.of_k, i.index, (c, tap, j), ("b_k", "b_k1", "b_k2"))

    def _note(
        self, table: Value, at: Value, digits: Sequence[Value], strides: Sequence[str]
    ) -> None:
        f = self.f
        first, *more = (f.mul(d, self.size[s]) for d, s in zip(digits, strides, strict=True))
        for term in more:
            first = f.add(first, term)
        f.store("i64", first, f.gep("i64", table, at), 8)

    def _pack_b_panel(self, b_slice: Value, n: Value, left: Value, kc: Value) -> None:
        columns = self.f.gep("i64", self.of_column, n)
        tables = (("ptr", self.of_k), ("ptr", columns))
        packed = ("ptr", self.packed_b)
        self.f.call("void", "pack_windows", ("ptr", self.begin), *tables, ("i64", kc), packed)


def _pack_windows(module: Module, dtype: str, tile: Tile) -> None:
    """to[k][column] = source[of_k[k] + of_column[column]] as float32, for one panel."""
    args = [("ptr noalias", n) for n in ("source", "of_k", "of_column")]
    f = module.function("pack_windows", [*args, ("i64", "kc"), ("ptr noalias", "to")])
    lanes, element, size = tile.lanes, STORED[dtype], BYTES[dtype]
    raw, half = vector(element, lanes), lanes // 2

    def rows(columns: Value, to: Value, read: str) -> None:
        """All k of a vector of columns, read in one of three ways."""
        begin = f.load("i64", columns, 8)
        with f.loop(0, "%kc") as k:
            line = f.gep(element, "%source", f.load("i64", f.gep("i64", "%of_k", k.index), 8))
            first = f.gep(element, line, begin)
            if read == "neighbours":
                value = f.load(raw, first, size)
            elif read == "seconds":  # the later half from its end, so that nothing beyond is read
                low = f.load(raw, first, size)
                high = f.load(raw, f.gep(element, first, lanes - 1), size)
                even = [2 * i for i in range(half)]
                value = f.shuffle(raw, low, high, [*even, *(lanes + i + 1 for i in even)])
            else:
                value = "poison"
                for i in range(lanes):
                    at = f.load("i64", f.gep("i64", columns, i), 8)
                    one = f.load(element, f.gep(element, line, at), size)
                    value = f.assign(f"insertelement {raw} {value}, {element} {one}, i32 {i}")
            out = f.gep("float", to, f.mul(k.index, tile.nr))
            f.store(vector("float", lanes), loaded(f, dtype, value, lanes), out, 4)

    for v in range(tile.nv):
        columns = f.gep("i64", "%of_column", v * lanes)
        to = f.gep("float", "%to", v * lanes)
        with f.when(_evenly(f, columns, 1, lanes)) as branch:
            rows(columns, to, "neighbours")
            branch.otherwise()
            with f.when(_evenly(f, columns, 2, lanes)) as inner:
                rows(columns, to, "seconds")
                inner.otherwise()
                rows(columns, to, "one by one")
    f.ret()


def _evenly(f: Function, table: Value, step: int, lanes: int) -> Value:
    """Whether the numbers of a vector grow by `step`."""
    wide = vector("i64", lanes)
    first = f.splat("i64", lanes, f.load("i64", table, 8))
    ramp = f"<{', '.join(f'i64 {step * i}' for i in range(lanes))}>"
    same = f.icmp("eq", wide, f.load(wide, table, 8), f.op("add", wide, first, ramp))
    bits = vector("i1", lanes)
    return f.call("i1", f"llvm.vector.reduce.and.v{lanes}i1", (bits, same))
