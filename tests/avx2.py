"""A pytest plugin: kernels are compiled for a processor with AVX2 and without AVX-512 (AMD Zen 3).

`python -m pytest -p tests.avx2` on any x86-64 machine that has AVX2.
"""

from __future__ import annotations

from tensorlogic.devices import objects
from tensorlogic.devices.objects import Host

_NEEDED = ("avx2", "fma", "f16c", "bmi2")


def limited(here: Host) -> Host:
    """The same machine without what Zen 3 does not have."""
    assert all(here.has(feature) for feature in _NEEDED), "this machine has no AVX2"
    kept = [
        "-" + name[1:] if name[1:].startswith(("avx512", "avx10", "amx", "avxvnni")) else name
        for name in here.features.split(",")
    ]
    return Host("znver3", ",".join(kept), here.llvm)


_limited = limited(objects.host())
objects.host = lambda: _limited  # type: ignore[assignment]
