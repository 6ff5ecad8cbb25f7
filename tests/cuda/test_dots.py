"""Rows of quantized blocks on matrix units: which launches are such, their fields, their text."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen import dot_text, gpu_dots
from tensorlogic.codegen.c_text import KernelText
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.codegen.gpu_dots import DEPTH
from tensorlogic.creation import from_storage
from tensorlogic.explain import distinct_steps
from tensorlogic.kernels.ir import Expr
from tensorlogic.quants import QUANTS
from tests.blocks import decoded, ordinary_blocks
from tests.cuda.checker import check_cuda, check_waits, compile_all

MULTIPLIED = [name for name in QUANTS if gpu_dots.can_multiply(name)]


def launches(kind: str, rows: int, columns: int, count: int, dialect: str, dtype="float16"):
    quant = QUANTS[kind]
    x = tl.zeros([1, columns], dtype=dtype)
    data = np.zeros(rows * columns // quant.block * quant.nbytes, np.uint8)
    ys = [tl.linear(x, from_storage(data, (rows, columns), kind)) for _ in range(count)]
    steps = distinct_steps([y._node for y in ys], dialect).values()
    return [gpu_launch(s.kernel, "compute", dialect, s.sizes()) for s in steps]


def is_dots(launch) -> bool:
    return "dots_" in launch.source


def test_types():
    assert {"q4_0", "q4_1", "q8_0", "q4_K", "q5_K", "q6_K"} <= set(MULTIPLIED)
    assert not {"q5_0", "q5_1"} & set(MULTIPLIED)  # their fifth bits stand elsewhere


@pytest.mark.parametrize("kind", MULTIPLIED)
def test_eight_matrices_are_one_launch(kind):
    (launch,) = launches(kind, 1024, 4096, 8, "cuda")
    assert is_dots(launch)
    assert (launch.groups, launch.threads) == (8 * 1024 // 16, 128)
    assert launch.source.count(f"FUNC void dots_{kind}(") == 1
    assert launch.source.count(f" dots_{kind}(") == 2  # and one call
    check_cuda(launch.source)
    check_waits(launch.source)


@pytest.mark.parametrize(
    "case",
    [
        ("q4_0", 8160, 4096, 1, "cuda"),  # too few rows
        ("q6_K", 8192, 5632, 1, "cuda"),  # rows are no multiple of 16 bytes
        ("q4_0", 8192, 4096 + 32, 1, "cuda"),  # nor of a copy
        ("q5_0", 8192, 4096, 1, "cuda"),
        ("q4_0", 8192, 4096, 1, "metal"),
        ("q4_0", 8192, 4096, 1, "cuda", "float32"),
    ],
    ids=str,
)
def test_other_launches_keep_their_form(case):
    assert not any(map(is_dots, launches(*case)))


def test_exact_products_keep_their_form():
    with tl.precision("exact"):
        assert not any(map(is_dots, launches("q4_0", 8192, 4096, 1, "cuda")))


@pytest.mark.parametrize("arch", ["sm_80"])
def test_texts_compile(arch, tmp_path):
    found = {kind: launches(kind, 8192, 4096, 1, "cuda")[0].source for kind in MULTIPLIED}
    named = {
        k: s.replace(" compute(", f" k_{k}(").replace("(compute,", f"(k_{k},")
        for k, s in found.items()
    }
    assert compile_all(named, arch, tmp_path) == {f"k_{k}" for k in MULTIPLIED}


def field(part: gpu_dots.Part, words: dict[str, int], pair: int) -> int:
    """What a masking of words gives, in the low or high half."""

    def word(e: Expr) -> int:
        if e.op == "var":
            return words[e.attr]
        x, by = word(e.args[0]), e.args[1].attr
        return (x >> by if e.op == "shr" else x << by) & 0xFFFFFFFF

    bits = part.flip * 0x10001
    for e, mask in zip(part.words, part.masks, strict=True):
        bits ^= word(e) & mask * 0x10001
    return bits >> 16 * pair & 0xFFFF


@pytest.mark.parametrize("kind", MULTIPLIED)
def test_fields_are_the_weights(kind):
    """Elements of a part are one linear function of their fields."""
    quant = QUANTS[kind]
    block = ordinary_blocks(kind, 3)[2]
    exact = decoded(kind, block[None]).reshape(-1, DEPTH).astype(np.float64)
    text = KernelText((gpu_dots._DATA, gpu_dots._HALVES), (), gpu_dots._NAMES)
    parts, places, _ = gpu_dots._parts(quant, text)
    assert len(parts) == len(exact)
    for part, wanted in zip(parts, exact, strict=True):
        numbers = []
        for e in range(DEPTH):
            first = e // 4 * 4
            words = {
                name: int.from_bytes(block[at + first : at + first + 4].tobytes(), "little")
                >> 8 * (e % 2)
                for at, name in places.items()
            }
            numbers.append(field(part, words, e % 4 // 2) + part.bias)
        line = np.polyfit(numbers, wanted, 1)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(np.polyval(line, numbers), wanted, rtol=0, atol=1e-5 * scale)
        if part.least is None:
            assert abs(line[1]) < 1e-5 * scale


def test_copies_end_with_rows():
    """The last copy of a row of whole pieces reads nothing beyond it."""
    for kind in MULTIPLIED:
        quant = QUANTS[kind]
        size = gpu_dots.blocks_at_once(quant) * quant.nbytes
        count = 16
        shift = (count - 1) * size % 16
        assert (count - 1) * size - shift + gpu_dots._pieces(quant) * 16 == count * size
        assert gpu_dots.stages(quant) * gpu_dots.stage_bytes(quant) <= dot_text.MEMORY
