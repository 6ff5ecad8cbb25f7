"""Tables of Markdown documents, written and read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The text of a table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |\n" for r in lines)


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown document: for each its rows of cells, without marks of emphasis."""
    found: list[list[list[str]]] = []
    previous = False
    for line in text.split("\n"):
        is_row = line.startswith("|")
        if is_row and not previous:
            found.append([])
        if is_row and not re.fullmatch(r"[|\s:-]+", line):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            found[-1].append([re.sub(r"[*`\\]", "", c).strip() for c in cells])
        previous = is_row
    return found
