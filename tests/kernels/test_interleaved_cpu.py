"""Weights whose rows of blocks are interleaved, on processors that have code for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlogic as tl
from tensorlogic import settings
from tensorlogic.codegen.emit import Module
from tensorlogic.codegen.llvm_interleaved import LINES, ROWS, available
from tensorlogic.codegen.llvm_rows import emit_dot_kernel
from tensorlogic.creation import from_storage
from tensorlogic.devices.interleaving import interleaved
from tensorlogic.devices.library import Library
from tensorlogic.devices.lines import Weights
from tensorlogic.devices.products import dot_types, target
from tensorlogic.kernels.ir import Fold, index
from tensorlogic.quants import QUANTS
from tensorlogic.schedule.emit import Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import CPU
from tests.blocks import decoded, gguf_type, ordinary_blocks
from tests.compare import Array

pytestmark = pytest.mark.skipif(
    not available(target()), reason="lines of sixteen rows are for AVX-512 with VNNI"
)
UNITS = 3


def matrix(name: str, rows: int, units: int = UNITS, fixed: bool = True) -> tuple[tl.Tensor, Array]:
    """A quantized leaf, and its values."""
    depth = units * LINES[name].type.unit
    raw = ordinary_blocks(name, rows * depth // QUANTS[name].block)
    values = decoded(name, raw).astype(np.float64).reshape(rows, depth)
    data = raw.reshape(-1).copy()
    data.flags.writeable = not fixed
    return from_storage(data, (rows, depth), name), values


def vector(rows: int, depth: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float16)


def steps_of(result: tl.Tensor) -> list[Step]:
    return interleaved(schedule([result._node], settings.current(), CPU).steps)


def near(found: Array, wanted: Array) -> bool:
    return bool((np.abs(found - wanted) <= 2e-3 * np.abs(wanted).max()).all())


@pytest.mark.parametrize("name", LINES)
def test_lines_hold_the_words_of_sixteen_rows(name: str) -> None:
    leaf, _ = matrix(name, 2 * ROWS)
    data = leaf._node.data
    assert data is not None
    weights, t = Weights(Library()), LINES[name].type
    weights.address(leaf._node)
    (made,) = (data.memory.copies or {}).values()
    lines = made.base[: data.memory.nbytes].view(np.uint16)
    lines = lines.reshape(2, UNITS, t.nbytes // 4, ROWS, 2)
    rows = data.memory.base.view(np.uint16).reshape(2, ROWS, UNITS, t.nbytes // 2)
    order = LINES[name].halves
    assert sorted(order) == list(range(t.nbytes // 2))
    for i, half in enumerate(order):
        assert (lines[:, :, i // 2, :, i % 2] == rows[..., half].swapaxes(1, 2)).all()


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 40])
def test_products(name: str, count: int) -> None:
    leaf, values = matrix(name, 5 * ROWS)
    x = vector(count, values.shape[1])
    product = tl.tensor(x) @ leaf.T
    assert any(s.interleaved for s in steps_of(product))
    assert near(product.numpy(), x.astype(np.float64) @ values.T)


@given(name=st.sampled_from(sorted(LINES)), count=st.sampled_from([1, 3, 20]), data=st.data())
def test_some_rows_of_the_weights(name: str, count: int, data: st.DataObject) -> None:
    leaf, values = matrix(name, 4 * ROWS, 1)
    first = data.draw(st.integers(0, 4 * ROWS))
    last = data.draw(st.integers(first, 4 * ROWS))
    x = vector(count, values.shape[1])
    found = (tl.tensor(x) @ leaf[first:last].T).numpy()
    assert found.shape == (count, last - first)
    if last > first:
        assert near(found, x.astype(np.float64) @ values[first:last].T)


@pytest.mark.parametrize("name", LINES)
def test_batches_of_weights(name: str) -> None:
    depth = LINES[name].type.unit
    flat, values = matrix(name, 6 * ROWS, 1)
    leaf = from_storage(flat._node.data.memory.base, (3, 2 * ROWS, depth), name)
    x = np.random.default_rng(0).standard_normal((3, 5, depth)).astype(np.float16)
    found = (tl.tensor(x) @ leaf.transpose(1, 2)).numpy()
    wanted = x.astype(np.float64) @ values.reshape(3, 2 * ROWS, depth).swapaxes(1, 2)
    assert near(found, wanted)


def test_unlike_products_side_by_side_and_rows_that_are_looked_up() -> None:
    leaves = [matrix("q4_0", n) for n in (2 * ROWS, 3 * ROWS, 24)]
    x = vector(1, UNITS * 128)
    wide = x.astype(np.float64)
    found = tl.concat([tl.tensor(x) @ leaf.T for leaf, _ in leaves], 1)
    assert near(found.numpy(), np.concatenate([wide @ v.T for _, v in leaves], 1))
    leaf, values = leaves[1]
    row = (leaf[5] + (tl.tensor(x) @ leaf.T).sum()).numpy()
    assert near(row, values[5] + (wide @ values.T).sum())


@pytest.mark.parametrize(("rows", "units"), [(24, 1), (ROWS, 1)])
def test_which_leaves_stay_as_they_are(rows: int, units: int) -> None:
    leaf, values = matrix("q4_0", rows, units)
    if rows % ROWS == 0:  # half a unit at the end of a row
        depth = units * 128 - 64
        raw = ordinary_blocks("q4_0", rows * depth // 32)
        values = decoded("q4_0", raw).astype(np.float64).reshape(rows, depth)
        leaf = from_storage(raw.reshape(-1), (rows, depth), "q4_0")
    x = vector(2, values.shape[1])
    product = tl.tensor(x) @ leaf.T
    assert not any(s.interleaved for s in steps_of(product))
    assert near(product.numpy(), x.astype(np.float64) @ values.T)


def test_exact_products_stay_as_they_are() -> None:
    leaf, _ = matrix("q4_K", ROWS)
    with tl.precision("exact"):
        for count in (1, 20):
            product = tl.tensor(vector(count, leaf.shape[1])) @ leaf.T
            assert not any(s.interleaved for s in steps_of(product))


def test_what_others_may_change_is_read_anew() -> None:
    leaf, values = matrix("q4_0", ROWS, 1, fixed=False)
    x = vector(1, values.shape[1])
    multiply = tl.function(lambda given: given @ leaf.T)
    assert near(multiply(tl.tensor(x)).numpy(), x.astype(np.float64) @ values.T)
    data = leaf._node.data
    assert data is not None
    data.memory.base[:] = 0
    assert (multiply(tl.tensor(x)).numpy() == 0).all()


def test_a_dot_that_could_not_be_taken_is_refused() -> None:
    leaf, _ = matrix("q4_0", 2 * ROWS)
    steps = steps_of(tl.tensor(vector(1, leaf.shape[1])) @ leaf.T)
    (kernel,) = [s.kernel for s in steps if s.interleaved]
    (loop,) = kernel.body
    (fold,) = [s for s in loop.body if isinstance(s, Fold)]
    uneven = replace(fold.dot, at=fold.dot.at * index("r"))
    body = tuple(replace(s, dot=uneven) if s is fold else s for s in loop.body)
    wrong = replace(kernel, body=(replace(loop, body=body),))
    with pytest.raises(ValueError, match="interleaved"):
        emit_dot_kernel(Module(), wrong, "wrong", 16, dot_types())


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say")
def test_a_mapped_file_gives_its_pages_back(tmp_path: Path) -> None:
    path, rows, depth = tmp_path / "big.gguf", 4096, 4096
    writer = gguf.GGUFWriter(path, "test")
    raw = ordinary_blocks("q4_K", rows * depth // 256).reshape(rows, -1)
    writer.add_tensor("w", raw, raw_dtype=gguf_type("q4_K"))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    model = tl.load_model(path)
    x = vector(1, depth)
    product = (tl.tensor(x) @ model["w"].T).numpy()
    assert resident(path) < path.stat().st_size / 10
    wanted = x.astype(np.float64) @ decoded("q4_K", raw.reshape(-1, 144)).reshape(rows, -1).T
    assert near(product, wanted)


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if not line[0].isupper():
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found
