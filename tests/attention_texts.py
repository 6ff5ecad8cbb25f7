"""GPU texts of attention: both forms, each with what it may have to do with masks and types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import tensorlogic as tl
from tensorlogic.codegen.gpu import GpuLaunch, gpu_launch
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.spec import Attention
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.traits import GPU
from tensorlogic.settings import Settings

CASES: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    # heads, groups, queries, keys, depth, width; dtype of k and v; more arguments
    "tiles_64": ((4, 4, 100, 100, 64, 64), "float16", {}),
    "tiles_128_causal": ((4, 2, 100, 130, 128, 112), "float16", {"causal": True}),
    "tiles_256_length": ((2, 1, 40, 50, 256, 256), "float16", {"causal": True, "length": 7}),
    "tiles_16_mask": ((4, 4, 20, 30, 16, 32), "float16", {"mask": "float16"}),
    "tiles_32_bool_mask": ((4, 4, 20, 30, 32, 32), "float16", {"mask": "bool", "causal": True}),
    "one_row": ((8, 8, 1, 100, 64, 64), "float16", {}),
    "few_rows_in_parts": ((32, 8, 1, 2000, 128, 128), "float16", {"length": 7, "causal": True}),
    "few_rows_mask": ((8, 2, 1, 300, 80, 80), "float16", {"mask": "bool"}),
    "many_rows_float32": ((4, 2, 20, 30, 64, 64), "float32", {"causal": True}),
    "odd_sizes": ((3, 1, 5, 30, 5, 7), "float16", {"mask": "float32"}),
    "wide_rows": ((2, 2, 3, 30, 600, 500), "float32", {}),
}


def launches(dialect: str) -> Iterator[tuple[str, Attention, GpuLaunch]]:
    for name, (sizes, dtype, more) in CASES.items():
        heads, groups, queries, keys, depth, width = sizes
        given = dict(more)
        if "mask" in more:
            mask = np.zeros((heads, queries, keys), more["mask"])
            given["mask"] = tl.tensor(mask, dtype=more["mask"])
        if "length" in more:
            given["length"] = tl.tensor(more["length"], dtype="int32")
        q = tl.zeros([heads, queries, depth])
        k, v = (tl.zeros([groups, keys, n], dtype=dtype) for n in (depth, width))
        result = tl.scaled_dot_product_attention(q, k, v, **given)
        (root,) = inline_calls([result._node])
        for step in schedule([root], Settings(), GPU).steps:
            if isinstance(step.kernel, Attention):
                yield name, step.kernel, gpu_launch(step.kernel, name, dialect, step.sizes())
