"""Dims, their arithmetic, tensor types, and the errors of binding in full."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack

import pytest
import typing_extensions

import tensorlogic as tl
from tensorlogic.dims import Dim, TensorType, bind
from tensorlogic.dtypes import DType

N, D = tl.dims("N D")
Float = TypeVar("Float", tl.float16, tl.float32)
T = TypeVar("T")
Batch = TypeVarTuple("Batch")


@dataclass
class Value:
    """What the binder sees of a tensor."""

    shape: tuple[int, ...]
    dtype: DType = tl.float16


def test_dims_by_name() -> None:
    assert (Dim("N"), Dim("D")) == (N, D)
    assert tl.dims("N") == Dim("N")
    assert tl.dims("N,") == (Dim("N"),)
    assert tl.dims("N, D_in") == (Dim("N"), Dim("D_in"))


@pytest.mark.parametrize("names", ["", " ", "2N", "N*2"])
def test_names_that_are_none(names: str) -> None:
    with pytest.raises(ValueError, match="dim"):
        tl.dims(names)


@pytest.mark.parametrize(
    ("dim", "text", "size"),
    [
        (N * 2, "N*2", 14),
        (2 * N, "2*N", 14),
        (N + 1, "N+1", 8),
        (1 + N, "1+N", 8),
        (N - D, "N-D", 4),
        (10 - N, "10-N", 3),
        (N // 2, "N//2", 3),
        (20 // N, "20//N", 2),
        ((N + 1) * D // 2, "(N+1)*D//2", 12),
        (N - (D + 1), "N-(D+1)", 3),
        (N // (D - 3), "N//(D-3)", None),
        (N * Dim("M"), "N*M", None),
    ],
)
def test_arithmetic(dim: Any, text: str, size: int | None) -> None:
    assert str(dim) == text
    assert dim.evaluate({"N": 7, "D": 3}) == size
    assert TensorType.of("float16", (text,)).dims == (dim,)


def test_arithmetic_with_anything_else_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"a dim does arithmetic with dims and ints, not N \* 1\.5"):
        N * 1.5
    with pytest.raises(TypeError, match="not Ellipsis - 1"):
        TensorType.of(tl.float16, ("... - 1",))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (N, "N"),
        (3, "3"),
        ("N", "N"),
        (" N * 2 ", "N*2"),
        ("...", "..."),
        (..., "..."),
        (T, "T"),
        (Literal[3], "3"),
        (Literal["N"], "N"),
        (Any, "_"),
        (Batch, "..."),
        (Unpack[Batch], "..."),
        (typing_extensions.Unpack[Batch], "..."),
        (Unpack[tuple[int, ...]], "..."),
        (next(iter(tuple[int, ...])), "..."),
        (typing.ForwardRef("N"), "N"),
    ],
)
def test_what_stands_for_a_dim(given: Any, shown: str) -> None:
    assert str(tl.Tensor[tl.float16, given]) == f"Tensor[float16, {shown}]"
    assert tl.float16[given] == tl.Tensor[tl.float16, given]


@pytest.mark.parametrize("given", [1.5, -1, True, None, "N**2", "(", "f(N)", print, Literal[1, 2]])
def test_what_stands_for_none(given: Any) -> None:
    with pytest.raises(TypeError, match="dim"):
        TensorType.of(tl.float16, (given,))


def test_dtypes_of_tensor_types() -> None:
    assert str(tl.Tensor[Any, N]) == "Tensor[Any, N]"
    assert str(tl.Tensor[T, N]) == "Tensor[T, N]"
    assert str(tl.Tensor[tl.float16]) == "Tensor[float16, ...]"
    assert str(tl.float16[()]) == "Tensor[float16]"
    with pytest.raises(tl.DTypeError, match="unknown dtype 'float17'"):
        TensorType.of("float17", (N,))
    with pytest.raises(TypeError, match=r"`\.\.\.` at most once"):
        tl.Tensor[tl.float16, ..., N, ...]


def test_tensor_types_are_values_and_combine_with_none() -> None:
    assert {tl.float16[N, 2]: 1}[tl.float16["N", 2]] == 1
    assert type(None) in typing.get_args(tl.float16[N] | None)
    with pytest.raises(AttributeError):
        tl.float16[N].dims = ()


Types = dict[str, tuple[DType | EllipsisType, ...]]


@pytest.mark.parametrize(
    ("types", "shapes", "sizes"),
    [
        ({"x": tl.float16[N, D]}, [(2, 3)], {"N": 2, "D": 3}),
        ({"x": tl.float16[..., D]}, [(4, 5, 3)], {"D": 3}),
        ({"x": tl.float16[N, ..., D]}, [(4, 3)], {"N": 4, "D": 3}),
        ({"x": tl.float16[N, ..., D]}, [(4, 7, 8, 3)], {"N": 4, "D": 3}),
        ({"x": tl.float16[N * 2], "y": tl.float16[N]}, [(6,), (3,)], {"N": 3}),
        ({"x": tl.float16[N, 2]}, [(0, 2)], {"N": 0}),
        ({"x": tl.float16["_", "_"]}, [(3, 4)], {}),
        ({"x": tl.float16[()]}, [()], {}),
    ],
)
def test_binding(
    types: dict[str, TensorType], shapes: list[tuple[int, ...]], sizes: dict[str, int]
) -> None:
    values = {name: Value(shape) for name, shape in zip(types, shapes, strict=True)}
    assert bind("f", types, values).sizes == sizes


ERRORS = [
    (
        {"input": tl.float16[N, "D_in"], "weights": tl.float16["D_in", "D_out"]},
        [Value((8, 3)), Value((4, 2))],
        """\
f(): dim D_in is 3 in `input` but 4 in `weights`
  input:   Tensor[float16, N=8, D_in=3]
  weights: Tensor[float16, D_in=4, D_out=2]     here""",
    ),
    (
        {"a": tl.float16[N], "b": tl.float16[D], "longer": tl.float16[..., D, N]},
        [Value((8,)), Value((9,)), Value((1, 2, 9, 7))],
        """\
f(): dim N is 8 in `a` but 7 in `longer`
  a:      Tensor[float16, N=8]
  longer: Tensor[float16, 1, 2, D=9, N=7]     here""",
    ),
    (
        {"x": tl.float16[N, N]},
        [Value((2, 3))],
        """\
f(): dim N is both 2 and 3 in `x`
  x: Tensor[float16, N=2, N=3]     here""",
    ),
    (
        {"x": tl.float16[N, 3]},
        [Value((2, 4))],
        """\
f(): dim 1 of `x` is 4 but must be 3
  x: Tensor[float16, N=2, 4]     here""",
    ),
    (
        {"x": tl.float16[N], "y": tl.float16[2 * N]},
        [Value((3,)), Value((7,))],
        """\
f(): dim 2*N is 6 but 7 in `y`
  x: Tensor[float16, N=3]
  y: Tensor[float16, 2*N=7]     here""",
    ),
    (
        {"x": tl.float16[N + 1]},
        [Value((3,))],
        """\
f(): dim N+1 of `x` has no size: nothing binds N
  x: Tensor[float16, N+1=3]     here""",
    ),
    (
        {"x": tl.float16[N], "y": tl.float16[3 // N]},
        [Value((0,)), Value((7,))],
        """\
f(): dim 3//N of `y` has no size: it divides by zero
  y: Tensor[float16, 3//N=7]     here""",
    ),
    (
        {"x": tl.float16[N, D]},
        [Value((3,))],
        """\
f(): `x` has 1 dim but Tensor[float16, N, D] has 2
  x: Tensor[float16, 3]     here""",
    ),
    (
        {"x": tl.float16[..., N, D]},
        [Value((3,))],
        """\
f(): `x` has 1 dim but Tensor[float16, ..., N, D] has at least 2
  x: Tensor[float16, 3]     here""",
    ),
    (
        {"x": tl.float16[N]},
        [Value((3,), tl.float32)],
        """\
f(): `x` is float32 but must be float16
  x: Tensor[float32, N=3]     here""",
    ),
    (
        {"x": tl.Tensor[T, N], "y": tl.Tensor[T, N]},
        [Value((3,)), Value((3,), tl.float32)],
        """\
f(): dtype T is float16 in `x` but float32 in `y`
  x: Tensor[float16, N=3]
  y: Tensor[float32, N=3]     here""",
    ),
    (
        {"x": tl.Tensor[Float, N]},
        [Value((3,), tl.int32)],
        """\
f(): dtype Float is int32 in `x` but must be float16 or float32
  x: Tensor[int32, N=3]     here""",
    ),
    ({"x": tl.float16[N]}, [[1.0]], "f(): `x` is of type list, not Tensor[float16, N]     here"),
]


@pytest.mark.parametrize(("types", "values", "text"), ERRORS)
def test_errors_in_full(types: dict[str, TensorType], values: list[Any], text: str) -> None:
    expected = tl.DTypeError if "type" in text or "must be float16" in text else tl.ShapeError
    with pytest.raises(expected) as caught:
        bind("f", types, dict(zip(types, values, strict=True)), "here")
    assert str(caught.value) == text


def test_results() -> None:
    binding = bind("f", {"x": tl.float16[N]}, {"x": Value((3,))}, lambda: "there")
    binding.result(tl.float16[N, D], Value((3, 4)))
    assert binding.sizes == {"N": 3, "D": 4}
    with pytest.raises(tl.ShapeError) as caught:
        binding.result(tl.float16[N], Value((4,)))
    assert str(caught.value) == (
        "f(): dim N is 3 in `x` but 4 in the result\n"
        "  x:      Tensor[float16, N=3]\n"
        "  result: Tensor[float16, N=4]     there"
    )
