"""The GPU texts of whole graphs, one for each kernel, and many kernels in one text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tensorlogic as tl
from tensorlogic.codegen import clike, forms
from tensorlogic.codegen.dialects import assemble
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.devices.cpu_kernels import kernel_name
from tensorlogic.explain import distinct_steps
from tensorlogic.graph import inline_calls
from tensorlogic.kernels.ir import Kernel
from tensorlogic.schedule.emit import Step


def steps_of(*tensors: tl.Tensor) -> dict[str, Step]:
    """The distinct kernels that computing the tensors takes on a GPU, by text."""
    roots = inline_calls([t._node for t in tensors if t._node.op is not None])
    return distinct_steps(roots, "metal") if any(r.op is not None for r in roots) else {}


def sources(tensor: tl.Tensor, dialect: str) -> list[str]:
    """What `explain("source")` joins: one compilable text for each kernel."""
    texts = []
    for text, step in steps_of(tensor).items():
        texts.append(gpu_launch(step.kernel, kernel_name(text), dialect, step.sizes()).source)
    return texts


def together(kernels: Iterable[tuple[str, Kernel]], dialect: str, width: int) -> Iterator[str]:
    """Texts that hold many kernels each, so that a compiler is started few times."""
    bodies = [clike.body(k, kernel_name(t), forms.plain(k, width), {}) for t, k in kernels]
    for i in range(0, len(bodies), 24):
        yield assemble(dialect, "\n".join(bodies[i : i + 24]))
