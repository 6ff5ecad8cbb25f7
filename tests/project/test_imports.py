"""Imports go one way, and `import tensorlogic` alone is light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tensorlogic as tl
from tests.project.imports import module_of, wrong_imports

PACKAGE = Path(tl.__file__).parent


def test_imports_go_one_way() -> None:
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert len(files) > 40
    wrong = {
        str(path.relative_to(PACKAGE)): found
        for path in files
        if (found := wrong_imports(path.read_text(encoding="utf-8"), module_of(path, PACKAGE)))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("from tensorlogic.tensor import Tensor", "graph", "line 1: graph imports tensor"),
        ("import tensorlogic.lang.parser", "model", "line 1: model imports lang"),
        ("\ndef f():\n    from tensorlogic import runtime", "ops", "line 3: ops imports runtime"),
        ("import tensorlogic as tl", "devices", "line 1: devices imports tensorlogic"),
        ("from tensorlogic import ones", "formats", "line 1: formats imports tensorlogic"),
        ("from . import runtime", "tensor", "line 1: tensor imports a relative module"),
        ("import tensorlogic.nowhere", "lang", "line 1: lang imports nowhere"),
        ("x = 1", "nowhere", "nowhere has no place in LAYERS"),
    ],
)
def test_an_import_that_goes_up_is_found(source: str, module: str, found: str) -> None:
    assert wrong_imports(source, module) == [found]


def test_imports_that_go_down_pass() -> None:
    source = (
        "import numpy\nimport tensorlogic\nfrom tensorlogic import __version__, ops\n"
        "from tensorlogic.lang.tree import Node\nfrom tensorlogicx import y\n"
    )
    assert wrong_imports(source, "lang") == []


def _loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def test_the_package_alone_loads_no_other() -> None:
    new = _loaded("import tensorlogic") - _loaded("pass")
    outside = {name.split(".")[0] for name in new} - sys.stdlib_module_names
    assert outside == {"tensorlogic"}
    assert len(new) < 10  # each costs: typing alone is 5 ms


def test_types_and_errors_need_no_numpy() -> None:
    new = _loaded("import tensorlogic as tl; tl.float16, tl.ShapeError, tl.Dim, tl.precision")
    assert not new & {"numpy", "typing_extensions", "ml_dtypes"}


def test_tensors_load_no_compiler_before_they_need_one() -> None:
    new = _loaded("import tensorlogic as tl; tl.tensor([1.0]) + 1; tl.load_model")
    assert not new & {
        "llvmlite",
        "lark",
        "rich",
        "gguf",
        "safetensors",
        "coremltools",
        "tensorlogic.lang",
    }
