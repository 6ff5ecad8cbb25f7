"""docs/api.md, written from the op table, the docstrings and the cases of the conformance tests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorlogic as tl
from tensorlogic import functions
from tensorlogic.dtypes import DTYPES
from tensorlogic.lang.builtins import RANDOM
from tensorlogic.ops import OPS, Op
from tensorlogic.tensor import _PYTHON as DUNDER
from tests.conformance.cases import CASES
from tests.conformance.test_rows import TAKES
from tests.docs.markdown import table

PATH = Path(__file__).parents[2] / "docs" / "api.md"

HEAD = """\
# API reference

Written by `python -m tests.docs.generate` from the op table and the docstrings. A docstring in
full, with an example, is shown by `help(tl.softmax)`. The tolerance is that of a float32 result, in
units in the last place of the exact one, or of the size of the sums behind it where their terms
cancel; a float16 result is the exact one, rounded, or a neighbour. Ints and bools are exact.
[Conformance](conformance.md) says what was verified where.

Functions whose first argument is a tensor are methods, too: `x.softmax(axis=0)`.
"""


def page() -> str:
    """The whole document."""
    parts = [HEAD, "\n## Tensors, files and programs\n\n", _described(_entry_points())]
    for kind in dict.fromkeys(r.kind for r in OPS.values()):
        rows = [r for r in OPS.values() if r.kind == kind]
        head = ("name", "operator", "what it is", "dtypes", "tolerance", "NaN and infinities")
        parts += [f"\n## Rows of the op table: {kind}\n\n", table(head, map(_row, rows))]
    composed = [f for n, f in functions.FUNCTIONS.items() if n not in OPS and n != "eval"]
    head = ("name", "what it is", "dtypes", "tolerance")
    parts += ["\n## Composed functions\n\n", table(head, map(_composed, composed))]
    drawn = ((f.name, f.function) for f in RANDOM.functions.values())
    parts += ["\n## Random tensors\n\n", _described(drawn)]
    parts += ["\n## Members of a tensor\n\n", _described(_members(tl.Tensor))]
    parts += ["\n## Members of a model\n\n", _described(_members(tl.Model))]
    parts += ["\n## dtypes\n\n", table(("dtypes that compute", "storage dtypes"), [_dtypes()])]
    errors = [(n, getattr(tl, n)) for n in dir(tl) if _is_error(getattr(tl, n))]
    head = ("error", "is also", "when")
    parts += ["\n## Errors\n\n", table(head, (_error(n, e) for n, e in errors))]
    return "".join(parts)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _entry_points() -> Iterable[tuple[str, Any]]:
    """The public names that are neither functions of tensors nor dtypes nor errors."""
    for name in dir(tl):
        value = getattr(tl, name)
        simple = isinstance(value, str | tl.DType) or name in functions.FUNCTIONS
        if name == "eval" or not (simple or _is_error(value)):
            yield name, value


def _members(owner: type) -> Iterable[tuple[str, Any]]:
    """Its own properties and methods; the functions of tensors have tables of their own."""
    for name, value in sorted(vars(owner).items()):
        if not name.startswith("_") and name not in functions.METHODS:
            yield name, value


def _described(members: Iterable[tuple[str, Any]]) -> str:
    rows = [(f"`{n}{_parameters(v)}`", first_line(v)) for n, v in members]
    return table(("name", "what it is"), rows)


def first_line(value: Any) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def _parameters(value: Any) -> str:
    """The parameters of a callable, without their types; nothing for a property or a value."""
    if not callable(value) or isinstance(value, type(tl.Dim)):
        return ""
    found = inspect.signature(value).parameters.values()
    names = [p for p in found if p.name != "self"]
    shown = [p.replace(annotation=inspect.Parameter.empty) for p in names]
    text = str(inspect.Signature(shown)).replace(", /)", ")")
    text = re.sub(r"<built-in function (\w+)>", r"\1", text)
    return re.sub(r"<.*? at 0x\w+>", "...", text)


def _row(op: Op) -> tuple[str, ...]:
    fn: Callable[..., Any] | None = functions.FUNCTIONS.get(op.name)
    operator = {"neg": "`-x`", "abs": "`abs(x)`", "~": "`~x`"}.get(op.symbol)
    if operator is None:
        operator = f"`a {op.symbol} b`" if op.symbol in DUNDER else ""
    dtypes = ", ".join(TAKES[op.accepts]) + ("" if op.result == "same" else f" → {op.result}")
    name = f"`{op.name}{_parameters(fn) if fn is not None else ''}`"
    return name, operator, op.doc, dtypes, tolerance(op.name), op.special


def _composed(fn: Callable[..., Any]) -> tuple[str, ...]:
    cases = [c for c in CASES if c.function == fn.__name__]
    taken = {d for c in cases for d in c.dtypes}
    dtypes = ", ".join(d for d in DTYPES if d in taken)
    return f"`{fn.__name__}{_parameters(fn)}`", first_line(fn), dtypes, tolerance(fn.__name__)


def tolerance(name: str) -> str:
    """The tolerance of a row, or of a composed function: then the widest of its cases."""
    if name in OPS:
        op = OPS[name]
        floats = op.result == "same" and not {"float16", "float32"}.isdisjoint(TAKES[op.accepts])
        return f"{op.ulps:g}" if floats else "exact"
    cases = [c for c in CASES if c.function == name]
    sums = " of the sums" if any(c.scale is not None for c in cases) else ""
    if not cases:
        return "exact" if name == "update" else "as its tests say"
    return "exact" if all(c.exact for c in cases) else f"{max(c.ulps for c in cases):g}{sums}"


def _dtypes() -> tuple[str, str]:
    compute = [f"`{n}`" for n, d in DTYPES.items() if d.computes]
    return ", ".join(compute), ", ".join(f"`{n}`" for n, d in DTYPES.items() if not d.computes)


def _error(name: str, error: type) -> tuple[str, str, str]:
    builtin = [b.__name__ for b in error.__mro__ if b.__module__ == "builtins" and b is not object]
    return f"`{name}`", f"`{builtin[0]}`", first_line(error)
