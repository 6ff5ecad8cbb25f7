"""The harness on tiny rows: what is right counts, what is wrong or missing is said."""

from __future__ import annotations

import base64
import io
import json
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import report, worker
from benchmarks.harness import OURS, Entry, Harness, Machine, Process, Result
from benchmarks.kinds import KINDS, error, picks
from benchmarks.peers.base import Measured, Peer, Prepared, Unsupported
from benchmarks.rows import GROUPS, Row, cpu_rows, gpu_rows, rows_of

SOFTMAX = Row("rows", "softmax", "softmax", {"rows": 8, "columns": 16}, moved=4 * 8 * 16)
CALL = Row("calls", "linear", "linear", {"recorded": False})


class Fixed(Machine):
    """A machine of known rates."""

    def __init__(self, harness: Harness, peak: float = 200.0) -> None:
        super().__init__(2)
        self.peak = peak

    def sample(self) -> dict[str, float]:
        return {"peak of one": 100.0, "peak": self.peak, "bandwidth": 10.0}


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """Ours and NumPy, the peers that every machine with this library has, and one that none has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARKS_FOLDER", str(tmp_path_factory.mktemp("files")))
        nowhere = {"mlx": "/nowhere/python"}
        made = Harness("cpu", 2, ["numpy", "mlx"], nowhere, Fixed, rounds=2, turn=0.002)
        yield made
        made.close()


def test_a_row_has_times_of_all_that_are_there_and_right(harness):
    result = harness.run(SOFTMAX)
    assert [(e.name, e.status) for e in result.entries] == [(OURS, "ok"), ("numpy", "ok")]
    assert all(e.seconds > 0 and e.error < 1e-3 and len(e.times) >= 2 for e in result.entries)
    assert result.best_peer.name == "numpy"
    assert result.counts


def test_a_peer_that_is_not_there_is_said(harness):
    assert list(harness.missing) == ["mlx"]
    assert "/nowhere/python" in harness.missing["mlx"]
    assert list(harness.versions) == [OURS, "numpy"]


def test_a_wrong_result_is_reported_and_its_time_does_not_count(harness, monkeypatch):
    ask = Process.ask

    def spoilt(self, **request):
        answer = ask(self, **request)
        if self.name == "numpy" and request["do"] == "prepare":
            data = base64.b64decode(answer["values"])
            answer["values"] = base64.b64encode(data[4:] + data[:4]).decode()
        return answer

    monkeypatch.setattr(Process, "ask", spoilt)
    result = harness.run(SOFTMAX)
    ours, numpy = result.entries
    assert (ours.status, numpy.status, numpy.seconds) == ("ok", "wrong", None)
    assert "is allowed" in numpy.message
    assert numpy.times == []
    assert result.best_peer is None
    assert not result.counts
    (line,) = report.lines([result])
    assert line[-1] == "no peer"


def test_a_failure_and_a_process_that_ends_are_said(harness, monkeypatch):
    missing_size = Row("rows", "softmax", "softmax", {"rows": 8})
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.harness.Harness._check", lambda *a: None)
        assert {e.status for e in harness.run(missing_size).entries} == {"failed"}
    harness.processes["numpy"]._process.kill()
    ours, numpy = harness.run(SOFTMAX).entries
    assert (ours.status, numpy.status) == ("ok", "failed")
    assert "ended" in numpy.message
    assert [e.status for e in harness.run(SOFTMAX).entries] == ["ok", "ok"]


def test_the_json_holds_all_that_was_measured(harness):
    result = harness.run(CALL)
    data = json.loads(json.dumps(report.as_json([result], harness)))
    assert data["versions"].keys() == {OURS, "numpy"}
    assert data["missing"].keys() == {"mlx"}
    assert {"date", "machine", "device", "threads", "rounds"} <= data.keys()
    (row,) = data["rows"]
    assert (row["name"], row["group"], row["best_peer"]) == ("linear", "calls", "numpy")
    assert row["counts"]
    assert row["rates"]["bandwidth"] == 10
    ours, numpy = row["entries"]
    assert ours["name"] == OURS
    assert ours["ratio"] == pytest.approx(numpy["seconds"] / ours["seconds"])
    assert 0 < ours["least"] <= ours["seconds"]


def made(row: Row = SOFTMAX, rates=None, reliable=True, **times: list[float]) -> Result:
    names = {"ours": OURS, "fast": "torch", "slow": "numpy", "other": "numpy float32"}
    entries = [Entry(names[n], "ok", t) for n, t in times.items()]
    return Result(row, entries, rates or {}, reliable)


def test_medians_ratios_and_limits():
    row = Row("g", "n", "softmax", moved=100, flops=1000)
    rates = {"bandwidth": 50.0, "peak": 2000.0}
    result = made(row, rates, ours=[9, 4, 3], slow=[20, 20, 1], fast=[8, 2, 90], other=[1])
    ours = result.entry(OURS)
    assert ours.seconds == 4
    assert result.best_peer.name == "torch"  # 8; another dtype is not compared with
    assert result.ratio(ours) == 2
    assert result.limit == 2  # memory takes longer than arithmetic
    assert result.of_limit(ours) == 0.5
    assert made(row, {}, ours=[1.0]).limit is None
    assert made(ours=[1.0]).ratio(Entry(OURS, "ok", [1.0])) is None


def test_what_counts():
    assert made(ours=[1], slow=[2]).counts
    assert not made(ours=[1]).counts
    assert not made(ours=[1], other=[2]).counts
    assert not made(slow=[1], fast=[2]).counts
    assert not made(reliable=False, ours=[1], slow=[2]).counts
    assert report.lines([made(reliable=False, ours=[1], slow=[2])])[0][-1] == "unreliable"


@pytest.mark.parametrize(
    ("peak", "reliable"), [(200, True), (185, True), (150, False), (240, False)]
)
def test_two_threads_have_twice_the_peak_of_one_or_a_row_is_unreliable(peak, reliable):
    machine = Fixed(None, peak)
    assert machine.reliable(machine.rates([machine.sample()] * 3)) == reliable
    assert Machine(2).reliable({})


def test_rates_are_medians_of_all_rounds():
    samples = [{"peak": 1.0}, {"peak": 5.0}, {"peak": 2.0, "bandwidth": 7.0}]
    assert Machine(1).rates(samples) == {"peak": 2.0, "bandwidth": 7.0}


# ---- the worker's side ----


class Stub(Peer):
    name = "stub"
    version = "1"

    def __init__(self):
        super().__init__("cpu", 1)
        self.calls = 0
        self.functions = {"softmax": lambda s: self._softmax}
        self.special = {
            "import": lambda s: Measured(lambda: 2.5),
            "script": self._failing,
        }

    def _softmax(self, x, w, b):
        self.calls += 1
        e = np.exp(x.astype(np.float64))
        return e / e.sum(-1, keepdims=True)

    def _failing(self, s):
        raise ZeroDivisionError("on purpose")


def exchange(monkeypatch, *requests) -> list[dict]:
    monkeypatch.setitem(worker.PEERS, "stub", ("stub", "make"))
    module = type(sys)("benchmarks.peers.stub")
    module.make = lambda device, threads: Stub()
    monkeypatch.setitem(sys.modules, "benchmarks.peers.stub", module)
    target = io.StringIO()
    source = io.StringIO("".join(json.dumps(r) + "\n" for r in requests))
    worker.serve("stub", "cpu", 1, source, target)
    return [json.loads(line) for line in target.getvalue().splitlines()]


def test_the_protocol(monkeypatch):
    sizes = {"rows": 100, "columns": 4}
    hello, prepared, timed, dropped, own, own_times, unsupported, failed = exchange(
        monkeypatch,
        {"do": "prepare", "kind": "softmax", "sizes": sizes},
        {"do": "time", "seconds": 0.005},
        {"do": "drop"},
        {"do": "prepare", "kind": "import", "sizes": {}},
        {"do": "time", "seconds": 0},
        {"do": "prepare", "kind": "matmul", "sizes": {}},
        {"do": "prepare", "kind": "script", "sizes": {}},
    )
    assert hello == {"version": "1"}
    assert prepared["shape"] == [100, 4]
    assert prepared["shown"] == [64, 4]
    assert prepared["first"] > 0
    assert all(t > 0 for t in timed["times"])
    assert dropped == {}
    assert own == {"first": 2.5}
    assert own_times == {"times": [2.5]}
    assert unsupported == {"unsupported": "matmul"}
    assert failed == {"failed": "ZeroDivisionError: on purpose"}


def test_a_library_that_cannot_be_imported_is_missing():
    target = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tinygrad", None)
        worker.serve("tinygrad", "cpu", 1, io.StringIO(), target)
    assert "tinygrad" in json.loads(target.getvalue())["missing"]


def test_short_calls_are_timed_in_batches():
    calls = []
    timer = worker.Worker(Stub())
    timer.work = Prepared(lambda: calls.append(1))
    times = timer.time(0.01)
    assert len(calls) > 100 * len(times) > 0
    assert max(times) < worker.LEAST


def test_unsupported_work_is_refused_by_a_peer():
    with pytest.raises(Unsupported):
        Stub().prepare("decode", {})


# ---- rows and kinds ----


def test_every_row_has_a_kind_and_names_are_apart():
    for quick in (True, False):
        for rows in (cpu_rows(quick), gpu_rows(quick)):
            assert {r.kind for r in rows} <= KINDS.keys()
        full = [(r.group, r.name) for r in cpu_rows(False) + gpu_rows(False)]
        assert len(full) == len(set(full))
    assert {r.group for r in rows_of(["cpu", "gpu"], True)} == set(GROUPS)
    assert {r.group for r in rows_of(["llm"], True)} == {"llm"}


def test_an_error_is_relative_and_shapes_and_nan_are_wrong():
    assert error(np.ones(4), np.ones(4)) == 0
    assert error(np.full(4, 1.01), np.ones(4)) == pytest.approx(0.005)
    assert error(np.ones(3), np.ones(4)) == np.inf
    assert error(np.array([np.nan]), np.ones(1)) == np.inf


def test_picks_reach_both_ends():
    assert picks(3).tolist() == [0, 1, 2]
    assert picks(1000)[[0, -1]].tolist() == [0, 999]
    assert len(picks(1000)) == 64


# ---- the command ----


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    out, table = tmp_path / "out.json", tmp_path / "table.md"
    without = [f"--without={n}" for n in command.CPU_PEERS if n != "numpy"]
    status = command.main(
        ["rows", "--quick", "--rows=rms_norm", "--rounds=1", f"--json={out}", f"--markdown={table}",
         *without]
    )  # fmt: skip
    assert status == 0
    assert "rms_norm 256x256" in capsys.readouterr().out
    data = json.loads(out.read_text())["cpu"]
    assert [r["name"] for r in data["rows"]] == ["rms_norm 256x256"]
    assert data["rows"][0]["rates"].keys() == {
        "peak of one", "peak", "bandwidth of one", "bandwidth"
    }  # fmt: skip
    written = table.read_text()
    assert written.splitlines()[0].startswith("| row | time |")
    assert command.main([f"--of={out}", f"--markdown={table}"]) == 0  # the same from what was kept
    assert table.read_text() == written


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["nothing"], "no group nothing; there are cpu, matmul"), (["--peer=torch"], "NAME=PYTHON")],
)
def test_what_the_command_does_not_know_is_refused(arguments, text):
    with pytest.raises(SystemExit, match=text):
        command.main(arguments)
