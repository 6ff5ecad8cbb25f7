"""The full text of the errors that users meet when an op is recorded or a value is asked for."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import errors, othernames

X = tl.ones([2, 3])
F32 = tl.ones([2, 3], "float32")
INTS = tl.arange(4)
MASK = tl.tensor([True, False], bool)
Q = tl.ones([4, 2, 8])
SDPA = tl.scaled_dot_product_attention
ATTENTION = "scaled_dot_product_attention: "
INDICES = "take: indices are int32, not float16; convert with `.to(tl.int32)`"
A_MASK = (
    "x[mask] would have a shape that depends on values; select with `tl.where(mask, x, 0)`, or "
    "outside of the program by `x.numpy()[mask.numpy()]`"
)
MAKE = "; make one of it with `tl.tensor(...)`"
NO_NAME = "a tensor has no attribute "

Case = tuple[Callable[[], Any], type[Exception], str]
SHAPES: list[Case] = [
    (lambda: X @ X, tl.ShapeError, "matmul: [2, 3] @ [2, 3]: the inner sizes 3 and 2 differ"),
    (
        lambda: X @ tl.ones([2]),
        tl.ShapeError,
        "matmul: [2, 3] @ [2]: the inner sizes 3 and 2 differ",
    ),
    (
        lambda: tl.ones([2, 4, 3]) @ tl.ones([3, 3, 5]),
        tl.ShapeError,
        "matmul: shapes [2] and [3] do not broadcast: axis -1 is 2 in one and 3 in another",
    ),
    (
        lambda: X @ tl.tensor(2.0),
        tl.ShapeError,
        "matmul takes vectors and matrices; multiply numbers with `*`",
    ),
    (
        lambda: X + tl.ones([4]),
        tl.ShapeError,
        "add: shapes [2, 3] and [4] do not broadcast: axis -1 is 3 in one and 4 in another",
    ),
    (
        lambda: tl.where(MASK, X, X),
        tl.ShapeError,
        "where: shapes [2] and [2, 3] and [2, 3] do not broadcast: axis -1 is 2 in one "
        "and 3 in another",
    ),
    (lambda: X.reshape(4, 2), tl.ShapeError, "reshape: [2, 3] has 6 values, [4, 2] has 8"),
    (lambda: X.reshape(4, -1), tl.ShapeError, "reshape: [2, 3] does not fit [4, -1]"),
    (lambda: X.reshape(-1, -1), tl.ShapeError, "reshape: a size is negative in [-1, -1]"),
    (lambda: X.permute(0), tl.ShapeError, "permute: (0,) does not name each of 2 axes once"),
    (lambda: X.permute(0, 2), tl.ShapeError, "permute: axis 2 is outside a tensor of 2 dims"),
    (
        lambda: X.expand(3, 3),
        tl.ShapeError,
        "expand: shapes [2, 3] and [3, 3] do not broadcast: axis -2 is 2 in one and 3 in another",
    ),
    (
        lambda: tl.ones([2, 1]).expand(1, 1),
        tl.ShapeError,
        "expand: [2, 1] does not expand to [1, 1]",
    ),
    (lambda: X.squeeze(0), tl.ShapeError, "squeeze: axis 0 of [2, 3] is not 1"),
    (lambda: X.unsqueeze(4), tl.ShapeError, "unsqueeze: axis 4 is outside a tensor of 3 dims"),
    (lambda: X.transpose(0, 5), tl.ShapeError, "transpose: axis 5 is outside a tensor of 2 dims"),
    (
        lambda: tl.concat([X, tl.ones([2, 4]), X], axis=0),
        tl.ShapeError,
        "concat: shapes [2, 3], [2, 4], [2, 3] differ outside axis 0",
    ),
    (
        lambda: tl.concat([X, tl.ones([3])]),
        tl.ShapeError,
        "concat: shapes [2, 3], [3] differ outside axis 0",
    ),
    (lambda: tl.concat([]), tl.ShapeError, "concat of no tensors"),
    (lambda: tl.stack([X, X[:1]]), tl.ShapeError, "stack: shapes differ: [2, 3], [1, 3]"),
    (lambda: tl.stack([]), tl.ShapeError, "stack of no tensors"),
    (lambda: X.split(2, axis=1), tl.ShapeError, "split: axis 1 of size 3 has no 2 equal parts"),
    (lambda: X.split([1, 1], axis=1), tl.ShapeError, "split: sizes [1, 1] do not add up to 3"),
    (
        lambda: X.pad([(1, -1), (0, 0)]),
        tl.ShapeError,
        "pad: [(1, -1), (0, 0)] does not give (before, after), not negative, "
        "for each axis of [2, 3]",
    ),
    (lambda: X[:, :0].max(1), tl.ShapeError, "max of no values: shape [2, 0], axis 1"),
    (lambda: X[:0].argmax(), tl.ShapeError, "argmax of no values: shape [0], axis 0"),
    (lambda: X.argmax((0, 1)), tl.ShapeError, "argmax: one axis, or None for the flattened tensor"),
    (lambda: X[:, :0].argmin(1), tl.ShapeError, "argmin of no values: shape [2, 0], axis 1"),
    (lambda: X.cumsum(2), tl.ShapeError, "cumsum: axis 2 is outside a tensor of 2 dims"),
    (lambda: X.var(-3), tl.ShapeError, "var: axis -3 is outside a tensor of 2 dims"),
    (lambda: X.logsumexp((1, 1)), tl.ShapeError, "logsumexp: an axis is named twice in (1, 1)"),
    (
        lambda: tl.group_norm(X[0], 1),
        tl.ShapeError,
        "group_norm: x is [N, C, ...], not [3]",
    ),
    (
        lambda: tl.group_norm(X, 2),
        tl.ShapeError,
        "group_norm: 3 channels are no 2 equal groups",
    ),
    (
        lambda: tl.group_norm(X, 1, bias=tl.ones([2])),
        tl.ShapeError,
        "group_norm: weight and bias have shape [3], not [2]",
    ),
    (
        lambda: tl.batch_norm(X, X[0], X),
        tl.ShapeError,
        "batch_norm: mean and var have shape [3], not [2, 3]",
    ),
    (
        lambda: tl.cross_entropy(X, INTS),
        tl.ShapeError,
        "cross_entropy: logits are [N, C] and targets [N], not [2, 3] and [4]",
    ),
    (lambda: tl.mse(X, X[0]), tl.ShapeError, "mse: shapes differ: [2, 3], [3]"),
    (lambda: X.sum(2), tl.ShapeError, "sum: axis 2 is outside a tensor of 2 dims"),
    (lambda: X.sum((0, -2)), tl.ShapeError, "sum: an axis is named twice in (0, -2)"),
    (lambda: X[:0].take([0]), tl.ShapeError, "take from axis 0 of [0, 3], which is empty"),
    (
        lambda: tl.linear(X, tl.ones([5, 4])),
        tl.ShapeError,
        "linear: x [2, 3] does not fit weight [5, 4], which is [out, in]",
    ),
    (lambda: tl.linear(X, tl.ones([3])), tl.ShapeError, "linear: weight is [out, in], not [3]"),
    (
        lambda: tl.linear(X, tl.ones([5, 3]), X),
        tl.ShapeError,
        "linear: bias has shape [5], not [2, 3]",
    ),
    (lambda: tl.embedding(INTS, INTS), tl.ShapeError, "embedding: weight is [V, D], not [4]"),
    (
        lambda: tl.layer_norm(X, tl.ones([2])),
        tl.ShapeError,
        "layer_norm: weight and bias have shape [3], not [2]",
    ),
    (
        lambda: tl.rms_norm(X, X),
        tl.ShapeError,
        "rms_norm: weight and bias have shape [3], not [2, 3]",
    ),
    (
        lambda: tl.softmax(tl.tensor(1.0)),
        tl.ShapeError,
        "softmax: axis -1 is outside a tensor of 0 dims",
    ),
    (
        lambda: SDPA(Q, Q[0], Q),
        tl.ShapeError,
        ATTENTION + "ranks differ: q [4, 2, 8], k [2, 8], v [4, 2, 8]",
    ),
    (
        lambda: SDPA(Q, Q[:3], Q[:3]),
        tl.ShapeError,
        ATTENTION + "q [4, 2, 8], k [3, 2, 8], v [3, 2, 8]; it takes q [..., H, T, D], "
        "k [..., G, S, D], v [..., G, S, E] with H a multiple of G",
    ),
    (lambda: SDPA(Q, Q, Q, length=INTS), tl.ShapeError, ATTENTION + "length is one int32"),
    (lambda: tl.zeros([2, -1]), tl.ShapeError, "a size is negative in [2, -1]"),
]
DTYPES: list[Case] = [
    (
        lambda: X + INTS[:3],
        tl.DTypeError,
        "add: float16 and int32 do not mix; convert one with `.to(...)`",
    ),
    (
        lambda: INTS * 0.5,
        tl.DTypeError,
        "mul: int32 and a float number do not mix; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.exp(INTS),
        tl.DTypeError,
        "exp takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: INTS / 2,
        tl.DTypeError,
        "div takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: INTS**0.5,
        tl.DTypeError,
        "pow: int32 and a float number do not mix; convert with `.to(tl.float16)`",
    ),
    (
        lambda: MASK.cumprod(),
        tl.DTypeError,
        "cumprod takes float or int values, not bool; convert with `.to(tl.float16)`",
    ),
    (
        lambda: INTS.isnan(),
        tl.DTypeError,
        "isnan takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: INTS.var(),
        tl.DTypeError,
        "var takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.cross_entropy(X, X[:, 0]),
        tl.DTypeError,
        "cross_entropy: targets are int32, not float16",
    ),
    (
        lambda: -MASK,
        tl.DTypeError,
        "neg takes float or int values, not bool; convert with `.to(tl.float16)`",
    ),
    (lambda: X & X, tl.DTypeError, "logical_and takes bool values, not float16"),
    (lambda: tl.where(X, 1, 2), tl.DTypeError, "where: the condition is bool, not float16"),
    (lambda: X.take(X), tl.DTypeError, INDICES),
    (lambda: X[tl.tensor([1])], tl.DTypeError, INDICES),
    (lambda: tl.embedding(X, X), tl.DTypeError, INDICES),
    (lambda: X[X > 1], tl.DTypeError, A_MASK),
    (lambda: X[np.ones((2, 3), bool)], tl.DTypeError, A_MASK),
    (lambda: X[[True, False]], tl.DTypeError, A_MASK),
    (
        lambda: tl.zeros(2, 3),
        tl.DTypeError,
        "3 is no dtype; a shape is one argument, such as `[2, 3]`",
    ),
    (lambda: tl.tensor(["a"]), tl.DTypeError, "text values do not convert to float16"),
    (
        lambda: INTS @ INTS,
        tl.DTypeError,
        "matmul takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.mean(INTS),
        tl.DTypeError,
        "mean takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.softmax(INTS),
        tl.DTypeError,
        "softmax takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.rms_norm(INTS),
        tl.DTypeError,
        "rms_norm takes float values, not int32; convert with `.to(tl.float16)`",
    ),
    (
        lambda: tl.layer_norm(MASK),
        tl.DTypeError,
        "layer_norm takes float values, not bool; convert with `.to(tl.float16)`",
    ),
    (
        lambda: SDPA(INTS, X, X),
        tl.DTypeError,
        "scaled_dot_product_attention takes float values, not int32; "
        "convert with `.to(tl.float16)`",
    ),
    (
        lambda: SDPA(Q, Q, Q, mask=INTS),
        tl.DTypeError,
        "a mask is bool (kept where true) or float (added), not int32",
    ),
    (
        lambda: tl.tensor([1], "int64") + 1,
        tl.DTypeError,
        "add: int64 is a storage dtype; convert first with `.to(tl.int32)`",
    ),
    (
        lambda: tl.sum(tl.tensor([1.0], "bfloat16")),
        tl.DTypeError,
        "sum: bfloat16 is a storage dtype; convert first with `.to(tl.float16)`",
    ),
    (
        lambda: tl.tensor([1], "float64") @ X,
        tl.DTypeError,
        "matmul: float64 is a storage dtype; convert first with `.to(tl.float16)`",
    ),
    (
        lambda: tl.softmax(tl.tensor([1.0], "float64")),
        tl.DTypeError,
        "softmax: float64 is a storage dtype; convert first with `.to(tl.float16)`",
    ),
    (
        lambda: tl.concat([X, tl.tensor([[1] * 3], "int8")]),
        tl.DTypeError,
        "concat: int8 is a storage dtype; convert first, for example `.to(int32)`",
    ),
    (
        lambda: X.to("half"),
        tl.DTypeError,
        "unknown dtype 'half'; the dtypes are float16, float32, int32, bool, float64, bfloat16, "
        "float8_e4m3fn, float8_e5m2, int8, int16, int64, uint8, uint16, uint32, uint64",
    ),
    (
        lambda: X * np.ones(3),
        tl.DTypeError,
        "an ndarray does not mix with tensors by itself: say `tl.tensor(array)` (a copy, float16 "
        "unless dtype says otherwise) or `tl.from_numpy(array)` (no copy)",
    ),
]
OTHERS: list[Case] = [
    (
        lambda: tl.gelu(X, approximate="fast"),
        ValueError,
        'gelu: approximate is "none" or "tanh", not \'fast\'',
    ),
    (
        lambda: tl.mse(X, X, "max"),
        ValueError,
        'mse: reduction is "mean", "sum" or "none", not \'max\'',
    ),
    (lambda: X.cumsum((0, 1)), TypeError, "cumsum: an axis is an int, not tuple"),
    (lambda: tl.exp("x"), TypeError, "a tensor or a number was expected, not str"),
    (lambda: tl.softmax([1.0]), TypeError, "softmax: a tensor was expected, not list" + MAKE),
    (lambda: X - [1, 2, 3], TypeError, "a tensor or a number was expected, not list" + MAKE),
    (lambda: [1, 2, 3] * X, TypeError, "a tensor or a number was expected, not list" + MAKE),
    (lambda: X == (1, 2), TypeError, "a tensor or a number was expected, not tuple" + MAKE),
    (lambda: X @ [1, 2, 3], TypeError, "a tensor or a number was expected, not list" + MAKE),
    (lambda: tl.concat(X, X), TypeError, "concat takes a list of tensors: `tl.concat([a, b])`"),
    (lambda: tl.where(MASK), TypeError, "where() takes condition, a, b, not 1 arguments"),
    (lambda: X.sum(dim=0), TypeError, "sum() has no keyword argument `dim`: it is `axis=` here"),
    (
        lambda: tl.rms_norm(X, bias=1),
        TypeError,
        "rms_norm() has no keyword argument `bias`: it takes x, weight, eps",
    ),
    (
        lambda: tl.where(condition=MASK, a=1, b=0),
        TypeError,
        "where() has no keyword argument `condition`: it takes condition, a, b, by position",
    ),
    (
        lambda: tl.Tensor([1]),
        TypeError,
        "make tensors with tl.tensor(...), tl.zeros(...), tl.from_numpy(...), ...",
    ),
    (
        lambda: f"{X:.2f}",
        TypeError,
        "'.2f' formats one element; this tensor is [2, 3]: format its elements, or print it as "
        "it is",
    ),
    (
        lambda: tl.save_model(X, "x.safetensors"),
        TypeError,
        "save_model takes a model, or a mapping such as {'weight': x}, and a path; the first "
        "argument is of type Tensor",
    ),
    (
        lambda: tl.save_model({"x": X}, "missing/x.safetensors"),
        FileNotFoundError,
        "[Errno 2] no such folder: 'missing'",
    ),
    (lambda: X.view(3, 2), AttributeError, NO_NAME + "'view': write `x.reshape(...)`"),
    (lambda: X.wiev, AttributeError, NO_NAME + "'wiev'"),
    (
        lambda: tl.cat,
        AttributeError,
        "module 'tensorlogic' has no attribute 'cat': write `tl.concat([a, b], axis=0)`",
    ),
    (lambda: X.sum(1.5), TypeError, "sum: an axis is an int, not float"),
    (lambda: tl.zeros([2.5]), TypeError, "a shape is a sequence of ints, not [2.5]"),
    (lambda: tl.from_numpy([1]), TypeError, "from_numpy takes a NumPy array, not list"),
]


@pytest.mark.parametrize("case", [*SHAPES, *DTYPES, *OTHERS], ids=lambda c: c[2][:40])
def test_text(case: Case) -> None:
    call, error, text = case
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == text


def test_each_error_is_also_the_builtin_one() -> None:
    """The tree at the head of errors.py is true, and every class stands in it."""
    found = [c for c in vars(errors).values() if inspect.isclass(c)]
    assert errors.__doc__ is not None
    for c in found:
        assert issubclass(c, errors.TensorLogicError)
        assert c.__name__ in errors.__doc__
        lines = [line for line in errors.__doc__.splitlines() if f" {c.__name__} " in line]
        for line in lines:
            builtin = line.split("(")[1].split(")")[0]
            assert issubclass(c, getattr(builtins, builtin)), c


@tl.function
def branches(x: tl.Tensor) -> tl.Tensor:
    return x if x.sum() > 0 else -x


@tl.function
def prints(x: tl.Tensor) -> tl.Tensor:
    print(x)
    return x


def test_traced_values_have_no_number() -> None:
    for function, what in ((branches, "its truth"), (prints, "its values")):
        with pytest.raises(tl.TraceError) as caught:
            function(X)
        line = function.__wrapped__.__code__.co_firstlineno + 2  # type: ignore[attr-defined]
        assert str(caught.value) == (
            f"test_texts.py:{line}: a value was asked for {what} while a tl.function was being "
            f"traced; there it has none yet. Keep to tensor ops (tl.where, ...); a trace may "
            f"depend on shapes, on bools and strings, and on numbers that are no arguments"
        )


def test_one_element_has_a_format() -> None:
    assert f"{tl.tensor([2.5]):.3f} {tl.tensor(2.5)}" == "2.500 2.5"


def test_names_of_other_libraries_are_not_ours() -> None:
    """What the hints call missing is missing, and a hint names what there is."""
    assert not any(hasattr(tl.Tensor, name) for name in othernames.OF_TENSORS)
    assert not set(othernames.OF_PACKAGE) & set(dir(tl))
    for hints in (othernames.OF_TENSORS, othernames.OF_PACKAGE):
        for text in hints.values():
            for owner, name in re.findall(r"\b(x|tl)\.([a-z]\w*)", text):
                assert hasattr(X if owner == "x" else tl, name), text
