"""Scalar expressions and blocks as GPU text: names, common subexpressions, C's spelling."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from string import Template

from tensorlogic.codegen.bits import FIELD
from tensorlogic.codegen.dialects import GROUP_MEMORY, MAX_BUFFERS
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.expand import ERF, expand
from tensorlogic.kernels.ir import MATH, Buffer, Expr, Store, const, exprs_of, nodes_of

VALUE = {"f32": "float", "i32": "int", "i64": "index_t", "bool": "bool"}
_UNSIGNED = {"i32": "uint", "i64": "uindex_t"}
MEMORY = {
    "f16": "half",
    "bf16": "ushort",
    "f32": "float",
    "i32": "int",
    "bool": "uchar",
    "u8": "uchar",
}
BYTES = {
    "half": 2,
    "ushort": 2,
    "float": 4,
    "int": 4,
    "uchar": 1,
    "bool": 1,
    "index_t": 8,
    "uint4": 16,
}
LOAD = {"f16": "float({})", "bf16": "from_bf16({})", "u8": "int({})", "bool": "({} != 0)"}
STORE = {"f16": "half({})", "bf16": "to_bf16({})", "u8": "uchar({})", "bool": "uchar({})"}
_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/", "idiv": "/", "irem": "%"}
_SYMBOL |= {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_LOGIC = {"and": ("&", "&&"), "or": ("|", "||"), "xor": ("^", "!=")}
_LONGEST = 72  # characters of an expression before it gets a name
_RESERVED = frozenset(
    """alignas asm auto bool break case catch char class const constant constexpr continue default
    delete device do double else enum explicit extern false float for fragment goto half if index_t
    inline int kernel long metal namespace new operator params private protected public register
    return short signed sizeof static struct switch template this thread threadgroup throw true try
    typedef typename uchar uindex_t uint ulong union unsigned ushort using vec vertex virtual void
    volatile while COUNT EARLIER_DONE FUNC GROUP IN KERNEL LANE LOCAL LOCAL_SPAN OUT PARAM PARAMS
    SIMDGROUP PACK THREAD UNROLL""".split()  # noqa: SIM905
)


class _Block:
    """Lines between two braces, and the names of what was evaluated there."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[tuple[object, ...], str] = {}
        self.declared: set[str] = set()


class KernelText:
    """The text of one kernel as it grows: nested blocks, names, expressions.

    An expression is named where it is used again or can stand further out than its use; one that
    loads memory which the kernel writes stays in its statement.
    """

    def __init__(
        self,
        buffers: tuple[Buffer, ...],
        params: tuple[Expr, ...],
        reserved: Iterable[str] = (),
        memory: int = GROUP_MEMORY,
    ):
        if len(buffers) + 1 > MAX_BUFFERS:
            raise KernelError(f"{len(buffers)} buffers and the parameters: Metal has {MAX_BUFFERS}")
        self.buffers, self.params = buffers, params
        self.chain = [_Block()]
        self.env: dict[tuple[str, str], tuple[str, int]] = {}
        """What params, indices and vars are called, and the depth of the block that has them."""
        self.load_floor = 0
        """The depth of the outermost block where memory may be read."""
        self.epoch = 0
        """Counts statements: a load of memory that the kernel writes is good for one."""
        self.written = {b for b in buffers if b.written}
        self._taken = {*_RESERVED, *reserved}
        self._expanded: dict[Expr, Expr] = {}
        self._keys: dict[Expr, int] = {}
        self._interned: dict[tuple[object, ...], int] = {}
        self._uses: dict[int, int] = {}
        self._temps = 0
        self._arrays: list[str] = []
        self._group_bytes, self._group_memory = 0, memory
        for p in params:
            self.env["param", p.attr] = (self.unique(p.attr), 0)
        self.c_names = {b: self.unique(b.name) for b in buffers}

    # -- names and blocks

    def unique(self, name: str, depth: int = -1) -> str:
        """`name` as an identifier that nothing visible has, for a block of the chain (this one)."""
        base = re.sub(r"\W", "_", name)
        base = base if not base[:1].isdigit() else f"_{base}"
        text, n = base, 1
        while text in self._taken:
            n += 1
            text = f"{base}_{n}"
        self._taken.add(text)
        self.chain[depth].declared.add(text)
        return text

    def line(self, text: str, depth: int | None = None) -> None:
        depth = len(self.chain) - 1 if depth is None else depth
        self.chain[depth].lines.append("    " * (depth + 1) + text)

    def lines(self, template: str, **fill: str) -> None:
        """The lines of a template, with each `$name` filled in."""
        for text in Template(template).substitute(fill).splitlines():
            self.line(text)

    @contextmanager
    def block(self, header: str) -> Iterator[_Block]:
        """What is printed within stands in braces after `header`; its names end with it."""
        inner, outer, env = _Block(), self.chain[-1], dict(self.env)
        self.chain.append(inner)
        yield inner
        self.chain.pop()
        self.env = env
        self._taken -= inner.declared
        pad = "    " * len(self.chain)
        outer.lines += [*(pad + h for h in header.split("\n")), *inner.lines, pad + "}"]
        outer.lines[-len(inner.lines) - 2] += " {"

    def local(self, b: Buffer, count: int, teams: int) -> None:
        """Threadgroup memory of a local buffer: one span for each team of the group."""
        self.written.add(b)
        count = (count + 15) // 16 * 16  # so that each span can move in packs
        self.c_names[b] = name = self.unique(b.name)
        every = self.array(MEMORY[b.dtype], name if teams == 1 else f"{name}_all", count * teams)
        if teams > 1:
            self._arrays.append(f"    LOCAL_SPAN({MEMORY[b.dtype]}, {name}, {every}, {count});")

    def array(self, ctype: str, name: str, count: int, macro: str = "LOCAL") -> str:
        self._group_bytes += (BYTES[ctype] * count + 15) // 16 * 16
        if self._group_bytes > self._group_memory:
            raise KernelError(
                f"{self._group_bytes} bytes of threadgroup memory for {name} and others"
            )
        self._arrays.append(f"    {macro}({ctype}, {name}, {count});")
        return name

    def offset(self, b: Buffer) -> str:
        """The word that says where a buffer's data begins."""
        return f"PARAM({len(self.params) + self.buffers.index(b)})"

    def text(self, name: str, group: int | str) -> str:
        """The whole kernel, once its statements are printed."""
        args = [
            f"{'OUT' if b.written else 'IN'}({MEMORY[b.dtype]}, {self.c_names[b]}, {i})"
            for i, b in enumerate(self.buffers)
        ]
        words = len(self.params) + len(self.buffers)
        signature = ",\n        ".join([*args, f"PARAMS({len(self.buffers)}, {words})"])
        lines = self.chain[0].lines
        head = ["    EARLIER_DONE();"]
        head += [f"    {self.c_names[b]} += {self.offset(b)};" for b in self.buffers]
        for i, p in enumerate(self.params):
            c_name = self.env["param", p.attr][0]
            if any(re.search(rf"\b{c_name}\b", line) for line in lines):
                word, ctype = f"PARAM({i})", VALUE[p.dtype]
                read = {"f32": f"as_float({word})", "bool": f"{word} != 0"}
                head.append(
                    f"    const {ctype} {c_name} = {read.get(p.dtype, f'{ctype}({word})')};"
                )
        first = f"KERNEL({name}, {group})(\n        {signature}) {{"
        return "\n".join([first, *head, *self._arrays, *lines, "}", ""])

    # -- expressions

    def _key(self, e: Expr) -> int:
        """A number that structurally equal expressions share; counts how often each is used."""
        for n in nodes_of(e):
            if n not in self._keys:
                attr = (type(n.attr), repr(n.attr)) if n.op == "const" else n.attr
                shape = (n.op, n.dtype, attr, *(self._keys[a] for a in n.args))
                known = shape in self._interned
                self._keys[n] = self._interned.setdefault(shape, len(self._interned))
                for a in () if known else n.args:
                    self._uses[self._keys[a]] = self._uses.get(self._keys[a], 0) + 1
        return self._keys[e]

    def count(self, exprs: Iterable[Expr]) -> None:
        """Announces expressions: what is used more than once gets a name."""
        for e in exprs:
            k = self._key(expand(e, ERF, self._expanded))
            self._uses[k] = self._uses.get(k, 0) + 1

    def expr(self, e: Expr) -> str:
        """The text of a value here; what is shared is named, as far out as it can stand."""
        e = expand(e, ERF, self._expanded)
        self._key(e)
        here = len(self.chain) - 1
        nodes = nodes_of(e)
        depth, volatile = self._depths(nodes, here)
        moved = {a for n in nodes for a in n.args if depth[a] < depth[n]}  # out of a loop
        if depth[e] < here:
            moved.add(e)
        text: dict[Expr, str] = {}
        for n in nodes:
            if n.op in ("param", "index", "var"):
                text[n] = self.env[n.op, n.attr][0]
                continue
            if n.op == "const":
                text[n] = _const(n)
                continue
            k = self._keys[n]
            key = (k, self.epoch) if n in volatile else (k,)
            named = next((b.names[key] for b in reversed(self.chain) if key in b.names), None)
            if named is None:
                written = self._operation(n, [text[a] for a in n.args])
                again = n in moved or self._uses.get(k, 0) > 1
                if again or (len(written) > _LONGEST and n is not e):
                    named = self.unique(f"t{self._temps}", depth[n])
                    self._temps += 1
                    self.chain[depth[n]].names[key] = named
                    self.line(f"const {VALUE[n.dtype]} {named} = {bare(written)};", depth[n])
            text[n] = named or written
        return text[e]

    def _depths(self, nodes: list[Expr], here: int) -> tuple[dict[Expr, int], set[Expr]]:
        """The outermost block where each expression can stand, and which of them load memory that
        the kernel writes: those stand here."""
        depth: dict[Expr, int] = {}
        volatile: set[Expr] = set()
        for n in nodes:
            if n.op in ("param", "index", "var"):
                depth[n] = self.env[n.op, n.attr][1]
                continue
            level = max((depth[a] for a in n.args), default=0)
            if n.op == "load":
                level = max(level, self.load_floor)
            if (n.op == "load" and n.attr in self.written) or any(a in volatile for a in n.args):
                volatile.add(n)
                level = here
            depth[n] = level
        return depth, volatile

    def store(self, s: Store, conditions: Sequence[str] = ()) -> None:
        """A store, under these conditions and its own."""
        self.epoch += 1
        own = [] if s.where is None else [self.expr(s.where)]
        value = STORE.get(s.buffer.dtype, "{}").format(bare(self.expr(s.value)))
        action = f"{self.c_names[s.buffer]}[{bare(self.expr(s.at))}] = {value}"
        self.under([*conditions, *own], action)

    def epilogue(self, stores: Sequence[Store], total: str, column: int | None = None) -> None:
        """The stores of a product for one element, whose sum is `total`: the block around this one
        names its row and col, the outermost one its batch; or the block at the depth `column` both
        col and batch."""
        depth = len(self.chain) - 1
        self.line(f"const float acc = {total};")
        self.env["var", "acc"] = ("acc", depth)
        batch, col = (0, depth - 1) if column is None else (column, column)
        for name, level in (("batch", batch), ("row", depth - 1), ("col", col)):
            self.env["index", name] = (name, level)
        self.load_floor = depth
        self.count(e for s in stores for e in exprs_of(s))
        for s in stores:
            self.store(s)

    def under(self, conditions: Sequence[str], action: str) -> None:
        both = " && ".join(conditions)
        if len(conditions) == 1:
            both = bare(both)
        self.line(f"if ({both}) {action};" if both else f"{action};")

    def _operation(self, n: Expr, a: list[str]) -> str:
        op, dtype = n.op, n.dtype
        if dtype not in VALUE:
            raise KernelError(f"{dtype} on a GPU: {n}")
        ctype, unsigned = VALUE[dtype], _UNSIGNED.get(dtype, "")
        if op == "load":
            element = f"{self.c_names[n.attr]}[{bare(a[0])}]"
            value = LOAD.get(n.attr.dtype, "{}").format(element)
            zero = {"f32": "0.0f", "bool": "false"}.get(dtype, "0")
            return f"({a[1]} ? {value} : {zero})" if len(a) > 1 else value
        if op in MATH or op == "fma" or (op == "abs" and dtype == "f32"):
            return f"math_{op}({', '.join(map(bare, a))})"
        if op.startswith("rough_"):
            return f"{op}({', '.join(map(bare, a))})"
        if op == FIELD:
            masks, flip, scale, bias = n.attr
            bits = f"FIELD ^ {flip}u" if flip else "FIELD"
            for word, mask in zip(a, masks, strict=True):
                bits = f"masked({bare(word)}, {mask}, {bits})"
            return f"field_float({bits}, {_real(scale)}, {_real(bias)})"
        if op in ("eq", "ne") and n.args[0].dtype == "f32" and a[0] == a[1]:
            return f"is_nan({bare(a[0])})" if op == "ne" else f"(!is_nan({bare(a[0])}))"
        if op in ("eq", "ne", "lt", "le") and any(map(_infinite, n.args)):
            return _compared_with_infinity(op, bare(a[0]), bare(a[1]))
        if op in ("add", "sub", "mul") and dtype == "i32":  # wraps around, as unsigned numbers do
            return f"int(uint({bare(a[0])}) {_SYMBOL[op]} uint({bare(a[1])}))"
        if op in ("idiv", "irem") and dtype == "i32" and not _plain_divisor(n.args[1]):
            return f"int_{op[1:]}({bare(a[0])}, {bare(a[1])})"  # addresses have no such divisors
        if op == "mulhi":
            return f"high_product({bare(a[0])}, {bare(a[1])})"
        if op in _SYMBOL:
            return f"({a[0]} {_SYMBOL[op]} {a[1]})"
        if op in ("min", "max"):
            f = f"{op}_nan" if dtype == "f32" else f"int_{op}<{ctype}>"
            return f"{f}({bare(a[0])}, {bare(a[1])})"
        if op in _LOGIC:
            return f"({a[0]} {_LOGIC[op][dtype == 'bool']} {a[1]})"
        if op in ("shl", "shr", "sar"):
            fits = n.args[1].op == "const" and 0 <= n.args[1].attr < 32
            by = a[1] if fits else f"({a[1]} & int(8 * sizeof({ctype}) - 1))"
            if op == "sar":
                return f"({ctype}({bare(a[0])}) >> {by})"
            return f"{ctype}({unsigned}({bare(a[0])}) {'<<' if op == 'shl' else '>>'} {by})"
        if op == "select":
            return f"({a[0]} ? {a[1]} : {a[2]})"
        if op == "neg":
            return f"int(0u - uint({bare(a[0])}))" if dtype == "i32" else f"(-{a[0]})"
        if op == "abs":
            return f"int_abs<{ctype}>({bare(a[0])})"
        if op == "not":
            return f"({'!' if dtype == 'bool' else '~'}{a[0]})"
        if op == "bitcast":
            return f"as_{ctype}({bare(a[0])})"
        assert op == "cast", op
        if n.args[0].dtype == "f32" and dtype in ("i32", "i64"):
            return f"to_{dtype}({bare(a[0])})"
        return f"({a[0]} != 0)" if dtype == "bool" else f"{ctype}({bare(a[0])})"


def _plain_divisor(e: Expr) -> bool:
    return e.op == "const" and e.attr not in (0, -1)


def _infinite(e: Expr) -> bool:
    return e.op == "const" and e.dtype == "f32" and abs(e.attr) == math.inf


def _compared_with_infinity(op: str, x: str, y: str) -> str:
    """By bits: a compiler with fast math may take it that there are no infinities."""
    if op in ("eq", "ne"):
        return f"(as_int({x}) {_SYMBOL[op]} as_int({y}))"
    if op == "lt":
        return f"less_bits({x}, {y})"
    return f"(less_bits({x}, {y}) || as_int({x}) == as_int({y}))"


def bare(text: str) -> str:
    """Without the parentheses around all of it."""
    if not text.startswith("("):
        return text
    open_ = 0
    for i, c in enumerate(text):
        open_ += (c == "(") - (c == ")")
        if open_ == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


def _real(x: float) -> str:
    return _const(const(x, "f32"))


def _const(e: Expr) -> str:
    if e.dtype == "bool":
        return "true" if e.attr else "false"
    if e.dtype in ("i32", "i64"):
        value = int(e.attr)
        if value == -(2**31):  # the literal would be a long
            return f"{VALUE[e.dtype]}(-2147483647 - 1)"
        return str(value) if value >= 0 else f"({value})"
    if e.dtype != "f32":
        raise KernelError(f"{e.dtype} on a GPU: {e}")
    (bits,) = struct.unpack("<I", struct.pack("<f", e.attr))
    if bits & 0x7F800000 == 0x7F800000:
        return f"as_float(0x{bits:08x}u)"
    for digits in range(6, 10):
        text = f"{e.attr:.{digits}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", e.attr):
            break
    text += "f" if "." in text or "e" in text else ".0f"
    return f"({text})" if text.startswith("-") else text
