from __future__ import annotations

import pytest

from tensorlogic.codegen.emit import Module
from tensorlogic.devices import native

KERNEL_ARGS = [("ptr", "args"), ("i64", "lo"), ("i64", "hi"), ("ptr", "scratch")]


def kernels() -> str:
    """count: counts[i] += 1; step: to[i] = from[n - 1 - i] + 1; where: out[i] = scratch;
    burn: some milliseconds for each i."""
    module = Module()
    f = module.function("count", KERNEL_ARGS)
    counts = f.load("ptr", "%args")
    with f.loop("%lo", "%hi") as i:
        f.assign(f"atomicrmw add ptr {f.gep('i64', counts, i.index)}, i64 1 monotonic")
    f.ret()
    f = module.function("step", KERNEL_ARGS)
    to, source = (f.load("ptr", f.gep("i64", "%args", k)) for k in range(2))
    last = f.sub(f.load("i64", f.gep("i64", "%args", 2)), 1)
    with f.loop("%lo", "%hi") as i:
        value = f.load("i64", f.gep("i64", source, f.sub(last, i.index)))
        f.store("i64", f.add(value, 1), f.gep("i64", to, i.index))
    f.ret()
    f = module.function("where", KERNEL_ARGS)
    out = f.load("ptr", "%args")
    with f.loop("%lo", "%hi") as i:
        f.store("ptr", "%scratch", f.gep("i64", out, i.index))
    f.ret()
    f = module.function("burn", KERNEL_ARGS)
    with f.loop("%lo", "%hi"), f.loop(0, 1_000_000):
        f.assign("atomicrmw add ptr %scratch, i64 1 monotonic")
    f.ret()
    return module.text()


@pytest.fixture(scope="session")
def functions() -> dict[str, int]:
    return native.compile_module(kernels(), ["count", "step", "where", "burn"])


@pytest.fixture
def pool(monkeypatch):
    """pool(n): from here on, programs run on n threads."""

    def start(n: int) -> None:
        monkeypatch.setenv("TENSORLOGIC_THREADS", str(n))
        native._runner.cache_clear()

    yield start
    native._runner.cache_clear()
