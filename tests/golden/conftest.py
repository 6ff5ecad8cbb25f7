"""`golden(name, text)`: the text is what the file of that name holds.

`pytest tests/golden --update-golden` writes the files anew; read the difference before it goes in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FILES = Path(__file__).with_name("files")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    # The option is unknown where pytest began elsewhere and found this folder later.
    update = request.config.getoption("--update-golden", default=False)

    def check(name: str, text: str) -> None:
        path = FILES / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{name} is new: run pytest tests/golden --update-golden"
        assert text == path.read_text(), f"{name} changed: read it, then --update-golden"

    return check
