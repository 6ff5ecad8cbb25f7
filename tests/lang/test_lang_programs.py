"""What programs of the text language do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import functions, lang
from tensorlogic.lang import builtins

GUIDE = """
function forward(input: float16[N, D_in],
                 weights: float16[D_in, D_out],
                 bias: float16[D_out]) -> float16[N, D_out] {
    // Lineare Transformation: output = input @ weights + bias
    let output = input @ weights
    return output + bias
}

// Eingabedaten (Batch-Größe 4, Merkmalsdimension 3)
let X = tensor<float16>([
    [1.0, 2.0, 3.0],
    [4.0, 5.0, 6.0],
    [7.0, 8.0, 9.0],
    [10.0, 11.0, 12.0]
], device: gpu)

// Gewichtsmatrix (3 x 2)
let W = tensor<float16>([
    [0.1, 0.2],
    [0.3, 0.4],
    [0.5, 0.6]
], device: gpu)

// Bias (2 Dimensionen)
let b = tensor<float16>([0.01, 0.02], device: gpu)

let output = forward(X, W, b)
print("Output shape:", output.shape)
print("Output:", output)
"""
EXPECTED = [[2.21, 2.82], [4.91, 6.42], [7.61, 10.02], [10.31, 13.62]]


@pytest.mark.filterwarnings("ignore:this machine has no usable GPU")
def test_linear_example_of_the_guide() -> None:
    lines: list[str] = []
    program = lang.run(GUIDE, out=lines.append)
    output = program["output"]
    assert lines == ["Output shape: [4, 2]", f"Output: {output}"]
    assert output.dtype is tl.float16
    np.testing.assert_allclose(output.numpy(), EXPECTED, rtol=2**-10, atol=2**-10)


def test_functions_are_called_from_python() -> None:
    program = lang.run(GUIDE.split("// Eingabedaten")[0])
    result = program["forward"](tl.ones([1, 2]), weights=tl.ones([2, 3]), bias=tl.zeros(3))
    assert result.tolist() == [[2.0, 2.0, 2.0]]
    with pytest.raises(tl.LanguageRuntimeError, match="called from Python"):
        program["forward"](tl.ones([1, 2]), tl.ones([3, 3]), tl.zeros(3))
    program = lang.run("fn f(x: int) { return y }", "f.tl")
    with pytest.raises(tl.LanguageRuntimeError) as caught:
        program["f"](1)
    assert str(caught.value).endswith("\n  in f, called from Python")


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 2 - 3", "5"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("- - 3", "3"),
        ("7 / 2", "3.5"),
        ("-7 % 3", "2"),
        ("1e3", "1000.0"),
        ("2.5e-3", "0.0025"),
        ("1_000", "1000"),
        ("9223372036854775807", "9223372036854775807"),
        ("1 < 2 and not 2 <= 1", "true"),
        ("true == false or 1 != 1", "false"),
        ('"a" + "b" == "ab"', "true"),
        ('"a" < "b"', "true"),
        ("none == none", "true"),
        ("none", "none"),
        ("[1, 2] + [3,]", "[1, 2, 3]"),
        ('[1, [true, none, 2.0], "x"]', '[1, [true, none, 2.0], "x"]'),
        ('"tab\\t, quote\\", \\\\, \\u00e9"', 'tab\t, quote", \\, é'),
        ('"// no comment"', "// no comment"),
        ('"abc"[1]', "b"),
        ("[1, 2, 3][-1]", "3"),
        ("[1, 2, 3, 4][1:3]", "[2, 3]"),
        ("[1, 2, 3, 4][::2]", "[1, 3]"),
        ("float16", "float16"),
        ("[]", "[]"),
    ],
)
def test_expressions(printed: Any, expression: str, shown: str) -> None:
    assert printed(f"print({expression})") == [shown]


def test_logic_leaves_out_what_it_does_not_need(printed: Any) -> None:
    assert printed("print(false and missing, true or missing)") == ["false true"]


def test_statements_end_at_lines_and_semicolons(printed: Any) -> None:
    program = """
    let a = 1; let b = 2;;
    let c = a +   // an operator at the end of a line goes on
            b
    c = c * (
        2
    )
    fn twice(x: int,
             y: int = 2,
            ) -> int
    {
        return x * y }
    print(a, b, c, twice(4), twice(y: 3, x: 4))
    """
    assert printed(program) == ["1 2 6 8 12"]
    assert printed(program.replace("\n", "\r\n")) == ["1 2 6 8 12"]
    assert printed("") == printed("// nothing") == printed("\n;\n") == []


def test_names_of_a_function_are_its_own(printed: Any) -> None:
    program = """
    let scale = 10
    fn f(x: int) -> int {
        let y = x * scale
        scale = 1
        return y + scale
    }
    print(f(2), scale)
    """
    assert printed(program) == ["21 10"]


@pytest.fixture
def small_model(tmp_path: Path) -> str:
    path = tmp_path / "small.safetensors"
    tl.save_model(tl.Model({"w": tl.ones([2, 3]), "b": tl.zeros(3)}), path, {"made by": "a test"})
    return str(path)


def test_function_types(printed: Any, small_model: str) -> None:
    program = """
    fn f(n: int, x: float, on: bool, name: string, items: list, m: model, t: tensor[_, 2],
         any: float16, mask: bool[2]) -> string {
        return name
    }
    let m = load_model(path)
    let t = arange(4).reshape([2, 2])
    print(f(1, 2, true, "ok", [1], m, t, ones(3), t[0] > 0))
    fn nothing() { return }
    print(nothing())
    fn half(x: float) -> float { return x / 2 }
    print(half(3))
    fn wide(x: float16[N, D]) -> float16[N, D*2] { return concat([x, x], axis: 1) }
    print(wide(zeros([2, 3])).shape)
    """
    assert printed(program, path=small_model) == ["ok", "none", "1.5", "[2, 6]"]


def test_models(printed: Any, small_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    program = """
    model = load_model(path)
    print(model.names())
    print(model.get_tensor("w").shape, model["b"].dtype, model.metadata.format)
    print(model.metadata["made by"])
    save_model(model, out)
    """
    lines = printed(program, path=small_model, out=str(out))
    assert sorted(lines[0]) == sorted('["w", "b"]')
    assert lines[1:] == ["[2, 3] float16 SafeTensors", "a test"]
    assert tl.load_model(out)["w"].tolist() == [[1.0] * 3] * 2


def test_tensors(printed: Any) -> None:
    program = """
    let x = tensor<float32>([[1, 2, 3], [4, 5, 6]])
    print(x.shape, x.dtype, x.ndim, x.T.shape)
    print(x[0], x[1, 2], x[:, 1], x[-1, 0:2])
    print(softmax(x * 0, axis: 0).sum(axis: -1).tolist())
    print((x > 2 and not x == 6).tolist())
    print(split(x, 3, axis: 1)[0].shape)
    print(x.to(float16).dtype, zeros<int32>([2]), full([1], 2.5, dtype: float32).tolist())
    print(1 - x[0], -x[0] ** 2, x @ x.T)
    """
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert printed(program) == [
        "[2, 3] float32 2 [3, 2]",
        "[1., 2., 3.] 6. [2., 5.] [4., 5.]",
        "[1.5, 1.5]",
        "[[false, false, true], [true, true, false]]",
        "[2, 1]",
        "float16 [0, 0] [2.5]",
        f"[ 0., -1., -2.] [-1., -4., -9.] {tl.tensor(x @ x.T, tl.float32)}",
    ]


def test_every_public_function_is_a_builtin() -> None:
    program: dict[str, Any] = builtins.builtins()
    missing = set(functions.FUNCTIONS) - set(program) - builtins.PYTHON_ONLY
    assert not missing
    assert {"tensor", "zeros", "load_model", "save_model", "float16", "gpu"} <= set(program)
    assert not {"Tensor", "from_numpy", "run_file"} & set(program)


def test_random_tensors_are_those_of_python(printed: Any) -> None:
    program = """
    print(random.uniform([2, 3], seed: 1), random.normal([2], 1, dtype: float32, offset: 3))
    print(random.bernoulli(0.5, [4], seed: 2), random.categorical(eye(3) * 20, 3), random)
    """
    made = tl.random.uniform([2, 3], seed=1), tl.random.normal([2], 1, tl.float32, offset=3)
    drawn = tl.random.bernoulli(0.5, [4], seed=2), tl.arange(3)
    assert printed(program) == [
        f"{made[0]} {made[1]}",
        f"{drawn[0]} {drawn[1]} module random",
    ]


def test_a_new_op_is_a_builtin_and_a_method_by_itself(
    printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(functions.FUNCTIONS, "double", lambda x: x * 2)
    monkeypatch.setattr(tl, "double", lambda x: x * 2, raising=False)
    monkeypatch.setattr(tl.Tensor, "double", lambda x: x * 2, raising=False)
    assert printed("print(double(ones(1)), ones(1).double())") == ["[2.] [2.]"]


def test_environments_go_on() -> None:
    names = lang.run("fn f() -> int { return 41 }")
    again = lang.run("let x = f() + 1", environment=names)
    assert again is names
    assert names["x"] == 42


def test_depth_of_nesting_is_no_limit() -> None:
    n = 20_000
    assert lang.run("let x = " + "(" * n + "1" + ")" * n)["x"] == 1
    assert lang.run("let x = " + "-" * n + "1")["x"] == 1
    assert lang.run("let x = 0" + " + 1" * n)["x"] == n
    nested = lang.run("let x = " + "[" * n + "]" * n)["x"]
    for _ in range(n - 1):
        (nested,) = nested
    assert nested == []


def test_recursion_far_beyond_pythons() -> None:
    program = lang.run("fn down(n: int) -> bool { return n == 0 or down(n - 1) }")
    assert program["down"](998) is True


def test_floats_print_plainly(printed: Any) -> None:
    assert printed("print(x, y)", x=math.inf, y=math.nan) == ["inf nan"]


def test_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.tl"
    file.write_text("\ufefflet x = 1\nprint(x)\n", encoding="utf-8")
    assert tl.run_file(file) == {"x": 1}
    assert capsys.readouterr().out == "1\n"
