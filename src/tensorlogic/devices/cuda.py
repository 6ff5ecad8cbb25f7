"""CUDA: kernels are printed and compiled in the tests; launching them is not built yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensorlogic.errors import DeviceError

if TYPE_CHECKING:
    from tensorlogic.graph import Node


class Cuda:
    name = "cuda"
    description = "NVIDIA GPU (source only in this version)"

    def unavailable(self) -> str:
        return "this version prints CUDA kernels but does not launch them yet"

    def run(self, roots: Sequence[Node]) -> None:
        raise DeviceError(f"cuda: {self.unavailable()}")

    def run_call(self, results: Sequence[Node]) -> bool:
        return False
