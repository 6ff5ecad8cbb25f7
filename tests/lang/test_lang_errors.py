"""The errors of the text language, word for word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

import tensorlogic as tl
from tensorlogic import lang
from tensorlogic.lang.source import Source, Span

Fails = Callable[[str], str]


def _expect(failure: Fails, program: str, expected: str) -> None:
    assert failure(dedent(program).strip("\n")) == dedent(expected).strip("\n")


# ---- programs that are none ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("let x = )", 9, "expected an expression, found `)`"),
        ("let x =", 8, "expected an expression, found the end of the file"),
        ("let x 3", 7, "expected `=`, found `3`"),
        ("let = 3", 5, "expected a name, found `=`"),
        ("let let = 3", 5, "expected a name, found `let`"),
        ("let x = 3 4", 11, "expected a new line, found `4`"),
        ('let y = x "a"', 11, 'expected a new line, found `"a"`'),
        ("f(1 2)", 5, "expected `,` or `)`, found `2`"),
        ("f(1,, 2)", 5, "expected an expression or `)`, found `,`"),
        ("[1 2]", 4, "expected `,` or `]`, found `2`"),
        ("f(1", 2, "this `(` is never closed"),
        ("x[1", 2, "this `[` is never closed"),
        ("fn f() {", 8, "this `{` is never closed"),
        ("}", 1, "expected a statement, found `}`"),
        ("+ 1", 1, "expected a statement, found `+`"),
        ("fn f() { fn g() {} }", 10, "expected a statement or `}`, found `fn`"),
        ("fn f() { } let x = 3", 12, "expected a new line, found `let`"),
        ("fn f(x) {}", 7, "expected `:`, found `)`"),
        ("fn f(x: int) -> {}", 17, "expected a name, found `{`"),
        ("fn f(x: float16[N, a.b]) {}", 21, "expected `,` or `]`, found `.`"),
        ("fn f(a: int, a: int) {}", 14, "two parameters named `a`"),
        ("fn f(x: float16[N,, 2]) {}", 19, "expected a dim or `]`, found `,`"),
        ("x.", 3, "expected a name, found the end of the file"),
        ("a < b < c", 7, "comparisons do not chain; write `a < b and b < c`"),
        ("let x = 12abc", 9, "`12abc` is not a number"),
        ("let x = $y", 9, "`$` (U+0024) is not part of the language"),
        ("let x = \u00a0y", 9, "the character (U+00A0) is not part of the language"),
        ('let x = "abc', 9, "this string does not end on its line"),
        ('let x = "a\\q"', 11, "`\\q` is not an escape of strings"),
        ("f(a: 1, 2)", 9, "a named argument stands before this one"),
        ("f(a: 1, a: 2)", 9, "`a` is given twice"),
        ("3 = 4", 1, "only a name can stand before `=`"),
        ("let x = 1 /* 2", 11, "this comment is never closed"),
        ('let x = "\\ud800"', 10, "`\\ud800` is no character"),
        ('let x = "\\u{110000}"', 10, "`\\u{110000}` is no character"),
        ("if x y", 6, "expected `{`, found `y`"),
        ("if x", 5, "expected `{`, found the end of the file"),
        ("else {}", 1, "expected a statement, found `else`"),
        ("if x { } else y", 15, "expected `{`, found `y`"),
        ("while {}", 7, "expected an expression, found `{`"),
        ("for in 0..3 {}", 5, "expected a name, found `in`"),
        ("for i of x {}", 7, "expected `in`, found `of`"),
        ("for i in 0.. {}", 14, "expected an expression, found `{`"),
        ("1..2..3", 5, "expected a new line, found `..`"),
        ("break 1", 7, "expected a new line, found `1`"),
        ("let for = 1", 5, "expected a name, found `for`"),
        ("import lib", 8, "expected a string, found `lib`"),
        ('if x { import "a" }', 8, "expected a statement or `}`, found `import`"),
    ],
)
def test_syntax(failure: Fails, line: str, column: int, message: str) -> None:
    first, shown, carets = failure(f"let before = 1\n{line}").split("\n")
    assert first == f"test.tl:2:{column}: {message}"
    assert shown == f"  2 | {line}"
    assert carets.rstrip("^") == "    | " + " " * (column - 1)


def test_syntax_in_full(failure: Fails) -> None:
    _expect(
        failure,
        """
        // a comment
        let x = tensor([1.0, 2.0] device: gpu)
        """,
        """
        test.tl:2:27: expected `,` or `)`, found `device`
          2 | let x = tensor([1.0, 2.0] device: gpu)
            |                           ^^^^^^
        """,
    )
    _expect(
        failure,
        "x[0] = 1",
        """
        test.tl:1:1: values do not change in place: instead of `x[i] = v` write \
`x = x.update(i, v)`, or `x = where(mask, v, x)`
          1 | x[0] = 1
            | ^^^^
        """,
    )


def test_carets_stand_under_wide_characters_and_tabs(failure: Fails) -> None:
    assert failure('\tlet 名 = "日本" $') == (
        "test.tl:1:15: `$` (U+0024) is not part of the language\n"
        '  1 | \tlet 名 = "日本" $\n'
        "    | \t                ^"
    )


def test_a_long_line_is_cut_around_the_place(failure: Fails) -> None:
    first, shown, carets = failure(f"let x = [{'1.0, ' * 200}oops, {'1.0, ' * 200}]").split("\n")
    assert first == "test.tl:1:1010: `oops` is not defined"
    assert len(shown) == len("  1 | ……") + 100
    assert shown.startswith("  1 | …1.0, ")
    assert shown.endswith("…")
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "oops"


def test_the_types_are_the_builtin_ones() -> None:
    with pytest.raises(tl.LanguageSyntaxError) as syntax:
        lang.run("let")
    assert isinstance(syntax.value, SyntaxError)
    with pytest.raises(tl.LanguageRuntimeError) as runtime:
        lang.run("ones(2) @ ones(3)")
    assert isinstance(runtime.value, RuntimeError)
    assert isinstance(runtime.value.__cause__, tl.ShapeError)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_bytes(b"let x = \xff")
    with pytest.raises(tl.LanguageSyntaxError) as caught:
        tl.run_file(file)
    assert str(caught.value) == f"{file}: not a text in UTF-8: byte 8 is 0xff"


# ---- programs that fail ----------------------------------------------------------------------


def test_shape_error_of_a_call(failure: Fails) -> None:
    _expect(
        failure,
        """
        function forward(input: float16[N, D_in],
                         weights: float16[D_in, D_out]) -> float16[N, D_out] {
            return input @ weights
        }
        let output = forward(ones([8, 3]), ones([4, 2]))
        """,
        """
        test.tl:5:14: ShapeError: forward(): dim D_in is 3 in `input` but 4 in `weights`
          input:   Tensor[float16, N=8, D_in=3]
          weights: Tensor[float16, D_in=4, D_out=2]     test.tl:1, called from test.tl:5
          5 | let output = forward(ones([8, 3]), ones([4, 2]))
            |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        """,
    )


def test_shape_error_of_a_result(failure: Fails) -> None:
    _expect(
        failure,
        """
        fn flip(x: float16[N, D]) -> float16[N, D] {
            return x.T
        }
        flip(ones([2, 3]))
        """,
        """
        test.tl:2:5: ShapeError: flip(): dim N is 2 in `x` but 3 in the result
          x:      Tensor[float16, N=2, D=3]
          result: Tensor[float16, N=3, D=2]     test.tl:1, called from test.tl:4
          2 |     return x.T
            |     ^^^^^^^^^^
          in flip, called at test.tl:4:1
        """,
    )


def test_shape_error_inside_nested_calls(failure: Fails) -> None:
    _expect(
        failure,
        """
        fn inner(a: float16[N, M], b: float16[K, L]) -> float16[N, L] {
            return a @ b + 1
        }
        fn outer(a: float16[N, M]) -> float16[N, N] {
            let c = inner(
                a, b: a
            )
            return c
        }
        print(outer(ones([2, 3])))
        """,
        """
        test.tl:2:14: ShapeError: matmul: [2, 3] @ [2, 3]: the inner sizes 3 and 2 differ
          2 |     return a @ b + 1
            |              ^
          in inner, called at test.tl:5:13
          in outer, called at test.tl:10:7
        """,
    )


def test_recursion_is_bounded(failure: Fails) -> None:
    _expect(
        failure,
        """
        fn f(n: int) -> int { return f(n + 1) }
        f(0)
        """,
        """
        test.tl:1:30: more than 1000 calls inside one another
          1 | fn f(n: int) -> int { return f(n + 1) }
            |                              ^^^^^^^^
          in f, called at test.tl:1:30
          in f, called at test.tl:1:30
          in f, called at test.tl:1:30
          ... 994 more calls
          in f, called at test.tl:1:30
          in f, called at test.tl:1:30
          in f, called at test.tl:2:1
        """,
    )


@pytest.mark.parametrize(
    ("line", "marked", "message"),
    [
        ("print(weigths)", "weigths", "`weigths` is not defined; did you mean `weights`?"),
        ("print(xyzzy)", "xyzzy", "`xyzzy` is not defined"),
        ("softmxa(weights)", "softmxa", "`softmxa` is not defined; did you mean `softmax`?"),
        ("weights.shap", "shap", "a tensor has no attribute `shap`; did you mean `shape`?"),
        ("weights.__class__", "__class__", "a tensor has no attribute `__class__`"),
        ("weights._node", "_node", "a tensor has no attribute `_node`"),
        ("weights.numpy()", "numpy", "a tensor has no attribute `numpy`"),
        ("softmax.__globals__", "__globals__", "a function has no attribute `__globals__`"),
        ("random.norml(2)", "norml", "a module has no attribute `norml`; did you mean `normal`?"),
        ("random.math", "math", "a module has no attribute `math`"),
        ("random._words", "_words", "a module has no attribute `_words`"),
        ("random(2)", "random(2)", "a module cannot be called"),
        (
            "random.normal(2)",
            "random.normal(2)",
            "random.normal(): missing a required argument: 'seed'; its arguments are shape, seed, "
            "dtype, device, offset",
        ),
        (
            "random.normal(2, 0.5)",
            "random.normal(2, 0.5)",
            "TypeError: random: the seed is an int, not float",
        ),
        ("f.interpreter", "interpreter", "a function has no attribute `interpreter`"),
        ('"{0}".format(1)', "format", "a string has no attribute `format`"),
        ("float16.numpy", "numpy", "a dtype has no attribute `numpy`"),
        ("float16(1)", "float16(1)", "a dtype cannot be called"),
        ("weights(1)", "weights(1)", "a tensor cannot be called"),
        ("f[0]", "f[0]", "a function cannot be indexed"),
        ("5[0]", "5[0]", "an int cannot be indexed"),
        ("[1][true < 2]", "<", "`<` does not compare a bool with an int"),
        ('[1]["a"]', '[1]["a"]', "a list is indexed by ints, not by a string"),
        ("[1][5]", "[1][5]", "IndexError: list index out of range"),
        ("1 + true", "+", "`+` takes numbers and tensors, not an int and a bool"),
        ('"a" * 3', "*", "`*` takes numbers and tensors, not a string and an int"),
        ("weights + [1]", "+", "`+` takes numbers and tensors, not a tensor and a list"),
        ("2 @ 3", "@", "`@` takes tensors, not an int and an int"),
        ('weights == "a"', "==", "`==` does not compare a tensor with a string"),
        ("1 / 0", "/", "ZeroDivisionError: division by zero"),
        ("2 ** 63", "**", "`**`: the result does not fit an int of 64 bits"),
        ("10 ** 10 ** 10", "**", "`**`: the result does not fit an int of 64 bits"),
        ("9223372036854775807 + 1", "+", "`+`: the result does not fit an int of 64 bits"),
        ("(-8) ** 0.5", "**", "`**` of -8 and 0.5 is not a real number"),
        ("-[1]", "-", "`-` takes numbers and tensors, not a list"),
        ("not 1", "not", "`not` takes bools, not an int"),
        ("1 and true", "and", "`and` takes bools, not an int"),
        ("return 1", "return 1", "`return` stands outside a function"),
        ("break", "break", "`break` stands outside a loop"),
        ("if true { continue }", "continue", "`continue` stands outside a loop"),
        ("if 1 { }", "if 1 { }", "`if` takes a bool, not an int"),
        ("while none { }", "while none { }", "`while` takes a bool, not none"),
        (
            "if weights > 0 { }",
            "if weights > 0 { }",
            "TensorLogicError: the truth of a tensor of 2 elements is not one bool: compare with "
            "`.item()`, or select with `tl.where`",
        ),
        (
            "for i in 3 { }",
            "3",
            "`for` goes through ranges, lists, tensors, models and tables, not an int",
        ),
        ("0..1.5", "..", "a range has int bounds, not a float"),
        ("range(0, 3, 0)", "range(0, 3, 0)", "the step of a range is 0"),
        ("(0..3)[1.0]", "(0..3)[1.0]", "a range is indexed by ints, not by a float"),
        ("[1, 2][true]", "[1, 2][true]", "a list is indexed by ints, not by a bool"),
        ("len(5)", "len(5)", "an int has no length"),
        ("append(5, 1)", "append(5, 1)", "append() takes a list, not an int"),
        (
            "[1].append(2)",
            "append",
            "a list has no attribute `append`; there is a function `append(...)`",
        ),
        ('int("1.5")', 'int("1.5")', 'int(): "1.5" is not a number'),
        ("int(1e30)", "int(1e30)", "int(): 1e+30 does not fit an int of 64 bits"),
        ("float([])", "float([])", "float() takes a number, a string or a tensor, not a list"),
        ("f()", "f()", "f() is called without `n`"),
        ("f(1, 2, 3)", "f(1, 2, 3)", "f() takes 2 arguments, not 3"),
        ("f(1, n: 2)", "f(1, n: 2)", "f(): `n` is given twice"),
        ("f(m: 2)", "f(m: 2)", "f() has no parameter `m`"),
        ("f(1.5)", "f(1.5)", "f(): `n` is a float, not int"),
        ("f(true)", "f(true)", "f(): `n` is a bool, not int"),
        ("f(1, scale: none)", "f(1, scale: none)", "f(): `scale` is none, not float"),
        ("g(1)", "g(1)", "g(): `x` is an int, not Tensor[float16, N]"),
        (
            "softmax(weights, axs: 1)",
            "softmax(weights, axs: 1)",
            "softmax(): got an unexpected keyword argument 'axs'; its arguments are x, axis",
        ),
        ('load_model("no.gguf")',) * 2
        + ("FileNotFoundError: [Errno 2] No such file or directory: 'no.gguf'",),
        (
            "fn h(x: flaot16[N]) {}",
            "flaot16[N]",
            "`flaot16` is not a type; did you mean `float16`?",
        ),
        ("fn h(x: int[N]) {}", "int[N]", "the type int has no dims"),
    ],
)
def test_run_time(failure: Fails, line: str, marked: str, message: str) -> None:
    before = (
        "fn f(n: int, scale: float = 1) -> int { return n }; fn g(x: float16[N]) { }\n"
        "let weights = ones([2])\n"
    )
    column = line.index(marked) + 1
    assert failure(before + line) == (
        f"test.tl:3:{column}: {message}\n"
        f"  3 | {line}\n"
        f"    | {' ' * (column - 1)}{'^' * len(marked)}"
    )


def test_results_of_the_wrong_type(failure: Fails) -> None:
    _expect(
        failure,
        """
        fn f() -> int { return "a" }
        f()
        """,
        """
        test.tl:1:17: f(): the result is a string, not int
          1 | fn f() -> int { return "a" }
            |                 ^^^^^^^^^^
          in f, called at test.tl:2:1
        """,
    )
    _expect(
        failure,
        """
        fn f(x: float16[N]) -> float16[N] { let y = x }
        f(ones(2))
        """,
        """
        test.tl:2:1: f() ended without the Tensor[float16, N] that it declares
          2 | f(ones(2))
            | ^^^^^^^^^^
        """,
    )


def test_value_errors_name_the_line_that_recorded(failure: Fails) -> None:
    _expect(
        failure,
        """
        let x = take(ones(3), [0, 7])
        print(x)
        """,
        """
        test.tl:2:1: IndexRangeError: test.tl:1: take: index 7 is outside an axis of size 3
          2 | print(x)
            | ^^^^^^^^
        """,
    )


def test_a_value_nested_too_deep_for_python(failure: Fails) -> None:
    message = failure("let x = " + "[" * 20_000 + "]" * 20_000 + "\nprint(x)")
    assert message.split("\n")[0] == "test.tl:2:1: a value is nested too deep"
    tensor = failure("let x = tensor(" + "[" * 20_000 + "]" * 20_000 + ")")
    assert tensor.split("\n")[0] == "test.tl:1:9: a value is nested too deep"


def test_a_span_of_several_lines_is_marked_to_the_end_of_its_first() -> None:
    source = Source("a.tl", "f(1,\n2)")
    assert Span(source, 1, 1, 2, 3).report("no") == "a.tl:1:1: no\n  1 | f(1,\n    | ^^^^"
