"""Branches, loops, ranges, lists and comments of the text language."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlogic as tl
from tensorlogic import lang


def test_if_takes_the_first_branch_that_holds(printed: Any) -> None:
    program = """
    fn sign(x: float) -> string {
        if x > 0 { return "positive" }
        else if x == 0
        {
            return "zero"
        } else { return "negative" }
    }
    print(sign(2), sign(0), sign(-0.5))
    if false { print("never") }
    if tensor([3.0]) > 2 { print("a tensor of one element") }
    """
    assert printed(program) == ["positive zero negative", "a tensor of one element"]


def test_loops(printed: Any) -> None:
    program = """
    let sum = 0
    for i in 1..4 { sum = sum + i }
    for i in range(3) { sum = sum + 10 * i }
    for i in range(10, 0, -5) { sum = sum + 100 * i }
    print(sum, i)
    let n = 27; let steps = 0
    while n != 1 {
        steps = steps + 1
        if n % 2 == 0 { n = int(n / 2); continue }
        n = 3 * n + 1
    }
    print(steps)
    for i in 0..3 {
        for j in 0..1_000_000_000_000 {
            if j > i { break }
            if j == 1 { continue }
            print(i, j)
        }
    }
    for never in 3..1 { print(never) }
    """
    assert printed(program) == ["1536 5", "111", "0 0", "1 0", "2 0", "2 2"]


def test_what_for_goes_through(printed: Any) -> None:
    program = """
    for item in ["a", [1]] { print(item) }
    for row in tensor([[1, 2], [3, 4]]) { print(row) }
    for name in model { print(name, model[name].shape) }
    """
    lines = printed(program, model=tl.Model({"w": tl.ones([2]), "b": tl.ones([1])}))
    assert lines == ["a", "[1]", "[1., 2.]", "[3., 4.]", "w [2]", "b [1]"]


def test_return_leaves_all_loops(printed: Any) -> None:
    program = """
    fn find(rows: list, wanted: int) -> int {
        for i in 0..len(rows) {
            let j = 0
            while true {
                if j == len(rows[i]) { break }
                if rows[i][j] == wanted { return i }
                j = j + 1
            }
        }
        return -1
    }
    print(find([[1, 2], [], [3]], 3), find([[1]], 2))
    """
    assert printed(program) == ["2 -1"]


def test_blocks_share_the_names_of_their_function(printed: Any) -> None:
    program = """
    fn f(on: bool) -> int { if on { let y = 1 } else { let y = 2 }; return y }
    print(f(true), f(false))
    if true { let z = 3 }
    print(z)
    """
    assert printed(program) == ["1 2", "3"]


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("0..3", "0..3"),
        ("range(3) == 0..3", "true"),
        ("range(0, 6, 2)", "range(0, 6, 2)"),
        ("1 + 1..2 * 3", "2..6"),
        ("list(2..5)", "[2, 3, 4]"),
        ("(0..10)[3]", "3"),
        ("len(0..10)", "10"),
        ('[len([1, 2]), len("日本"), len(zeros([4, 2]))]', "[2, 2, 4]"),
        ("append([1], [2])", "[1, [2]]"),
        ("list(tensor([1.0, 2.0]))[1]", "2."),
        ("[int(3.9), int(-3.9), int(true), int(tensor([2.5]))]", "[3, -3, 1, 2]"),
        ('[int("12"), float("1e3"), float(2)]', "[12, 1000.0, 2.0]"),
        ('string([1, "a"]) + "!"', '[1, "a"]!'),
        ("1 /* one */ + /**/ 1", "2"),
        ("/* *** / // * */ 3", "3"),
        ('"/* no comment */"', "/* no comment */"),
        ('"\\u{1F600}\\u00e9\\0"', "😀é\0"),
        ("tensor([[1, 2], [3, 4]])[..., 0]", "[1., 3.]"),
        ("tensor([[1, 2], [3, 4]])[1, :]", "[3., 4.]"),
        ("tensor([[1, 2], [3, 4]])[0:1, ...]", "[[1., 2.]]"),
        ("tensor([[1, 2], [3, 4]])[none, 0, ::-1].shape", "[1, 2]"),
        ("tensor([1.0, 3.0]) ** 2", "[1., 9.]"),
        ("not (true and false) or false", "true"),
    ],
)
def test_expressions(printed: Any, expression: str, shown: str) -> None:
    assert printed(f"print({expression})") == [shown]


def test_append_leaves_the_list_as_it_was(printed: Any) -> None:
    program = """
    let a = [1]; let b = append(a, 2)
    a = a + [3]
    print(a, b)
    """
    assert printed(program) == ["[1, 3] [1, 2]"]


def test_comments_go_over_lines(printed: Any) -> None:
    assert printed("let x = 1 /* a\n b */ + 2\nprint(x) // end /*\nprint(1)") == ["3", "1"]


def test_recursion(printed: Any) -> None:
    program = """
    fn fib(n: int) -> int { if n < 2 { return n }; return fib(n - 1) + fib(n - 2) }
    print(fib(15))
    """
    assert printed(program) == ["610"]


def test_depth_of_nesting_is_no_limit() -> None:
    n = 5_000
    assert lang.run("if true { " * n + "let x = 1" + " }" * n)["x"] == 1
    chain = "if x == 0 { let y = 0 }" + "".join(
        f" else if x == {i} {{ let y = {i} }}" for i in range(1, n)
    )
    assert lang.run(f"let x = {n - 1}; {chain}")["y"] == n - 1


def test_a_long_loop_of_tensors_neither_recurses_nor_grows(printed: Any) -> None:
    program = """
    let x = zeros([2], dtype: float32)
    for i in 0..20_000 { x = x + 1 }
    print(x)
    """
    assert printed(program) == ["[20000., 20000.]"]
