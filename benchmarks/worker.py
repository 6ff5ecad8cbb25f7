"""A competitor's process: `python -m benchmarks.worker PEER DEVICE THREADS`.

It reads one JSON object a line and answers each with one:

    {"do": "prepare", "kind": ..., "sizes": {...}}   {"shape": [...], "values": base64, "first": s}
    {"do": "time", "seconds": s}                     {"times": [seconds of a call, ...]}
    {"do": "drop"}                                   {}

Values are the float32 of `kinds.picks` along the first axis, or of all where a kind has no oracle.
An answer may be {"unsupported": why} or {"failed": why}. The first line that it writes, unasked, is
{"version": ...} or {"missing": why}.
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np

from benchmarks.kinds import KINDS, picks
from benchmarks.peers.base import Measured, Peer, Prepared, Unsupported

PEERS = {
    "tensorlogic": ("tensorlogic_peer", "Tensorlogic"),
    "tensorlogic vendor": ("tensorlogic_peer", "Tensorlogic"),
    "numpy": ("numpy_peer", "Numpy"),
    "numpy float32": ("numpy_peer", "NumpyFloat32"),
    "torch": ("torch_peer", "Torch"),
    "torch.compile": ("torch_peer", "TorchCompile"),
    "mlx": ("mlx_peer", "Mlx"),
    "mlx.compile": ("mlx_peer", "MlxCompile"),
    "tinygrad": ("tinygrad_peer", "Tinygrad"),
    "llama.cpp": ("llama_peer", "Llama"),
}
LEAST = 1e-3
"""Seconds that one sample takes at least: several calls where one is shorter."""
LEAST_ON_GPU = 10e-3


class Worker:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.work: Prepared | Measured | None = None
        self.first = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "prepare":
            return self.prepare(request["kind"], request["sizes"])
        if request["do"] == "time":
            return {"times": self.time(request["seconds"])}
        self.work = None
        gc.collect()
        return {}

    def prepare(self, kind: str, sizes: dict[str, Any]) -> dict[str, Any]:
        self.work = None
        gc.collect()
        work = self.work = self.peer.prepare(kind, sizes)
        start = time.perf_counter()
        if isinstance(work, Measured):
            self.first = work.measure()
            array = None if work.result is None else work.result()
        else:
            value = work.call()
            work.sync()
            self.first = time.perf_counter() - start
            array = None if work.result is None else work.result(value)
        if array is None:
            return {"first": self.first}
        if KINDS[kind].expected is not None and array.ndim:
            shown = array[picks(len(array))]
        else:
            shown = array
        values = np.ascontiguousarray(shown, np.float32)
        text = base64.b64encode(values.tobytes()).decode()
        return {"shape": list(array.shape), "shown": list(values.shape), "values": text,
                "first": self.first}  # fmt: skip

    def time(self, seconds: float) -> list[float]:
        """Seconds of a call, some times, for about so long; at least once."""
        work, times = self.work, []
        assert work is not None
        end = time.perf_counter() + seconds
        if isinstance(work, Measured):
            while not times or time.perf_counter() < end:
                times.append(work.measure())
            return times
        call, sync = work.call, work.sync
        for _ in range(2):  # warm again: another had the machine, and second calls may compile
            if time.perf_counter() < end - seconds / 2:
                call()
                sync()
        end = time.perf_counter() + seconds
        least = LEAST if self.peer.device == "cpu" else LEAST_ON_GPU
        turns = 1
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(turns):
                call()
            sync()
            taken = time.perf_counter() - start
            if taken < least:  # too short to be read off a clock: more calls, and not counted
                turns = max(turns + 1, min(turns * 10, int(turns * 1.5 * least / (taken + 1e-9))))
            else:
                times.append(taken / turns)
        return times


def serve(name: str, device: str, threads: int, source: TextIO, target: TextIO) -> None:
    def send(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=target, flush=True)

    module, attribute = PEERS[name]
    try:
        loaded = importlib.import_module(f"benchmarks.peers.{module}")
        peer: Peer = getattr(loaded, attribute)(device, threads)
    except Exception as e:  # whatever another library does when it is half installed
        send({"missing": f"{type(e).__name__}: {e}"})
        return
    send({"version": peer.version})
    worker = Worker(peer)
    for line in source:
        try:
            send(worker.answer(json.loads(line)))
        except Unsupported as e:
            send({"unsupported": str(e)})
        except Exception as e:
            send({"failed": f"{type(e).__name__}: {e}"})


def main(name: str, device: str, threads: str) -> None:
    # The pipe is for answers alone: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(name, device, int(threads), sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
