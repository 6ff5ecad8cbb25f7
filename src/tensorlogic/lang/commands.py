"""What each command of the command line does with its options."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STAGES = ("graph", "schedule", "kernels", "source")
ON_OVERFLOW = ("raise", "saturate", "inf", "float32")


def message_of(error: Exception) -> str:
    """An error as the command shows it."""
    from tensorlogic.errors import TensorLogicError

    if isinstance(error, TensorLogicError | SelfTestFailed):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}; this is a fault of tensorlogic: `--debug` shows it"


def run(options: argparse.Namespace) -> None:
    from tensorlogic import lang

    environment: dict[str, Any] = dict(options.set)
    if options.file == "-":
        lang.run(sys.stdin.read(), "<stdin>", environment=environment)
    else:
        lang.run_file(options.file, environment=environment)


def explain(options: argparse.Namespace) -> None:
    from tensorlogic.errors import LanguageRuntimeError
    from tensorlogic.lang import values
    from tensorlogic.lang.interpreter import Interpreter
    from tensorlogic.lang.source import Source
    from tensorlogic.tensor import Tensor

    environment: dict[str, Any] = dict(options.set)
    interpreter = Interpreter(print, environment, dry=True)
    is_stdin = options.file == "-"
    source = Source("<stdin>", sys.stdin.read()) if is_stdin else Source.read(options.file)
    interpreter.run(source)
    name = options.value
    if name is None:
        value, what = interpreter.last, "the program has no tensor"
    elif name in environment:
        value = environment[name]
        what = f"`{name}` is {values.kind(value)}, not a tensor"
    else:
        value, what = None, f"`{name}` is not defined{values.nearest(name, environment)}"
    if not isinstance(value, Tensor):
        raise LanguageRuntimeError(f"{source.path}: {what}")
    print(value.explain(options.stage, options.device), end="")


def repl(options: argparse.Namespace) -> None:
    from tensorlogic.lang.repl import Repl

    Repl(options.debug).run()


def convert(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from tensorlogic.model import load_model, save_model

    model = load_model(options.model, options.on_overflow)
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("", total=len(model))
        save_model(
            model,
            options.target,
            progress=lambda name: progress.update(task, advance=1, description=_printable(name)),
        )
    count = "1 tensor" if len(model) == 1 else f"{len(model):,} tensors"
    print(f"{options.target}: {count}, {os.path.getsize(options.target):,} bytes")


def _console() -> Console:
    """Where tables go; into a pipe or file they go in full width, unadorned."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def info(options: argparse.Namespace) -> None:
    from rich.table import Table

    from tensorlogic.model import load_model

    model = load_model(options.model)
    facts = (model.metadata.format, model.metadata.architecture, model.metadata.quantization)
    console = _console()
    console.print(f"{options.model}: {', '.join(f for f in facts if f)}", markup=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in model.metadata.items():
        table.add_row(_shorten(key), _shorten(value))
    if model.metadata:
        console.print("\nmetadata")
        console.print(table)
    console.print("\ntensors")
    for line in model.summary(check=options.check).splitlines():
        console.print(_printable(line), markup=False, soft_wrap=True)


def _shorten(value: Any, limit: int = 120) -> Text:
    """A metadata value in one line of text that rich takes literally."""
    from rich.text import Text

    count = f"{len(value)} values: " if isinstance(value, list | tuple) and len(value) > 8 else ""
    text = _printable(count + str(value[:8] if count else value))
    return Text(text if len(text) <= limit else text[: limit - 1] + "…")


def _printable(text: str) -> str:
    """Text of a file with its control characters, which could steer the terminal, spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def devices(options: argparse.Namespace) -> None:
    from rich.table import Table

    from tensorlogic.devices.base import devices

    table = Table(box=None, pad_edge=False)
    for head in ("device", "here", "what it is", "why not"):
        table.add_column(head, no_wrap=head != "why not")
    for device in devices():
        here = "yes" if device.available else "no"
        table.add_row(device.name, here, device.description, device.reason)
    _console().print(table)


def selftest(options: argparse.Namespace) -> None:
    from tensorlogic.testing.selftest import report

    text, failed = report(options.device, timings=not options.no_timings)
    print(text)
    if failed:
        raise SelfTestFailed(f"{failed} check{'s' if failed > 1 else ''} failed")


class SelfTestFailed(Exception):
    """The machine computes something wrong: the report says what."""
