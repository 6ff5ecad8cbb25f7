"""The read-eval-print loop: statements run as they are typed."""

from __future__ import annotations

import atexit
import contextlib
import sys
import traceback
from pathlib import Path
from typing import Any

from tensorlogic.lang import values
from tensorlogic.lang.commands import message_of
from tensorlogic.lang.interpreter import Interpreter
from tensorlogic.lang.parser import is_open
from tensorlogic.lang.source import Source

HISTORY = ".tensorlogic_history"
"""A file in the home directory, where Python has readline."""
_HISTORY_LINES = 1000


class Repl:
    """Reads statements from standard input, runs them, and prints the value of an expression.

    A statement goes on over further lines while a bracket or comment is open. An error is shown and
    ends nothing. debug: show the Python traceback of errors.
    """

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._prompts = ("tl> ", "... ") if sys.stdin.isatty() else ("", "")
        self._interpreter = Interpreter(print, {})
        self._inputs = 0

    def run(self) -> None:
        """Read and run until `:quit` or the end of the input."""
        if sys.stdin.isatty():
            _keep_history(Path.home() / HISTORY)
            print("TensorLogic; :quit or Ctrl-D ends")
        while (text := self._read()) is not None:
            command = text.strip()
            if command == ":quit":
                return
            if command.startswith(":"):
                _complain(f"`{command}` is no command; the one there is is `:quit`")
            elif command:
                self._run(text)

    def _read(self) -> str | None:
        """The lines of the next statement, or None at the end of the input."""
        lines: list[str] = []
        try:
            while not lines or is_open("\n".join(lines)):
                lines.append(input(self._prompts[bool(lines)]))
        except EOFError:
            if self._prompts[0]:
                print()
            return "\n".join(lines) or None
        except KeyboardInterrupt:
            print()
            return ""
        return "\n".join(lines)

    def _run(self, text: str) -> None:
        self._inputs += 1
        try:
            value: Any = self._interpreter.run(Source(f"<{self._inputs}>", text))
            if value is not None:
                print(values.show(value, quote=True))
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            _complain("interrupted")
        except Exception as error:
            if self._debug:
                traceback.print_exc()
            else:
                _complain(message_of(error))


def _complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _keep_history(path: Path) -> None:
    """Lines can be edited, and those of earlier sessions are there, where Python has readline."""
    try:
        import readline
    except ImportError:
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)

    def save() -> None:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)

    atexit.register(save)
