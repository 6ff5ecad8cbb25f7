"""The locks of a process, in the order in which they are taken; a fork waits for all, so that its
child finds nothing half done."""

from __future__ import annotations

import os
from threading import Lock, RLock

COMPUTE = RLock()
"""One thread computes at a time: graphs of two threads may share nodes, and an update in place must
not run twice."""
PREPARE = Lock()
"""One thread prepares weights at a time."""
COMPILE = Lock()
"""One thread compiles and loads native code at a time."""
DESCRIBE = Lock()
"""One thread describes the memory of a result at a time."""
_ALL = (COMPUTE, PREPARE, COMPILE, DESCRIBE)


def _acquire() -> None:
    for lock in _ALL:
        lock.acquire()


def _release() -> None:
    for lock in reversed(_ALL):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
