"""Which way imports go in the package."""

from __future__ import annotations

import ast
from pathlib import Path

LAYERS = (
    "errors dtypes dims settings typed othernames locks",
    "kernels",
    "philox quants",
    "codegen",
    "storage gate",
    "ops",
    "forms",
    "graph",
    "computed record",
    "indexing",
    "schedule",
    "devices",
    "explain runtime",
    "tensor",
    "creation",
    "calls captures functions random signature",
    "function",
    "coreml formats",
    "model",
    "lang testing",
    "__main__",
)
"""Modules and folders of the package; each imports from its own line and those above it."""
ROOT_USERS = frozenset({"lang"})
"""What may import the whole package, whose names come from every layer."""

_LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}


def wrong_imports(source: str, module: str) -> list[str]:
    """The imports of a file, also those inside functions, that go up; `module` as in LAYERS."""
    if module not in _LEVEL:
        return [f"{module} has no place in LAYERS"]
    found = []
    for node in ast.walk(ast.parse(source)):
        for target in _targets(node):
            if target == "tensorlogic":
                wrong = module not in ROOT_USERS
            else:
                wrong = _LEVEL.get(target, len(LAYERS)) > _LEVEL[module]
            if wrong:
                found.append(f"line {node.lineno}: {module} imports {target}")  # type: ignore[attr-defined]
    return found


def _targets(node: ast.AST) -> list[str]:
    """What a statement imports of the package: names as in LAYERS, or the package itself."""
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return ["a relative module"]
        path = (node.module or "").split(".")
        if path == ["tensorlogic"]:
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            return [name if name in _LEVEL else "tensorlogic" for name in names]
        paths = [path]
    elif isinstance(node, ast.Import):
        paths = [alias.name.split(".") for alias in node.names]
    else:
        return []
    return [".".join(path[1:2]) or "tensorlogic" for path in paths if path[0] == "tensorlogic"]


def module_of(path: Path, package: Path) -> str:
    """The name in LAYERS of a file of the package."""
    return path.relative_to(package).parts[0].removesuffix(".py")
