"""Habits of the repository: small files, nothing of the machine on which they were written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
MAX_BYTES = 1 << 20

# In pieces, so that this file does not contain what it looks for.
_PLACES = (
    "/" + "work/",
    "/" + "root/",
    "/" + "home/",
    "/" + "opt/tl",
    ".." + "/shared",
    "py" + "env",
)
_PLACE = re.compile("|".join(re.escape(place) for place in _PLACES))


def foreign_paths(text: str) -> list[str]:
    """The lines that name a place outside the repository."""
    return [
        f"line {i}: {line.strip()}"
        for i, line in enumerate(text.split("\n"), 1)
        if _PLACE.search(line)
    ]


def too_long(text: str, limit: int = MAX_LINES) -> bool:
    """Whether a source file has more lines than one job needs."""
    return text.count("\n") > limit


def _tracked() -> list[Path]:
    """The files of the repository: those in git and those that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_source_files_have_one_job() -> None:
    sources = [
        p for p in _tracked() if p.is_relative_to(ROOT / "src") and p.suffix in (".py", ".lark")
    ]
    assert len(sources) > 40
    assert [str(p.relative_to(ROOT)) for p in sources if too_long(p.read_text("utf-8"))] == []


def test_no_file_names_the_machine_it_was_written_on() -> None:
    found = {
        str(path.relative_to(ROOT)): places
        for path in _tracked()
        if (text := _text(path)) is not None and (places := foreign_paths(text))
    }
    assert found == {}


def test_no_file_is_large() -> None:
    assert [str(p) for p in _tracked() if p.stat().st_size > MAX_BYTES] == []


@pytest.mark.parametrize("place", _PLACES)
def test_a_foreign_path_is_found(place: str) -> None:
    assert foreign_paths(f"fine\nsee {place}x  ") == [f"line 2: see {place}x"]
    assert foreign_paths("~/.cache/tensorlogic and src/work.py") == []


def test_a_long_file_is_found() -> None:
    assert too_long("x\n" * (MAX_LINES + 1))
    assert not too_long("x\n" * MAX_LINES)
