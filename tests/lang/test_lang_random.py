"""Random programs do the same compiled and interpreted, whatever changes between their calls."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlogic as tl
from tensorlogic import lang
from tensorlogic.lang import compiled

NUMBERS = ["n", "s", "1", "0.5", "c", "x.shape[0]", "len(x)", "2 * n", "m"]
CONDITIONS = ["n > 1", "s < 1 or n == 2", "m == 1", "c > 1", "x.sum() > 0", "u.max() > c", "true"]


@st.composite
def tensors(draw: Any, functions: tuple[str, ...]) -> str:
    """An expression over [2, 2] tensors and numbers."""
    kind = draw(st.sampled_from(["leaf", "leaf", "number", "operator", "builtin", "call"]))
    if kind == "leaf":
        return str(draw(st.sampled_from(["x", "w", "u", "v", "ones([2, 2])"])))
    one = draw(tensors(functions))
    if kind == "number":
        return f"({one} {draw(st.sampled_from('+-*'))} {draw(st.sampled_from(NUMBERS))})"
    if kind == "operator":
        return f"({one} {draw(st.sampled_from('+-*@'))} {draw(tensors(functions))})"
    if kind == "builtin" or not functions:
        form = st.sampled_from(["relu({})", "{}.T", "clip({}, -2, n)", "softmax({}, axis: m)"])
        return str(draw(form)).format(one)
    function, number = draw(st.sampled_from(functions)), draw(st.sampled_from(NUMBERS[:4]))
    whole = draw(st.sampled_from(["n", "m", "1"]))
    return f"{function}({one}, float({number}), {whole}, {draw(st.sampled_from('10'))})"


@st.composite
def functions(draw: Any, name: str, others: tuple[str, ...]) -> str:
    """A function whose body has loops, branches and prints."""
    expression = tensors(others)
    lines = ["let u = x", "let v = w"]
    for _ in range(draw(st.integers(1, 4))):
        value = f"{draw(st.sampled_from('uvx'))} = {draw(expression)}"
        kind = draw(st.sampled_from(["bind", "bind", "if", "for", "carry", "print"]))
        if kind == "if":
            value = f"if {draw(st.sampled_from(CONDITIONS))} {{ {value} }}"
        elif kind == "for":
            value = f"for i in 0..n {{ {value}; if i == m {{ break }} }}"
        elif kind == "carry":
            value = f"for i in 0..2 {{ {value}; m = i }}"
        elif kind == "print" and draw(st.booleans()):
            value = f'print("{name}", n)'
        lines.append(value)
    body = "\n    ".join(lines)
    head = f"fn {name}(x: float16[2, 2], s: float, n: int, m: int) -> tensor"
    return f"{head} {{\n    {body}\n    return u + v\n}}\n"


@st.composite
def programs(draw: Any) -> str:
    names: tuple[str, ...] = ()
    text = "let w = ones([2, 2])\nlet c = 1\n"
    for name in ("h", "g", "f"):
        text += draw(functions(name, names))
        names = (*names, name)
    return text


CALLS = st.tuples(
    st.sampled_from([-1.0, 0.5, 2.0]), st.integers(0, 3), st.integers(0, 1), st.integers(0, 5)
)
CHANGES = {
    1: "w = w * 0.5",
    2: "c = c + 1",
    3: "fn h(x: float16[2, 2], s: float, n: int, m: int) -> tensor { return x * s }",
}


def _outcome(program: str, calls: list[Any]) -> list[Any]:
    outcome: list[Any] = []
    names = lang.run(program, out=outcome.append)
    for i, (s, n, m, change) in enumerate(calls):
        lang.run(CHANGES.get(change, ""), environment=names)
        with np.errstate(all="ignore"):
            result = names["f"](tl.tensor([[1.0, -2.0], [i, 0.25]]), s, n, m)
            outcome.append(np.clip(result.numpy(), -60_000, 60_000).astype(np.float32))
    return outcome


@settings(max_examples=60, deadline=None)
@given(programs(), st.lists(CALLS, min_size=2, max_size=5))
def test_compiled_and_interpreted(program: str, calls: list[Any]) -> None:
    found = _outcome(program, calls)
    with mock.patch.object(compiled, "plan", return_value=None):
        expected = _outcome(program, calls)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, str):
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)
