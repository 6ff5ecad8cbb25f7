"""Which folds say that they are a row of blocks times a vector, and what the CPU makes of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_rows import emit_dot_kernel
from tensorlogic.creation import from_storage
from tensorlogic.kernels.check import KernelError, check_kernel
from tensorlogic.kernels.ir import Fold, Kernel, Loop, Split, const, nodes_of, walk
from tensorlogic.kernels.rename import Renaming
from tensorlogic.kernels.spec import Attention, Matmul
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import CPU
from tensorlogic.settings import Settings
from tests.blocks import decoded, ordinary_blocks
from tests.compare import Array, assert_close
from tests.plans import models

TYPES = frozenset({"q4_0", "q8_0"})


def quantized(rows: int, kind: str = "Q4_0") -> tl.Tensor:
    return models.quantized(np.random.default_rng(rows).standard_normal((rows, 64)), kind)


def kernels(*roots: tl.Tensor, precision: str = "default") -> list[Kernel]:
    steps = schedule([r._node for r in roots], Settings(precision), CPU).steps
    found = [s.kernel for s in steps if isinstance(s.kernel, Kernel)]
    for kernel in found:
        check_kernel(kernel)
    return found


def dots(kernel: Kernel) -> list[Fold]:
    return [s for s in walk(kernel.body) if isinstance(s, Fold) and s.dot is not None]


def calls(kernel: Kernel) -> list[str]:
    """The functions that the printed kernel calls, without intrinsics, in order."""
    module = Module()
    emit_dot_kernel(module, kernel, "k", 8, TYPES)
    lines = [line for line in module.text().splitlines() if "call void @" in line]
    names = [line.split("@")[1].split("(")[0] for line in lines]
    return [n for n in names if not n.startswith("llvm.")]


def test_one_row_is_a_dot() -> None:
    (kernel,) = kernels(tl.linear(tl.ones([1, 64]), quantized(40), tl.ones([40])))
    (fold,) = dots(kernel)
    assert fold.dot is not None
    assert fold.dot.quant == "q4_0"
    assert calls(kernel) == ["quantize_q4_0_f16", "dots1_q4_0"]


def test_gate_and_up_round_their_input_once() -> None:
    x = tl.ones([1, 64])
    gated = tl.silu(tl.linear(x, quantized(40))) * tl.linear(x, quantized(41)[:40])
    (kernel,) = kernels(gated)
    assert len(dots(kernel)) == 2
    assert calls(kernel) == ["quantize_q4_0_f16", "dots1_q4_0", "dots1_q4_0"]


def test_products_side_by_side() -> None:
    x = tl.rms_norm(tl.ones([1, 64]), tl.ones([64]))
    kinds = ("Q4_0", "Q8_0", "Q4_0")
    ys = [tl.linear(x, quantized(40 + i, kind)) for i, kind in enumerate(kinds)]
    made = [k for k in kernels(*ys) if dots(k)]
    (kernel,) = made
    assert isinstance(kernel.body[-1], Split)
    found = calls(kernel)
    assert [n for n in found if n.startswith("dots")] == ["dots1_q4_0", "dots1_q8_0", "dots1_q4_0"]
    want = np.ones((1, 64)) / np.sqrt(1 + 1e-5)
    for y, (i, kind) in zip(ys, enumerate(kinds), strict=True):
        exact = quantized(40 + i, kind).to("float32").numpy().astype(np.float64)
        assert_close(y.numpy(), want @ exact.T, 8, np.abs(want) @ np.abs(exact.T))


HEADS, HEAD = 8, 64


def blocks_of(name: str, rows: int, depth: int) -> tuple[tl.Tensor, Array]:
    """Rows of random blocks, and their values."""
    raw = ordinary_blocks(name, rows * depth // QUANTS[name].block)
    values = decoded(name, raw).astype(np.float64).reshape(rows, depth)
    return from_storage(raw.reshape(-1), (rows, depth), name, "w"), values


def heads_side_by_side(rows: int) -> tl.Tensor:
    """What a decoder's attention gives to its output product."""
    q, kv = tl.ones([HEADS, rows, HEAD]), tl.ones([2, 16, HEAD])
    return tl.scaled_dot_product_attention(q, kv, kv).permute(1, 0, 2).reshape(rows, HEADS * HEAD)


@pytest.mark.parametrize("name", QUANTS)
@pytest.mark.parametrize("rows", [1, 2, 5, 20])
def test_blocks_that_span_heads(name: str, rows: int) -> None:
    """Attention stores what the product reads, and the product takes its fast form."""
    w, _ = blocks_of(name, 40, HEADS * HEAD)
    y = tl.linear(heads_side_by_side(rows), w) + tl.ones([rows, 40])
    first, last = schedule([y._node], Settings("default"), CPU).steps
    assert isinstance(first.kernel, Attention)
    if rows == 1:
        assert isinstance(last.kernel, Kernel)
        assert len(dots(last.kernel)) == 1
    else:
        assert isinstance(last.kernel, Matmul)
        assert last.kernel.quantized


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("name", QUANTS)
def test_a_turned_operand_is_laid_out_first(name: str, rows: int) -> None:
    """x in an order of its own is stored along K, and multiplied fast."""
    w, values = blocks_of(name, 24, HEADS * HEAD)
    given = np.random.default_rng(rows).standard_normal((HEAD, rows, HEADS)).astype(np.float32)
    turned = tl.tensor(given, dtype=tl.float32).permute(1, 2, 0).reshape(rows, -1)
    y = tl.linear(turned, w)
    *_, last = schedule([y._node], Settings("default"), CPU).steps
    fast = len(dots(last.kernel)) == 1 if isinstance(last.kernel, Kernel) else rows > 1
    assert fast
    x = given.astype(np.float64).transpose(1, 2, 0).reshape(rows, -1)
    assert_close(y.numpy(), x @ values.T, 512, np.abs(x) @ np.abs(values.T))  # 15 bits of x


def test_a_view_of_a_vector_is_read_where_it_lies() -> None:
    """Only axes of 1 change places: nothing is copied."""
    w, _ = blocks_of("q4_K", 24, HEADS * HEAD)
    x = tl.tensor(np.ones((HEADS, 1, HEAD), np.float16))
    (kernel,) = kernels(tl.linear(x.permute(1, 0, 2).reshape(1, -1), w))
    assert len(dots(kernel)) == 1


def test_other_sums_are_none() -> None:
    w = quantized(64)
    for other in (
        tl.ones([1, 64]) @ w,  # along the blocks' rows
        tl.linear(tl.ones([1, 64]) * 2, w.dequantize()),
        (w * w).sum(axis=1),
        (tl.ones([64, 64]) * w).sum(axis=1),
    ):
        assert not any(dots(k) for k in kernels(other))
    assert not any(dots(k) for k in kernels(tl.linear(tl.ones([1, 64]), w), precision="exact"))


def test_a_dot_is_checked() -> None:
    (kernel,) = kernels(tl.linear(tl.ones([1, 64]), quantized(40)))
    (fold,) = dots(kernel)
    assert fold.dot is not None
    lost = Renaming({fold.dot.x: fold.dot.weights}, {})
    wrong = Kernel(kernel.buffers, kernel.params, lost(kernel.body))
    with pytest.raises(KernelError, match="x is of floats"):
        check_kernel(wrong)
    other = Renaming({}, {fold.dot.blocks.attr: const(1, "f32")})
    with pytest.raises(KernelError, match="a dot counts in i64"):
        check_kernel(Kernel(kernel.buffers, kernel.params, other(kernel.body)))


def test_without_a_fast_product_the_fold_is_printed() -> None:
    (kernel,) = kernels(tl.linear(tl.ones([1, 64]), quantized(40, "Q5_0")))
    assert dots(kernel)
    assert calls(kernel) == []


def test_rows_that_end_in_a_cache_are_even_all_the_same() -> None:
    """Heads and rows of a head are two numbers to the cache, and one to the blocks."""
    cache, at = tl.zeros([4, 16, 10]), tl.tensor(3, dtype=tl.int32)
    tl.eval(cache, at)
    heads = tl.linear(tl.ones([1, 64]), quantized(40)).reshape(1, 4, 10).permute(1, 0, 2)
    (kernel,) = kernels(cache.update(at, heads, axis=1))
    (fold,) = dots(kernel)
    assert fold.dot is not None
    assert {n.op for n in nodes_of(fold.dot.at)} <= {"add", "mul", "param", "const", "index"}
    assert calls(kernel) == ["quantize_q4_0_f16", "dots1_q4_0"]


def test_a_thread_rounds_the_vectors_of_all_parts_before_its_first_rows() -> None:
    x, y = tl.ones([1, 64]), tl.full([1, 64], 2.0)
    module = Module()
    (kernel,) = kernels(tl.linear(x, quantized(40)) + tl.linear(y, quantized(40, "Q8_0")))
    emit_dot_kernel(module, kernel, "k", 8, TYPES)
    text = module.text()
    first = text.index("icmp eq i64 %turn, 0")
    rounds = [m.start() for m in re.finditer(r"call void @quantize_", text)]
    assert len(rounds) == 2
    assert first < rounds[0] < rounds[1] < text.index("call void @dots1_")


def test_lanes_run_along_pairs() -> None:
    """The loop over the two of a pair would fill two lanes."""
    turned = tl.rope(tl.ones([4, 1, 64]), tl.tensor(5, dtype=tl.int32), layout="pairs")
    (kernel,) = kernels(turned)
    (rows,) = kernel.body
    assert isinstance(rows, Loop)
    (along,) = rows.body
    assert isinstance(along, Loop)
    (two,) = along.body
    assert isinstance(two, Loop)
    assert (rows.kind, along.kind, two.kind) == ("parallel", "vector", "serial")
