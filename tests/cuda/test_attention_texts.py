"""The CUDA text of attention is well formed, whatever it has to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention_texts import CASES, launches
from tests.cuda.checker import check_cuda, check_waits, compile_all

SOURCES = {name: launch.source for name, _, launch in launches("cuda")}


@pytest.mark.parametrize("name", CASES)
def test_it_is_well_formed(name: str) -> None:
    check_cuda(SOURCES[name])
    check_waits(SOURCES[name])


def test_both_forms_compile(tmp_path: Path) -> None:
    chosen = {n: SOURCES[n] for n in ("tiles_16_mask", "few_rows_in_parts", "odd_sizes")}
    assert compile_all(chosen, "sm_80", tmp_path) == set(chosen)
