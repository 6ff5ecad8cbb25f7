"""`import "file.tl"`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tensorlogic as tl
from tensorlogic import lang


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.tl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _lines(path: str) -> list[str]:
    lines: list[str] = []
    tl.run_file(path, out=lines.append)
    return lines


def _error(path: str) -> str:
    with pytest.raises(tl.LanguageError) as caught:
        tl.run_file(path, out=lambda line: None)
    return str(caught.value)


def test_functions_of_a_file_beside_the_importing_one(tmp_path: Path) -> None:
    _write(
        tmp_path,
        sub__main='import "lib.tl"\nimport "../other.tl"\nprint(scaled(2), twice(3))\n',
        sub__lib='let scale = 10\nfn scaled(x: int) -> int { return x * scale }\nprint("once")\n',
        other='import "sub/lib.tl"\nfn twice(x: int) -> int { return scaled(x) * 2 }\n',
    )
    assert _lines("sub/main.tl") == ["once", "20 60"]


def test_only_what_a_file_itself_defines_becomes_visible(tmp_path: Path) -> None:
    _write(
        tmp_path,
        a='import "b.tl"\nlet hidden = 1\nfn of_a() { return }\n',
        b="fn of_b() { return }\n",
        main='import "a.tl"\nof_a()\nof_b()\n',
    )
    assert _error("main.tl").startswith("main.tl:3:1: `of_b` is not defined; did you mean `of_a`?")
    _write(tmp_path, main='import "a.tl"\nhidden\n')
    assert _error("main.tl").startswith("main.tl:2:1: `hidden` is not defined")


def test_a_program_without_a_file_imports_from_the_current_folder(tmp_path: Path) -> None:
    _write(tmp_path, lib="fn f() -> int { return 7 }")
    assert lang.run('import "lib.tl"; let x = f()')["x"] == 7


def test_cycles(tmp_path: Path) -> None:
    _write(tmp_path, a='import "b.tl"', sub__c='import "../a.tl"', b='// b\nimport "sub/c.tl"')
    _write(tmp_path, main='import "a.tl"')
    assert _error("main.tl") == (
        "sub/c.tl:1:1: files import each other: a.tl -> b.tl -> sub/c.tl -> a.tl\n"
        '  1 | import "../a.tl"\n'
        "    | ^^^^^^^^^^^^^^^^\n"
        "  in sub/c.tl, imported at b.tl:2:1\n"
        "  in b.tl, imported at a.tl:1:1\n"
        "  in a.tl, imported at main.tl:1:1"
    ).replace("/", os.sep)
    _write(tmp_path, own='import "own.tl"')
    assert _error("own.tl").split("\n")[0] == (
        "own.tl:1:1: files import each other: own.tl -> own.tl"
    )


def test_errors_name_the_imported_file(tmp_path: Path) -> None:
    _write(
        tmp_path,
        lib="fn f(x: float16[N]) -> float16[N] {\n    return x @ ones([3])\n}\n",
        main='import "lib.tl"\nf(ones([2]))\n',
    )
    assert _error("main.tl") == (
        "lib.tl:2:14: ShapeError: matmul: [2] @ [3]: the inner sizes 2 and 3 differ\n"
        "  2 |     return x @ ones([3])\n"
        "    |              ^\n"
        "  in f, called at main.tl:2:1"
    )
    _write(tmp_path, lib="let x =")
    assert _error("main.tl").startswith("lib.tl:1:8: expected an expression, found the end")
    _write(tmp_path, lib="xyzzy")
    assert _error("main.tl") == (
        "lib.tl:1:1: `xyzzy` is not defined\n"
        "  1 | xyzzy\n"
        "    | ^^^^^\n"
        "  in lib.tl, imported at main.tl:1:1"
    )


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    _write(tmp_path, lib="fn f() { return }", main='let f = 1\nimport "lib.tl"\n')
    assert _error("main.tl") == (
        "main.tl:2:1: `f` of lib.tl has a name that something else here has already\n"
        '  2 | import "lib.tl"\n'
        "    | ^^^^^^^^^^^^^^^"
    )


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(tl.LanguageRuntimeError) as caught:
        lang.run('import "missing.tl"', "main.tl")
    first = str(caught.value).split("\n")[0]
    assert first == (
        "main.tl:1:1: FileNotFoundError: [Errno 2] No such file or directory: 'missing.tl'"
    )


def test_long_chains_of_imports_do_not_reach_pythons_stack(tmp_path: Path) -> None:
    n = 1_500
    for i in range(n):
        _write(tmp_path, **{f"f{i}": f'import "f{i + 1}.tl"'})
    _write(tmp_path, **{f"f{n}": 'print("the last")'})
    assert _lines("f0.tl") == ["the last"]
