"""Writes the documents that are made from the code: `python -m tests.docs.generate`.

docs/api.md from the op table and the docstrings; docs/conformance.md from a run of the conformance
tests. Tests say when one of them is stale.
"""

from __future__ import annotations

import subprocess
import sys

from tests.conformance.table import FOLDER
from tests.docs import api


def main() -> int:
    api.PATH.write_text(api.page(), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", str(FOLDER), "--write-table"]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
