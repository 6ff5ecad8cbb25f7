"""`tensorlogic repl`."""

from __future__ import annotations

import io
import os
import pty
import readline
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tensorlogic.lang import cli, repl

Session = Callable[..., tuple[str, str]]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Session:
    """Types a text into the loop and gives what it printed, and its errors."""

    def run(text: str, *options: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert cli.main(["repl", *options]) == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def test_values_of_expressions_are_printed(session: Session) -> None:
    out, err = session(
        'let x = 2\nx * 3\n"a"\nnone\n[x, "b"]\nones([2]) + x; x + 1\nprint("p")\n\n'
    )
    assert (out, err) == ('6\n"a"\n[2, "b"]\n3\np\n', "")


def test_a_statement_goes_on_while_a_bracket_or_comment_is_open(session: Session) -> None:
    text = "fn f(\n  x: int\n) -> int {\n  // }\n\n  return x\n}\nf(\n3)\n/* a\n*/ 4\n"
    assert session(text) == ("3\n4\n", "")


def test_errors_end_nothing(session: Session) -> None:
    text = "fn f(x: int) -> int {\n return x / 0\n}\nf(1)\nlet y =\n:help\ny\nf\n1 + 1\n"
    out, err = session(text)
    assert out == "function f(x)\n2\n"
    assert err == (
        "error: <1>:2:11: ZeroDivisionError: division by zero\n"
        "  2 |  return x / 0\n"
        "    |           ^\n"
        "  in f, called at <2>:1:1\n"
        "error: <3>:1:8: expected an expression, found the end of the file\n"
        "  1 | let y =\n"
        "    |        ^\n"
        "error: `:help` is no command; the one there is is `:quit`\n"
        "error: <4>:1:1: `y` is not defined\n"
        "  1 | y\n"
        "    | ^\n"
    )


def test_debug_shows_tracebacks(session: Session) -> None:
    out, err = session("1 / 0\n2\n", "--debug")
    assert out == "2\n"
    assert "Traceback (most recent call last)" in err


def test_quit(session: Session) -> None:
    assert session("1\n:quit\n2\n") == ("1\n", "")


def test_the_end_of_the_input_inside_a_bracket(session: Session) -> None:
    out, err = session("1\nprint(\n")
    assert out == "1\n"
    assert err.startswith("error: <2>:1:6: this `(` is never closed")


def test_imports_are_relative_to_the_current_folder(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib.tl").write_text("fn f() -> int { return 5 }")
    monkeypatch.chdir(tmp_path)
    assert session('import "lib.tl"\nimport "lib.tl"\nf()\n') == ("5\n", "")


def test_history(tmp_path: Path) -> None:
    file = tmp_path / "history"
    repl._keep_history(file)  # there is none yet
    readline.add_history("let x = 1")
    readline.write_history_file(file)
    readline.clear_history()
    repl._keep_history(file)
    assert readline.get_history_item(1) == "let x = 1"
    readline.clear_history()


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    end = time.monotonic() + 60
    while wanted not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(terminal, 4096)
    return seen


def test_a_terminal(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorlogic", "repl"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
        # A process that was started in the background ignores it, and so would this one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(follower)
    assert b":quit or Ctrl-D ends" in _read_until(leader, b"tl> ")
    os.write(leader, b"print(\n")
    _read_until(leader, b"... ")
    os.write(leader, b"41 + 1)\n")
    assert b"42" in _read_until(leader, b"tl> ")
    os.write(leader, b"while true { }\n")
    _read_until(leader, b"}")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert b"error: interrupted" in _read_until(leader, b"tl> ")
    os.write(leader, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(leader)
    assert "41 + 1)" in (tmp_path / repl.HISTORY).read_text()
