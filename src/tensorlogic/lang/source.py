"""Places in a program's text, and how an error shows them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tensorlogic.errors import LanguageSyntaxError

_WIDTH = 100
_MARGIN = 20


@dataclass(frozen=True)
class Source:
    """The text of a program and the path by which errors name it."""

    path: str
    text: str

    @classmethod
    def read(cls, path: str) -> Source:
        """The program in a file; raises OSError, and LanguageSyntaxError for what is no text."""
        try:
            return cls(path, Path(path).read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise LanguageSyntaxError(
                f"{path}: not a text in UTF-8: byte {error.start} is "
                f"0x{error.object[error.start]:02x}"
            ) from None


class Span(NamedTuple):
    """A piece of a source; lines and columns count from 1, `end_column` is the first one after."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    @property
    def place(self) -> str:
        """`linear.tl:14:5`."""
        return f"{self.source.path}:{self.line}:{self.column}"

    @property
    def line_place(self) -> str:
        """`linear.tl:14`."""
        return f"{self.source.path}:{self.line}"

    def report(self, message: str, chain: str = "") -> str:
        """An error in full: the place, the message, the line with carets, the chain of calls."""
        number = str(self.line)
        line, start, length = self._excerpt()
        lead = "".join("\t" if c == "\t" else " " * _cells(c) for c in line[:start])
        carets = "^" * max(1, sum(_cells(c) for c in line[start : start + length]))
        return (
            f"{self.place}: {message}\n"
            f"  {number} | {line}\n"
            f"  {' ' * len(number)} | {lead}{carets}{chain}"
        )

    def _excerpt(self) -> tuple[str, int, int]:
        """The line, where the span begins in it, its length; a long line is cut around the span."""
        line = self.source.text.split("\n")[self.line - 1].rstrip("\r")
        start = self.column - 1
        length = (self.end_column if self.end_line == self.line else len(line) + 1) - self.column
        if len(line) <= _WIDTH:
            return line, start, length
        first = max(0, min(start - _MARGIN, len(line) - _WIDTH))
        shown = line[first : first + _WIDTH]
        head, tail = "…" * (first > 0), "…" * (first + _WIDTH < len(line))
        start = start - first + len(head)
        return head + shown + tail, start, min(length, len(head) + len(shown) - start)


def _cells(character: str) -> int:
    """The columns that a terminal gives to a character."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
