"""LLVM IR as text: a `Module` of functions, each a `Function` with structured loops and branches.

Values are strings ("%v7", "3", "splat (float 0x...)"); types are spelled as LLVM has it ("i64",
"<8 x float>").

    module = Module()
    f = module.function("scale", [("ptr", "x"), ("i64", "n")])
    with f.loop("0", "%n") as i:
        at = f.gep("float", "%x", i.index)
        f.store("float", f.op("fmul", "float", f.load("float", at), f32(2.0)), at)
    f.ret()
    text = module.text()
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

Value = str
ArgType = tuple[str, str]
"""(type, name or value)"""
KERNEL: tuple[ArgType, ...] = (
    ("ptr", "args"),
    ("i64", "lo"),
    ("i64", "hi"),
    ("ptr", "scratch"),
    ("i64", "turn"),
)
"""The arguments of a kernel (see llvm.py)."""


def f32(value: float) -> str:
    """A float constant: LLVM spells it as the double of the same value."""
    rounded = struct.pack("<d", struct.unpack("<f", struct.pack("<f", value))[0])
    return f"0x{struct.unpack('<Q', rounded)[0]:016X}"


def f64(value: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def vector(element: str, lanes: int) -> str:
    """The vector type; one lane is the element itself."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def constant(element: str, lanes: int, text: str) -> str:
    """A constant in every lane."""
    return text if lanes == 1 else f"splat ({element} {text})"


class Module:
    """The functions of one object file, and what they declare."""

    def __init__(self) -> None:
        self._declarations: dict[str, tuple[str, Sequence[str], str]] = {}
        self._functions: list[Function] = []
        self._metadata: dict[str, int] = {}

    def declare(self, result: str, name: str, types: Sequence[str], attributes: str = "") -> None:
        new = result, tuple(types), attributes
        known = self._declarations.setdefault(name, new)
        if known != new:
            raise ValueError(f"@{name} is declared twice:\n{known}\n{new}")

    def function(
        self,
        name: str,
        args: Sequence[ArgType],
        result: str = "void",
        attributes: str = "nounwind",
    ) -> Function:
        f = Function(self, name, args, result, attributes)
        self._functions.append(f)
        return f

    def nontemporal(self) -> str:
        """What makes a store one past the caches."""
        return ", !nontemporal " + self._noted("!{i32 1}")

    def likely(self) -> str:
        """What says of a branch that its condition nearly always holds."""
        return ", !prof " + self._noted('!{!"branch_weights", i32 2000, i32 1}')

    def _noted(self, text: str) -> str:
        """The name of metadata of this text."""
        number = self._metadata.setdefault(text, len(self._metadata))
        return f"!{number}"

    def text(self) -> str:
        defined = {f.name for f in self._functions}
        declared = [
            f"declare {result} @{name}({', '.join(types)}) {attributes}".rstrip()
            for name, (result, types, attributes) in self._declarations.items()
            if name not in defined
        ]
        parts = [*declared, *(f.text() for f in self._functions)]
        parts += [f"!{n} = {text}" for text, n in self._metadata.items()]
        return "\n".join(parts) + "\n"


class Loop:
    """A loop being written: `index`, the `carried` values of this turn, and `next`, theirs of the
    next one, to be set before the body ends. After it, `carried` holds the final values."""

    def __init__(self, index: Value, carried: tuple[Value, ...]) -> None:
        self.index, self.carried = index, carried
        self.next: Sequence[Value] = ()


class Branch:
    """An `if` being written; `otherwise()` starts its else part, `merge` joins a value after it."""

    def __init__(self, f: Function, other: str, after: str) -> None:
        self._f, self._other, self._after = f, other, after
        self._ends: list[str] = []

    def otherwise(self) -> None:
        self._ends.append(self._f.block)
        self._f.jump(self._after)
        self._f.start(self._other)

    def merge(self, type_: str, then: Value, other: Value) -> Value:
        """After the branch: `then` where its condition held, else `other`."""
        a, b = self._ends
        return self._f.assign(f"phi {type_} [{then}, %{a}], [{other}, %{b}]")


class Function:
    """One function, written from its entry block on; `block` is the label of the current block."""

    def __init__(
        self,
        module: Module,
        name: str,
        args: Sequence[ArgType],
        result: str = "void",
        attributes: str = "nounwind",
    ) -> None:
        self.module, self.name = module, name
        head = ", ".join(f"{t} %{n}" for t, n in args)
        self._head = f"define {result} @{name}({head}) {attributes} {{"
        self._entry: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self.block = "entry"

    # Lines, names and blocks

    def fresh(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def line(self, text: str) -> None:
        self._lines.append("  " + text)

    def assign(self, text: str) -> Value:
        """A new value: `%vN = text`."""
        name = "%" + self.fresh()
        self.line(f"{name} = {text}")
        return name

    def start(self, label: str) -> None:
        """Begin a block; the one before must have ended with a terminator."""
        self._lines.append(label + ":")
        self.block = label

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch(self, condition: Value, then: str, other: str, extra: str = "") -> None:
        self.line(f"br i1 {condition}, label %{then}, label %{other}{extra}")

    def ret(self, type_: str = "void", value: Value = "") -> None:
        self.line(f"ret {type_} {value}".rstrip())

    def text(self) -> str:
        return "\n".join([self._head, "entry:", *self._entry, *self._lines, "}"])

    def alloca(self, type_: str, count: int = 1, align: int = 64) -> Value:
        """Stack memory; it stands in the entry block, so a loop does not grow the stack."""
        name = "%" + self.fresh("stack")
        self._entry.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return name

    # Instructions

    def op(self, opcode: str, type_: str, *operands: Value) -> Value:
        """`opcode type a, b`; flags belong to the opcode: op("add nsw", "i64", a, b)."""
        return self.assign(f"{opcode} {type_} {', '.join(operands)}")

    def add(self, a: Value, b: Value | int, type_: str = "i64") -> Value:
        return a if str(b) == "0" else self.op("add nsw", type_, a, str(b))

    def sub(self, a: Value | int, b: Value | int, type_: str = "i64") -> Value:
        return self.op("sub nsw", type_, str(a), str(b))

    def mul(self, a: Value, b: Value | int, type_: str = "i64") -> Value:
        return a if str(b) == "1" else self.op("mul nsw", type_, a, str(b))

    def icmp(self, predicate: str, type_: str, a: Value, b: Value | int) -> Value:
        """slt, sge, ult, eq, ne, ... of integers or pointers."""
        return self.op(f"icmp {predicate}", type_, a, str(b))

    def fcmp(self, predicate: str, type_: str, a: Value, b: Value) -> Value:
        """olt, ole, oeq, une, uno, ... of floats."""
        return self.op(f"fcmp {predicate}", type_, a, b)

    def select(
        self, condition: Value, type_: str, a: Value, b: Value | int, lanes: int = 1
    ) -> Value:
        return self.assign(f"select {vector('i1', lanes)} {condition}, {type_} {a}, {type_} {b}")

    def smin(self, a: Value, b: Value | int) -> Value:
        """The smaller i64."""
        return self.call("i64", "llvm.smin.i64", ("i64", a), ("i64", str(b)))

    def smax(self, a: Value, b: Value | int) -> Value:
        return self.call("i64", "llvm.smax.i64", ("i64", a), ("i64", str(b)))

    def cast(self, opcode: str, source: str, value: Value, target: str) -> Value:
        """`opcode source value to target`: fpext, fptrunc, sext, bitcast, inttoptr, ..."""
        return self.assign(f"{opcode} {source} {value} to {target}")

    def gep(self, type_: str, pointer: Value, index: Value | int) -> Value:
        if str(index) == "0":
            return pointer
        return self.assign(f"getelementptr inbounds {type_}, ptr {pointer}, i64 {index}")

    def load(self, type_: str, pointer: Value, align: int | None = None, extra: str = "") -> Value:
        tail = f", align {align}" if align else ""
        return self.assign(f"load {type_}, ptr {pointer}{tail}{extra}")

    def store(
        self, type_: str, value: Value, pointer: Value, align: int | None = None, extra: str = ""
    ) -> None:
        tail = f", align {align}" if align else ""
        self.line(f"store {type_} {value}, ptr {pointer}{tail}{extra}")

    def splat(self, element: str, lanes: int, value: Value) -> Value:
        """A scalar in every lane."""
        if lanes == 1:
            return value
        type_ = vector(element, lanes)
        one = self.assign(f"insertelement {type_} poison, {element} {value}, i32 0")
        return self.shuffle(type_, one, "poison", [0] * lanes)

    def shuffle(self, type_: str, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of a and b side by side, picked by number."""
        mask = ", ".join(f"i32 {i}" for i in lanes)
        return self.assign(f"shufflevector {type_} {a}, {type_} {b}, <{len(lanes)} x i32> <{mask}>")

    def call(self, result: str, name: str, *args: ArgType, flags: str = "") -> Value:
        """Call a function or an intrinsic, declared by its first use; "" for a void result."""
        self.module.declare(result, name, [t for t, _ in args])
        given = ", ".join(f"{t} {v}" for t, v in args)
        text = f"call {flags + ' ' if flags else ''}{result} @{name}({given})"
        if result != "void":
            return self.assign(text)
        self.line(text)
        return ""

    def intrinsic(self, name: str, type_: str, *operands: Value, flags: str = "") -> Value:
        """An intrinsic of one type: intrinsic("fma", "<8 x float>", a, b, c)."""
        return self.call(
            type_, f"llvm.{name}.{suffix(type_)}", *((type_, v) for v in operands), flags=flags
        )

    # Structure

    @contextmanager
    def loop(
        self,
        start: Value | int,
        stop: Value | int,
        step: Value | int = 1,
        carry: Sequence[tuple[str, Value]] = (),
    ) -> Iterator[Loop]:
        """for index in range(start, stop, step), i64, with loop-carried values (type, initial)."""
        head, body, after = (self.fresh(n) for n in ("head", "body", "after"))
        before = self.block
        self.jump(head)
        self.start(head)
        index, following = "%" + self.fresh("i"), "%" + self.fresh("n")
        phis = len(self._lines)
        loop = Loop(index, tuple("%" + self.fresh("c") for _ in carry))
        self.branch(self.icmp("slt", "i64", index, stop), body, after)
        self.start(body)
        yield loop
        self.line(f"{following} = add nsw i64 {index}, {step}")
        last = self.block
        self.jump(head)
        self._lines[phis:phis] = [
            f"  {name} = phi {type_} [{first}, %{before}], [{next_}, %{last}]"
            for name, type_, first, next_ in [
                (index, "i64", start, following),
                *(
                    (name, type_, first, next_)
                    for name, (type_, first), next_ in zip(
                        loop.carried, carry, loop.next, strict=True
                    )
                ),
            ]
        ]
        self.start(after)

    @contextmanager
    def when(self, condition: Value, likely: bool = False) -> Iterator[Branch]:
        """The body runs where the condition (i1) holds, which may be known to be likely;
        `otherwise()` on the result: the else."""
        then, other, after = (self.fresh(n) for n in ("then", "else", "join"))
        self.branch(condition, then, other, self.module.likely() if likely else "")
        self.start(then)
        made = Branch(self, other, after)
        yield made
        if not made._ends:
            made.otherwise()
        made._ends.append(self.block)
        self.jump(after)
        self.start(after)


@cache
def suffix(type_: str) -> str:
    """How an intrinsic's name spells a type: "<8 x float>" is v8f32."""
    names = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
    match = re.fullmatch(r"<(\d+) x (\w+)>", type_)
    if match:
        return f"v{match[1]}{names.get(match[2], match[2])}"
    return names.get(type_, type_)
