"""Settings: one immutable object, changed for a block by context managers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """Told apart by identity, which costs a key nothing: there is one object for each mode.

    precision: "default", or "exact" (values between kernels are kept in float32, and so is what
    quantized weights are multiplied with)."""

    precision: str = "default"


def cache_folder() -> Path:
    """Where models and compiled kernels are kept: TENSORLOGIC_CACHE, or `~/.cache/tensorlogic`."""
    named = os.environ.get("TENSORLOGIC_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tensorlogic"


DEBUG = int(os.environ.get("TENSORLOGIC_DEBUG") or 0)
"""How many stages each evaluation prints to stderr: graph, schedule, kernels, source."""


_MODES = {mode: Settings(mode) for mode in ("default", "exact")}
_current: ContextVar[Settings] = ContextVar("tensorlogic_settings", default=_MODES["default"])


current: Callable[[], Settings] = _current.get
"""The settings that hold here."""


@contextmanager
def precision(mode: str) -> Iterator[None]:
    """Within the block, `mode` "exact" keeps values between kernels in float32.

    So is what quantized weights are multiplied with, which by default may be rounded to 16 bits in
    parts (to 1 in 32,000 of the greatest value of a part). Results keep their dtype. Raises
    ValueError for a mode other than "default" and "exact".

    >>> import tensorlogic as tl
    >>> with tl.precision("exact"):
    ...     (tl.tensor([1.0, 2.0]) * 3).tolist()
    [3.0, 6.0]
    """
    if mode not in _MODES:
        raise ValueError(f'precision is "default" or "exact", not {mode!r}')
    token = _current.set(_MODES[mode])
    try:
        yield
    finally:
        _current.reset(token)
