"""The package says the same thing everywhere: names, documentation, version, what is installed."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tensorlogic as tl
from tensorlogic import functions

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_there_and_documented() -> None:
    for name in dir(tl):
        value = getattr(tl, name)
        if not isinstance(value, str):
            assert inspect.getdoc(value), name


def test_a_name_that_is_not_public_is_not_there() -> None:
    modules = {module.name for module in pkgutil.iter_modules(tl.__path__)}
    assert not {"math", "inspect", "importlib", "wrap", "as_node", "OPS"} & modules
    for name in ("math", "inspect", "importlib", "wrap", "as_node", "OPS", "_node", "no_such"):
        with pytest.raises(AttributeError, match=f"module 'tensorlogic' has no attribute '{name}'"):
            getattr(tl, name)


def test_every_public_function_is_exported_once() -> None:
    modules = (functions.norms, functions.pointwise, functions.products, functions.reductions)
    windows = (functions.convolution, functions.pooling, functions.resampling)
    shared = ("add_elementwise", "centred", "exponentials", "mean_of", "mean_square")
    for module in (*modules, *windows, functions.losses, functions.shapes):
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            if own and not name.startswith("_") and name not in shared:
                assert functions.FUNCTIONS[name] is value


def test_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tl.__version__ == project["version"]


def test_command_is_installed_under_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entry = importlib.metadata.EntryPoint(
        "tensorlogic", project["scripts"]["tensorlogic"], "console_scripts"
    )
    from tensorlogic.lang.cli import main

    assert entry.load() is main


def test_python_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minors = [11, 12, 13, 14]
    assert project["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    listed = [c for c in project["classifiers"] if c.startswith("Programming Language")]
    assert listed == [f"Programming Language :: Python :: 3.{minor}" for minor in minors]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip` builds of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(ROOT)], check=True, timeout=300)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "tensorlogic").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    data = {"grammar.lark", "runner.ll", "py.typed"}
    assert data <= {name.rsplit("/", 1)[-1] for name in files}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files


def test_the_wheel_carries_its_licence(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License\n                           Version 2.0" in wheel.read(name)
