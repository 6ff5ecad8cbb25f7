"""`@tl.function`: lazy calls, one trace a signature, results, errors with the user's lines."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import Tensor, float16


@tl.function
def forward(
    input: Tensor[float16, N, D_in],  # noqa: F821
    weights: Tensor[float16, D_in, D_out],  # noqa: F821
    bias: Tensor[float16, D_out],  # noqa: F821
) -> Tensor[float16, N, D_out]:  # noqa: F821
    """A linear layer."""
    return input @ weights + bias


def here(offset: int = 0) -> str:
    """`file:line` of the caller, some lines further down."""
    return f"{Path(__file__).name}:{sys._getframe(1).f_lineno + offset}"


# ---- shapes ----


def test_the_error_reads_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = [
        "from __future__ import annotations",
        "import tensorlogic as tl",
        *[""] * 8,
        "@tl.function",
        "def forward(input: tl.Tensor[tl.float16, N, D_in], weights: tl.float16[D_in, D_out], "
        "bias: tl.float16[D_out]) -> tl.float16[N, D_out]:",
        "    return input @ weights + bias",
    ]
    run = ["import tensorlogic as tl", "from model import forward", *[""] * 37]
    run.append("forward(tl.zeros([8, 3]), tl.zeros([4, 2]), tl.zeros([2]))")
    (tmp_path / "model.py").write_text("\n".join(model))
    (tmp_path / "run.py").write_text("\n".join(run))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(tl.ShapeError) as caught:
        __import__("run")
    monkeypatch.delitem(sys.modules, "model")
    assert f"ShapeError: {caught.value}" == (
        "ShapeError: forward(): dim D_in is 3 in `input` but 4 in `weights`\n"
        "  input:   Tensor[float16, N=8, D_in=3]\n"
        "  weights: Tensor[float16, D_in=4, D_out=2]     model.py:12, called from run.py:40"
    )


def test_shapes_are_checked_at_every_call() -> None:
    traces = forward.traces
    for _ in range(2):
        assert forward(tl.ones([4, 3]), tl.ones([3, 2]), tl.ones([2])).shape == (4, 2)
        with pytest.raises(tl.ShapeError, match="dim D_out is 2 in `weights` but 5 in `bias`"):
            forward(tl.ones([4, 3]), tl.ones([3, 2]), tl.ones([5]))
        with pytest.raises(tl.DTypeError, match="`bias` is float32 but must be float16"):
            forward(tl.ones([4, 3]), tl.ones([3, 2]), tl.ones([2], dtype=tl.float32))
    assert forward.traces == traces + 1


def test_a_result_of_the_wrong_shape() -> None:
    @tl.function
    def f(x: Tensor[float16, N]) -> tuple[Tensor[float16, N], Tensor[float16, N]]:  # noqa: F821
        return x, x.reshape(1, -1)

    with pytest.raises(tl.ShapeError) as caught:
        f(tl.ones([3]))
    assert str(caught.value).startswith(
        "f(): `result[1]` has 2 dims but Tensor[float16, N] has 1\n"
        "  result[1]: Tensor[float16, 1, 3]     test_function.py:"
    )


def test_containers_are_checked() -> None:
    @tl.function
    def f(
        layers: dict[str, Tensor[float16, N, N]],  # noqa: F821
        bias: Tensor[float16, N] | None = None,  # noqa: F821
        *more: Tensor[float16, N],  # noqa: F821
    ) -> Tensor[float16, N]:  # noqa: F821
        total = layers["a"].sum(axis=0)
        for x in more:
            total = total + x
        return total if bias is None else total + bias

    good = {"a": tl.ones([2, 2])}
    assert f(good).tolist() == [2.0, 2.0]
    assert f(good, tl.ones([2]), tl.ones([2])).tolist() == [4.0, 4.0]
    with pytest.raises(tl.ShapeError, match=r"dim N is both 2 and 3 in `layers\['b'\]`"):
        f({"b": tl.ones([2, 3])})
    with pytest.raises(tl.ShapeError, match=r"but 3 in `more\[1\]`"):
        f(good, None, tl.ones([2]), tl.ones([3]))
    with pytest.raises(TypeError, match="`layers` is int, not a list, tuple or dict"):
        f(1)


# ---- tracing ----


def count(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A traced function whose body counts its runs in `.runs`, a list that it appends to."""
    runs: list[int] = []

    def body(*args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return fn(*args, **kwargs)

    traced = tl.function(body)
    traced.runs = runs  # type: ignore[attr-defined]
    return traced


def test_the_body_runs_once_for_each_signature() -> None:
    f = count(lambda x, flag=False: -x if flag else x * 2)
    a, b = tl.ones([2]), tl.ones([3])
    for x, flag, runs in (
        (a, False, 1),
        (tl.zeros([2]), False, 1),
        (b, False, 2),
        (b, True, 3),
        (b.to(tl.float32), True, 4),
        (a, False, 4),
        (b, True, 4),
    ):
        assert f(x, flag).tolist() == (-x if flag else x * 2).tolist()
        assert len(f.runs) == runs


def test_numbers_are_values_of_the_call() -> None:
    f = count(lambda x, scale, shift=0: x * scale + shift)
    x = tl.ones([2])
    assert f(x, 2.0, 1).tolist() == [3.0, 3.0]
    assert f(x, 5.0, 4).tolist() == [9.0, 9.0]
    assert f(x, np.float32(0.5), np.int64(3)).tolist() == [3.5, 3.5]
    assert f(x, -1.0, 1).dtype is tl.float16
    assert len(f.runs) == 1
    assert f(x, 2, 1).tolist() == [3.0, 3.0]
    assert len(f.runs) == 2  # an int is of another dtype


def test_whole_numbers_keep_int32() -> None:
    f = count(lambda x, n: (x + n, n * 2))
    total, double = f(tl.arange(3), 4)
    assert (total.tolist(), total.dtype, double.item()) == ([4, 5, 6], tl.int32, 8)
    assert (tl.ones([1]) * f(tl.arange(3), 5)[1]).dtype is tl.float16  # still a number
    assert len(f.runs) == 1


def test_a_call_is_lazy() -> None:
    forward = tl.function(lambda x, w, b: tl.relu(x @ w + b))
    y = forward(tl.ones([4, 3]), tl.ones([3, 2]), tl.ones([2]))
    assert y._node.op is not None
    assert y._node.data is None
    tl.eval(y)
    assert y._node.op is None


def test_calls_evaluated_together_and_again() -> None:
    f = tl.function(lambda x, w: (x @ w, tl.exp(x)))
    w = tl.eye(2) * 2
    calls = [f(tl.full([2, 2], float(i)), w) for i in range(5)]
    for _ in range(2):
        for i, (y, e) in enumerate(calls):
            np.testing.assert_allclose(y.numpy(), np.full((2, 2), 2 * i))
            np.testing.assert_allclose(e.numpy(), np.exp(np.full((2, 2), i)), rtol=1e-3)


def test_it_inlines_in_another() -> None:
    inner = count(lambda x: x + 1)

    @tl.function
    def outer(x: Tensor, times: str) -> Tensor:
        for _ in times:
            x = inner(x)
        return x

    assert outer(tl.zeros([2]), "abc").tolist() == [3.0, 3.0]
    assert outer(tl.zeros([2]), "abc").tolist() == [3.0, 3.0]
    assert len(inner.runs) == 3
    assert inner.traces == 0
    graph = outer(tl.zeros([3]), "abc")._node.attrs[0].traced.outputs[0]
    assert [graph.op.name, graph.args[0].op.name] == ["add", "add"]


def test_a_function_within_a_function_sees_its_values() -> None:
    @tl.function
    def outer(x: Tensor) -> Tensor:
        @tl.function
        def inner(y: Tensor) -> Tensor:
            return x * y

        class Held:
            value = x

        return inner(tl.full([2], 3.0)) + tl.function(lambda held: held.value)(Held())

    for i in (1.0, 2.0):
        assert outer(tl.full([2], i)).tolist() == [4 * i, 4 * i]
    assert outer.traces == 1


def test_dims_are_checked_when_inlined() -> None:
    @tl.function
    def outer(x: Tensor) -> Tensor:
        return forward(x, x, x)

    with pytest.raises(tl.ShapeError, match=f"called from {here(-2)}"):
        outer(tl.ones([2, 3]))


def test_from_two_threads() -> None:
    f = count(lambda x, w: tl.relu(x @ w))
    w = tl.eye(8)
    results: dict[int, Any] = {}

    def work(seed: int) -> None:
        xs = [tl.full([4, 8], float(seed + i)) for i in range(20)]
        results[seed] = [f(x, w).numpy() for x in xs]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 100)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in (0, 100):
        for i, y in enumerate(results[seed]):
            np.testing.assert_array_equal(y, np.full((4, 8), seed + i))
    assert len(f.runs) <= 2


def test_old_traces_are_dropped() -> None:
    from tensorlogic.function import MAX_TRACES

    f = tl.function(lambda x, name: x)
    for i in range(MAX_TRACES + 5):
        f(tl.ones([1]), str(i))
    assert len(f._traces) == MAX_TRACES  # type: ignore[attr-defined]
    assert f.traces == MAX_TRACES + 5  # type: ignore[attr-defined]


# ---- arguments and results ----


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_nested_arguments_and_results() -> None:
    f = count(
        lambda p: {
            "sum": p["xs"][0] + p["xs"][1],
            "rest": [p["pair"].first, (p["scale"] * p["pair"].second, None, "text", 2.5)],
        }
    )
    a, b = tl.ones([2]), tl.full([2], 3.0)
    for scale in (2.0, 4.0):
        out = f({"xs": [a, b], "pair": Pair(a, b), "scale": scale})
        assert out["sum"].tolist() == [4.0, 4.0]
        assert out["rest"][0] is a
        assert out["rest"][1][0].tolist() == [3 * scale] * 2
        assert out["rest"][1][1:] == (None, "text", 2.5)
    assert len(f.runs) == 1


def test_named_tuples_come_back_as_such() -> None:
    f = tl.function(lambda x: Pair(x + 1, x))
    assert isinstance(f(tl.ones([1])), Pair)


def test_what_depends_on_no_argument() -> None:
    f = count(lambda x: (tl.arange(3), tl.zeros([2]) + 1))
    for _ in range(2):
        assert [t.tolist() for t in f(tl.ones([1]))] == [[0, 1, 2], [1.0, 1.0]]
    assert len(f.runs) == 1


def test_unused_arguments_are_no_inputs() -> None:
    f = tl.function(lambda x, y: x + 1)
    assert len(f(tl.ones([2]), tl.ones([3]))._node.args) == 1


def test_results_that_are_none() -> None:
    with pytest.raises(TypeError, match="returns tensors, numbers"):
        tl.function(lambda x: {x})(tl.ones([1]))
    with pytest.raises(TypeError, match="returns tensors, numbers"):
        tl.function(lambda x: iter([x]))(tl.ones([1]))


def test_arrays_are_no_arguments() -> None:
    with pytest.raises(TypeError, match=r"tl\.tensor\(array\)"):
        tl.function(lambda x: x)(np.ones(2))


def test_keywords_and_defaults() -> None:
    @tl.function
    def f(x: Tensor, /, scale: float = 2.0, *, bias: Tensor, **more: Any) -> Any:
        return x * scale + bias + more.get("extra", 0)

    x = tl.ones([2])
    assert f(x, bias=x).tolist() == [3.0, 3.0]
    assert f(x, 3.0, bias=x, extra=x).tolist() == [5.0, 5.0]
    assert f(x, bias=x, scale=4.0).tolist() == [5.0, 5.0]
    assert f.traces == 2
    with pytest.raises(TypeError, match=r"f\(\): missing a required .*'bias'"):
        f(x)


def test_methods() -> None:
    class Layer:
        def __init__(self, scale: float) -> None:
            self.scale = scale
            self.weight = tl.full([3], scale)

        @tl.function
        def run(self, x: Tensor[float16, N], bias: float = 0.0) -> Tensor[float16, N]:  # noqa: F821
            return x * self.weight + bias + self.scale

    one, two = Layer(1.0), Layer(2.0)
    x = tl.ones([3])
    assert one.run(x).tolist() == [2.0] * 3
    assert two.run(x, bias=1.0).tolist() == [5.0] * 3
    assert one.run(x).tolist() == [2.0] * 3
    assert Layer.run.traces == 2
    bound = tl.function(one.run.__wrapped__.__get__(one))
    assert bound(x).tolist() == [2.0] * 3


def test_traces_die_with_their_object() -> None:
    class Layer:
        @tl.function
        def run(self, x: Tensor) -> Tensor:
            return x + 1

    layer = Layer()
    layer.run(tl.ones([1]))
    assert len(Layer.run._traces) == 1  # type: ignore[attr-defined]
    del layer
    assert len(Layer.run._traces) == 0  # type: ignore[attr-defined]


def test_it_looks_like_the_function() -> None:
    assert (forward.__name__, forward.__doc__) == ("forward", "A linear layer.")
    assert forward.__module__ == __name__
    assert list(inspect.signature(forward.__wrapped__).parameters) == ["input", "weights", "bias"]
    assert repr(forward) == "<tl.function forward>"


@pytest.mark.parametrize("thing", [3, print, staticmethod(forward), type])
def test_only_functions_are_traced(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"tl\.function takes a function"):
        tl.function(thing)


def test_a_consumed_argument_is_consumed() -> None:
    @tl.function
    def step(cache: Tensor, x: Tensor, at: int) -> Tensor:
        return cache.update(at, x)

    cache = tl.zeros([3, 1])
    for i in range(3):
        new = step(cache, tl.full([1, 1], i + 1.0), i)
        with pytest.raises(tl.ConsumedError):
            cache.tolist()
        cache = new
    assert cache.tolist() == [[1.0], [2.0], [3.0]]
    assert step.traces == 1


# ---- values that are not there while tracing ----

QUESTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "bool": lambda x, n: x if x.sum() > 0 else -x,
    "item": lambda x, n: x * x.sum().item(),
    "float": lambda x, n: x * float(x.sum()),
    "int": lambda x, n: x * int(n),
    "number": lambda x, n: x if n > 0 else -x,
    "range": lambda x, n: [x for _ in range(n)],
    "shape": lambda x, n: x.reshape(n, -1),
    "print": lambda x, n: print(x),
    "numpy": lambda x, n: np.asarray(x),
    "tolist": lambda x, n: x.tolist(),
    "eval": lambda x, n: tl.eval(x * 2),
    "slice": lambda x, n: x[:n],
    "axis": lambda x, n: x.sum(axis=n),
    "sizes": lambda x, n: tl.zeros([n, 2]),
    "size": lambda x, n: tl.ones(n),
    "parts": lambda x, n: x.split(n),
    "widths": lambda x, n: x.pad(n),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_asking_for_a_number_names_the_line(question: str) -> None:
    ask = QUESTIONS[question]
    line = ask.__code__.co_firstlineno
    with pytest.raises(tl.TraceError, match=f"^{Path(__file__).name}:{line}: "):
        tl.function(ask)(tl.ones([2]), 2)


def test_a_failed_trace_leaves_nothing_behind() -> None:
    f = tl.function(QUESTIONS["bool"])
    for _ in range(2):
        with pytest.raises(tl.TraceError):
            f(tl.ones([2]), 1)
    assert not f._traces  # type: ignore[attr-defined]


def test_a_traced_value_that_escaped() -> None:
    kept = []
    f = tl.function(lambda x: (kept.append(x + 1), x)[1])
    f(tl.ones([2]))
    with pytest.raises(tl.TraceError):
        kept[0].numpy()
    with pytest.raises(tl.TraceError, match="pass it as an argument"):
        tl.function(lambda x: x + kept[0])(tl.ones([2]))


def test_a_buffer_made_in_the_body_is_new_in_each_call() -> None:
    @tl.function
    def f(x: Tensor, at: int) -> Tensor:
        return tl.zeros([2, 1]).update(at, x)

    one = tl.ones([1, 1])
    first, second = f(one, 0), f(one, 1)
    assert (second.tolist(), first.tolist()) == ([[0.0], [1.0]], [[1.0], [0.0]])
    assert f(one, 0).tolist() == [[1.0], [0.0]]
