"""What each stage makes of a graph, as text, for any device on any machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensorlogic import settings
from tensorlogic.devices.base import REGISTRY
from tensorlogic.devices.cpu_kernels import kernel_name
from tensorlogic.devices.interleaving import interleaved
from tensorlogic.graph import Node, inline_calls, shape_text, topological
from tensorlogic.schedule.emit import Step, step_text
from tensorlogic.schedule.fuse import Schedule, schedule
from tensorlogic.schedule.traits import CPU, CUDA, GPU

STAGES = ("graph", "schedule", "kernels", "source")


def explain(roots: Sequence[Node], stage: str, device: str | None = None) -> str:
    """The text of one stage; `device` matters for "source": cpu, metal or cuda.

    Raises ValueError for another stage, DeviceError for an unknown device.
    """
    if stage not in STAGES:
        raise ValueError(f"a stage is one of {', '.join(STAGES)}, not {stage!r}")
    name = device or roots[0].device or "cpu"
    if name != "gpu":
        REGISTRY.get(name)
    # What a ready call has computed is shown as its function computes it.
    roots = inline_calls([r.made or r for r in roots])
    if stage == "graph":
        return graph_text(roots)
    if all(r.op is None for r in roots):
        return "nothing to compute: the values are there\n"
    if stage == "schedule":
        return _schedule(roots, name).text()
    steps = distinct_steps(roots, name)
    if stage == "kernels":
        return "\n".join(steps)
    render = _RENDERERS.get(name)
    if render is None:
        return f"{name} runs op by op and has no source\n"
    return "\n".join(render(s, kernel_name(t)) for t, s in steps.items())


def _schedule(roots: Sequence[Node], device: str) -> Schedule:
    traits = {"metal": GPU, "cuda": CUDA}.get(device, CPU)
    return schedule([r for r in roots if r.op is not None], settings.current(), traits)


def distinct_steps(roots: Sequence[Node], device: str = "cpu") -> dict[str, Step]:
    """One step for each kernel that computing the roots (a graph without calls) takes, by text."""
    steps: dict[str, Step] = {}
    made: Sequence[Step] = _schedule(roots, device).steps
    if device == "cpu":
        made = interleaved(made)
    for step in made:
        steps.setdefault(step_text(step), step)
    return steps


def graph_text(roots: Sequence[Node]) -> str:
    """One line a node: %name = op(inputs) dtype[shape], leaves with where their values are."""
    order = topological(roots)
    names = {id(n): f"%{i}" for i, n in enumerate(order)}
    lines = []
    for n in order:
        if n.number is not None:
            what = f"number {n.number}"
        elif n.op is None:
            storage = n.data.storage if n.data is not None else "placeholder"
            what = f"leaf {storage}" + (f" `{n.name}`" if n.name else "")
        else:
            attrs = "".join(f", {a!r}" for a in n.attrs if a is not n.dtype)
            what = f"{n.op}({', '.join(names[id(a)] for a in n.args)}{attrs})"
        lines.append(f"{names[id(n)]} = {what}  {n.dtype}{shape_text(n.shape)}")
    return "\n".join(lines) + "\n"


def _llvm(step: Step, name: str) -> str:
    from tensorlogic.devices.products import source

    return source(step.kernel, name)


def _gpu(dialect: str) -> Callable[[Step, str], str]:
    def render(step: Step, name: str) -> str:
        from tensorlogic.codegen.gpu import gpu_launch

        return gpu_launch(step.kernel, name, dialect, step.sizes()).source

    return render


_RENDERERS: dict[str, Callable[[Step, str], str]] = {
    "cpu": _llvm,
    "gpu": _llvm,
    "metal": _gpu("metal"),
    "cuda": _gpu("cuda"),
}
