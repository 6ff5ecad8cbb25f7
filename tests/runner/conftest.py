from __future__ import annotations

import pytest

from tensorlogic.codegen.emit import KERNEL, Module
from tensorlogic.devices import native


def kernels() -> str:
    """count: counts[i] += 1; step: to[i] = from[n - 1 - i] + 1; where: out[i] = scratch;
    turns: out[i] = turn, kept[i] = what the thread's turn 0 left in its scratch memory, namely i;
    burn: some milliseconds for each i."""
    module = Module()
    f = module.function("count", KERNEL)
    counts = f.load("ptr", "%args")
    with f.loop("%lo", "%hi") as i:
        f.assign(f"atomicrmw add ptr {f.gep('i64', counts, i.index)}, i64 1 monotonic")
    f.ret()
    f = module.function("step", KERNEL)
    to, source = (f.load("ptr", f.gep("i64", "%args", k)) for k in range(2))
    last = f.sub(f.load("i64", f.gep("i64", "%args", 2)), 1)
    with f.loop("%lo", "%hi") as i:
        value = f.load("i64", f.gep("i64", source, f.sub(last, i.index)))
        f.store("i64", f.add(value, 1), f.gep("i64", to, i.index))
    f.ret()
    f = module.function("where", KERNEL)
    out = f.load("ptr", "%args")
    with f.loop("%lo", "%hi") as i:
        f.store("ptr", "%scratch", f.gep("i64", out, i.index))
    f.ret()
    f = module.function("turns", KERNEL)
    out, kept = (f.load("ptr", f.gep("i64", "%args", k)) for k in range(2))
    with f.when(f.icmp("eq", "i64", "%turn", 0)):
        f.store("i64", "%lo", "%scratch")
    with f.loop("%lo", "%hi") as i:
        f.store("i64", "%turn", f.gep("i64", out, i.index))
        f.store("i64", f.load("i64", "%scratch"), f.gep("i64", kept, i.index))
    f.ret()
    f = module.function("burn", KERNEL)
    with f.loop("%lo", "%hi"), f.loop(0, 1_000_000):
        f.assign("atomicrmw add ptr %scratch, i64 1 monotonic")
    f.ret()
    return module.text()


@pytest.fixture(scope="session")
def functions() -> dict[str, int]:
    return native.compile_module(kernels(), ["count", "step", "where", "turns", "burn"])


@pytest.fixture
def pool(monkeypatch):
    """pool(n): from here on, programs run on n threads."""

    def start(n: int) -> None:
        monkeypatch.setenv("TENSORLOGIC_THREADS", str(n))
        native._runner.cache_clear()

    yield start
    native._runner.cache_clear()
