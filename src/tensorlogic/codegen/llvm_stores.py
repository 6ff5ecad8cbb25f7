"""Stores and value checks of the kernel IR as LLVM instructions."""

from __future__ import annotations

from tensorlogic.codegen.emit import Value, constant, suffix, vector
from tensorlogic.codegen.instructions import STORED, stored
from tensorlogic.codegen.values import Values
from tensorlogic.kernels.ir import BYTES, Check, Store


class Stores(Values):
    """Values, and statements that write them to memory."""

    streams = False
    """Whether what is stored goes past the caches: it is more than they hold."""

    def store(self, s: Store) -> None:
        f, lanes = self.f, self.here.lanes
        at, value = self.known.intern(s.at), self.known.intern(s.value)
        where = None if s.where is None else self.known.intern(s.where)
        if not any(self.varies(e) for e in (at, value, where) if e is not None):
            lanes = 1
        contiguous = lanes == 1 or self.step(at) == 1
        self._emit(at, 1 if contiguous else lanes)
        guard = self._masked(None if where is None else self._emit(where, lanes), lanes)
        element, size = STORED[s.buffer.dtype], BYTES[s.buffer.dtype]
        type_ = vector(element, lanes)
        raw = stored(f, s.buffer.dtype, self._emit(value, lanes), lanes)
        if not contiguous:
            pointers, align, mask = self._scattered(s.buffer, at, guard, lanes)
            name = f"llvm.masked.scatter.{suffix(type_)}.v{lanes}p0"
            f.call("void", name, (type_, raw), pointers, align, mask)
            return
        pointer = f.gep(element, self.pointers[s.buffer], self._value(at, 1))
        if guard is None and self.streams and lanes > 1:
            self._stream(type_, raw, pointer, size, lanes)
        elif guard is None:
            f.store(type_, raw, pointer, size)
        elif lanes == 1:
            with f.when(guard):
                f.store(type_, raw, pointer, size)
        elif self.here.whole is not None and guard == self.here.active:
            with f.when(self.here.whole, likely=True) as branch:  # a mask costs five cycles
                f.store(type_, raw, pointer, size)
                branch.otherwise()
                self._masked_store(type_, raw, pointer, size, guard)
        else:
            self._masked_store(type_, raw, pointer, size, guard)

    def _masked_store(self, type_: str, raw: Value, pointer: Value, size: int, mask: Value) -> None:
        given = (("ptr", pointer), ("i32", str(size)), (vector("i1", self.here.lanes), mask))
        self.f.call("void", f"llvm.masked.store.{suffix(type_)}.p0", (type_, raw), *given)

    def _stream(self, type_: str, raw: Value, pointer: Value, size: int, lanes: int) -> None:
        """A store past the caches, which reads no line that it overwrites; it must be aligned."""
        f = self.f
        address = f.cast("ptrtoint", "ptr", pointer, "i64")
        rest = f.op("and", "i64", address, str(size * lanes - 1))
        with f.when(f.icmp("eq", "i64", rest, 0)) as branch:
            f.store(type_, raw, pointer, size * lanes, f.module.nontemporal())
            branch.otherwise()
            f.store(type_, raw, pointer, size)

    def check(self, s: Check) -> None:
        f, lanes = self.f, self.here.lanes
        type_ = vector("i1", lanes)
        slot = self.scalar(s.slot)
        failed = f.op("xor", type_, self.vector(s.ok), constant("i1", lanes, "true"))
        if self.here.active is not None:
            failed = f.op("and", type_, failed, self.here.active)
        some = failed
        if lanes > 1:
            some = f.call("i1", f"llvm.vector.reduce.or.v{lanes}i1", (type_, failed))
        with f.when(some):
            count = "1"
            if lanes > 1:
                bits = f.cast("bitcast", type_, failed, f"i{lanes}")
                if lanes < 32:
                    bits, wide = f.cast("zext", f"i{lanes}", bits, "i32"), "i32"
                else:
                    wide = f"i{lanes}"
                count = f.intrinsic("ctpop", wide, bits)
                if lanes > 32:
                    count = f.cast("trunc", wide, count, "i32")
            pointer = f.gep("i32", self.pointers[s.status], slot)
            f.assign(f"atomicrmw add ptr {pointer}, i32 {count} monotonic")
