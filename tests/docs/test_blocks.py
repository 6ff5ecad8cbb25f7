"""The runner of code blocks notices what is wrong with a document."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.docs.blocks import BlockError, Runner, missing_links, read_blocks


def _run(text: str) -> Runner:
    runner = Runner("page.md")
    runner.run(read_blocks(dedent(text), "page.md"))
    return runner


def test_blocks_run_in_one_namespace_and_in_order() -> None:
    runner = _run(
        """
        ```python
        x = 1
        ```
        text
        ```python
        x += 1
        print("x is", x)
        ```
        ```output
        x is 2
        ```
        - in a list
          ```tensorlogic
          let y = 20
          ```
        ```tensorlogic
        print(y + 1)
        ```
        ```text
        read only
        ```
        ```output
        21
        ```
        """
    )
    assert runner.python["x"] == 2
    assert runner.tensorlogic == {"y": 20}


def test_what_should_fail() -> None:
    _run(
        """
        ```python fails
        raise ValueError("no")
        ```
        ```output
        ValueError: no
        ```
        ```tensorlogic fails
        print(x)
        ```
        ```output
        page.tl:1:7: `x` is not defined
          1 | print(x)
            |       ^
        ```
        """
    )


def test_shell_commands() -> None:
    _run(
        """
        ```sh
        python -m venv .venv && ls  # only looked up, not run
        .venv/bin/tensorlogic --version
        ```
        ```output
        tensorlogic 0.1.0
        ```
        """
    )


def test_output_of_a_command_inside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tensorlogic 0.1.0").write_text('print("text is", text)')
    _run(
        """
        ```sh
        tensorlogic run "$(python -m tensorlogic --version)" --set text="1 2"
        ```
        ```output
        text is 1 2
        ```
        """
    )


def test_a_block_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = """
        ```python
        # test_one.py
        def test_it() -> None:
            assert 1 + 1 == %d
        ```
        ```sh
        python -m pytest test_one.py
        ```
        """
    _run(page % 2)
    with pytest.raises(BlockError, match="1 failed"):
        _run(page % 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n", "page.md:2: the block is never closed"),
        ("```\nx = 1\n```", "page.md:2: a block of 'no language'"),
        ("```pyhton\nx = 1\n```", "page.md:2: a block of 'pyhton'"),
        ("```python failing\nx = 1\n```", "page.md:2: a block of 'python failing'"),
        ("a\n```python\n1 / 0\n```", "page.md:3: ZeroDivisionError: division by zero"),
        ("```tensorlogic\nx\n```", "page.md:2: LanguageRuntimeError: page.tl:1:1: `x` is not"),
        ("```python fails\nx = 1\n```", "page.md:2: the block should fail, but does not"),
        ("```output\nx\n```", "page.md:2: there is no block before this output"),
        (
            "```python\nprint(1)\n```\n```output\n2\n```",
            "page.md:5: the document says\n2\nbut it is\n1",
        ),
        (
            "```diff\n--- a/README.md\n+new\n-never there\n```",
            "README.md has no line 'never there'",
        ),
        ("```sh\nno-such-command x\n```", "there is no command 'no-such-command'"),
        ("```sh\nls && tensorlogic run no.tl\n```", "error: no.tl: No such file or directory"),
    ],
)
def test_rejects(text: str, message: str) -> None:
    with pytest.raises(BlockError) as caught:
        _run(text)
    assert message in str(caught.value)


def test_missing_links(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    text = "[a](there.md#part) [b](gone.md) [c](https://x.org) ```python\nx[0](1)\n```"
    assert missing_links(text, tmp_path) == ["gone.md"]
