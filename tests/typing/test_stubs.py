"""What the stubs declare is what there is at run time."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import tensorlogic as tl
from tensorlogic import functions
from tests.typing import stubs

PACKAGE = Path(tl.__file__).parent


def declared(stub: str, inside: str = "") -> dict[str, ast.stmt]:
    """The public names that a stub defines, at its top or in a class."""
    body = ast.parse((PACKAGE / stub).read_text()).body
    if inside:
        (body,) = (n.body for n in body if isinstance(n, ast.ClassDef) and n.name == inside)
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return {n: node for n, node in names.items() if not n.startswith("_")}


def test_the_stub_of_the_rows_is_up_to_date() -> None:
    assert stubs.PATH.read_text() == stubs.formatted(), "run `python -m tests.typing.stubs`"


def test_all_functions_are_declared() -> None:
    assert declared("rows.pyi").keys() | declared("typed.pyi").keys() == set(functions.FUNCTIONS)


def test_all_methods_are_declared() -> None:
    methods = declared("rows.pyi", "Rows").keys() | declared("typed.pyi", "TypedTensor").keys()
    assert methods == set(functions.METHODS)


def test_parameters_are_declared_as_they_are() -> None:
    for name, node in declared("typed.pyi").items():
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
            if arguments.vararg:
                names.append(arguments.vararg.arg)
            assert names == list(inspect.signature(getattr(tl, name)).parameters), name


def test_the_package_declares_its_public_names() -> None:
    imports = ast.parse((PACKAGE / "__init__.pyi").read_text()).body
    names = {a.asname for n in imports if isinstance(n, ast.ImportFrom) for a in n.names}
    names |= {n.target.id for n in imports if isinstance(n, ast.AnnAssign)}  # type: ignore[union-attr]
    assert names - {"bool_"} | {"bool"} == set(dir(tl))
