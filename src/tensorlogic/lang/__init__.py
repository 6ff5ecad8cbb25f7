"""The text language: programs in `.tl` files that call the same functions as Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["run", "run_file"]


def run(
    text: str,
    path: str = "<text>",
    *,
    out: Callable[[str], None] = print,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the text of a program and return the names that it bound.

    path: what errors call the text. out: takes each printed line. environment: the names that the
    program starts with, to which its own are added. Paths in the program are relative to the
    current directory, those of `import` to the folder of `path`. Raises LanguageSyntaxError or
    LanguageRuntimeError.

    >>> import tensorlogic as tl
    >>> program = tl.lang.run('let area = 6 * 7; print("area:", area)')
    area: 42
    >>> program["area"]
    42
    """
    from tensorlogic.lang.interpreter import Interpreter
    from tensorlogic.lang.source import Source

    names: dict[str, Any] = {} if environment is None else environment
    Interpreter(out, names).run(Source(path, text))
    return names


def run_file(
    path: str | os.PathLike[str],
    *,
    out: Callable[[str], None] = print,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a `.tl` file and return the names that it bound; `out` and `environment` as for `run`.

    Paths in the program are relative to the current directory, as in Python, those of `import` to
    the file. Raises OSError, and LanguageSyntaxError or LanguageRuntimeError with file, line and
    column.

    >>> import pathlib, tempfile
    >>> import tensorlogic as tl
    >>> file = pathlib.Path(tempfile.mkdtemp(), "area.tl")
    >>> _ = file.write_text('print("area:", 6 * 7)')
    >>> tl.run_file(file)
    area: 42
    {}
    """
    from tensorlogic.lang.source import Source

    source = Source.read(os.fspath(path))
    return run(source.text, source.path, out=out, environment=environment)
