"""The examples in the docstrings of the package do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tensorlogic as tl

MODULES = ["tensorlogic"] + [
    module.name
    for module in pkgutil.walk_packages(tl.__path__, "tensorlogic.")
    if not module.name.endswith("__main__")
]


def _examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    return [
        test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples
    ]


@pytest.mark.filterwarnings("ignore:this machine has no usable GPU")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in _examples(name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_there_are_examples_and_a_wrong_one_is_found() -> None:
    assert sum(len(_examples(name)) for name in MODULES) > 30
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1
