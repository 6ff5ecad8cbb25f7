"""Runs the code blocks of a Markdown document in the order in which they stand.

Fences and what becomes of them:

    python, tensorlogic   run; each language has one namespace for the whole document
    python fails          runs and must raise (the same for tensorlogic)
    output                is exactly what the block before it printed, or the error it failed with
    sh                    `tensorlogic`, `python -m tensorlogic`, examples run, and `python -m
                          pytest` on files of the document; other commands must exist
    diff                  names a file of the repository and lines that stand in it
    text and the like     is there to be read

A python block that begins with `# NAME.py` is that file, and is written there too. A fence in any
other language, or in none, is an error: nothing escapes the check by a typing slip.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorlogic import lang
from tensorlogic.errors import LanguageError

ROOT = Path(__file__).parents[2]
READ_ONLY = frozenset({"text", "toml", "c", "llvm", "metal", "cuda"})


class BlockError(AssertionError):
    """A block that does not do what the document says."""


@dataclass(frozen=True)
class Block:
    language: str
    fails: bool
    text: str
    place: str
    """Where its text begins: `README.md:12`."""


def read_blocks(text: str, name: str) -> list[Block]:
    """The fenced blocks of a document."""
    blocks: list[Block] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        indent = len(lines[at]) - len(lines[at].lstrip(" "))
        fence = lines[at][indent:]
        at += 1
        if not fence.startswith("```"):
            continue
        ticks = fence[: len(fence) - len(fence.lstrip("`"))]
        words = fence[len(ticks) :].split()
        place = f"{name}:{at + 1}"
        body = []
        while at < len(lines) and lines[at].strip() != ticks:
            body.append(lines[at][indent:])
            at += 1
        if at == len(lines):
            raise BlockError(f"{place}: the block is never closed")
        at += 1
        language, *more = words or [""]
        if more not in ([], ["fails"]) or not _is_known(language):
            raise BlockError(f"{place}: a block of {' '.join(words) or 'no language'!r}")
        blocks.append(Block(language, bool(more), "\n".join(body) + "\n", place))
    return blocks


def missing_links(text: str, folder: Path) -> list[str]:
    """The targets of the document's relative links that are not there."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", prose)
    return [t for t in targets if "://" not in t and not (folder / t).exists()]


def _is_known(language: str) -> bool:
    return language in {*_RUNNERS, *READ_ONLY, "output"}


class Runner:
    """The state in which the blocks of one document run; the current directory is the test's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.python: dict[str, Any] = {"__name__": "__main__"}
        self.tensorlogic: dict[str, Any] = {}
        self._printed: str | None = None

    def run(self, blocks: list[Block]) -> None:
        """Run them all; raises BlockError at the first that does not do what it should."""
        for block in blocks:
            if block.language == "output":
                self._compare(block)
            elif block.language not in READ_ONLY:
                self._printed = self._run(block)

    def _run(self, block: Block) -> str:
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                _RUNNERS[block.language](self, block)
        except Exception as error:
            if not block.fails:
                raise BlockError(f"{block.place}: {type(error).__name__}: {error}") from error
            is_located = isinstance(error, LanguageError)
            return str(error) if is_located else f"{type(error).__name__}: {error}"
        if block.fails:
            raise BlockError(f"{block.place}: the block should fail, but does not")
        return out.getvalue()

    def _compare(self, block: Block) -> None:
        if self._printed is None:
            raise BlockError(f"{block.place}: there is no block before this output")
        printed, said = (_trimmed(text) for text in (self._printed, block.text))
        if printed != said:
            raise BlockError(f"{block.place}: the document says\n{said}\nbut it is\n{printed}")

    def _python(self, block: Block) -> None:
        file = f"<{block.place}>"
        if named := re.match(r"# (\w+\.py)\n", block.text):
            Path(named[1]).write_text(block.text, encoding="utf-8")
        linecache.cache[file] = (len(block.text), None, block.text.splitlines(True), file)
        exec(compile(block.text, file, "exec"), self.python)

    def _tensorlogic(self, block: Block) -> None:
        path = Path(self.name).with_suffix(".tl").name
        lang.run(block.text, path, out=print, environment=self.tensorlogic)

    def _diff(self, block: Block) -> None:
        head, *lines = block.text.splitlines()
        path = ROOT / head.removeprefix("--- a/")
        there = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line[:1] in (" ", "-") and line[1:].strip() and line[1:] not in there:
                raise BlockError(f"{block.place}: {path.name} has no line {line[1:]!r}")

    def _sh(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                print(_output_of(shlex.split(command, comments=True)), end="")


_RUNNERS: dict[str, Callable[[Runner, Block], None]] = {
    "python": Runner._python,
    "tensorlogic": Runner._tensorlogic,
    "diff": Runner._diff,
    "sh": Runner._sh,
}


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))


def _output_of(words: list[str]) -> str:
    """What a command prints; `$(...)` in a quoted word stands for the output of a command."""
    if not words:
        return ""
    words = [
        re.sub(r"\$\(([^()]*)\)", lambda inner: _output_of(shlex.split(inner[1])).strip(), word)
        for word in words
    ]
    program = Path(words[0]).name
    if program == "tensorlogic":
        words = ["python", "-m", program, *words[1:]]
    if not (Path(words[0]).name.startswith("python") and _is_ours(words[1:])):
        if shutil.which(program) is None and not Path(sys.executable).with_name(program).exists():
            raise BlockError(f"there is no command {program!r}")
        return ""
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise BlockError(f"{' '.join(words)} failed: {done.stdout}{done.stderr}")
    return done.stdout


def _is_ours(arguments: list[str]) -> bool:
    """Whether these arguments of `python` run the package, an example, or tests that are there."""
    if arguments[:2] == ["-m", "pytest"]:
        return any(Path(a).exists() for a in arguments[2:])
    if arguments[:1] == ["-m"]:
        return arguments[1].split(".")[0] == "tensorlogic"
    return bool(arguments) and arguments[0].startswith("examples/")
