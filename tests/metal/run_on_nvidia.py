"""Runs the Metal texts of the tests on an NVIDIA GPU and prints how their results compare.

    python tests/metal/run_on_nvidia.py launches.zip...

Needs NumPy and CuPy and nothing of this repository: a file (recording.py makes it) holds, for
each text that the conformance tests ran on the emulator, its code for this GPU, and one launch with
what its buffers held before and after. What they hold here has to be the same to the bit, or within
the tolerance of another rounding of exp, log, sin and the like. Ends with status 1 if anything is
wrong.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from collections import Counter, defaultdict
from typing import Any

import cupy
import numpy as np

TYPES = {"half": np.float16, "float": np.float32}
TOLERANCE = {"half": (2e-3, 1e-6), "float": (2e-5, 1e-6)}


def largest_error(found: Any, wanted: Any, ctype: str) -> float:
    """The greatest difference as a part of what is allowed; 0 where all bits agree."""
    if np.array_equal(found, wanted):
        return 0.0
    name = next((t for t in TYPES if t in re.findall(r"\w+", ctype)), None)
    if name is None or found.size % np.dtype(TYPES[name]).itemsize:
        return float("inf")
    a, b = (x.view(TYPES[name]) for x in (found, wanted))
    differ = a.view(np.uint8).reshape(a.size, -1) != b.view(np.uint8).reshape(a.size, -1)
    a, b = (x[differ.any(axis=1)].astype(np.float64) for x in (a, b))
    rtol, atol = TOLERANCE[name]
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(all="ignore"):
        error = np.where(same, 0.0, np.abs(a - b) / (atol + rtol * np.abs(b)))
    return float(np.nan_to_num(error, nan=np.inf).max())


class Launches:
    """A file of launches, each made on the card."""

    def __init__(self, path: str) -> None:
        self.file = zipfile.ZipFile(path)
        self.names = set(self.file.namelist())
        self.keys = sorted(n[: -len(".metal")] for n in self.names if n.endswith(".metal"))

    def error(self, key: str, about: dict[str, Any]) -> float:
        ending = next(e for e in ("cubin", "ptx") if f"{key}.{e}" in self.names)
        module = cupy.cuda.function.Module()
        module.load(self.file.read(f"{key}.{ending}"))
        function = module.get_function(f"run_{about['name']}")
        count = json.loads(self.file.read(f"{key}.entry"))["slots"]
        arrays = np.load(io.BytesIO(self.file.read(f"{key}.npz")))
        same = {int(s): first for s, first in about["same"].items()}
        own = {s: cupy.asarray(arrays[f"before{s}"]) for s in set(same.values())}
        function((about["groups"],), (about["threads"],), tuple(own[same[s]] for s in range(count)))
        cupy.cuda.Device().synchronize()
        worst = 0.0
        for slot, ctype in about["types"].items():
            first = same[int(slot)]
            after = f"after{first}" if f"after{first}" in arrays else f"before{first}"
            if "const" not in ctype:
                worst = max(worst, largest_error(own[first].get(), arrays[after], ctype))
        return worst


def main(*paths: str) -> int:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for launches, key in ((f, key) for f in map(Launches, paths) for key in f.keys):
        about = json.loads(launches.file.read(f"{key}.json"))
        module = about["test"].split("::")[0].split("/")[-1]
        error = launches.error(key, about)
        verdict = "to the bit" if error == 0 else "within tolerance" if error <= 1 else "wrong"
        rows[module]["texts"] += 1
        rows[module][verdict] += 1
        if error > 1:
            wrong.append(f"{key} of {about['test']}: {error:.1f} times what is allowed")
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, CuPy {cupy.__version__}\n")
    head = ("texts", "to the bit", "within tolerance", "wrong")
    print(f"| of the tests in | {' | '.join(head)} |\n|---|---|---|---|---|")
    for module, row in sorted(rows.items()):
        print(f"| {module} | {' | '.join(str(row[h]) for h in head)} |")
    total = sum(rows.values(), Counter())
    print(f"| all | {' | '.join(str(total[h]) for h in head)} |")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
