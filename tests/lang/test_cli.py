"""The command `tensorlogic`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tensorlogic as tl
from tensorlogic.lang import cli


def _command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tensorlogic", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)


def test_run(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text('print("shape:", ones([2, 3]).shape)\n')
    done = _command("run", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "shape: [2, 3]\n", "")


def test_run_reads_standard_input() -> None:
    assert _command("run", "-", stdin="print(6 * 7)").stdout == "42\n"


def test_set_gives_the_program_strings(capsys: pytest.CaptureFixture[str]) -> None:
    done = _command("run", "-", "--set", "a=b=c", "--set", "n=", stdin="print([a, n])")
    assert done.stdout == '["b=c", ""]\n'
    for wrong in ("a", "=a", "1a=b"):
        with pytest.raises(SystemExit):
            cli.main(["run", "-", "--set", wrong])
        assert f"argument --set: '{wrong}' is not NAME=TEXT" in capsys.readouterr().err


def test_errors_go_to_stderr_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(1)\nprint(ones(2) @ ones(3))\n")
    done = _command("run", str(file))
    assert done.returncode == 1
    assert done.stdout == "1\n"
    assert done.stderr == (
        f"error: {file}:2:15: ShapeError: matmul: [2] @ [3]: the inner sizes 2 and 3 differ\n"
        "  2 | print(ones(2) @ ones(3))\n"
        "    |               ^\n"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(ones(2) @ ones(3))\n")
    done = _command("run", "--debug", str(file))
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "tensorlogic.errors.ShapeError: matmul" in done.stderr


def test_missing_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "missing.tl"]) == 1
    assert capsys.readouterr().err == "error: missing.tl: No such file or directory\n"
    assert cli.main(["info", "missing.gguf"]) == 1
    assert capsys.readouterr().err == "error: missing.gguf: No such file or directory\n"


def test_a_fault_of_ours_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: str, **_: object) -> None:
        raise ValueError("oops")

    monkeypatch.setattr("tensorlogic.lang.run_file", broken)
    assert cli.main(["run", "x.tl"]) == 1
    assert capsys.readouterr().err == (
        "error: ValueError: oops; this is a fault of tensorlogic: `--debug` shows it\n"
    )
    with pytest.raises(ValueError, match="oops"):
        cli.main(["run", "--debug", "x.tl"])


def test_warnings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warns(path: str, **_: object) -> None:
        import warnings

        warnings.warn("mind the gap", stacklevel=2)

    monkeypatch.setattr("tensorlogic.lang.run_file", warns)
    assert cli.main(["run", "x.tl"]) == 0
    assert capsys.readouterr().err == "warning: mind the gap\n"


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.safetensors"
    model = tl.Model({"w": tl.ones([2, 3]), "big": tl.full([1], 1e6, dtype=tl.float32)})
    tl.save_model(model, path, {"note": "[bold]\x1b[31m two\nlines", "long": "x" * 500})
    assert cli.main(["info", str(path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    head, rest = lines[: lines.index("tensors")], lines[lines.index("tensors") + 1 :]
    assert head[:3] == [f"{path}: SafeTensors", "", "metadata"]
    assert "note  [bold]\\x1b[31m two\\nlines" in head
    assert f"long  {'x' * 119}…" in head
    assert rest == tl.load_model(path).summary().splitlines()
    assert cli.main(["info", "--check", str(path)]) == 0
    assert "beyond ±65504" in capsys.readouterr().out


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["device", "here", "what", "it", "is", "why", "not"]
    assert [row.split()[:2] for row in rows] == [
        [d.name, "yes" if d.available else "no"] for d in tl.devices()
    ]


def test_version_and_usage() -> None:
    assert _command("--version").stdout == f"tensorlogic {tl.__version__}\n"
    wrong = _command("bogus")
    assert wrong.returncode == 2
    assert "invalid choice: 'bogus'" in wrong.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(1)\n" * 20_000)
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "tensorlogic", "run", str(file)]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")


def test_the_command_starts_without_numpy_lark_or_rich() -> None:
    code = (
        "import sys; from tensorlogic.lang import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'lark', 'rich', 'llvmlite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
