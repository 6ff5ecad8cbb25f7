"""One operation of the kernel IR as LLVM instructions, on scalars or vectors of any lanes."""

from __future__ import annotations

from tensorlogic.codegen.emit import Function, Value, constant, f32, f64, suffix, vector
from tensorlogic.kernels.ir import Expr

TYPES = {"f32": "float", "f64": "double", "i32": "i32", "i64": "i64", "bool": "i1"}
"""LLVM's names of the value types."""
STORED = {"f16": "half", "bf16": "i16", "f32": "float", "i32": "i32", "bool": "i8", "u8": "i8"}
"""LLVM's names of the memory types; bf16 is converted by integer arithmetic."""

_BITS = {"f32": 32, "f64": 64, "i32": 32, "i64": 64, "bool": 1}
_FLOATS = ("f32", "f64")
_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_OPS = ("add", "sub", "mul", "and", "or", "xor")
_SHIFTS = {"shl": "shl", "shr": "lshr", "sar": "ashr"}
_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole"}
_INT_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle"}
_FLOAT_INTRINSICS = {
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "rint": "rint",
    "abs": "fabs",
    "fma": "fma",
    "min": "minimum",
    "max": "maximum",
}


def literal(e: Expr) -> Value:
    """A const as LLVM spells it."""
    if e.dtype == "bool":
        return "true" if e.attr else "false"
    if e.dtype in _FLOATS:
        return f32(float(e.attr)) if e.dtype == "f32" else f64(float(e.attr))
    half = 1 << (_BITS[e.dtype] - 1)
    return str((int(e.attr) + half) % (2 * half) - half)


def zero(element: str, lanes: int) -> Value:
    if lanes > 1:
        return "zeroinitializer"
    return "0.0" if element in ("half", "float", "double") else "0"


def operation(f: Function, e: Expr, lanes: int, args: list[Value]) -> Value:
    """The value of `e`, which is no leaf and no load, from those of its arguments."""
    type_ = vector(TYPES[e.dtype], lanes)
    source = e.args[0].dtype
    given = vector(TYPES[source], lanes)
    if e.op == "select":
        return f.select(args[0], type_, args[1], args[2], lanes)
    if e.op in _FLOAT_COMPARE:
        if source in _FLOATS:
            return f.fcmp(_FLOAT_COMPARE[e.op], given, args[0], args[1])
        signed = _INT_COMPARE[e.op]
        return f.icmp(signed.replace("s", "u") if source == "bool" else signed, given, *args)
    if e.op == "cast":
        return _cast(f, source, e.dtype, lanes, args[0])
    if e.op == "bitcast":
        return f.cast("bitcast", given, args[0], type_)
    if e.dtype in _FLOATS:
        return _float_operation(f, e, lanes, args)
    if e.op == "neg":
        return f.op("sub", type_, zero("i", lanes), args[0])
    if e.op == "not":
        ones = "true" if e.dtype == "bool" else "-1"
        return f.op("xor", type_, args[0], constant(TYPES[e.dtype], lanes, ones))
    if e.op == "abs":
        return f.call(type_, f"llvm.abs.{suffix(type_)}", (type_, args[0]), ("i1", "false"))
    if e.op in ("min", "max"):
        return f.intrinsic("s" + e.op, type_, *args)
    if e.op == "mulhi":
        long = vector("i64", lanes)
        wide = [f.cast("zext", type_, a, long) for a in args]
        high = f.op("lshr", long, f.op("mul", long, *wide), constant("i64", lanes, "32"))
        return f.cast("trunc", long, high, type_)
    if e.op in _INT_OPS:
        return f.op(e.op, type_, *args)
    if e.op in _SHIFTS:
        return f.op(_SHIFTS[e.op], type_, args[0], _shift(f, e, lanes, args[1]))
    if e.op in ("idiv", "irem"):
        opcode = "sdiv" if e.op == "idiv" else "srem"
        return f.op(opcode, type_, args[0], _divisor(f, e, lanes, args))
    raise ValueError(f"no instruction for {e.op} of {e.dtype}")


def _float_operation(f: Function, e: Expr, lanes: int, args: list[Value]) -> Value:
    type_ = vector(TYPES[e.dtype], lanes)
    if e.op == "neg":
        return f.op("fneg", type_, args[0])
    if e.op in ("fract", "ldexp"):
        return _by_powers(f, e.op, lanes, args)
    if e.op in _FLOAT_OPS:
        # Only f32: the f64 of range reductions must stay as it is written.
        flags = " contract" if e.dtype == "f32" and e.op != "div" else ""
        return f.op(_FLOAT_OPS[e.op] + flags, type_, *args)
    flags = "nsz" if e.op in ("min", "max") else ""  # which of -0 and 0 it is costs four more
    return f.intrinsic(_FLOAT_INTRINSICS[e.op], type_, *args, flags=flags)


def _by_powers(f: Function, op: str, lanes: int, args: list[Value]) -> Value:
    """The part of a float after its floor, or x * 2**floor(n), by AVX-512."""
    if lanes < 4:
        type_ = vector("float", 4)
        if lanes == 2:
            pair = vector("float", 2)
            wide = [f.shuffle(pair, a, "zeroinitializer", range(4)) for a in args]
            return f.shuffle(type_, _by_powers(f, op, 4, wide), "poison", range(2))
        wide = [f.assign(f"insertelement {type_} zeroinitializer, float {a}, i32 0") for a in args]
        return f.assign(f"extractelement {type_} {_by_powers(f, op, 4, wide)}, i32 0")
    type_, width = vector("float", lanes), 32 * lanes
    if width > 512:
        half = lanes // 2
        parts = [
            [f.shuffle(type_, a, "poison", range(at, at + half)) for a in args] for at in (0, half)
        ]
        low, high = (_by_powers(f, op, half, part) for part in parts)
        return f.shuffle(vector("float", half), low, high, range(lanes))
    given = [(type_, a) for a in args]
    if op == "fract":
        given.append(("i32", "9"))  # towards minus infinity, without an exception
    mask = f"i{max(lanes, 8)}"
    given += [(type_, "zeroinitializer"), (mask, "-1")]
    if width == 512:
        given.append(("i32", "4"))  # rounding as it is set
    name = {"fract": "reduce", "ldexp": "scalef"}[op]
    return f.call(type_, f"llvm.x86.avx512.mask.{name}.ps.{width}", *given)


def _shift(f: Function, e: Expr, lanes: int, amount: Value) -> Value:
    """The shift amount, modulo the width: more would be poison."""
    if e.args[1].op == "const" and 0 <= e.args[1].attr < _BITS[e.dtype]:
        return amount
    element = TYPES[e.dtype]
    return f.op(
        "and", vector(element, lanes), amount, constant(element, lanes, str(_BITS[e.dtype] - 1))
    )


def _divisor(f: Function, e: Expr, lanes: int, args: list[Value]) -> Value:
    """The divisor, or 1 where a division would trap: by 0, and the lowest number by -1."""
    if e.args[1].op == "const" and e.args[1].attr not in (0, -1):
        return args[1]
    element = TYPES[e.dtype]
    type_ = vector(element, lanes)

    def same(number: int) -> Value:
        return constant(element, lanes, str(number))

    by_zero = f.icmp("eq", type_, args[1], same(0))
    by_minus = f.icmp("eq", type_, args[1], same(-1))
    lowest = f.icmp("eq", type_, args[0], same(-(1 << (_BITS[e.dtype] - 1))))
    bits = vector("i1", lanes)
    bad = f.op("or", bits, by_zero, f.op("and", bits, by_minus, lowest))
    return f.select(bad, type_, same(1), args[1], lanes)


def _cast(f: Function, source: str, target: str, lanes: int, value: Value) -> Value:
    given, type_ = vector(TYPES[source], lanes), vector(TYPES[target], lanes)
    if target == "bool":
        if source in _FLOATS:
            return f.fcmp("une", given, value, zero(TYPES[source], lanes))
        return f.icmp("ne", given, value, zero(TYPES[source], lanes))
    wider = _BITS[target] > _BITS[source]
    if source in _FLOATS and target in _FLOATS:
        return f.cast("fpext" if wider else "fptrunc", given, value, type_)
    if source in _FLOATS:
        name = f"llvm.fptosi.sat.{suffix(type_)}.{suffix(given)}"
        return f.call(type_, name, (given, value))
    if target in _FLOATS:
        return f.cast("uitofp" if source == "bool" else "sitofp", given, value, type_)
    opcode = "zext" if source == "bool" else "sext" if wider else "trunc"
    return f.cast(opcode, given, value, type_)


def loaded(f: Function, dtype: str, raw: Value, lanes: int) -> Value:
    """What memory of `dtype` holds, as the value type that a load of it has."""
    given = vector(STORED[dtype], lanes)
    if dtype == "f16":
        return f.cast("fpext", given, raw, vector("float", lanes))
    if dtype == "bf16":
        wide = f.cast("zext", given, raw, vector("i32", lanes))
        high = f.op("shl", vector("i32", lanes), wide, constant("i32", lanes, "16"))
        return f.cast("bitcast", vector("i32", lanes), high, vector("float", lanes))
    if dtype == "bool":
        return f.icmp("ne", given, raw, zero("i8", lanes))
    return f.cast("zext", given, raw, vector("i32", lanes)) if dtype == "u8" else raw


def stored(f: Function, dtype: str, value: Value, lanes: int) -> Value:
    """A value as memory of `dtype` holds it: floats are rounded to nearest even."""
    type_ = vector(STORED[dtype], lanes)
    if dtype == "f16":
        return f.cast("fptrunc", vector("float", lanes), value, type_)
    if dtype == "bf16":
        return _round_bf16(f, value, lanes)
    if dtype == "bool":
        return f.cast("zext", vector("i1", lanes), value, type_)
    return f.cast("trunc", vector("i32", lanes), value, type_) if dtype == "u8" else value


def _round_bf16(f: Function, value: Value, lanes: int) -> Value:
    """By integers: LLVM would call a library for it. A NaN stays one, quiet."""
    type_ = vector("i32", lanes)

    def number(n: int) -> Value:
        return constant("i32", lanes, str(n))

    bits = f.cast("bitcast", vector("float", lanes), value, type_)
    high = f.op("lshr", type_, bits, number(16))
    odd = f.op("and", type_, high, number(1))
    carried = f.op("add", type_, f.op("add", type_, bits, number(0x7FFF)), odd)
    rounded = f.op("lshr", type_, carried, number(16))
    is_nan = f.fcmp("uno", vector("float", lanes), value, value)
    kept = f.select(is_nan, type_, f.op("or", type_, high, number(0x40)), rounded, lanes)
    return f.cast("trunc", type_, kept, vector("i16", lanes))
