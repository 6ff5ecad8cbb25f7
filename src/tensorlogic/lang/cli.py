"""The command `tensorlogic`, also `python -m tensorlogic`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tensorlogic.lang import commands

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
        print(f"error: {commands.message_of(error)}", file=sys.stderr)
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
    kinds = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    program = argparse.ArgumentParser(add_help=False)
    program.add_argument("file", metavar="FILE.tl", help="the program; `-` reads standard input")
    program.add_argument(
        "--set",
        action="append",
        default=[],
        type=_binding,
        metavar="NAME=TEXT",
        help="a string that the program finds under that name, such as model=PATH",
    )

    run = kinds.add_parser(
        "run", parents=[program, common], help="run a program of the text language"
    )
    run.set_defaults(run=commands.run)

    repl = kinds.add_parser("repl", parents=[common], help="run statements as they are typed")
    repl.set_defaults(run=commands.repl)

    explain = kinds.add_parser(
        "explain",
        parents=[program, common],
        help="show how a program's last tensor would be computed, without computing it",
    )
    explain.add_argument("--stage", choices=commands.STAGES, default="kernels")
    explain.add_argument("--device", help="metal, cuda or cpu, whether this machine has it or not")
    explain.add_argument(
        "--value", metavar="NAME", help="the tensor of that name, not the last one"
    )
    explain.set_defaults(run=commands.explain)

    info = kinds.add_parser("info", parents=[common], help="show what is in a model file")
    info.add_argument("model", metavar="MODEL", help="a .safetensors or .gguf file, or a folder")
    info.add_argument("--check", action="store_true", help="count values that float16 cannot hold")
    info.set_defaults(run=commands.info)

    convert = kinds.add_parser(
        "convert", parents=[common], help="save a model of any format as SafeTensors"
    )
    convert.add_argument("model", metavar="IN", help="a .safetensors or .gguf file, or a folder")
    convert.add_argument("target", metavar="OUT.safetensors")
    convert.add_argument(
        "--on-overflow",
        choices=commands.ON_OVERFLOW,
        default="raise",
        help="what becomes of values that float16 cannot hold",
    )
    convert.set_defaults(run=commands.convert)

    devices = kinds.add_parser("devices", parents=[common], help="show the devices")
    devices.set_defaults(run=commands.devices)

    selftest = kinds.add_parser(
        "selftest",
        parents=[common],
        help="check and time the devices of this machine; prints a report to paste into an issue",
    )
    selftest.add_argument("--device", help="only this one, such as metal or cuda:1")
    selftest.add_argument("--no-timings", action="store_true", help="check only")
    selftest.set_defaults(run=commands.selftest)
    return parser


def _binding(argument: str) -> tuple[str, str]:
    """The name and the text of `NAME=TEXT`."""
    name, equals, text = argument.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=TEXT")
    return name, text


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
