"""Writes src/tensorlogic/rows.pyi: what type checkers are to know of the rows of the op table.

`python -m tests.typing.stubs` writes it anew after a row was added; a test says when it is stale.
"""

from __future__ import annotations

from pathlib import Path

from tensorlogic import ops
from tensorlogic.ops import OPS, Op
from tensorlogic.tensor import _PYTHON as DUNDER

PATH = Path(__file__).parents[2] / "src/tensorlogic/rows.pyi"

HEAD = '''# mypy: disable-error-code="overload-overlap, overload-cannot-match, override"
"""The rows of the op table for type checkers. Written by `python -m tests.typing.stubs`.

Dims follow broadcasting as far as type variables express it: equal dims, trailing dims, one number.
"""

from typing import Any, Generic, Protocol, overload

from typing_extensions import TypeVar, TypeVarTuple, Unpack

from tensorlogic.dtypes import bool_, float16, float32
from tensorlogic.tensor import Tensor

DT = TypeVar("DT", default=Any)
Dims = TypeVarTuple("Dims", default=Unpack[tuple[Any, ...]])
T = TypeVar("T")
B = TypeVarTuple("B")
C = TypeVarTuple("C")
N = TypeVar("N")
M = TypeVar("M")
'''

SAME, ROW, MATRIX, ONE = "*C", "*B, M", "*B, N, M", "*tuple[()]"
BROADCAST = [
    (SAME, SAME, SAME),
    (SAME, ONE, SAME),
    (ROW, "M", ROW),
    (MATRIX, "N, M", MATRIX),
    ("M", ROW, ROW),
    ("N, M", MATRIX, MATRIX),
]
"""Dims of the left operand, the right one and the result."""
PROMOTED = [
    ("float16", "float32", "float32"),
    ("float32", "float16", "float32"),
    ("T", "bool_", "T"),
    ("bool_", "T", "T"),
]
"""dtypes of the left operand, the right one and the result, for equal dims (floats: rows too)."""

Overload = tuple[str, str, str]
"""Types of the left operand, the right one and the result."""


def overloads(a: str, b: str, c: str, broadcast: list[Overload] = BROADCAST) -> list[Overload]:
    """Every way to broadcast tensors of dtypes a and b to one of dtype c."""
    return [(f"{a}, {left}", f"{b}, {right}", f"{c}, {out}") for left, right, out in broadcast]


def of_two(op: Op) -> list[Overload]:
    if op.result == "bool":
        return overloads("T", "T", "bool_")
    if op.accepts == "bool":
        return overloads("T", "T", "T")
    found = overloads("T", "T", "T")
    for a, b, c in PROMOTED:
        found += overloads(a, b, c, BROADCAST[0:3:2] if "bool_" not in (a, b) else BROADCAST[:1])
    return found


def method(name: str, op: Op) -> list[str]:
    """The operator of a row on two tensors, or on a tensor and a number."""
    result = "bool_" if op.result == "bool" else "DT"
    number = "bool" if op.accepts == "bool" else "float"
    lines = [
        "    @overload",
        f"    def {name}(self, y: {number}, /) -> Tensor[{result}, *Dims]: ...",
    ]
    for left, right, out in of_two(op):
        lines.append("    @overload")
        lines.append(
            f"    def {name}(self: Rows[{left}], y: Tensor[{right}], /) -> Tensor[{out}]: ..."
        )
    if op.result != "bool":
        reverse = name.replace("__", "__r", 1)
        lines.append(f"    def {reverse}(self, y: {number}, /) -> Tensor[DT, *Dims]: ...")
    return lines


def protocol(name: str, op: Op) -> list[str]:
    """A function of two tensors, of which one may be a number."""
    result = "bool_" if op.result == "bool" else "T"
    number = "bool" if op.accepts == "bool" else "float"
    lines = [f"class {name}(Protocol):"]
    sides = [(f"Tensor[{a}]", f"Tensor[{b}]", out) for a, b, out in of_two(op)]
    tensor = f"Tensor[T, {SAME}]"
    numbers = [(tensor, number, f"{result}, {SAME}"), (number, tensor, f"{result}, {SAME}")]
    for left, right, out in numbers + sides:
        lines.append("    @overload")
        lines.append(f"    def __call__(self, a: {left}, b: {right}, /) -> Tensor[{out}]: ...")
    return lines


def text() -> str:
    """The whole stub."""
    rows = [
        op
        for op in OPS.values()
        if op.kind == "elementwise" and op not in (ops.gelu_erf, ops.gelu_tanh)
    ]
    own = "Tensor[DT, *Dims]"
    some = "Tensor[Any, *tuple[Any, ...]]"
    methods = ["class Rows(Generic[DT, *Dims]):"]
    functions = [
        *protocol("_Arithmetic", OPS["add"]),
        "",
        *protocol("_Comparison", OPS["less"]),
        "",
        *protocol("_Logic", OPS["logical_and"]),
        "",
    ]
    for op in rows:
        dtype = "bool_" if op.result == "bool" else "DT"
        if op.arity == 1:
            result = f"Tensor[{dtype}, *Dims]"
            if op.symbol:
                methods.append(f"    def __{DUNDER[op.symbol]}__(self) -> {result}: ...")
            methods.append(f"    def {op.name}(self) -> {result}: ...")
            functions.append(f"def {op.name}(x: {own}, /) -> {result}: ...")
        elif op.arity == 2:
            if op.symbol:
                methods += method(f"__{DUNDER[op.symbol]}__", op)
            methods.append(
                f"    def {op.name}(self, b: {some} | float, /) -> "
                f"Tensor[{dtype}, *tuple[Any, ...]]: ..."
            )
            kind = "_Comparison" if op.result == "bool" else "_Arithmetic"
            functions.append(f"{op.name}: {'_Logic' if op.accepts == 'bool' else kind}")
        else:
            either = f"{some} | float"
            methods.append(f"    def {op.name}(self, a: {either}, b: {either}, /) -> {some}: ...")
            condition, a = "Tensor[bool_, *C]", "Tensor[T, *C]"
            for first, second in ((a, a), (a, "float"), ("float", a)):
                functions.append("@overload")
                functions.append(
                    f"def {op.name}(condition: {condition}, a: {first}, b: {second}, /) -> {a}: ..."
                )
            functions.append("@overload")
            functions.append(
                f"def {op.name}(condition: Tensor[bool_, *tuple[Any, ...]], "
                f"a: {either}, b: {either}, /) -> {some}: ..."
            )
    return "\n".join([HEAD, *methods, "", *functions]) + "\n"


def formatted() -> str:
    """`text()` in the project's own formatting."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PATH), "-"]
    return subprocess.run(command, input=text(), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    PATH.write_text(formatted())
