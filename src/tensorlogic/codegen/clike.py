"""Kernels as GPU text: one printer for Metal and CUDA, which differ in their preludes alone.

A kernel with a flat loop gives each element of the range a thread. A kernel with a parallel loop
gives each row of the range a team: one simdgroup of 32 lanes, or a threadgroup of 256 threads
(`width`). A team's threads share out the row's vector loops, run all else alike, and merge a vector
fold's accumulators with lane shuffles, then through threadgroup memory, so that each thread has
the result. What all run alike is stored by one of them. A parallel loop without vector loops and
local memory is printed as a flat one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tensorlogic.codegen.barriers import Hazards
from tensorlogic.codegen.dialects import GROUP_MEMORY, MAX_BUFFERS, assemble
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.expand import expand
from tensorlogic.kernels.ir import (
    MATH,
    Barrier,
    Buffer,
    Check,
    Expr,
    Fold,
    Kernel,
    Loop,
    Split,
    Stmt,
    Store,
    exprs_of,
    nodes_of,
    walk,
)

FLAT_GROUP = 256
"""Threads of a group where each thread has an element of its own."""
SIMD = 32
TEAMS = 4
"""Rows that a group works on where a row has one simdgroup."""

_VALUE = {"f32": "float", "i32": "int", "i64": "index_t", "bool": "bool"}
_UNSIGNED = {"i32": "uint", "i64": "uindex_t"}
MEMORY = {
    "f16": "half",
    "bf16": "ushort",
    "f32": "float",
    "i32": "int",
    "bool": "uchar",
    "u8": "uchar",
}
_BYTES = {
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
_STORE = {"f16": "half({})", "bf16": "to_bf16({})", "u8": "uchar({})", "bool": "uchar({})"}
_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/", "idiv": "/", "irem": "%"}
_SYMBOL |= {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_LOGIC = {"and": ("&", "&&"), "or": ("|", "||"), "xor": ("^", "!=")}
_PARTS = 1024  # bytes of threadgroup memory kept for the merging of folds
_LONGEST = 72  # characters of an expression before it gets a name
_RESERVED = frozenset(
    """alignas asm auto bool break case catch char class const constant constexpr continue default
    delete device do double else enum explicit extern false float for fragment goto half if index_t
    inline int kernel long metal namespace new operator params private protected public register
    return short signed sizeof static struct switch template this thread threadgroup throw true try
    typedef typename uchar uindex_t uint ulong union unsigned ushort using vec vertex virtual void
    volatile while COUNT FUNC GROUP IN KERNEL LANE LOCAL LOCAL_SPAN OUT PARAM PARAMS SIMDGROUP
    THREAD UNROLL""".split()  # noqa: SIM905
)


def is_flat(kernel: Kernel) -> bool:
    """Whether each thread has an element (or a row) of its own."""
    alone = all(s.kind != "vector" for s in walk(kernel.body) if isinstance(s, Loop | Fold))
    return alone and not kernel.locals


def group_size(kernel: Kernel, width: int = 256) -> int:
    """Threads of a threadgroup."""
    if is_flat(kernel):
        return FLAT_GROUP
    return width * _teams(width)


def grid(kernel: Kernel, params: Mapping[str, float], width: int = 256) -> int:
    """Threads of a launch, a multiple of `group_size`; 0 where there is nothing to do."""
    last = kernel.body[-1]
    if isinstance(last, Split):
        count = sum(max(0, uniform(c, params)) for c in last.counts)
    else:
        assert isinstance(last, Loop)
        count = max(0, uniform(last.stop, params) - uniform(last.start, params))
    group = group_size(kernel, width)
    return -(-count * (1 if is_flat(kernel) else width) // group) * group


def _teams(width: int) -> int:
    """Rows that a group works on."""
    return TEAMS if width == SIMD else 1


def local_capacity(kernel: Kernel, width: int = 256) -> dict[str, int]:
    """Elements that each local buffer holds in a kernel printed without `local_sizes`."""
    sizes = {b: int(b.size.attr) for b in kernel.locals if b.size and b.size.op == "const"}
    known = sum(n * _BYTES[MEMORY[b.dtype]] + 16 for b, n in sizes.items())
    left = GROUP_MEMORY - _PARTS - known * _teams(width)
    unknown = [b for b in kernel.locals if b not in sizes]
    for b in unknown:
        share = max(0, left) // (len(unknown) * _teams(width)) // 16 * 16
        sizes[b] = share // _BYTES[MEMORY[b.dtype]]
    return {b.name: n for b, n in sizes.items()}


_UNIFORM: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
    "idiv": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "irem": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
    "select": lambda c, a, b: a if c else b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "cast": int,
}


def uniform(e: Expr, params: Mapping[str, float]) -> int:
    """The value of a bound that depends on parameters alone."""
    value: dict[Expr, int] = {}
    for n in nodes_of(e):
        if n.op == "const":
            value[n] = int(n.attr)
        elif n.op == "param":
            value[n] = int(params[n.attr])
        elif n.op in _UNIFORM:
            value[n] = _UNIFORM[n.op](*(value[a] for a in n.args))
        else:
            raise KernelError(f"the bound of a grid depends on parameters alone: {e}")
    return value[e]


def pack_params(
    params: tuple[Expr, ...], values: Mapping[str, float], offsets: Sequence[int]
) -> bytes:
    """The words of a launch: the parameters, then where each buffer begins (in elements)."""
    words = [
        struct.pack("<fi", values[p.attr], 0)
        if p.dtype == "f32"
        else struct.pack("<q", int(values[p.attr]))
        for p in params
    ]
    return b"".join((*words, struct.pack(f"<{len(offsets)}q", *offsets)))


def render(
    kernel: Kernel,
    name: str,
    dialect: str,
    *,
    width: int = 256,
    index: str = "i64",
    local_sizes: Mapping[str, int] | None = None,
) -> str:
    """The whole text of a kernel in a dialect ("metal" or "cuda").

    `width` threads share a row: 32 or 256. `index` is the type of addresses: "i32" where each
    address, extent and i64 value of a launch is below 2**31. `local_sizes` gives the elements of
    local buffers whose size is not constant; without it they share the memory that there is (see
    `local_capacity`). Raises KernelError for what a GPU cannot hold.
    """
    return assemble(dialect, body(kernel, name, width, local_sizes or {}), index)


def body(kernel: Kernel, name: str, width: int, local_sizes: Mapping[str, int]) -> str:
    """The text of a kernel below its prelude, the same in both dialects."""
    if width not in (SIMD, 256):
        raise KernelError(f"a row has a team of 32 or 256 threads, not {width}")
    printer = Printer(kernel.buffers, kernel.params, is_flat(kernel), width)
    printer.hazards = Hazards(kernel)
    capacity = {**local_capacity(kernel, width), **local_sizes}
    for b in kernel.locals:
        printer.local(b, capacity[b.name], _teams(width))
    printer.top(kernel.body)
    return printer.text(name, group_size(kernel, width))


class _Block:
    """Lines between two braces, and the names of what was evaluated there."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[tuple[object, ...], str] = {}
        self.declared: set[str] = set()


class Printer:
    """Prints statements; expressions are named where they are used again or belong further out."""

    def __init__(
        self,
        buffers: tuple[Buffer, ...],
        params: tuple[Expr, ...],
        flat: bool,
        width: int,
        reserved: Iterable[str] = (),
    ):
        if len(buffers) + 1 > MAX_BUFFERS:
            raise KernelError(f"{len(buffers)} buffers and the parameters: Metal has {MAX_BUFFERS}")
        self.buffers, self.params, self.flat, self.width = buffers, params, flat, width
        self.hazards: Hazards | None = None
        self.chain = [_Block()]
        self.alone = flat  # whether threads go separate ways here
        self.env: dict[tuple[str, str], tuple[str, int]] = {}  # (op, name) -> (text, depth)
        self.taken = {*_RESERVED, *reserved}
        self.memo: dict[Expr, Expr] = {}
        self.keys: dict[Expr, int] = {}
        self.interned: dict[tuple[object, ...], int] = {}
        self.uses: dict[int, int] = {}
        self.written: set[Buffer] = {b for b in buffers if b.written}
        self.load_floor = 0
        self.epoch = 0
        self.arrays: list[str] = []
        self.group_bytes = 0
        self.parts: dict[str, str] = {}
        self.folds = 0
        self.temps = 0
        for p in params:
            self.env["param", p.attr] = (self.unique(p.attr), 0)
        self.c_names: dict[Buffer, str] = {b: self.unique(b.name) for b in buffers}

    # -- names and blocks

    def unique(self, name: str, depth: int = -1) -> str:
        """`name` as an identifier that nothing visible has, for a block of the chain (this one)."""
        base = re.sub(r"\W", "_", name)
        base = base if not base[:1].isdigit() else f"_{base}"
        text, n = base, 1
        while text in self.taken:
            n += 1
            text = f"{base}_{n}"
        self.taken.add(text)
        self.chain[depth].declared.add(text)
        return text

    def line(self, text: str, depth: int | None = None) -> None:
        depth = len(self.chain) - 1 if depth is None else depth
        self.chain[depth].lines.append("    " * (depth + 1) + text)

    @contextmanager
    def block(self, header: str) -> Iterator[_Block]:
        """What is printed within stands in braces after `header`; its names end with it."""
        inner, outer, env = _Block(), self.chain[-1], dict(self.env)
        self.chain.append(inner)
        yield inner
        self.chain.pop()
        self.env = env
        self.taken -= inner.declared
        pad = "    " * len(self.chain)
        outer.lines += [*(pad + h for h in header.split("\n")), *inner.lines, pad + "}"]
        outer.lines[-len(inner.lines) - 2] += " {"

    def local(self, b: Buffer, count: int, teams: int) -> None:
        """Threadgroup memory of a local buffer: one span for each team of the group."""
        self.written.add(b)
        self.c_names[b] = name = self.unique(b.name)
        every = self.array(MEMORY[b.dtype], name if teams == 1 else f"{name}_all", count * teams)
        if teams > 1:
            self.arrays.append(f"    LOCAL_SPAN({MEMORY[b.dtype]}, {name}, {every}, {count});")

    def array(self, ctype: str, name: str, count: int) -> str:
        self.group_bytes += (_BYTES[ctype] * count + 15) // 16 * 16
        if self.group_bytes > GROUP_MEMORY:
            raise KernelError(
                f"{self.group_bytes} bytes of threadgroup memory for {name} and others"
            )
        self.arrays.append(f"    LOCAL({ctype}, {name}, {count});")
        return name

    def text(self, name: str, group: int | str) -> str:
        """The whole kernel, once its statements are printed."""
        args = [
            f"{'OUT' if b.written else 'IN'}({MEMORY[b.dtype]}, {self.c_names[b]}, {i})"
            for i, b in enumerate(self.buffers)
        ]
        words = len(self.params) + len(self.buffers)
        signature = ",\n        ".join([*args, f"PARAMS({len(self.buffers)}, {words})"])
        lines = self.chain[0].lines
        head = []
        for i, b in enumerate(self.buffers):
            head.append(f"    {self.c_names[b]} += PARAM({len(self.params) + i});")
        for i, p in enumerate(self.params):
            c_name = self.env["param", p.attr][0]
            if any(re.search(rf"\b{c_name}\b", line) for line in lines):
                word = f"PARAM({i})"
                read = {"f32": f"as_float({word})", "bool": f"{word} != 0"}
                value = read.get(p.dtype, f"{_VALUE[p.dtype]}({word})")
                head.append(f"    const {_VALUE[p.dtype]} {c_name} = {value};")
        first = f"KERNEL({name}, {group})(\n        {signature}) {{"
        return "\n".join([first, *head, *self.arrays, *lines, "}", ""])

    # -- expressions

    def key(self, e: Expr) -> int:
        """A number that structurally equal expressions share; counts how often each is used."""
        for n in nodes_of(e):
            if n not in self.keys:
                attr = (type(n.attr), repr(n.attr)) if n.op == "const" else n.attr
                shape = (n.op, n.dtype, attr, *(self.keys[a] for a in n.args))
                known = shape in self.interned
                self.keys[n] = self.interned.setdefault(shape, len(self.interned))
                for a in () if known else n.args:
                    self.uses[self.keys[a]] = self.uses.get(self.keys[a], 0) + 1
        return self.keys[e]

    def prepare(self, e: Expr) -> Expr:
        """The expression as printed: erf is written out, and its uses are counted."""
        e = expand(e, ("erf",), self.memo)
        k = self.key(e)
        self.uses[k] = self.uses.get(k, 0) + 1
        return e

    def prepare_all(self, body: tuple[Stmt, ...]) -> None:
        for s in walk(body):
            for e in exprs_of(s):
                if not (isinstance(s, Fold) and e in s.merge):
                    self.prepare(e)

    def expr(self, e: Expr) -> str:
        """The text of a value here; what is shared is named, as far out as it can stand."""
        e = expand(e, ("erf",), self.memo)
        self.key(e)
        here = len(self.chain) - 1
        nodes = nodes_of(e)
        depth, volatile = self.depths(nodes, here)
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
            k = self.keys[n]
            key = (k, self.epoch) if n in volatile else (k,)
            named = next((b.names[key] for b in reversed(self.chain) if key in b.names), None)
            if named is None:
                written = self.operation(n, [text[a] for a in n.args])
                again = n in moved or self.uses.get(k, 0) > 1
                if again or (len(written) > _LONGEST and n is not e):
                    named = self.unique(f"t{self.temps}", depth[n])
                    self.temps += 1
                    self.chain[depth[n]].names[key] = named
                    self.line(f"const {_VALUE[n.dtype]} {named} = {_bare(written)};", depth[n])
            text[n] = named or written
        return text[e]

    def depths(self, nodes: list[Expr], here: int) -> tuple[dict[Expr, int], set[Expr]]:
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

    def operation(self, n: Expr, a: list[str]) -> str:
        op, dtype = n.op, n.dtype
        if dtype not in _VALUE:
            raise KernelError(f"{dtype} on a GPU: {n}")
        ctype, unsigned = _VALUE[dtype], _UNSIGNED.get(dtype, "")
        if op == "load":
            element = f"{self.c_names[n.attr]}[{_bare(a[0])}]"
            value = LOAD.get(n.attr.dtype, "{}").format(element)
            zero = {"f32": "0.0f", "bool": "false"}.get(dtype, "0")
            return f"({a[1]} ? {value} : {zero})" if len(a) > 1 else value
        if op in MATH or op == "fma" or (op == "abs" and dtype == "f32"):
            return f"math_{op}({', '.join(map(_bare, a))})"
        if op in ("eq", "ne") and n.args[0].dtype == "f32" and a[0] == a[1]:
            return f"is_nan({_bare(a[0])})" if op == "ne" else f"(!is_nan({_bare(a[0])}))"
        if op in ("add", "sub", "mul") and dtype == "i32":  # wraps around, as unsigned numbers do
            return f"int(uint({_bare(a[0])}) {_SYMBOL[op]} uint({_bare(a[1])}))"
        if op in ("idiv", "irem") and dtype == "i32" and not _plain_divisor(n.args[1]):
            return f"int_{op[1:]}({_bare(a[0])}, {_bare(a[1])})"  # addresses have no such divisors
        if op in _SYMBOL:
            return f"({a[0]} {_SYMBOL[op]} {a[1]})"
        if op in ("min", "max"):
            f = f"{op}_nan" if dtype == "f32" else f"int_{op}<{ctype}>"
            return f"{f}({_bare(a[0])}, {_bare(a[1])})"
        if op in _LOGIC:
            return f"({a[0]} {_LOGIC[op][dtype == 'bool']} {a[1]})"
        if op in ("shl", "shr", "sar"):
            fits = n.args[1].op == "const" and 0 <= n.args[1].attr < 32
            by = a[1] if fits else f"({a[1]} & int(8 * sizeof({ctype}) - 1))"
            if op == "sar":
                return f"({ctype}({_bare(a[0])}) >> {by})"
            return f"{ctype}({unsigned}({_bare(a[0])}) {'<<' if op == 'shl' else '>>'} {by})"
        if op == "select":
            return f"({a[0]} ? {a[1]} : {a[2]})"
        if op == "neg":
            return f"int(0u - uint({_bare(a[0])}))" if dtype == "i32" else f"(-{a[0]})"
        if op == "abs":
            return f"int_abs<{ctype}>({_bare(a[0])})"
        if op == "not":
            return f"({'!' if dtype == 'bool' else '~'}{a[0]})"
        if op == "bitcast":
            return f"as_{ctype}({_bare(a[0])})"
        assert op == "cast", op
        if n.args[0].dtype == "f32" and dtype in ("i32", "i64"):
            return f"to_{dtype}({_bare(a[0])})"
        return f"({a[0]} != 0)" if dtype == "bool" else f"{ctype}({_bare(a[0])})"

    # -- statements

    def top(self, body: tuple[Stmt, ...]) -> None:
        """A kernel's body: what is uniform, then the range, of which this team takes one turn."""
        self.prepare_all(body)
        self.statements(body[:-1])
        last = body[-1]
        per_group = _teams(self.width)
        if self.flat:
            place = f"index_t(GROUP) * {FLAT_GROUP} + index_t(THREAD)"
        else:
            place = "index_t(GROUP)" + (f" * {per_group} + SIMDGROUP" if per_group > 1 else "")
        if isinstance(last, Loop):
            start, stop = self.expr(last.start), self.expr(last.stop)
            row = self.unique(last.index.attr)
            base = "" if start == "0" else f"{start} + "
            self.line(f"const index_t {row} = {base}{place};")
            self.line(f"if ({row} >= {stop}) return;")
            self.env["index", last.index.attr] = (row, 0)
            self.statements(last.body)
            return
        assert isinstance(last, Split)
        at, first = self.unique("at"), "0"
        self.line(f"const index_t {at} = {place};")
        for count, part in zip(last.counts, last.bodies, strict=True):
            end = self.unique("end")
            counted = self.expr(count)
            self.line(
                f"const index_t {end} = {counted if first == '0' else f'{first} + {counted}'};"
            )
            with self.block(f"if ({at} < {end})"):
                self.load_floor = len(self.chain) - 1
                row = self.unique(last.index.attr)
                self.line(f"const index_t {row} = {at if first == '0' else f'{at} - {first}'};")
                self.env["index", last.index.attr] = (row, self.load_floor)
                self.statements(part)
                self.line("return;")
            first = end

    def statements(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.epoch += 1
            if isinstance(s, Loop | Fold):
                self.loop(s)
            elif isinstance(s, Store | Check):
                self.effect(s)
            elif isinstance(s, Barrier):
                if self.alone or self.hazards is None:
                    raise KernelError("a barrier where threads go their own ways")
                self.hazards.clear(False)
                self.wait(False)
            else:
                raise KernelError("a split stands outermost")

    def effect(self, s: Store | Check) -> None:
        """A store or a check: by one thread, where all run alike."""
        self.guard(s)
        condition = [] if self.alone else [f"{'LANE' if self.width == SIMD else 'THREAD'} == 0"]
        if isinstance(s, Check):
            condition.append(f"!{self.expr(s.ok)}")
            action = f"COUNT({self.c_names[s.status]}, {_bare(self.expr(s.slot))})"
        else:
            if s.where is not None:
                condition.append(self.expr(s.where))
            value = _STORE.get(s.buffer.dtype, "{}").format(_bare(self.expr(s.value)))
            action = f"{self.c_names[s.buffer]}[{_bare(self.expr(s.at))}] = {value}"
        both = " && ".join(condition)
        self.line(
            f"if ({_bare(both) if len(condition) == 1 else both}) {action};"
            if both
            else f"{action};"
        )

    def loop(self, s: Loop | Fold) -> None:
        vector = s.kind == "vector" and not self.alone
        if vector:
            self.guard(s)
        elif isinstance(s, Fold):
            self.guard_exprs((s.start, s.stop, *s.init))
        start, stop = self.expr(s.start), self.expr(s.stop)
        if isinstance(s, Fold):
            inits = [self.expr(e) for e in s.init]
            accs = [self.unique(v.attr) for v in s.acc]
            for v, name, init in zip(s.acc, accs, inits, strict=True):
                self.line(f"{_VALUE[v.dtype]} {name} = {_bare(init)};")
        i = self.unique(s.index.attr)
        first = start
        if vector:
            thread = "LANE" if self.width == SIMD else "THREAD"
            first = thread if start == "0" else f"{start} + {thread}"
        step = f"{i} += {self.width}" if vector else f"{i}++"
        header = f"for (index_t {i} = {_bare(first)}; {i} < {stop}; {step})"
        outer = self.alone
        self.alone = outer or vector
        before = self.hazards.enter(s) if self.hazards and not self.alone else None
        with self.block(f"UNROLL\n{header}" if s.kind == "unrolled" else header):
            inside = len(self.chain) - 1
            self.env["index", s.index.attr] = (i, inside)
            if isinstance(s, Fold):
                for v, name in zip(s.acc, accs, strict=True):
                    self.env["var", v.attr] = (name, inside)
            self.statements(s.body)
            if isinstance(s, Fold):
                self.epoch += 1
                self.guard_exprs(s.step)
                self.assign(accs, s.step)
        self.alone = outer
        if self.hazards and before is not None:
            self.hazards.leave(before)
        if isinstance(s, Fold):
            for v, name in zip(s.acc, accs, strict=True):
                self.env["var", v.attr] = (name, len(self.chain) - 1)
            if vector:
                self.merge(s, accs)

    def assign(self, accs: list[str], values: tuple[Expr, ...]) -> None:
        """All accumulators at once."""
        texts = [_bare(self.expr(e)) for e in values]
        if len(accs) > 1:
            nexts = [self.unique(f"{name}_next") for name in accs]
            for e, name, text in zip(values, nexts, texts, strict=True):
                self.line(f"const {_VALUE[e.dtype]} {name} = {text};")
            texts = nexts
        for name, text in zip(accs, texts, strict=True):
            self.line(f"{name} = {text};")

    def merge(self, s: Fold, accs: list[str]) -> None:
        """The threads' accumulators become one: across lanes, then across simdgroups."""
        self.merge_lanes(s, accs, SIMD // 2)
        if self.width == SIMD:
            return
        simds = self.width // SIMD
        self.folds += 1
        turn = self.folds % 2  # two sets of parts: one is read while the other is written
        parts = []
        for i, v in enumerate(s.acc):
            ordinal = sum(a.dtype == v.dtype for a in s.acc[:i])
            slot = f"part_{v.dtype}_{turn}" + (f"_{ordinal}" if ordinal else "")
            if slot not in self.parts:
                self.parts[slot] = self.array(_VALUE[v.dtype], self.unique(slot, 0), simds)
            parts.append(self.parts[slot])
        assert self.hazards is not None
        self.wait(self.hazards.record([(f"parts {turn}", "all")]))
        stores = " ".join(f"{p}[SIMDGROUP] = {a};" for p, a in zip(parts, accs, strict=True))
        self.line(f"if (LANE == 0) {{ {stores} }}")
        self.wait(self.hazards.record([(f"parts {turn}", "read")]))
        for part, acc in zip(parts, accs, strict=True):
            self.line(f"{acc} = {part}[LANE & {simds - 1}];")
        self.merge_lanes(s, accs, simds // 2)

    def merge_lanes(self, s: Fold, accs: list[str], farthest: int) -> None:
        """A butterfly; the lower lane is always on the left, so that all lanes get equal bits."""
        d = self.unique("d")
        with self.block(f"UNROLL\nfor (uint {d} = {farthest}; {d} > 0; {d} >>= 1)"):
            inside = len(self.chain) - 1
            symmetric = all(_symmetric(*x) for x in zip(s.merge, s.left, s.right, strict=True))
            for left, right, acc in zip(s.left, s.right, accs, strict=True):
                ctype, other = _VALUE[left.dtype], self.unique(f"{acc}_other")
                self.line(f"const {ctype} {other} = lane_xor({acc}, {d});")
                sides = (acc, other)
                if not symmetric:
                    sides = (self.unique(f"{acc}_left"), self.unique(f"{acc}_right"))
                    self.line(f"const {ctype} {sides[0]} = LANE & {d} ? {other} : {acc};")
                    self.line(f"const {ctype} {sides[1]} = LANE & {d} ? {acc} : {other};")
                self.env["var", left.attr] = (sides[0], inside)
                self.env["var", right.attr] = (sides[1], inside)
            self.epoch += 1
            self.assign(accs, s.merge)

    # -- barriers

    def guard(self, s: Stmt) -> None:
        if self.hazards and not self.alone:
            self.wait(self.hazards.statement(s))

    def guard_exprs(self, exprs: tuple[Expr, ...]) -> None:
        if self.hazards and not self.alone:
            self.wait(self.hazards.expressions(exprs))

    def wait(self, device: bool | None) -> None:
        """The barrier that is due, if one is; `device`: it orders device memory too."""
        if device is not None:
            scope = "SIMD" if self.width == SIMD else "GROUP"
            self.line(f"{scope}_BARRIER{'_DEVICE' if device else ''}();")


def _symmetric(e: Expr, left: Expr, right: Expr) -> bool:
    """Whether a merge gives the same bits with its sides swapped."""
    sides = {(left.attr, right.attr), (right.attr, left.attr)}
    plain = e.op in ("add", "mul", "min", "max", "and", "or", "xor")
    return plain and all(a.op == "var" for a in e.args) and tuple(a.attr for a in e.args) in sides


def _plain_divisor(e: Expr) -> bool:
    return e.op == "const" and e.attr not in (0, -1)


def _bare(text: str) -> str:
    """Without the parentheses around all of it."""
    if not text.startswith("("):
        return text
    open_ = 0
    for i, c in enumerate(text):
        open_ += (c == "(") - (c == ")")
        if open_ == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


def _const(e: Expr) -> str:
    if e.dtype == "bool":
        return "true" if e.attr else "false"
    if e.dtype in ("i32", "i64"):
        value = int(e.attr)
        if value == -(2**31):  # the literal would be a long
            return f"{_VALUE[e.dtype]}(-2147483647 - 1)"
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
