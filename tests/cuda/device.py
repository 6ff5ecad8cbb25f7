"""A device that runs schedules on an NVIDIA GPU through CuPy, to try the printed kernels there.

    PYTHONPATH=src python -m pytest -p tests.cuda.device tests/conformance -k cuda

Every conformance test then runs with its kernels compiled by NVRTC and launched on the card. It
copies leaves there and results back at each run: it shows that the kernels are right, not how fast
they can be. Needs CuPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import nvrtc

from tensorlogic import settings
from tensorlogic.codegen import clike
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.devices.base import REGISTRY
from tensorlogic.devices.errors import value_error
from tensorlogic.devices.reference import array_data
from tensorlogic.graph import Node
from tensorlogic.schedule.emit import Number, Step
from tensorlogic.schedule.fuse import schedule
from tensorlogic.schedule.lower import CheckRecord
from tensorlogic.schedule.traits import GPU

BYTES = {"f16": 2, "bf16": 2, "f32": 4, "i32": 4, "bool": 1, "u8": 1}
GPU_TYPES = {"f16": np.float16, "f32": np.float32, "i32": np.int32, "bool": np.bool_}


@cache
def compiled(text: str, name: str) -> Any:
    """A kernel, compiled with subnormals: CuPy's own way to compile flushes them to zero."""
    capability = cupy.cuda.Device().compute_capability
    arch = f"--gpu-architecture=sm_{capability}{'a' if capability == '90' else ''}"
    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    nvrtc.compileProgram(program, ("--std=c++17", arch, "--ftz=false"))
    module = cupy.cuda.function.Module()
    module.load(nvrtc.getCUBIN(program))
    return module.get_function(name)


class Gpu:
    name = "cuda"
    description = "NVIDIA GPU through CuPy, for tests"

    def unavailable(self) -> None:
        return None

    def run_call(self, results: Sequence[Node]) -> bool:
        return False

    def run(self, roots: Sequence[Node]) -> None:
        plan = schedule(roots, settings.current(), GPU)
        memory: dict[int, Any] = {}
        checks: list[CheckRecord] = []
        for step in plan.steps:
            checks += [v for v in step.params if isinstance(v, CheckRecord)]
        status = cupy.zeros(max(len(checks), 1), np.int32)

        def place(node: Node) -> Any:
            """The bytes of a node on the card."""
            if id(node) not in memory:
                if node.data is not None:
                    memory[id(node)] = cupy.asarray(node.data.memory.base)
                else:
                    size = node.size * BYTES[plan.memory_types.get(id(node), node.dtype.ir)]
                    memory[id(node)] = cupy.zeros(max(size, 1), np.uint8)
            return memory[id(node)]

        def value(number: Number) -> Any:
            if isinstance(number, CheckRecord):
                return next(i for i, c in enumerate(checks) if c is number)
            return number.number if isinstance(number, Node) else number

        for step in plan.steps:
            if step.in_place is not None:
                memory[id(step.writes[0])] = place(step.in_place)
            self._launch(step, place, value, status)
        counts = status.get()
        for check, count in zip(checks, counts.tolist(), strict=False):
            if count:
                raise value_error(check.node)
        for root in roots:
            kind = GPU_TYPES[plan.memory_types[id(root)]]
            values = place(root).get()[: root.size * np.dtype(kind).itemsize].view(kind)
            root.realise(array_data(values.reshape(root.shape), root.dtype))

    @staticmethod
    def _launch(step: Step, place: Any, value: Any, status: Any) -> None:
        params = {p.attr: value(v) for p, v in zip(step.all_params, step.params, strict=True)}
        offsets, arrays = [], []
        for buffer, use in zip(step.all_buffers, step.buffers, strict=True):
            node, start = (None, 0) if use is None else use
            arrays.append(status if node is None else place(node))
            offsets.append(start // BYTES[buffer.dtype])
        launch = gpu_launch(step.kernel, "kernel", "cuda", step.sizes())
        words = clike.pack_params(step.all_params, params, offsets)
        word = np.dtype({"names": ["word"], "formats": [(np.int64, (len(words) // 8,))]})
        if launch.groups:
            by_value = np.frombuffer(words, dtype=word)
            function = compiled(launch.source, "kernel")
            function((launch.groups,), (launch.threads,), (*arrays, by_value))


# The fixtures ask which devices there are when they are imported, right after the plugins.
REGISTRY.register("cuda", Gpu)
