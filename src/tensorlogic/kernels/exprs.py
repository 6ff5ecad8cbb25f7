"""Expressions of the kernel IR: what an element is, without statements.

Expressions are pure and shared (a DAG). Ops are written in them, so that a process which finds its
plans on the disk loads no more of the IR than this.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorlogic.kernels.ir import Buffer

VALUE_TYPES = ("f32", "f64", "i32", "i64", "bool")
"""Types of expressions. f64 occurs only in CPU expansions of sin and cos."""
MEMORY_TYPES = ("f16", "bf16", "f32", "i32", "bool", "u8")
"""Element types of buffers; f16 and bf16 are f32 once loaded, u8 is i32, bool is a byte 0 or 1."""
BYTES = {"f16": 2, "bf16": 2, "f32": 4, "i32": 4, "bool": 1, "u8": 1}
LOADED_AS = {"f16": "f32", "bf16": "f32", "f32": "f32", "i32": "i32", "bool": "bool", "u8": "i32"}

MATH = ("sqrt", "exp", "log", "sin", "cos", "tanh", "erf", "floor", "ceil", "trunc", "rint")
ARITHMETIC = ("add", "sub", "mul", "div", "min", "max")  # min, max: NaN if either is NaN
INTEGER = ("idiv", "irem", "mulhi", "and", "or", "xor", "shl", "shr", "sar")
# idiv and irem truncate; a divisor of 0 (or of -1 under the lowest number) counts as 1. Shift
# amounts count modulo the width. mulhi is the high half of the product of unsigned i32.
COMPARE = ("eq", "ne", "lt", "le")  # of NaN: ne is true, the others are false
LEAVES = ("const", "param", "index", "var")


class Expr:
    """One scalar expression. `attr` is the value of a const, the name of a param, index or var,
    or the `Buffer` of a load, whose args are (index,) or (index, where): 0 where `where` is false.
    """

    __slots__ = ("args", "attr", "dtype", "op")

    def __init__(self, op: str, dtype: str, args: tuple[Expr, ...] = (), attr: Any = None):
        self.op, self.dtype, self.args, self.attr = op, dtype, args, attr

    def _with(self, op: str, other: Any, swap: bool = False) -> Expr:
        b = other if isinstance(other, Expr) else const(other, self.dtype)
        pair = (b, self) if swap else (self, b)
        return Expr(op, "bool" if op in COMPARE else self.dtype, pair)

    def __add__(self, o: Any) -> Expr:
        return self._with("add", o)

    def __radd__(self, o: Any) -> Expr:
        return self._with("add", o, True)

    def __sub__(self, o: Any) -> Expr:
        return self._with("sub", o)

    def __rsub__(self, o: Any) -> Expr:
        return self._with("sub", o, True)

    def __mul__(self, o: Any) -> Expr:
        return self._with("mul", o)

    def __rmul__(self, o: Any) -> Expr:
        return self._with("mul", o, True)

    def __truediv__(self, o: Any) -> Expr:
        return self._with("div", o)

    def __rtruediv__(self, o: Any) -> Expr:
        return self._with("div", o, True)

    def __neg__(self) -> Expr:
        return Expr("neg", self.dtype, (self,))

    def __and__(self, o: Any) -> Expr:
        return self._with("and", o)

    def __or__(self, o: Any) -> Expr:
        return self._with("or", o)

    def __xor__(self, o: Any) -> Expr:
        return self._with("xor", o)

    def __lshift__(self, o: Any) -> Expr:
        return self._with("shl", o)

    def __rshift__(self, o: Any) -> Expr:
        """Logical (unsigned) shift; `sar` is the arithmetic one."""
        return self._with("shr", o)

    def __lt__(self, o: Any) -> Expr:
        return self._with("lt", o)

    def __le__(self, o: Any) -> Expr:
        return self._with("le", o)

    def __gt__(self, o: Any) -> Expr:
        return self._with("lt", o, True)

    def __ge__(self, o: Any) -> Expr:
        return self._with("le", o, True)

    def eq(self, o: Any) -> Expr:
        return self._with("eq", o)

    def ne(self, o: Any) -> Expr:
        return self._with("ne", o)

    def __repr__(self) -> str:
        return expr_text(self)


def const(value: float | int | bool, dtype: str) -> Expr:
    return Expr("const", dtype, (), value)


def param(name: str, dtype: str = "i64") -> Expr:
    """A number that each launch supplies: an extent, a stride, an offset, a scalar."""
    return Expr("param", dtype, (), name)


def index(name: str) -> Expr:
    return Expr("index", "i64", (), name)


def var(name: str, dtype: str) -> Expr:
    return Expr("var", dtype, (), name)


def unary(op: str, x: Expr) -> Expr:
    return Expr(op, x.dtype, (x,))


def binary(op: str, x: Expr, y: Any) -> Expr:
    return x._with(op, y)


def _wrap(value: Any, dtype: str) -> Expr:
    return value if isinstance(value, Expr) else const(value, dtype)


def select(cond: Expr, a: Any, b: Any) -> Expr:
    dtype = a.dtype if isinstance(a, Expr) else b.dtype
    return Expr("select", dtype, (cond, _wrap(a, dtype), _wrap(b, dtype)))


def fma(a: Expr, b: Any, c: Any) -> Expr:
    """a*b + c, rounded once."""
    return Expr("fma", a.dtype, (a, _wrap(b, a.dtype), _wrap(c, a.dtype)))


def either(fine: Expr, rough: Expr) -> Expr:
    """The same function twice: `rough` serves where all results are rounded to float16. It may be
    off by some units of the 20th bit, and by anything where `fine` is far below a half."""
    return Expr("either", fine.dtype, (fine, rough))


def cast(x: Expr, dtype: str) -> Expr:
    """Between value types. Float to int truncates and saturates, NaN gives 0; to bool is `!= 0`."""
    return x if x.dtype == dtype else Expr("cast", dtype, (x,))


def bitcast(x: Expr, dtype: str) -> Expr:
    return Expr("bitcast", dtype, (x,))


def load(buffer: Buffer, at: Expr, where: Expr | None = None) -> Expr:
    args = (at,) if where is None else (at, where)
    return Expr("load", LOADED_AS[buffer.dtype], args, buffer)


def nodes_of(*roots: Expr, known: Container[int] = ()) -> list[Expr]:
    """Every expression under the roots, arguments first, each object once; what lies under a node
    whose id is `known` is left out."""
    seen: set[Expr] = set()
    out: list[Expr] = []
    stack: list[Expr | None] = [*reversed(roots)]
    while stack:
        e = stack.pop()
        if e is None:  # its arguments are done
            out.append(stack.pop())  # type: ignore[arg-type]
        elif e not in seen:
            seen.add(e)
            if e.args and id(e) not in known:
                stack += (e, None, *reversed(e.args))
            else:
                out.append(e)
    return out


def rebuilt(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The expression with other arguments; itself if they are its own."""
    if args == e.args:  # expressions are equal to themselves alone
        return e
    return Expr(e.op, e.dtype, args, e.attr)


def replaced(e: Expr, by: Mapping[Expr, Expr], memo: dict[Expr, Expr]) -> Expr:
    """The expression with some of its nodes put in place of others."""
    for n in nodes_of(e):
        if n not in memo:
            memo[n] = by.get(n) or rebuilt(n, tuple(memo[a] for a in n.args))
    return memo[e]


_SYMBOL = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
}


def node_text(n: Expr, a: list[str]) -> str:
    """One node as text, given that of its arguments."""
    if n.op == "const":
        return repr(n.attr) if n.dtype != "f32" else f"{n.attr!r}f"
    if n.op in LEAVES:
        return str(n.attr)
    if n.op == "load":
        guard = f" if {a[1]}" if len(a) > 1 else ""
        return f"{n.attr.name}[{a[0]}{guard}]"
    if n.op in _SYMBOL:
        return f"({a[0]} {_SYMBOL[n.op]} {a[1]})"
    if n.op in ("cast", "bitcast"):
        return f"{n.dtype if n.op == 'cast' else 'bits_' + n.dtype}({a[0]})"
    return f"{n.op}({', '.join(a)})"


def expr_text(e: Expr, names: Mapping[int, str] | None = None) -> str:
    """One expression as text; `names` stand for the nodes of those ids."""
    text = dict(names or {})
    for n in nodes_of(e, known=text):
        if id(n) not in text:
            text[id(n)] = node_text(n, [text[id(x)] for x in n.args])
    return text[id(e)]
