"""Metal: kernels are printed and checked on every machine; launching them is not built yet."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensorlogic.errors import DeviceError

if TYPE_CHECKING:
    from tensorlogic.graph import Node


class Metal:
    name = "metal"
    description = "Apple GPU through metalcompute (source only in this version)"

    def unavailable(self) -> str:
        if sys.platform != "darwin" or platform.machine() != "arm64":
            return "needs macOS on Apple silicon"
        return "this version prints Metal kernels but does not launch them yet"

    def run(self, roots: Sequence[Node]) -> None:
        raise DeviceError(f"metal: {self.unavailable()}")

    def run_call(self, results: Sequence[Node]) -> bool:
        return False
