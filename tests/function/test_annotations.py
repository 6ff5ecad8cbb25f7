"""Tensor annotations are found however Python keeps them."""

from __future__ import annotations

import sys
import typing
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar

import pytest

import tensorlogic as tl
from tensorlogic import Tensor, float16
from tensorlogic.signature import ANY_TENSOR, Each, Maybe, enclosing_names, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable

N = TypeVar("N")
FIVE = 5
Square = Tensor[float16, N, N]


def typed(fn: Callable[..., Any]) -> dict[str, Any]:
    """The parameters' types, and the result's under "return"."""
    found = signature_of(fn, enclosing_names(fn, sys._getframe(1)))  # type: ignore[arg-type]
    return found.params | {"return": found.result}


def test_strings_of_the_module() -> None:
    def f(
        a: Tensor[float16, N, D_in],  # noqa: F821 - a dim that no name stands for
        b: tl.Tensor[tl.float16, FIVE, Literal[3], ..., N * 2],
        c: tl.float16[N, 4],
        d: Square,
        e: Tensor,
        f: float16,
        n: int,
        g: Callable[[int], Tensor[float16, N]],
        h: Any = None,
    ) -> Tensor[float16, N]: ...

    assert typed(f) == {
        "a": float16["N", "D_in"],
        "b": float16[5, 3, ..., "N*2"],
        "c": float16["N", 4],
        "d": float16["N", "N"],
        "e": ANY_TENSOR,
        "f": float16[...],
        "n": None,
        "g": None,
        "h": None,
        "return": float16["N"],
    }


def test_containers() -> None:
    def f(
        a: list[Tensor[float16, N]],
        b: dict[str, Tensor[float16, N]],
        c: tuple[Tensor[float16, N], int],
        d: tuple[Tensor[float16, N], ...],
        e: Tensor[float16, N] | None,
        g: Optional[Tensor[float16, N]],  # noqa: UP045
        h: typing.Annotated[Tensor[float16, N], "weights"],
        i: typing.Sequence[Tensor[float16, N]],
        j: tuple[int, str],
        k: Tensor[float16, N] | Tensor[float16],
    ) -> tuple[Tensor[float16, N], dict[str, Tensor]]: ...

    t = float16["N"]
    assert typed(f) == {
        "a": Each(t),
        "b": Each(t),
        "c": (t, None),
        "d": Each(t),
        "e": Maybe(t),
        "g": Maybe(t),
        "h": t,
        "i": Each(t),
        "j": None,
        "k": None,
        "return": (t, Each(ANY_TENSOR)),
    }


def test_dims_of_the_enclosing_function() -> None:
    rows, cols = tl.dims("rows cols")
    width = 7

    def f(x: Tensor[float16, rows, cols + 1], y: tl.float16[width]) -> Tensor[float16, width]: ...

    assert typed(f) == {
        "x": float16["rows", "cols+1"],
        "y": float16[7],
        "return": float16[7],
    }


def test_dims_of_a_class_in_a_function() -> None:
    outer = 6

    class Layer:
        WIDTH = 3

        @tl.function
        def run(self, x: Tensor[float16, N, WIDTH], y: Tensor[float16, outer]) -> Tensor:
            return x

    layer = Layer()
    assert layer.run(tl.ones([2, 3]), tl.ones([6])).shape == (2, 3)
    with pytest.raises(tl.ShapeError, match="dim 1 of `x` is 2 but must be 3"):
        layer.run(tl.ones([2, 2]), tl.ones([6]))
    with pytest.raises(tl.ShapeError, match="dim 0 of `y` is 5 but must be 6"):
        layer.run(tl.ones([2, 3]), tl.ones([5]))


def test_names_of_the_closure() -> None:
    def outer(size: int) -> Callable[..., Any]:
        def f(x: Tensor[float16, size]) -> int:
            return size

        return f

    fn = outer(9)
    assert signature_of(fn, {}).params == {"x": float16[9]}  # type: ignore[arg-type]


def test_names_that_only_checkers_import() -> None:
    code = "def f(x: Tensor[float16, N, 2], y: tl.Tensor[tl.float16, N], z: 'np.ndarray'): ..."
    assert run(f"from __future__ import annotations\n{code}") == {
        "x": float16["N", 2],
        "y": float16["N"],
        "z": None,
        "return": None,
    }


def run(source: str) -> dict[str, Any]:
    """The types of the function f that this source defines."""
    names: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(source, "somewhere.py", "exec", dont_inherit=True), names)
    return typed(names["f"])


IMPORTS = "import tensorlogic as tl\nfrom tensorlogic import Tensor, float16\nimport typing\n"
WAYS = {
    "values": """
N, M = tl.dims("N M")
def f(x: Tensor[float16, N, M * 2], y: "tl.Tensor[tl.float16, M, ...]") -> float16[N, 2]: ...
""",
    "TypeVars": """
N = typing.TypeVar("N"); M = typing.TypeVar("M")
B = typing.TypeVarTuple("B")
def f(
    x: Tensor[float16, N, "M*2"], y: Tensor[float16, M, *B]
) -> Tensor[float16, N, typing.Literal[2]]: ...
""",
    "future": """
def f(x: Tensor[float16, N, M * 2], y: Tensor[float16, M, *B]) -> Tensor[float16, N, 2]: ...
""",
}
if sys.version_info >= (3, 12):
    WAYS["type parameters"] = """
def f[N, M, *B](x: Tensor[float16, N, "M*2"], y: Tensor[float16, M, *B]) -> Tensor[float16, N, 2]:
    ...
"""
    WAYS["type parameters, future"] = """
def f[N, M, *B](x: Tensor[float16, N, M * 2], y: Tensor[float16, M, *B]) -> Tensor[float16, N, 2]:
    ...
"""
    WAYS["type aliases"] = """
N, M = tl.dims("N M")
type X = Tensor[float16, N, M * 2]
type R = float16[N, 2]
def f(x: X, y: Tensor[float16, M, ...]) -> R: ...
"""
if sys.version_info >= (3, 14):
    WAYS["lazy"] = """
def f(x: Tensor[float16, N, M * 2], y: Tensor[float16, M, *B]) -> "Tensor[float16, N, 2]": ...
"""
    WAYS["lazy, enclosing function"] = """
def outer():
    N, two = tl.dims("N")[0] if False else tl.Dim("N"), 2
    class C:
        half = tl.Dim("M")
        def f(x: Tensor[float16, N, half * two], y: Tensor[float16, half, ...]) -> float16[N, two]:
            ...
    return C.f
f = outer()
"""


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_them(way: str) -> None:
    future = "from __future__ import annotations\n" if "future" in way else ""
    assert run(future + IMPORTS + WAYS[way]) == {
        "x": float16["N", "M*2"],
        "y": float16["M", ...],
        "return": float16["N", 2],
    }


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("Tensor[float16, N, print]", "is no dim"),
        ("Tensor[float16, N / 2]", "'N / 2' is no dim"),
        ("Tensor[float16, f(N)]", "is no dim"),
        ("Tensor[halff, N]", "unknown dtype 'halff'"),
        ("Tensor[float16, ..., N, ...]", "at most once"),
        ("Tensor[float16, N", "is no annotation"),
    ],
)
def test_annotations_that_make_no_sense(annotation: str, message: str) -> None:
    source = f"{IMPORTS}print = print\ndef f(x: {annotation!r}): ..."
    with pytest.raises(TypeError, match=r"f\(\): annotation of `x`: ") as caught:
        run(source)
    assert message in str(caught.value)


def test_other_annotations_are_not_read_at_all() -> None:
    def f(x: undefined.thing[0](1), y: 1 / 0) -> nowhere: ...  # noqa: F821

    assert typed(f) == {"x": None, "y": None, "return": None}
