"""What the tests of the text language share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tensorlogic import lang
from tensorlogic.errors import LanguageError

Fails = Callable[[str], str]


@pytest.fixture
def printed() -> Callable[..., list[str]]:
    """Runs a program and gives the lines that it printed."""

    def run(text: str, **environment: Any) -> list[str]:
        lines: list[str] = []
        lang.run(text, "test.tl", out=lines.append, environment=environment)
        return lines

    return run


@pytest.fixture
def failure() -> Fails:
    """Runs a program that must fail and gives the text of its error."""

    def run(text: str) -> str:
        with pytest.raises(LanguageError) as caught:
            lang.run(text, "test.tl", out=lambda line: None)
        return str(caught.value)

    return run
