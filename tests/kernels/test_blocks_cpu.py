"""Products with quantized rows on the CPU, against what the gguf package decodes, in float64."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from arm import Arm
from kernel_running import Fenced

from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_block_matmul import (
    block_libraries,
    block_matmul_kernel,
    block_units,
)
from tensorlogic.codegen.llvm_block_panels import greatest, step_of
from tensorlogic.codegen.llvm_blocks import BLOCKS
from tensorlogic.codegen.llvm_dots import (
    dots,
    dots_name,
    quantize,
    quantize_name,
    record_bytes,
)
from tensorlogic.codegen.llvm_unit import RUN, Target
from tensorlogic.devices import native
from tensorlogic.devices.products import target as own_target
from tensorlogic.kernels.ir import Buffer, Store
from tensorlogic.kernels.spec import ACC, BATCH, COL, ROW, M, Matmul, N
from tensorlogic.quants import QUANTS
from tests.blocks import decoded, halves, ordinary_blocks
from tests.compare import Array

OUT = Buffer("out", "f32", written=True)
PLAIN = (Store(OUT, (BATCH * M + ROW) * N + COL, ACC),)
ARM = {"apple-m1": Target(16, arm=True, dot=True), "cortex-a72": Target(16, arm=True)}


def targets() -> list[Target]:
    """What this processor can run: its own best, and less."""
    best = own_target()
    less = [Target(32)] if best and not best.arm and best.width > 32 else []
    return [*([best] if best else []), *less]


def rounding(x: Array, exact: Array) -> Array:
    """How far products may be off where x is rounded to 15 bits in parts of 32 (or of 16), and
    where sums are float32."""
    most = np.abs(x).reshape(*x.shape[:-1], -1, 32).max(-1) / 2**15 * 1.01
    sizes = np.abs(exact).swapaxes(-1, -2)
    return np.repeat(most, 32, -1) @ sizes + 1e-6 * (np.abs(x) @ sizes)


def weights(name: str, count: int, blocks: int) -> tuple[Array, Array]:
    """Rows of blocks, and their values."""
    raw = ordinary_blocks(name, count * blocks)
    if not count:
        return raw.reshape(0, blocks * raw.shape[1]), np.zeros((0, blocks * BLOCKS[name].block))
    values = decoded(name, raw).astype(np.float64)
    return np.ascontiguousarray(raw.reshape(count, -1)), values.reshape(count, -1)


class Native:
    """Functions of a module on this machine; arrays end where memory ends."""

    def __init__(self, text: str, names: list[str]) -> None:
        self._functions = native.compile_module(text, names)

    def call(self, name: str, *args: Any) -> None:
        fenced = {i: Fenced(a.reshape(-1)) for i, a in enumerate(args) if isinstance(a, np.ndarray)}
        words = [fenced[i].address if i in fenced else int(a) for i, a in enumerate(args)]
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(words))
        prototype(self._functions[name])(*words)
        for i, f in fenced.items():
            args[i][...] = f.array.reshape(args[i].shape)


def check_dots(machine: Any, name: str, dtype: str, count: int, blocks: int, rows: int) -> None:
    t = BLOCKS[name]
    w, exact = weights(name, rows, blocks)
    given = np.random.default_rng(3).standard_normal((count, blocks * t.block))
    x = given.astype({"f32": np.float32, "f16": np.float16}[dtype])
    x[0, :RUN] *= 100
    stride = -(-blocks // t.blocks) * record_bytes(t)
    records = np.zeros((count, stride), np.uint8)
    for line, record in zip(x, records, strict=True):
        machine.call(quantize_name(name, dtype), line.reshape(-1), record, blocks)
    out = np.full((count, rows), np.nan, np.float32)
    machine.call(dots_name(name, count), w, w.shape[1], rows, records, stride, blocks, out, rows)
    wide = x.astype(np.float64)
    assert (np.abs(out - wide @ exact.T) <= rounding(wide, exact)).all()


def module_of(
    name: str, dtype: str, counts: tuple[int, ...], target: Target
) -> tuple[str, list[str]]:
    module = Module()
    quantize(module, name, dtype, target)
    for count in counts:
        dots(module, name, count, target)
    names = [quantize_name(name, dtype), *(dots_name(name, count) for count in counts)]
    return module.text(), names


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("target", targets(), ids=str)
def test_dots(name: str, target: Target) -> None:
    machine = Native(*module_of(name, "f16", (1, 4), target))
    for count, blocks in ((1, 1), (1, 2), (1, 3), (1, 4), (1, 9), (4, 5)):
        check_dots(machine, name, "f16", count, blocks, 3)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("processor", ARM)
def test_dots_on_arm(name: str, processor: str) -> None:
    text, _ = module_of(name, "f32", (1, 2), ARM[processor])
    machine = Arm(text, processor)
    for count, blocks in ((1, 1), (2, 5)):
        check_dots(machine, name, "f32", count, blocks, 2)


def test_the_emulator_runs_what_it_is_given() -> None:
    """A function that is known to be wrong gives a wrong result there."""
    text, _ = module_of("q4_0", "f32", (1,), ARM["apple-m1"])
    wrong = text.replace("splat (i8 15)", "splat (i8 7)")
    assert wrong != text
    with pytest.raises(AssertionError):
        check_dots(Arm(wrong, "apple-m1"), "q4_0", "f32", 1, 4, 2)


def product(name: str, exact: bool, sizes: tuple[int, int, int, int], axis: str | None) -> None:
    """A product of batches of activations with quantized weights, against NumPy."""
    batches, m, n, blocks = sizes
    k, lanes, target = blocks * BLOCKS[name].block, native.host().lanes, own_target()
    spec = Matmul("f32", name, axis, "k", PLAIN, (OUT,), (), exact)
    imports: dict[str, int] = {}
    for text, names in block_libraries(spec, lanes, target):
        imports |= native.compile_module(text, names)
    source = block_matmul_kernel(spec, "product", lanes, target)
    function = native.compile_module(source, ["product"], imports)["product"]
    w, values = weights(name, batches * n, blocks)
    values = values.reshape(batches, n, k)
    a = np.random.default_rng(5).standard_normal((batches, m, k)).astype(np.float32)
    laid = a if axis == "k" else np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)
    out = np.full((batches, m, n), np.nan, np.float32)
    fenced = Fenced(w.reshape(-1))
    row = w.shape[1]
    words = [laid.ctypes.data, fenced.address, out.ctypes.data, m, n, k, batches]
    words += [*(s // 4 for s in laid.strides), n * row, 0, row]
    work, chunk, scratch = block_units(spec, (m, n, k), batches, lanes, native.threads(), target)
    program = native.Program([native.Launch(function, len(words), work, chunk)], scratch)
    np.asarray(program.words)[:] = words
    native.run(program)
    if not out.size:
        return
    wide = a.astype(np.float64)
    sizes_of = np.abs(wide) @ np.abs(values).swapaxes(1, 2)
    bound = k * 2.0**-24 * sizes_of if exact else rounding(wide, values)
    assert (np.abs(out - wide @ values.swapaxes(1, 2)) <= bound).all(), (name, sizes)


@pytest.mark.parametrize("name", BLOCKS)
def test_products(name: str) -> None:
    for sizes in ((1, 1, 5, 1), (2, 3, 70, 3), (1, 16, 33, 8), (2, 17, 40, 9), (1, 130, 600, 2)):
        product(name, False, sizes, "k")
    product(name, False, (1, 3, 9, 2), "m")
    product(name, False, (1, 18, 9, 2), "m")


@pytest.mark.parametrize("name", BLOCKS)
def test_sums_of_panels_cannot_overflow(name: str) -> None:
    """The greatest digits times the greatest scales times the greatest activations."""
    t = BLOCKS[name]
    assert step_of(t) * t.reach * greatest(t) < 2**31
    assert greatest(t) >= 2**14 - 1024
    w = np.full((20, 256 // t.block * QUANTS[name].nbytes), 0xFF, np.uint8)
    w = w.reshape(20, -1, QUANTS[name].nbytes)
    for at in halves(name):
        w[..., at : at + 2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    values = decoded(name, w.reshape(-1, QUANTS[name].nbytes)).astype(np.float64).reshape(20, 256)
    x = np.ones((20, 256), np.float32)
    got = run_product(name, x, w.reshape(20, -1))
    assert np.allclose(got, x.astype(np.float64) @ values.T, rtol=1e-4)


def run_product(name: str, x: Array, w: Array) -> Array:
    """x @ w.T, of many rows."""
    lanes, target = native.host().lanes, own_target()
    spec = Matmul("f32", name, "k", "k", PLAIN, (OUT,), ())
    imports: dict[str, int] = {}
    for text, names in block_libraries(spec, lanes, target):
        imports |= native.compile_module(text, names)
    source = block_matmul_kernel(spec, "product", lanes, target)
    function = native.compile_module(source, ["product"], imports)["product"]
    (m, k), n = x.shape, len(w)
    out = np.full((m, n), np.nan, np.float32)
    words = [x.ctypes.data, w.ctypes.data, out.ctypes.data, m, n, k, 1]
    words += [0, k, 1, 0, 0, w.shape[1]]
    work, chunk, scratch = block_units(spec, (m, n, k), 1, lanes, native.threads(), target)
    program = native.Program([native.Launch(function, len(words), work, chunk)], scratch)
    np.asarray(program.words)[:] = words
    native.run(program)
    return out


@pytest.mark.parametrize("name", BLOCKS)
def test_exact_products(name: str) -> None:
    for sizes in ((1, 1, 5, 1), (2, 17, 40, 9), (1, 50, 100, 2)):
        product(name, True, sizes, "k")


def test_no_rows_and_no_columns() -> None:
    for sizes in ((1, 0, 3, 1), (1, 3, 0, 1), (0, 3, 3, 1)):
        product("q4_0", False, sizes, "k")
