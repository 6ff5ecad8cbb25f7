"""mypy --strict and pyright find every misfit of tests/typing/bad, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("good/*.py")) + sorted(HERE.glob("bad/*.py"))

Found = dict[str, set[int]]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The lines with errors by checker and file; both checkers run once, side by side."""
    cache = tmp_path_factory.mktemp("mypy")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-version=3.12"]
    mypy += ["--ignore-missing-imports", f"--cache-dir={cache}", "good", "bad"]
    pyright = [sys.executable, "-m", "pyright", "-p", str(HERE), "--outputjson"]
    runs = [
        subprocess.Popen(
            command,
            cwd=HERE,
            env=os.environ | {"MYPYPATH": str(HERE.parents[1] / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in (mypy, pyright)
    ]
    (by_mypy, mypy_failure), (by_pyright, _) = (run.communicate(timeout=300) for run in runs)
    assert not mypy_failure
    found: dict[str, Found] = {"mypy": {}, "pyright": {}}
    for path, line in re.findall(r"^((?:good|bad)/\w+\.py):(\d+): error:", by_mypy, re.MULTILINE):
        found["mypy"].setdefault(path, set()).add(int(line))
    for report in json.loads(by_pyright)["generalDiagnostics"]:
        path = Path(report["file"]).relative_to(HERE).as_posix()
        found["pyright"].setdefault(path, set()).add(report["range"]["start"]["line"] + 1)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(HERE).as_posix())
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_errors_are_where_they_are_expected(
    errors: dict[str, Found], checker: str, path: Path
) -> None:
    lines = path.read_text().splitlines()
    expected = {i for i, line in enumerate(lines, 1) if line.endswith("# error expected")}
    assert errors[checker].get(path.relative_to(HERE).as_posix(), set()) == expected
    assert bool(expected) == (path.parent.name == "bad")
