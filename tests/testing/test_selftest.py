"""The self-test passes on every device here, and says what is wrong where something is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.lang import cli
from tensorlogic.ops import OPS
from tensorlogic.quants import QUANTS
from tensorlogic.testing import selftest
from tensorlogic.testing.fixtures import tl_device

device = tl_device


def test_every_check_passes(device: str) -> None:
    text, failed = selftest.report(device, timings=False)
    assert failed == 0, text
    assert f"### {device}: " in text
    assert "numpy" in text


def test_every_row_and_type_is_checked() -> None:
    names = [c.name for c in selftest.checks()]
    assert len(names) == len(set(names))
    assert {n.split()[0] for n in names} >= {*OPS, *QUANTS}


def test_a_wrong_result_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(OPS["exp"], numpy=np.exp2)
    monkeypatch.setitem(OPS, "exp", wrong)
    text, failed = selftest.report("cpu", timings=False)
    assert failed == 2
    assert "**exp float16**: AssertionError" in text
    assert "the worst:" in text


def test_timings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def small() -> object:
        make = lambda d: lambda: tl.ones([3], device=d) + 1  # noqa: E731
        yield selftest.Timing("little", 1e-9, "GB/s", make)
        yield selftest.Timing("broken", 0, "", lambda d: lambda: 1 / 0)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(selftest, "_timings", small)
    assert cli.main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "| little | 0." in out
    assert "| broken | failed: ZeroDivisionError | |" in out


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["selftest", "--device", "nothing"]) == 1
    assert "device 'nothing' is not available here: unknown" in capsys.readouterr().err
    monkeypatch.setitem(OPS, "exp", dataclasses.replace(OPS["exp"], numpy=np.exp2))
    assert cli.main(["selftest", "--device", "cpu", "--no-timings"]) == 1
    printed = capsys.readouterr()
    assert "**exp float32**" in printed.out
    assert printed.err == "error: 2 checks failed\n"
