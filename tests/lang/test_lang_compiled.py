"""Functions of the text language that are compiled, and those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import lang
from tensorlogic.lang import compiled

X = tl.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]])


def _function(text: str, name: str = "f", **environment: Any) -> Any:
    return lang.run(text, "test.tl", environment=environment)[name]


def _interpreted(monkeypatch: pytest.MonkeyPatch, function: Any, *arguments: Any) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "plan", lambda *_: None)
        return function(*arguments)


COMPILED = {
    "the guide's": "fn f(x: float16[N, D]) -> float16[N, N] { let y = x @ x.T; return y + 1 }",
    "loops and branches on shapes": """
        fn f(x: float16[N, D]) -> float16[N, D] {
            let y = x
            for i in 0..3 { if i == 1 { continue }; y = y * 2 }
            if x.shape[0] > 1 and len(x) < 5 { y = y + x.shape[1] }
            let i = 0
            while i < x.ndim { y = y - 1; i = i + 1 }
            return y
        }""",
    "a list": """
        fn f(x: float16[N, D]) -> tensor {
            let parts = []
            for row in x { parts = append(parts, softmax(row)) }
            return stack(parts)
        }""",
    "other functions": """
        fn g(x: tensor, heads: int = 1) -> tensor { return x.reshape([heads, -1]) }
        fn f(x: float16[N, D]) -> tensor { return g(x, heads: 3) + g(x, 3).sum() }""",
    "tensors of the file": """
        let w = tensor([1.0, 2.0, 3.0]); let more = [w, 2.0, [w * 2]]
        fn f(x: float16[N, D]) -> float16[N, D] {
            return x * w + more[0] * more[1] - more[2][0]
        }""",
    "a list as a result": "fn f(x: float16[N, D]) { return [x, [x + 1, none, 3], 1.5] }",
    "a mask": "fn f(x: float16[N, D]) -> tensor { return where(x > 0 and not x == 1, x, 0) }",
}


@pytest.mark.parametrize("text", COMPILED.values(), ids=COMPILED)
def test_a_compiled_function_is_traced_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = _function(text)
    expected = _interpreted(monkeypatch, f, X)
    assert f.traces == 0
    for _ in range(3):
        found = f(X + 0)
    assert f.traces == 1
    assert _plain(found) == _plain(expected)
    f(X[:1])
    assert f.traces == 2


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, tl.Tensor) else value


INTERPRETED = {
    "prints": 'fn f(x: tensor) -> tensor { print("x is", x.shape); return x }',
    "calls what prints": "fn g() { print(1) }; fn f(x: tensor) -> tensor { g(); return x }",
    "branches": "fn f(x: tensor) -> tensor { if x.sum() > 0 { return x }; return x * 2 }",
    "loops on values": """
        fn f(x: tensor) -> tensor {
            let sum = x.sum()
            while sum > 0 { x = x - 1; sum = x.sum() }
            return x
        }""",
    "branches on what a loop carries": """
        fn f(x: tensor) -> tensor {
            let on = true
            for i in 0..3 { if on { x = x * 2 }; on = x.sum() > 100 }
            return x
        }""",
    "asks for numbers": "fn f(x: tensor) -> tensor { return x * x.sum().item() }",
    "turns into numbers": "fn f(x: tensor) -> tensor { return x * int(x.sum()) }",
    "takes no tensor": "fn f(x: float) -> float { return x * 2 }",
    "recursion": """
        fn f(x: tensor, n: int = 3) -> tensor { if n == 0 { return x }; return f(x * 2, n - 1) }""",
    "functions as values": """
        fn g(x: tensor) -> tensor { return x + 1 }
        fn f(x: tensor) -> tensor { let h = g; return h(x) }""",
    "needs a value, and is found out when traced": """
        fn f(x: tensor) -> tensor { let n = x.argmax(); return x.reshape(n, 2) }""",
}


@pytest.mark.parametrize("text", INTERPRETED.values(), ids=INTERPRETED)
def test_what_is_interpreted(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    f = _function(text)
    argument = 1.0 if "float)" in text else tl.tensor([1.0, 2.0])
    first, second = f(argument), f(argument)
    assert _plain(first) == _plain(second)
    assert f.traces == 0
    assert f.compiled is None or not f.compiled.compiles


def test_numbers_that_meet_tensors_are_values_of_each_call() -> None:
    f = _function("fn f(x: float16[N], scale: float, at: int) { return x * scale + (x < at) }")
    for i in range(5):
        expected = np.array([1.0, 2.0]) * (i / 4) + (np.array([1.0, 2.0]) < i)
        assert f(tl.tensor([1.0, 2.0]), i / 4, i).tolist() == expected.tolist()
    assert f.traces == 1


def test_positions_of_updates_are_values_of_each_call() -> None:
    f = _function("fn f(x: float16[N, 1], at: int) { return x.update(at, ones([1, 1])) }")
    x = tl.zeros([3, 1])
    for at in (2, 0):
        x = f(x, at)
    assert f.traces == 1
    assert x.tolist() == [[1.0], [0.0], [1.0]]


SEEDS = """
let r = random; let draw = random.normal
fn noise(like: tensor, seed: int) -> tensor { return random.uniform(like.shape, seed) }
fn f(x: float16[N], seed: int, offset: int) {
    let kept = random.bernoulli(0.5, x.shape, seed: seed, offset: offset)
    let drawn = random.categorical(random.normal([2, 9], seed), seed)
    return [where(kept, x, 0), noise(x, seed), drawn, draw(x.shape, seed) + x]
}
fn g(x: float16[N], n: int) -> tensor { return x + r.uniform([n], seed: n) * r.normal([1], n) }
"""


def test_seeds_are_values_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    f = _function(SEEDS)
    calls = [(1, 0), (1, 2), (-7, 2), (1, 0)]
    found = [_plain(f(X[0], *call)) for call in calls]
    assert f.traces == 1
    assert found[0] == found[3]
    assert len({str(item) for item in found}) == 3
    assert found == [_plain(_interpreted(monkeypatch, f, X[0], *call)) for call in calls]
    wide = (X[0], 1 << 40, 0)  # no int32, which a number of each call would be: it is fixed
    assert _plain(f(*wide)) == _plain(_interpreted(monkeypatch, f, *wide))


def test_seeds_that_are_sizes_as_well_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    g = _function(SEEDS, "g")
    for n in (3, 1, 3):
        x = tl.ones([n])
        assert g(x, n).tolist() == _interpreted(monkeypatch, g, x, n).tolist()
    assert g.traces == 2


def test_numbers_that_other_functions_take_so_are_values_of_each_call() -> None:
    f = _function("""
    fn g(x: tensor, scale: float, by: int) -> tensor { return x * scale + by * x }
    fn h(x: tensor, a: float, by: int) -> tensor { return g(x, scale: a, by: by) }
    fn f(x: float16[N], a: float, n: int) -> tensor { return h(x, a, n) + g(x, 1, by: 1) }
    """)
    for i in range(5):
        assert f(tl.ones([1]), i / 4, i).tolist() == [i / 4 + i + 2]
    assert f.traces == 1
    f = _function("""
    fn g(x: tensor, n: int, m: float) -> tensor { return x.reshape([n, -1]) * m }
    fn f(x: float16[N], n: int, m: int) -> tensor { return g(x, n, m) }
    """)
    for n in (1, 2, 2):
        assert f(tl.ones([2]), n, 3).tolist() == [[3.0] * (2 // n)] * n
    assert f.traces == 2


def test_a_tensor_of_one_element_is_still_no_number() -> None:
    f = _function("""
    fn g(x: tensor, n: int) -> tensor { return x * n }
    fn f(x: float16[N]) -> tensor { return g(x, x.sum()) }
    """)
    with pytest.raises(tl.LanguageRuntimeError, match=r"g\(\): `n` is a tensor, not int"):
        f(tl.ones([2]))


def test_other_numbers_are_fixed_in_a_trace() -> None:
    f = _function("fn f(x: float16[N], n: int) -> tensor { return x.reshape([n, -1]) * (n / 4) }")
    for n in (1, 2, 4, 2, 1):
        assert f(tl.ones([4]), n).shape == (n, 4 // n)
    assert f.traces == 3


def test_a_number_that_a_function_needs_as_such_is_fixed_after_all() -> None:
    f = _function("fn f(x: float16[N, D], axis: int) -> tensor { return softmax(x, axis: axis) }")
    for axis in (0, 1, 0):
        assert f(X, axis).tolist() == tl.softmax(X, axis=axis).tolist()
    assert f.traces == 2


def test_a_function_whose_fixed_numbers_never_repeat_is_interpreted_in_the_end() -> None:
    f = _function("fn f(x: float16[N], n: int) -> tensor { return x + n * 2 }")
    for n in range(compiled.MAX_TRACES + 5):
        assert f(tl.ones([1]), n).tolist() == [1 + 2 * n]
    assert f.traces == compiled.MAX_TRACES + 1


def test_names_that_change_their_meaning_are_noticed() -> None:
    names = lang.run(
        "let w = 2.0\nfn g(x: tensor) -> tensor { return x + w }\n"
        "fn f(x: float16[N]) -> tensor { return g(x) * 2 }"
    )
    f, x = names["f"], tl.ones([1])
    assert f(x).tolist() == [6.0]
    for line, expected in [
        ("w = 3.0", 8.0),
        ("w = tensor([4.0])", 10.0),
        ("w = w + 1", 12.0),
        ("fn g(x: tensor) -> tensor { return x * w }", 10.0),
        ("fn g(x: tensor) -> tensor { print(x); return x }", 2.0),
        ("fn relu(x: tensor) -> tensor { return x }; fn g(x: tensor) { return relu(-x) }", -2.0),
    ]:
        lang.run(line, environment=names, out=lambda line: None)
        assert f(x).tolist() == [expected], line


def test_a_name_of_the_file_that_a_local_one_hides_later() -> None:
    names = lang.run(
        "let s = 2\nfn f(x: tensor) -> tensor { let y = x * s; let s = 3; return y * s }"
    )
    assert names["f"](tl.ones([1])).tolist() == [6.0]
    lang.run("s = 5", environment=names)
    assert names["f"](tl.ones([1])).tolist() == [15.0]


def test_a_result_with_the_name_of_a_local_is_no_change() -> None:
    names = lang.run(
        "fn f(x: tensor) -> tensor { let y = x * 2; return y }\nfor i in 0..3 { y = f(ones([2])) }"
    )
    assert names["f"].traces == 1


def test_models_are_captured() -> None:
    text = """
    fn f(m: model, x: float16[N]) -> tensor { return x * m.get_tensor("w") + other["w"] }
    """
    one, two = (tl.Model({"w": tl.full([2], v)}) for v in (2.0, 3.0))
    f = _function(text, other=one)
    assert [f(m, tl.ones([2])).tolist() for m in (one, two, one)] == [[4, 4], [5, 5], [4, 4]]
    assert f.traces == 2


def test_errors_of_compiled_functions_name_their_line() -> None:
    text = (
        "fn g(x: tensor) -> tensor {\n    return x @ ones([3])\n}\n"
        "fn f(x: float16[N]) -> tensor {\n    return g(x) + 1\n}\n"
    )
    f = _function(text)
    assert f(tl.ones([3])).tolist() == 4
    for _ in range(2):
        with pytest.raises(tl.LanguageRuntimeError) as caught:
            f(tl.ones([2]))
        assert str(caught.value) == (
            "test.tl:2:14: ShapeError: matmul: [2] @ [3]: the inner sizes 2 and 3 differ\n"
            "  2 |     return x @ ones([3])\n"
            "    |              ^\n"
            "  in g, called at test.tl:5:12\n"
            "  in f, called from Python"
        )
    assert f(tl.ones([3])).tolist() == 4
    assert f.traces == 1


def test_value_errors_of_compiled_functions_name_their_line() -> None:
    f = _function("fn f(x: float16[N], i: int32[M]) -> tensor {\n    return take(x, i)\n}\n")
    assert f(tl.ones([3]), tl.tensor([0], "int32")).tolist() == [1]
    with pytest.raises(tl.IndexRangeError, match=r"test\.tl:2: take: index 7"):
        f(tl.ones([3]), tl.tensor([7], "int32")).tolist()
    assert f.traces == 1


def test_dims_are_checked_at_each_call() -> None:
    f = _function("fn f(x: float16[N], y: float16[N]) -> float16[N] { return x + y }")
    f(tl.ones([2]), tl.ones([2]))
    with pytest.raises(tl.LanguageRuntimeError, match="dim N is 2 in `x` but 1 in `y`"):
        f(tl.ones([2]), tl.ones([1]))


def test_a_consumed_argument_is_consumed() -> None:
    f = _function("fn f(x: float16[N, 1]) { return x.update(0, ones([1, 1])) }")
    x = tl.zeros([2, 1])
    f(x)
    with pytest.raises(tl.ConsumedError):
        x.tolist()


def test_compiled_functions_inside_a_python_one() -> None:
    f = _function("fn f(x: float16[N]) -> float16[N] { return x * 2 }")

    @tl.function
    def outer(x: tl.Tensor) -> tl.Tensor:
        result: tl.Tensor = f(x) + 1
        return result

    assert outer(tl.ones([2])).tolist() == [3.0, 3.0]
