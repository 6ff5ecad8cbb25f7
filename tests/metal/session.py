"""The `metal` device in the tests of a machine without an Apple GPU: the emulator stands in for it.

`import metalcompute` finds the stand-in, so that the device of the package, as it is, is available
and the conformance tests run on it. `gpu` still means what it means on such a machine.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from tensorlogic.devices import metal
from tensorlogic.devices.base import Registry
from tests.metal.backend import EMULATOR
from tests.metal.recording import VARIABLE, Recorder

STANDIN = str(Path(__file__).with_name("standin"))


def emulated() -> bool:
    """Whether `metal` is the emulator here."""
    return STANDIN in sys.path


def install() -> None:
    """Make the stand-in importable where the emulator runs and the real module is not."""
    if emulated() or find_spec("metalcompute") is not None or sys.platform != "linux":
        return
    sys.path.insert(0, STANDIN)
    accelerator = Registry.accelerator

    def without_emulator(self: Registry) -> str | None:
        found = accelerator(self)
        return None if found == "metal" else found

    Registry.accelerator = without_emulator  # type: ignore[method-assign]
    if os.environ.get(VARIABLE):
        EMULATOR.recorder = Recorder()
    # Buffers of just the due size, so that what a kernel does beyond them meets a closed page.
    metal.Metal.sized = staticmethod(lambda nbytes: max(nbytes, 1))  # type: ignore[method-assign]
    metal._SPARE = 0
    metal.Metal.builders = os.cpu_count() or 1


def record() -> None:
    """Keep the launches of this run, if it was asked for: see recording.py."""
    path = os.environ.get(VARIABLE)
    if path and EMULATOR.recorder is not None:
        EMULATOR.recorder.save(Path(path))


def take_faults() -> list[str]:
    """What kernels did wrong since this was last asked. A GPU would not tell."""
    faults = list(EMULATOR.faults)
    EMULATOR.faults.clear()
    return faults
