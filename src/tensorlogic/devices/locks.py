"""The locks of a process, in the order in which they are taken; a fork waits for both, so that its
child finds nothing half done."""

from __future__ import annotations

import os
from threading import Lock, RLock

COMPUTE = RLock()
"""One thread computes at a time: graphs of two threads may share nodes, and an update in place must
not run twice."""
COMPILE = Lock()
"""One thread compiles and loads native code at a time."""


def _acquire() -> None:
    COMPUTE.acquire()
    COMPILE.acquire()


def _release() -> None:
    COMPILE.release()
    COMPUTE.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
