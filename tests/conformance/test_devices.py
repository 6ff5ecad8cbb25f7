"""Devices in one program, and precision."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.devices import base
from tensorlogic.devices.reference import Reference


class Second(Reference):
    """Another device of this machine."""

    name = "second"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> base.Registry:
    real, fresh = base.REGISTRY, base.Registry()
    for name in real.names():
        fresh.register(name, lambda n=name: real.get(n))
    fresh.register("second", Second)
    monkeypatch.setattr(base, "REGISTRY", fresh)
    return fresh


def test_two_committed_devices_do_not_mix(registry: base.Registry) -> None:
    a, b = tl.ones([2], device="cpu"), tl.ones([2], device="second")
    with pytest.raises(tl.DeviceError) as caught:
        a + b
    assert str(caught.value) == (
        "add: one tensor is on 'cpu', another on 'second'; move one with `.to(...)`"
    )
    assert (a.to("second") + b).device == "second"
    assert (a + tl.ones([2])).device == "cpu"
    assert (tl.ones([2]) + b).tolist() == [2, 2]


def test_gpu_falls_back_with_one_warning(
    registry: base.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "accelerator", lambda: None)
    with pytest.warns(UserWarning, match="no usable GPU, `gpu` runs on the CPU"):
        x = tl.ones([2], device=tl.gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = tl.ones([2], device="gpu")
    assert (x + y).tolist() == [2, 2]
    assert (x + y).device == "gpu"
    with pytest.raises(tl.DeviceError, match="'gpu', another on 'cpu'"):
        x + tl.ones([2], device="cpu")


def test_gpu_is_an_accelerator_that_is_there(
    registry: base.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "accelerator", lambda: "second")
    assert tl.ones([2], device="gpu").device == "second"


def test_absent_and_unknown_devices(registry: base.Registry) -> None:
    registry.register("cuda", lambda: Absent())
    with pytest.raises(tl.DeviceError) as caught:
        tl.ones([2], device="cuda")
    assert str(caught.value) == "device 'cuda' is not available here: it was taken away"
    with pytest.raises(
        tl.DeviceError, match="unknown device 'tpu'; the devices are cpu, reference"
    ):
        tl.ones([2], device="tpu")
    rows = {d.name: d for d in base.devices()}
    assert not rows["cuda"].available
    assert rows["cuda"].reason == "it was taken away"
    assert rows["cpu"].available


class Absent(Reference):
    name = "cuda"

    def unavailable(self) -> str:  # type: ignore[override]
        return "it was taken away"


def test_evaluating_several_devices_at_once(registry: base.Registry) -> None:
    a, b = tl.ones([2], device="cpu") * 2, tl.ones([2], device="second") * 3
    tl.eval(a, b, a)
    assert (a.tolist(), b.tolist()) == ([2, 2], [3, 3])


def test_exact_precision_rounds_only_results(device: str) -> None:
    x = tl.full([3, 5], 300, device=device)
    w = tl.full([5, 5], 300, device=device)
    with tl.precision("exact"):
        wide = x * 300  # beyond float16 between kernels
        assert (wide.max(axis=1) / 300).tolist() == [300] * 3
        assert np.all(((x @ w) / 4500).numpy() == 100)
        assert wide.dtype is tl.float16
        assert np.all(np.isinf(wide.numpy()))
    assert np.all(np.isinf((x * 300).numpy()))
    with pytest.raises(ValueError, match=r"precision is .* not 'half'"), tl.precision("half"):
        pass
