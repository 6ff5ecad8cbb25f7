"""Tiles of matrix products: a threadgroup's part of the result and how it is shared out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuTile:
    """A threadgroup's part of the result, the piece of K that it stages, its simdgroups."""

    m: int
    n: int
    k: int
    simds_m: int
    simds_n: int

    @property
    def threads(self) -> int:
        return self.simds_m * self.simds_n * 32


LARGE = GpuTile(128, 128, 64, 2, 4)
MIDDLE = GpuTile(128, 64, 64, 4, 2)
SMALL = GpuTile(64, 64, 64, 2, 2)
PLAIN = GpuTile(64, 64, 16, 2, 4)
"""For products without matrix units: 256 threads with 4 x 4 elements each."""
