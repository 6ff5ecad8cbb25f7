"""The overflow gate: nothing becomes float16 unnoticed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.creation import from_storage
from tests.compare import reference_forbidden
from tests.conformance.harness import compute

BIG = [1.0, 1e5, -2e5, np.nan, np.inf, -np.inf, 65280.0]
TEXT = (
    'beyond ±65504, which float16 cannot hold (largest {}); choose on_overflow="saturate", "inf" '
    'or "float32"'
)
MODES = {
    "saturate": [1.0, 65504.0, -65504.0, np.nan, np.inf, -np.inf, 65280.0],
    "inf": [1.0, np.inf, -np.inf, np.nan, np.inf, -np.inf, 65280.0],
}


def leaf(storage: str, values: list[float] = BIG) -> Any:
    """A named leaf as a file gives it."""
    dtype = {"bfloat16": ml_dtypes.bfloat16}.get(storage, storage)
    data = np.array(values, dtype)
    return from_storage(data.view(np.uint8), data.shape, storage, "blk.0.weight")


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float64"])
def test_the_error_names_the_tensor_and_counts(storage: str, device: str) -> None:
    wide = leaf(storage).to(device)
    lazy = wide.to(tl.float16)  # recording it raises nothing
    assert lazy.dtype is tl.float16
    with pytest.raises(tl.RangeError) as caught:
        (lazy[:3] + 1).numpy()
    largest = "199680" if storage == "bfloat16" else "200000"
    assert str(caught.value) == f"tensor `blk.0.weight` has 2 values {TEXT.format(largest)}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float64"])
def test_modes(storage: str, mode: str, device: str) -> None:
    with reference_forbidden(device):
        got = leaf(storage).to(device).to(tl.float16, on_overflow=mode).numpy()
    np.testing.assert_array_equal(got, np.array(MODES[mode], np.float16))
    assert got.dtype == np.float16


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float64"])
def test_float32_stays_where_it_has_to(storage: str) -> None:
    wide = leaf(storage).to(tl.float16, on_overflow="float32")
    assert wide.dtype is tl.float32
    assert wide[0].item() == 1
    assert leaf(storage, [1.0, np.inf]).to(tl.float16, on_overflow="float32").dtype is tl.float16


def test_the_gate_is_part_of_a_kernel(device: str) -> None:
    x = leaf("float32", [3.0, 4.0])
    got = compute(lambda _: (x.to(device).to(tl.float16) * 2).sum(), None, device=device)
    assert got == 14


def test_computed_values_pass_it_too(device: str) -> None:
    x = tl.tensor([300.0, 400.0, 1.0], "float32", device)
    with pytest.raises(tl.RangeError, match=r"the tensor has 2 values .*largest 160000"):
        (x * x).to(tl.float16).sum().numpy()
    with pytest.raises(tl.RangeError, match="has 1 value beyond"):
        tl.tensor([70000], "int32", device).to(tl.float16).numpy()
    assert (x * x).to(tl.float16, on_overflow="saturate").tolist() == [65504, 65504, 1]


def test_products_pass_through_the_gate(device: str) -> None:
    a = tl.tensor(np.full((6, 5), 200.0), dtype=tl.float32, device=device)
    b = tl.tensor(np.eye(5), dtype=tl.float32, device=device)
    assert (a @ b).to(tl.float16).tolist() == [[200.0] * 5] * 6
    assert (a @ b + 1).T.to(tl.float16).tolist() == [[201.0] * 6] * 5
    with pytest.raises(tl.RangeError, match="has 30 values beyond"):
        ((a @ b) * 400).to(tl.float16).numpy()


def test_each_value_is_counted_once(device: str) -> None:
    half = tl.tensor([1e5, 1.0], "float32", device).to(tl.float16)
    with pytest.raises(tl.RangeError, match="has 1 value beyond"):
        tl.concat([half, half.expand(3, 2).reshape(6)]).sum().numpy()


def test_making_tensors() -> None:
    with pytest.raises(tl.RangeError) as caught:
        tl.tensor([1e6, 65505.0, 2.0])
    assert str(caught.value) == f"the tensor has 2 values {TEXT.format('1e+06')}"
    assert tl.tensor([1e6, -1e6], on_overflow="saturate").tolist() == [65504, -65504]
    assert tl.tensor([1e6], on_overflow="float32").dtype is tl.float32
    assert tl.tensor([np.nan, np.inf]).tolist()[1] == np.inf
    with pytest.raises(tl.RangeError):
        tl.full([2], 1e5)
    with pytest.raises(tl.RangeError, match="has 1 value outside int32"):
        tl.tensor([2**40, 1], "int32")
    with pytest.raises(tl.DTypeError, match="not whole"):
        tl.tensor([0.5], "int32")
    with pytest.raises(ValueError, match="on_overflow is one of"):
        tl.tensor([1.0], on_overflow="clip")


def test_arithmetic_overflows_to_infinity(device: str) -> None:
    assert (tl.tensor([300.0], device=device) * 300).item() == np.inf


def test_rounding_at_the_limit(device: str) -> None:
    assert (tl.tensor([65504.0], device=device) + 15.9).item() == 65504
    assert (tl.tensor([65504.0], device=device) + 16).item() == np.inf
