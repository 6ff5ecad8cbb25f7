"""What a matrix product kernel is, before it is built for the CPU or printed for a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from tensorlogic.kernels.ir import (
    MEMORY_TYPES,
    Buffer,
    Expr,
    Kernel,
    Store,
    index,
    kernel_text,
    param,
    var,
)

ACC = var("acc", "f32")
"""The finished sum of one element of the product, in the expressions of an epilogue."""
BATCH, ROW, COL = index("batch"), index("row"), index("col")
"""Where that element stands; expressions find them by name."""

M, N, K, BATCHES = param("M"), param("N"), param("K"), param("batches")
STRIDES = tuple(param(n) for n in ("a_batch", "a_m", "a_k", "b_batch", "b_k", "b_n"))
MATMUL_PARAMS = (M, N, K, BATCHES, *STRIDES)
"""The first parameters of each matmul kernel, all i64; strides count elements."""


@dataclass(frozen=True, eq=False)
class Matmul:
    """acc[batch, row, col] = sum over k of a[batch, row, k] * b[batch, k, col], in float32.

    `a_dtype` and `b_dtype` are f16, bf16 or f32. `b_dtype` may also be a quantized type ("q4_0"):
    then b has u8 elements, from an even address on, K is a multiple of the block, `b_contiguous` is
    "k", `b_n` are the bytes from one column's row of blocks to the next, `b_batch` counts bytes and
    `b_k` is not used; a is f16. `a_contiguous` ("k", "m" or None) and
    `b_contiguous` ("k", "n" or None) say which stride is known to be 1. For each element of the
    product (0 <= row < M, 0 <= col < N, 0 <= batch < batches) the `stores` run, with acc, batch,
    row and col in scope. `buffers` are those that the stores load from or write, `params` those
    that they name beyond MATMUL_PARAMS.

    A kernel's arguments are the buffers a, b, *buffers and the parameters MATMUL_PARAMS, *params.
    """

    a_dtype: str
    b_dtype: str
    a_contiguous: str | None
    b_contiguous: str | None
    stores: tuple[Store, ...]
    buffers: tuple[Buffer, ...]
    params: tuple[Expr, ...] = ()

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        b_dtype = self.b_dtype if self.b_dtype in MEMORY_TYPES else "u8"
        return (Buffer("a", self.a_dtype), Buffer("b", b_dtype), *self.buffers)

    @property
    def all_params(self) -> tuple[Expr, ...]:
        return (*MATMUL_PARAMS, *self.params)


def matmul_text(spec: Matmul) -> str:
    """The product as text; equal text means the same kernel."""
    a, b = spec.a_contiguous or "strided", spec.b_contiguous or "strided"
    if spec.b_dtype not in MEMORY_TYPES:
        b = f"{b} in {spec.b_dtype} blocks"
    head = f"product of a along {a} and b along {b}: acc for each batch, row, col\n"
    return head + kernel_text(Kernel(spec.all_buffers, spec.all_params, spec.stores))
