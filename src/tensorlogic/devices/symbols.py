"""The symbols that native code may refer to. Any other is an error when it is loaded: an unresolved
library call would crash the process when it is first reached."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

_C = ("memset", "memcpy", "memmove", "malloc", "free")
_THREADS = (
    "pthread_create",
    "pthread_join",
    "pthread_mutex_init",
    "pthread_mutex_destroy",
    "pthread_mutex_lock",
    "pthread_mutex_unlock",
    "pthread_cond_init",
    "pthread_cond_destroy",
    "pthread_cond_wait",
    "pthread_cond_broadcast",
    "sched_yield",
)
_PYTHON = (
    "PyLong_AsVoidPtr",
    "PyLong_AsLongLong",
    "PyLong_FromLong",
    "PyLong_FromVoidPtr",
    "PyFloat_AsDouble",
    "PyList_Size",
    "PyList_GetItem",
    "PyTuple_New",
    "PyTuple_SetItem",
    "PyBytes_FromStringAndSize",
    "PyBytes_AsString",
    "Py_DecRef",
    "PyErr_CheckSignals",
    "PyErr_Occurred",
    "PyErr_BadInternalCall",
    "PyErr_NoMemory",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
_CPU_SETS = ("pthread_setaffinity_np", "sched_getcpu")
KNOWN = (*_C, *_THREADS, *_CPU_SETS, *_PYTHON)


def machine() -> str:
    """The family of this processor: "x86_64", "arm64", ..."""
    if hasattr(os, "uname"):
        return os.uname().machine
    import platform  # a millisecond

    return platform.machine()


HAS_THREADS = sys.platform != "win32"
HAS_CPU_SETS = sys.platform == "linux"


@cache
def address(name: str) -> int:
    """Where a known symbol lies in this process; RuntimeError for any other."""
    if name not in KNOWN:
        raise RuntimeError(f"native code refers to {name!r}, which is not a known symbol")
    library: Any = ctypes.CDLL(None) if HAS_THREADS else ctypes.CDLL("msvcrt")
    if name in _PYTHON:
        library = ctypes.pythonapi
    elif (name in _CPU_SETS and not HAS_CPU_SETS) or (name in _THREADS and not HAS_THREADS):
        name = "abort"  # the pool is set up so that it is never called
    found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert found is not None
    return found


def keep_forever(value: object) -> None:
    """Keep an object through the end of the interpreter: native threads may still use it then."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
