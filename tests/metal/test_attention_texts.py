"""The Metal text of attention passes the checker, whatever it has to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tensorlogic.codegen import gpu_attention
from tensorlogic.codegen.dialects import BODY_MARK
from tensorlogic.kernels.check import KernelError
from tests.attention_texts import CASES, launches
from tests.metal.checker import MetalError, check_metal

LAUNCHES = {name: (spec, launch) for name, spec, launch in launches("metal")}


def test_every_case_is_there() -> None:
    assert set(LAUNCHES) == set(CASES)
    tiles = {n for n, (spec, _) in LAUNCHES.items() if gpu_attention.uses_matrix_units(spec)}
    assert tiles == {n for n in CASES if n.startswith("tiles")}
    split = {n for n, (spec, _) in LAUNCHES.items() if spec.split}
    assert split == {n for n in CASES if n.endswith("parts")} | {"few_rows_mask"}


@pytest.mark.parametrize("name", CASES)
def test_it_is_well_formed(name: str) -> None:
    check_metal(LAUNCHES[name][1].source)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_text_of_cuda_below_the_prelude(name: str) -> None:
    other = next(launch for n, _, launch in launches("cuda") if n == name)
    bodies = [text.split(BODY_MARK)[1] for text in (LAUNCHES[name][1].source, other.source)]
    assert bodies[0] == bodies[1]


def test_launch_arithmetic() -> None:
    spec, _ = LAUNCHES["tiles_64"]
    sizes = {"batches": 3, "heads": 2, "queries": 65, "parts": 1}
    assert gpu_attention.groups(spec, sizes) == 3 * 3  # 130 rows in groups of 64
    spec, launch = LAUNCHES["few_rows_in_parts"]
    assert launch.groups == 8 * 15
    assert gpu_attention.rows_each(spec) == 4
    spec, _ = LAUNCHES["wide_rows"]
    assert gpu_attention.rows_each(spec) == 4
    wider = replace(spec, depth=1500, width=1500)
    assert gpu_attention.rows_each(wider) == 2  # what fits on the chip
    with pytest.raises(KernelError, match="on chip"):
        gpu_attention.rows_each(replace(spec, depth=9000))


def test_planted_errors_are_rejected() -> None:
    text = LAUNCHES["tiles_64"][1].source
    for old, new in (
        ("THREADGROUP half* own_high = (THREADGROUP half*)own", "half* own_high = (half*)own"),
        ("tile_multiply(sums[j], p_low, fragment);", "tile_multiply(sums[j], p_low);"),
        ("TileAB p_high, p_low;", "TileC p_high, p_low;"),
    ):
        assert old in text
        with pytest.raises(MetalError):
            check_metal(text.replace(old, new))


def test_sizes_are_no_part_of_the_text() -> None:
    """Of depth and width there are few; heads, queries and keys are parameters."""
    for _, launch in LAUNCHES.values():
        body = launch.source.split(BODY_MARK)[1]
        assert not re.search(r"\b(100|130|2000|300)\b", body)
