"""Devices: what they are, which there are, and how a name finds one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from tensorlogic.errors import DeviceError

if TYPE_CHECKING:
    from tensorlogic.graph import Node


class Device(Protocol):
    """What a device does for the runtime."""

    name: str
    description: str

    def unavailable(self) -> str | None:
        """Why this machine does not have it, or None."""

    def run(self, roots: Sequence[Node], order: Sequence[Node] | None = None) -> None:
        """Compute the roots of a graph without calls, and realise them. `order`: its nodes, inputs
        first, where they are known."""

    def run_call(self, results: Sequence[Node]) -> bool:
        """Compute results of one call of a traced function by a plan kept for it; False where
        the call has to be inlined and run as a graph."""

    def plan_of_call(self, results: Sequence[Node]) -> Any:
        """That plan, with the call's nodes and where its inputs stand, or None."""


@dataclass(frozen=True)
class DeviceInfo:
    """One row of `tl.devices()`: `reason` says why a device is not available."""

    name: str
    available: bool
    description: str
    reason: str


class Registry:
    """The devices by name, opened when they are first asked for."""

    def __init__(self) -> None:
        self._factories: dict[str, Callable[..., Device]] = {}
        self._open: dict[str, Device] = {}
        self._warned = False

    def register(self, name: str, factory: Callable[..., Device]) -> None:
        self._factories[name] = factory

    def names(self) -> list[str]:
        return list(self._factories)

    def get(self, name: str) -> Device:
        device = self._open.get(name)
        if device is None:
            family, _, index = name.partition(":")
            if name in self._factories:
                device = self._factories[name]()
            elif self.is_numbered(name):
                device = self._factories[family](int(index))
            else:
                known = ", ".join([*self._factories, "gpu"])
                raise DeviceError(f"unknown device {name!r}; the devices are {known}")
            self._open[name] = device
        return device

    def is_numbered(self, name: str) -> bool:
        """Whether a name is one of several devices of a kind, such as "cuda:1"."""
        family, _, index = name.partition(":")
        return family == "cuda" and family in self._factories and index.isdecimal()

    def accelerator(self) -> str | None:
        """The best accelerator of this machine: metal, then cuda."""
        for name in ("metal", "cuda"):
            if name in self._factories and self.get(name).unavailable() is None:
                return name
        return None

    def fall_back(self) -> None:
        """Say once that `gpu` runs on the CPU here."""
        if not self._warned:
            self._warned = True
            reasons = "; ".join(f"{n}: {self.get(n).unavailable()}" for n in ("metal", "cuda"))
            warnings.warn(
                f"this machine has no usable GPU, `gpu` runs on the CPU ({reasons})",
                UserWarning,
                stacklevel=5,
            )


def _open(name: str, *index: int) -> Device:
    """The device of that name, from the module of that name, which is only now imported."""
    kind = getattr(import_module(f"tensorlogic.devices.{name}"), name.capitalize())
    device: Device = kind(*index)
    return device


REGISTRY = Registry()
for _name in ("cpu", "reference", "metal", "cuda"):
    REGISTRY.register(_name, partial(_open, _name))


def resolve(name: str | None, missing_ok: bool = False) -> str | None:
    """The label that tensors of a device carry; None is uncommitted.

    "cuda:1" is the second NVIDIA GPU. "gpu" is the best accelerator; where there is none it stays
    "gpu", runs on the CPU and warns once. Raises DeviceError for an unknown or absent device; with
    missing_ok an unknown name gives None.
    """
    if name is None:
        return None
    if name == "gpu":
        found = REGISTRY.accelerator()
        if found is None:
            REGISTRY.fall_back()
        return found or "gpu"
    if name == "cuda:0":
        name = "cuda"
    if missing_ok and name not in REGISTRY.names() and not REGISTRY.is_numbered(name):
        return None
    reason = REGISTRY.get(name).unavailable()
    if reason is not None:
        raise DeviceError(f"device {name!r} is not available here: {reason}")
    return name


def open_device(label: str | None) -> Device:
    """The device that runs what carries this label."""
    return REGISTRY.get("cpu" if label in (None, "gpu") else str(label))


def devices() -> list[DeviceInfo]:
    """Every device that this package knows, whether it is here, and if not, why.

    >>> import tensorlogic as tl
    >>> [d.name for d in tl.devices() if d.available][:2]
    ['cpu', 'reference']
    """
    rows = []
    for name in REGISTRY.names():
        device = REGISTRY.get(name)
        reason = device.unavailable()
        rows.append(DeviceInfo(name, reason is None, device.description, reason or ""))
        more = range(1, getattr(device, "count", 1) if reason is None else 1)
        rows += [DeviceInfo(f"{name}:{i}", True, device.description, "") for i in more]
    return rows
