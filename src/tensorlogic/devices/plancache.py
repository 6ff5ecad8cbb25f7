"""Plans on disk: a process that computes what another has computed schedules and prints nothing.

They lie in the cache of compiled kernels, checked and private like the kernels that they name. A
plan is found by all that it was made from: the graph, the settings, the processor, the number of
threads, and the files of this package.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from tensorlogic.devices import diskcache
from tensorlogic.devices.native import threads
from tensorlogic.devices.objects import host
from tensorlogic.devices.planned import plan_key
from tensorlogic.dtypes import DType
from tensorlogic.forms import Layout, Recipe
from tensorlogic.graph import Node
from tensorlogic.ops import Op

ENABLED = True
"""Whether plans are kept; tests that change the scheduler must not meet what it made before."""

_MAKERS = ("codegen", "devices", "kernels", "ops", "schedule")
"""Folders of the package in which a graph becomes a plan."""
_PLAIN = (int, float, bool, str, type(None))


class _Unkept(Exception):
    """A graph holds something that another process might understand differently."""


def key_of(
    order: Sequence[Node], roots: Sequence[Node], settings: object, traits: object
) -> str | None:
    """The name of a plan; None where it can't be kept."""
    if not ENABLED:
        return None
    try:
        graph = repr(_plain(plan_key(order, roots, repr(settings))))
    except _Unkept:
        return None
    sources, here = _sources(), host()
    if sources is None:
        return None
    # marshal's format differs between versions of Python
    more = (sys.implementation.cache_tag or sys.version, str(threads()), _traits(traits))
    return diskcache.key_of("plan", graph, sources, here.cpu, here.features, here.llvm, *more)


def read(key: str | None) -> tuple[Any, Any] | None:
    """The two parts of a plan as they were written, or None."""
    payload = None if key is None else diskcache.read(key)
    if payload is None:
        return None
    facts, objects = marshal.loads(payload)
    return facts, objects


def write(key: str | None, facts: tuple[Any, ...], objects: Sequence[Any]) -> None:
    """Keep a plan: what it knows, and the objects with its kernels."""
    if key is not None:
        diskcache.write(key, marshal.dumps((facts, list(objects))))


def _plain(value: Any) -> Any:
    """A key as numbers, strings and tuples, which differ where it differs."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return tuple(map(_plain, value))
    if kind is Recipe or kind is Layout:
        return _plain(value.facts)
    if kind is DType:
        return ("dtype", value.name)
    if kind is Op and _is_own(value):
        return ("op", value.name)
    raise _Unkept


def _is_own(op: Op) -> bool:
    """Whether an op is defined here: the definition of another may change unseen."""
    made = op.expr or (op.fold and op.fold.element)
    return not made or str(made.__module__).startswith("tensorlogic.")


def _traits(traits: Any) -> str:
    facts = vars(traits)
    return repr({k: sorted(v) if isinstance(v, frozenset) else v for k, v in facts.items()})


@cache
def _sources() -> str | None:
    """Sizes and times of the files that make plans: another state of them makes other plans."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found: list[tuple[str, int, int]] = []
    try:
        for folder in ("", *_MAKERS):
            with os.scandir(os.path.join(package, folder)) as entries:
                for entry in entries:
                    if entry.name.endswith((".py", ".ll")):
                        about = entry.stat()
                        found.append((entry.path, about.st_size, about.st_mtime_ns))
    except OSError:  # not a folder: a package in an archive
        return None
    return repr(sorted(found))
