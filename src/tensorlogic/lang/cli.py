"""The command `tensorlogic`, also `python -m tensorlogic`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_FAILED, _INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 after an error, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    """Run the command; errors become one message and a status."""
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        return _FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    from tensorlogic import __version__

    parser = argparse.ArgumentParser(
        prog="tensorlogic", description="Run typed tensor programs on model files."
    )
    parser.add_argument("--version", action="version", version=f"tensorlogic {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the Python traceback of errors")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[common], help="run a program of the text language")
    run.add_argument("file", metavar="FILE.tl", help="the program; `-` reads standard input")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        type=_binding,
        metavar="NAME=TEXT",
        help="a string that the program finds under that name, such as model=PATH",
    )
    run.set_defaults(run=_run)

    info = commands.add_parser("info", parents=[common], help="show what is in a model file")
    info.add_argument("model", metavar="MODEL", help="a .safetensors or .gguf file, or a folder")
    info.add_argument("--check", action="store_true", help="count values that float16 cannot hold")
    info.set_defaults(run=_info)

    devices = commands.add_parser("devices", parents=[common], help="show the devices")
    devices.set_defaults(run=_devices)
    return parser


def _binding(argument: str) -> tuple[str, str]:
    """The name and the text of `NAME=TEXT`."""
    name, equals, text = argument.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=TEXT")
    return name, text


def _message(error: Exception) -> str:
    from tensorlogic.errors import TensorLogicError

    if isinstance(error, TensorLogicError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}; this is a fault of tensorlogic: `--debug` shows it"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _run(options: argparse.Namespace) -> None:
    from tensorlogic import lang

    environment: dict[str, Any] = dict(options.set)
    if options.file == "-":
        lang.run(sys.stdin.read(), "<stdin>", environment=environment)
    else:
        lang.run_file(options.file, environment=environment)


def _console() -> Console:
    """Where tables go; into a pipe or file they go in full width, unadorned."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def _info(options: argparse.Namespace) -> None:
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


def _devices(options: argparse.Namespace) -> None:
    from rich.table import Table

    from tensorlogic.devices.base import devices

    table = Table(box=None, pad_edge=False)
    for head in ("device", "here", "what it is", "why not"):
        table.add_column(head, no_wrap=head != "why not")
    for device in devices():
        here = "yes" if device.available else "no"
        table.add_row(device.name, here, device.description, device.reason)
    _console().print(table)
