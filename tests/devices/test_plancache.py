"""Plans on disk: what they are found by, that they compute the same, and what is not kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic import settings
from tensorlogic.devices import plancache
from tensorlogic.devices.cpu import Cpu
from tensorlogic.devices.planned import PlannedDevice
from tensorlogic.graph import Node, apply, topological
from tensorlogic.ops import OPS
from tensorlogic.ops.table import Op
from tensorlogic.runtime import array_of
from tensorlogic.schedule.traits import CPU, GPU
from tests.project.imports import LAYERS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which plans are kept."""
    monkeypatch.setenv("TENSORLOGIC_CACHE", str(tmp_path))
    monkeypatch.setattr(plancache, "ENABLED", True)
    return tmp_path / "objects"


def values(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def graph(scale: float = 0.5, rows: int = 9) -> list[Node]:
    """A product with a library of its own, reductions, numbers, and checked indices."""
    x, w = tl.tensor(values(rows, 40)), tl.tensor(values(40, 24))
    y = tl.softmax((x @ w) * scale + 1)
    picked = tl.take(y, tl.tensor([0, rows - 1], dtype=tl.int32), axis=0)
    return [y._node, y.sum(axis=0)._node, picked._node]


def computed(device: Cpu, roots: list[Node]) -> list[np.ndarray[Any, Any]]:
    device.run(roots)
    return [array_of(n) for n in roots]


def never(*_: object) -> Any:
    raise AssertionError("a kept plan was made anew")


def key(roots: list[Node], **other: Any) -> str | None:
    given = {"settings": settings.current(), "traits": CPU} | other
    return plancache.key_of(topological(roots), roots, given["settings"], given["traits"])


def test_a_kept_plan_computes_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = computed(Cpu(), graph())
    other = computed(Cpu(), graph(scale=0.25))
    monkeypatch.setattr(PlannedDevice, "make_plan", never)
    device = Cpu()
    for expected, roots in ((made, graph()), (other, graph(scale=0.25))):
        for a, b in zip(expected, computed(device, roots), strict=True):
            assert np.array_equal(a, b)
    assert device.compiled > 0


def test_a_kept_plan_of_a_call_computes_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bias = tl.tensor(values(8))
    x = tl.tensor(values(4, 8))

    def outputs() -> list[list[float]]:
        step = tl.function(lambda a, n: (a * n + bias, a.sum() * 3))
        return [[t.tolist() for t in step(x, n)] for n in (2.0, 3.0, 4.0, 5.0)]

    made = outputs()
    monkeypatch.setattr(PlannedDevice, "make_plan", never)
    assert outputs() == made


def test_values_are_checked_by_a_kept_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picked(index: int) -> list[Node]:
        return [tl.take(tl.tensor(values(5)), tl.tensor([index], dtype=tl.int32))._node]

    Cpu().run(picked(4))
    monkeypatch.setattr(PlannedDevice, "make_plan", never)
    device = Cpu()
    with pytest.raises(tl.IndexRangeError, match="index 5 is outside an axis of size 5"):
        device.run(picked(5))
    device.run(picked(3))


def test_what_a_plan_is_found_by(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = key(graph())
    assert base is not None
    assert base == key(graph()) == key(graph(scale=0.25))
    with tl.precision("exact"):
        exact = key(graph())
    others = [exact, key(graph(rows=10)), key(graph()[:2]), key(graph(), traits=GPU)]
    monkeypatch.setenv("TENSORLOGIC_THREADS", "7")
    others.append(key(graph()))
    monkeypatch.setattr(plancache, "_sources", lambda: "changed")
    others.append(key(graph()))
    assert len({base, *others}) == len(others) + 1


def test_ops_that_are_defined_elsewhere_are_not_kept(folder: Path) -> None:
    own = Op("mine", "elementwise", "", expr=lambda x: x + 1.0, numpy=lambda x: x + 1)
    x = tl.tensor(values(3))._node
    assert key([apply(OPS["neg"], (x,), (x.dtype,), x.shape, x.dtype)]) is not None
    assert key([apply(own, (x,), (x.dtype,), x.shape, x.dtype)]) is None


def test_what_is_gone_or_spoilt_is_made_anew(folder: Path) -> None:
    made = computed(Cpu(), graph())
    plan = folder / str(key(graph()))
    for file in sorted(folder.iterdir(), key=lambda f: f == plan):
        content = file.read_bytes()
        for spoilt in (None, content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
            file.unlink() if spoilt is None else file.write_bytes(spoilt)
            for a, b in zip(made, computed(Cpu(), graph()), strict=True):
                assert np.array_equal(a, b)
    assert plan.exists()


def test_every_folder_that_makes_plans_counts() -> None:
    folders = {name for line in LAYERS[: LAYERS.index("devices") + 1] for name in line.split()}
    package = Path(tl.__file__).parent
    assert set(plancache._MAKERS) == {f for f in folders if (package / f).is_dir()}
    assert all(not list((package / f).glob("*/*.py")) for f in plancache._MAKERS)


PROGRAM = """
import sys
import tensorlogic as tl
y = tl.softmax(tl.ones([4, 3]) @ tl.ones([3, 2]) * 2 + tl.zeros([2]))
print(y.tolist()[0], sorted({m.split(".")[1] for m in sys.modules if m.startswith("tensorlogic.")}))
"""


def test_a_second_process_loads_no_scheduler_and_no_printer(tmp_path: Path) -> None:
    environment = {**os.environ, "TENSORLOGIC_CACHE": str(tmp_path)}

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True
        )
        return done.stdout.decode()

    first, second = run(), run()
    assert first.startswith("[0.5, 0.5]")
    assert second.startswith("[0.5, 0.5]")
    assert "'codegen'" in first
    assert "'codegen'" not in second
