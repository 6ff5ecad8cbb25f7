"""The checker of the kernel IR: what a well-formed kernel is."""

from __future__ import annotations

from tensorlogic.kernels.ir import (
    ARITHMETIC,
    COMPARE,
    INTEGER,
    LEAVES,
    LOADED_AS,
    MATH,
    MEMORY_TYPES,
    VALUE_TYPES,
    Barrier,
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

_KINDS = ("parallel", "vector", "flat", "serial", "unrolled")
_INTS = ("i32", "i64")
_FLOATS = ("f32", "f64")


class KernelError(AssertionError):
    """A kernel that breaks a rule of the IR: a fault of this package, never of its user."""


def _require(ok: bool, rule: str, where: object) -> None:
    if not ok:
        raise KernelError(f"{rule}: {where}")


def check_expr(e: Expr) -> None:
    """Types of one node against its op; its arguments are checked on their own."""
    types = tuple(a.dtype for a in e.args)
    _require(e.dtype in VALUE_TYPES, "not a value type", e)
    if e.op in LEAVES:
        _require(not e.args, "a leaf has no arguments", e)
        _require(e.op != "index" or e.dtype == "i64", "an index is i64", e)
    elif e.op == "load":
        _require(e.attr.dtype in MEMORY_TYPES, "not a memory type", e)
        _require(e.dtype == LOADED_AS[e.attr.dtype], "a load has its buffer's loaded type", e)
        _require(types in (("i64",), ("i64", "bool")), "a load takes an i64 and a guard", e)
    elif e.op in MATH:
        _require(types == (e.dtype,) and e.dtype in _FLOATS, "a float function", e)
    elif e.op in ("neg", "abs"):
        _require(types == (e.dtype,) and e.dtype != "bool", "a number", e)
    elif e.op == "not":
        _require(types == (e.dtype,) and e.dtype not in _FLOATS, "a bool or an integer", e)
    elif e.op == "either":
        _require(types == ("f32", "f32") == (e.dtype, e.dtype), "two forms of a float", e)
    elif e.op in ARITHMETIC:
        _require(types == (e.dtype, e.dtype) and e.dtype != "bool", "two numbers of a type", e)
        _require(e.op != "div" or e.dtype in _FLOATS, "div is for floats", e)
    elif e.op in INTEGER:
        logic = e.op in ("and", "or", "xor")
        allowed = (*_INTS, "bool") if logic else _INTS
        _require(types == (e.dtype, e.dtype) and e.dtype in allowed, "two integers", e)
        _require(e.op != "mulhi" or e.dtype == "i32", "mulhi is for i32", e)
    elif e.op in COMPARE:
        _require(len(types) == 2 and types[0] == types[1], "two values of one type", e)
        _require(e.dtype == "bool", "a comparison is a bool", e)
    elif e.op == "select":
        _require(types == ("bool", e.dtype, e.dtype), "select(bool, T, T)", e)
    elif e.op == "fma":
        _require(types == (e.dtype,) * 3 and e.dtype in _FLOATS, "three floats", e)
    elif e.op == "cast":
        _require(len(types) == 1, "one value", e)
    elif e.op == "bitcast":
        pairs = {("f32", "i32"), ("i32", "f32"), ("f64", "i64"), ("i64", "f64")}
        _require(len(types) == 1 and (types[0], e.dtype) in pairs, "equal sizes", e)
    else:
        _require(False, "unknown op", e.op)


def check_kernel(kernel: Kernel) -> None:
    """Raises KernelError unless every rule of the IR holds: types, scopes, kinds, arguments."""
    arguments = set(kernel.buffers)
    names = {p.attr for p in kernel.params}
    _require(len(names) == len(kernel.params), "a param twice", names)
    _require(len({b.name for b in kernel.buffers}) == len(kernel.buffers), "a buffer twice", names)
    written = {s.buffer for s in walk(kernel.body) if isinstance(s, Store)}
    written |= {s.status for s in walk(kernel.body) if isinstance(s, Check)}
    for b in written:
        _require(b.written, "a store into a buffer that is not marked written", b.name)
    parallel = [
        s
        for s in walk(kernel.body)
        if isinstance(s, Split) or (isinstance(s, Loop) and s.kind in ("parallel", "flat"))
    ]
    _require(len(parallel) == 1, "a kernel has one parallel range", len(parallel))
    _require(kernel.body[-1] is parallel[0], "the parallel range stands last, outermost", "")

    def check_roots(roots: tuple[Expr, ...], scope: set[str]) -> None:
        for e in nodes_of(*roots):
            check_expr(e)
            if e.op in ("index", "var"):
                _require(e.attr in scope, "out of scope", e)
            elif e.op == "param":
                _require(e.attr in names, "a param that is not an argument", e)
            elif e.op == "load":
                known = e.attr in arguments or (e.attr.local and e.attr in written)
                _require(known, "a buffer that is not an argument", e)

    def check_dot(s: Fold, scope: set[str]) -> None:
        dot = s.dot
        assert dot is not None
        zero = len(s.init) == 1 and s.init[0].op == "const" and s.init[0].attr == 0
        _require(zero and s.acc[0].dtype == "f32", "a dot is one sum from 0", s.index)
        check_roots((dot.blocks, dot.at, dot.x_at), scope)
        places = (dot.blocks, dot.at, dot.x_at)
        _require(all(e.dtype == "i64" for e in places), "a dot counts in i64", s.index)
        _require(dot.weights.dtype == "u8", "blocks are bytes", dot.weights.name)
        _require(dot.x.dtype in ("f16", "bf16", "f32"), "x is of floats", dot.x.name)
        for b in (dot.weights, dot.x):
            _require(b in arguments or b.local, "a buffer that is not an argument", b.name)

    def block(body: tuple[Stmt, ...], scope: set[str], vector: bool) -> None:
        scope = set(scope)
        for s in body:
            if isinstance(s, Loop | Fold):
                _require(s.kind in _KINDS, "unknown kind", s.kind)
                _require(s.index.op == "index", "a loop runs over an index", s.index)
                _require(s.index.attr not in scope, "an index twice", s.index)
                is_vector = s.kind in ("vector", "flat")
                _require(not (vector and is_vector), "a vector loop inside another", s.index)
                if s.kind == "unrolled":
                    bounds = s.start.op == s.stop.op == "const"
                    _require(bounds, "an unrolled loop has constant bounds", s.index)
                inside = scope | {s.index.attr}
                check_roots((s.start, s.stop), scope)
                if isinstance(s, Fold):
                    n = len(s.acc)
                    tuples = (s.init, s.step, s.left, s.right, s.merge)
                    _require(all(len(t) == n for t in tuples), "accumulators", s.index)
                    for i, v in enumerate(s.acc):
                        _require(v.op == "var" and v.attr not in scope, "a new var", v)
                        _require(all(t[i].dtype == v.dtype for t in tuples), "one type", v)
                    check_roots(s.init, scope)
                    if s.dot is not None:
                        check_dot(s, scope)
                    sides = {v.attr for v in (*s.left, *s.right)}
                    check_roots(s.merge, scope | sides)
                    inside |= {v.attr for v in s.acc}
                    inner = block_scope(s.body, inside)
                    block(s.body, inside, vector or is_vector)
                    check_roots(s.step, inner)
                    scope |= {v.attr for v in s.acc}
                else:
                    block(s.body, inside, vector or is_vector)
            elif isinstance(s, Split):
                _require(len(s.counts) == len(s.bodies) > 0, "a count for each part", s.index)
                check_roots(s.counts, scope)
                for part in s.bodies:
                    block(part, scope | {s.index.attr}, vector)
            else:
                check_roots(exprs_of(s), scope)
                if isinstance(s, Store):
                    expected = LOADED_AS[s.buffer.dtype]
                    _require(s.value.dtype == expected, "a store of the buffer's type", s.value)
                    _require(s.at.dtype == "i64", "an address is i64", s.at)
                    local = s.buffer.local or s.buffer in arguments
                    _require(local, "a buffer that is not an argument", s.buffer.name)
                elif isinstance(s, Check):
                    _require(s.ok.dtype == "bool", "a check is a bool", s.ok)
                    _require(s.status in arguments, "status is an argument", s.status.name)
                else:
                    _require(isinstance(s, Barrier), "unknown statement", s)

    def block_scope(body: tuple[Stmt, ...], scope: set[str]) -> set[str]:
        """What is visible after a body: the accumulators of its folds."""
        return scope | {v.attr for s in body if isinstance(s, Fold) for v in s.acc}

    block(kernel.body, set(), False)
