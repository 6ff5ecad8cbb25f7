"""One launch on a GPU: which text of a kernel suits its sizes, and how many threads run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorlogic.codegen import clike, dot_text, forms, gpu_attention, gpu_matmul
from tensorlogic.codegen.rewrite import roughened
from tensorlogic.kernels.ir import Kernel
from tensorlogic.kernels.spec import Attention, Matmul


@dataclass(frozen=True)
class GpuLaunch:
    """`source` is a whole text whose kernel `name` runs in `groups` groups of `threads` threads.

    It takes the kernel's buffers in order and the words that `clike.pack_params` makes.
    """

    source: str
    name: str
    groups: int
    threads: int


def gpu_launch(
    kernel: Kernel | Matmul | Attention, name: str, dialect: str, sizes: Mapping[str, float]
) -> GpuLaunch:
    """The launch of a kernel for `sizes`: the parameters that are known before the run, by name.

    Launches of few different texts serve all sizes: a text depends on classes of sizes at most.
    """
    if isinstance(kernel, Matmul):
        tile = gpu_matmul.choose_tile(kernel, dialect, sizes)
        index = "i32" if forms.product_fits(kernel, sizes) else "i64"
        source = gpu_matmul.render(kernel, name, dialect, tile, index=index)
        return GpuLaunch(source, name, gpu_matmul.groups(tile, sizes), tile.threads)
    if isinstance(kernel, Attention):
        source = gpu_attention.render(kernel, name, dialect)
        return GpuLaunch(source, name, gpu_attention.groups(kernel, sizes), gpu_attention.GROUP)
    if dialect == "cuda" and dot_text.suits(kernel, sizes):
        index = "i32" if forms.fits(kernel, sizes) else "i64"
        source = dot_text.render(roughened(kernel), name, index)
        return GpuLaunch(source, name, dot_text.groups(kernel, sizes), dot_text.THREADS)
    printed, form = forms.chosen(kernel, sizes)
    source = clike.render(roughened(printed), name, dialect, form=form)
    groups, threads = forms.groups(printed, sizes, form), forms.group_size(printed, form)
    return GpuLaunch(source, name, groups, threads)
