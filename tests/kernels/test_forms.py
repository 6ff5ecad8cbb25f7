"""Which form a launch has: classes of sizes, and the arithmetic of its groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlogic as tl
from tensorlogic import settings
from tensorlogic.codegen import clike, forms
from tensorlogic.codegen.forms import Form
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.codegen.rewrite import INNER, roughened
from tensorlogic.creation import from_storage
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import (
    Buffer,
    Kernel,
    Loop,
    Store,
    binary,
    const,
    either,
    index,
    load,
    param,
    select,
    unary,
)
from tensorlogic.kernels.spec import Matmul
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tests.kernels.samples import SAMPLES


def step(result: tl.Tensor) -> Step:
    (only,) = schedule(inline_calls([result._node]), settings.current(), GPU).steps
    return only


def zeros(*shape: int) -> tl.Tensor:
    return tl.tensor(np.zeros(shape, np.float16))


def chosen(result: tl.Tensor) -> Form:
    s = step(result)
    assert isinstance(s.kernel, Kernel)
    return forms.chosen(s.kernel, s.sizes())[1]


def quantized(storage: str, rows: int, columns: int) -> tl.Tensor:
    quant = QUANTS[storage]
    data = np.zeros(rows * columns // quant.block * quant.nbytes, np.uint8)
    return from_storage(data, (rows, columns), storage, "w")


def test_launch_arithmetic() -> None:
    def counts(name: str, form: Form, *sizes: dict[str, int]) -> list[int]:
        return [forms.groups(SAMPLES[name].kernel, s, form) for s in sizes]

    flat, rows = SAMPLES["gelu_chain"].kernel, SAMPLES["softmax"].kernel
    wide, narrow = forms.plain(rows), forms.plain(rows, 32)
    assert (forms.group_size(flat, forms.plain(flat)), forms.group_size(rows, wide)) == (256, 256)
    assert forms.group_size(rows, narrow) == 128
    elements = [{"n": n} for n in (0, 1, 2048, 2049, 4097)]
    assert counts("gelu_chain", forms.plain(flat), *elements) == [0, 1, 1, 2, 3]
    assert counts("gelu_chain", replace(forms.plain(flat), turns=2), *elements) == [0, 1, 1, 1, 2]
    assert counts("softmax", wide, {"rows": 0}, {"rows": 3}) == [0, 3]
    assert counts("softmax", narrow, {"rows": 1}, {"rows": 4}, {"rows": 5}) == [1, 1, 2]
    split = {"rows_a": 3, "rows_b": 4}
    assert counts("split", Form(width=32), split) == [2]
    assert counts("split", Form(width=32, rows=4), split) == [1]
    assert counts("broadcast_pad", Form(), {"total": 256}, {"total": 257}) == [1, 2]
    assert forms.is_flat(SAMPLES["cumsum"].kernel)  # rows without vector loops: a thread each
    assert counts("cumsum", Form(), {"rows": 300}) == [2]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(64, (32, 1)), (512, (32, 2)), (4096, (256, 2)), (16384, (1024, 2)), (32768, (1024, 4))],
)
def test_rows_stay_in_registers(columns: int, expected: tuple[int, int]) -> None:
    form = chosen(tl.softmax(zeros(600, columns)))
    assert (form.width, form.turns, form.kept, form.whole) == (*expected, True, True)
    source = gpu_source(tl.softmax(zeros(600, columns)))
    assert source.count("= load_pack<8>(b0 + ") == 2  # once wide, once one by one


def test_longer_rows_are_read_again() -> None:
    form = chosen(tl.softmax(zeros(2, 40000)))
    assert (form.width, form.kept) == (1024, False)


def gpu_source(result: tl.Tensor, dialect: str = "metal") -> str:
    s = step(result)
    return gpu_launch(s.kernel, "k", dialect, s.sizes()).source


def test_few_texts_serve_all_sizes() -> None:
    sizes = range(40, 5000, 488)
    texts = {gpu_source(tl.layer_norm(zeros(600, n), zeros(n), zeros(n))) for n in sizes}
    assert len(texts) <= 2 * 5  # widths by whole or not
    assert (
        len({gpu_source(tl.linear(zeros(1, 512), zeros(n, 512))) for n in range(600, 2000, 99)})
        == 1
    )


@pytest.mark.parametrize("storage", QUANTS)
@pytest.mark.parametrize("few", [1, 3])
def test_quantized_rows_are_read_in_words(storage: str, few: int) -> None:
    result = tl.linear(zeros(few, 512), quantized(storage, 9000, 512))
    main, _ = body(gpu_source(result)).split("if (is_infinite(")  # then element by element
    assert "masked(" in main
    assert "int(b2[" not in main  # no byte that is a word's
    assert chosen(result).rows == (4 if few == 1 else few)


def test_few_rows_share_the_weights() -> None:
    form = chosen(tl.linear(zeros(3, 512), zeros(700, 512)))
    assert (form.inner, form.rows, form.width) == (INNER, 3, 32)
    assert chosen(tl.linear(zeros(1, 512), zeros(700, 512))).inner is None


def test_addresses_are_as_wide_as_sizes_ask() -> None:
    kernel = SAMPLES["softmax"].kernel
    assert forms.fits(kernel, {"rows": 1 << 10, "cols": 1 << 20})
    assert not forms.fits(kernel, {"rows": 1 << 11, "cols": 1 << 20})
    assert not forms.fits(kernel, {"rows": 4})
    assert "typedef int index_t;" in gpu_source(tl.exp(zeros(100)))


N, I = param("n"), index("i")
X, HALF, FLOAT = Buffer("x", "f16"), Buffer("y", "f16", True), Buffer("z", "f32", True)


def flat(value: object, into: Buffer) -> str:
    loop = Loop(I, const(0, "i64"), N, "flat", (Store(into, I, value),))  # type: ignore[arg-type]
    return clike.render(roughened(Kernel((X, into), (N,), (loop,))), "k", "metal")


@pytest.mark.parametrize("name", ["M", "N", "K", "batches", "a_m", "a_k", "b_n", "b_batch"])
def test_addresses_of_products_are_as_wide_as_sizes_ask(name: str) -> None:
    x, w = tl.ones([2, 64, 64]), tl.ones([2, 64, 64])
    (step,) = schedule([tl.relu(x @ w + 1)._node], settings.current(), GPU).steps
    assert isinstance(step.kernel, Matmul)
    sizes = step.sizes()
    assert forms.product_fits(step.kernel, sizes)
    assert not forms.product_fits(step.kernel, {**sizes, name: 1 << 30})
    source = gpu_launch(step.kernel, "compute", "cuda", sizes).source
    assert "typedef int index_t;" in source


def test_rough_functions_are_for_halves_alone() -> None:
    x = load(X, I)
    assert "rough_exp(" in flat(unary("exp", x), HALF)
    assert "math_exp(" in flat(unary("exp", x), FLOAT)
    assert "math_exp(" in flat(unary("floor", unary("exp", x)), HALF)
    assert "math_exp(" in flat(select(unary("exp", x) < 2.0, x, 1.0), HALF)
    assert "rough_div_small(" in flat(x / (unary("abs", x) + 1.0), HALF)
    assert "rough_div(" in flat(unary("exp", x) / unary("exp", binary("add", x, 1.0)), HALF)
    floored = flat(unary("floor", x / 3.0), HALF)
    assert "rough" not in body(floored)


def test_the_rough_one_of_two_forms_is_for_halves_alone() -> None:
    x = load(X, I)
    forms_ = either(x + 1.0, x + 2.0)
    assert "2.0f" in body(flat(forms_, HALF))
    for text in (flat(forms_, FLOAT), flat(unary("floor", forms_), HALF)):
        assert "1.0f" in body(text)
        assert "2.0f" not in body(text)


def body(text: str) -> str:
    return text.split("KERNEL(k, ")[1]


@given(st.integers(1, 3000), st.integers(1, 70000))
def test_kept_rows_cover_every_element(rows: int, columns: int) -> None:
    kernel = SAMPLES["softmax"].kernel
    _, form = forms.chosen(kernel, {"rows": rows, "cols": columns})
    if form.kept:
        assert form.width * form.pack * form.turns >= columns
    assert forms.groups(kernel, {"rows": rows}, form) * forms.teams(form) >= rows
