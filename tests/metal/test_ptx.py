"""The unchanged Metal texts become PTX, which ptxas assembles where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from tensorlogic.codegen.gpu_tiles import SMALL
from tests.gpu_texts import MATMULS, matmul_text, texts
from tests.metal.ptx import ptx, slots
from tests.metal.text import kernels

TEXTS = {n: t for n, t in texts("metal") if not re.search(r"_(256|32)_i\d\d$", n)}
TEXTS |= {f"matmul_{n}": matmul_text(n, "metal", SMALL) for n in MATMULS}


@cache
def made() -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(TEXTS, pool.map(ptx, TEXTS.values()), strict=True))


@pytest.mark.parametrize("name", TEXTS)
def test_each_text_becomes_ptx(name: str) -> None:
    code = made()[name]
    (kernel,) = kernels(TEXTS[name])
    assert re.findall(r"^\.visible \.entry (\w+)", code, re.MULTILINE) == [f"run_{kernel.name}"]
    assert len(re.findall(r"\.param \.u64 run_\w+_param_\d+", code)) == slots(kernel)
    assert not re.search(r"^\.extern \.func", code, re.MULTILINE)  # nothing is left to link
    barriers = len(re.findall(r"threadgroup_barrier\(", kernel.body))
    assert bool(barriers) == bool(re.search(r"\bbar\.sync|\bbarrier\.sync", code))


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs NVIDIA's ptxas")
@pytest.mark.parametrize("name", ["softmax", "gather", "matmul_f16_k_n"])
def test_ptxas_takes_it(name: str, tmp_path: Path) -> None:
    source = tmp_path / "k.ptx"
    source.write_text(made()[name])
    subprocess.run(["ptxas", "-arch=sm_90", "-o", tmp_path / "k", source], check=True)
