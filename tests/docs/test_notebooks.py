"""Every notebook runs, and what its cells print is what is kept in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def quiet() -> Iterator[None]:
    """The kernel's own packages warn of their own affairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(path: Path, folder: Path) -> Any:
    """A notebook executed in a folder, with the outputs that it gave."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    kernel = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    kernel.execute()
    return notebook


def texts(notebook: Any) -> list[str]:
    """What each cell of code printed and gave, as text."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = [o.get("text") or o.get("data", {}).get("text/plain") for o in cell.outputs]
            found.append("\n".join(part.rstrip("\n") for part in parts))
    return found


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_give_what_they_show(path: Path, tmp_path: Path) -> None:
    import nbformat

    assert texts(run(path, tmp_path)) == texts(nbformat.read(path, as_version=4))


@pytest.mark.usefixtures("quiet")
def test_a_notebook_that_fails_is_noticed(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    cells = [nbformat.v4.new_code_cell("print(1)"), nbformat.v4.new_code_cell("1 / 0")]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        run(path, tmp_path)
    nbformat.write(nbformat.v4.new_notebook(cells=cells[:1]), path)
    assert texts(run(path, tmp_path)) == ["1"]
    assert os.listdir(tmp_path) == ["x.ipynb"]
