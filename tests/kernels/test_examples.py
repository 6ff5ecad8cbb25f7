"""Each example kernel means the same to the checker, the interpreter and the LLVM printer."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_examples import EXAMPLES, Example
from kernel_running import compiled, launch

from tensorlogic.devices.objects import host
from tensorlogic.kernels import interpret
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import kernel_text

LANES = sorted({1, 4, 8, host().lanes})


@pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
def test_interpreted_and_compiled_agree(make):
    example: Example = make()
    kernel = example.kernel
    check_kernel(kernel)
    assert kernel_text(kernel) == kernel_text(make().kernel)
    written = {b.name for b in kernel.buffers if b.written}
    expected = {n: a.copy() if n in written else a for n, a in example.buffers.items()}
    interpret.run(kernel, expected, example.params)
    functions = compiled({f"lanes{n}": (kernel, n) for n in LANES})
    middle = example.range // 3
    for name, function in functions.items():
        ranges = [(0, middle), (middle, example.range)] if middle else [(0, example.range)]
        found = launch(function, kernel, example.buffers, example.params, ranges)
        for b in kernel.buffers:
            a, e = found[b.name], expected[b.name]
            if not b.written or b.dtype in ("i32", "bool", "u8"):
                np.testing.assert_array_equal(a, e, f"{name} {b.name}")
            else:
                if b.dtype == "bf16":
                    a, e = ((x.astype(np.uint32) << 16).view(np.float32) for x in (a, e))
                tolerance = example.tolerance
                np.testing.assert_allclose(a, e, tolerance, tolerance, True, f"{name} {b.name}")
