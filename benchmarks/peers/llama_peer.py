"""llama.cpp through llama-cpp-python; its products alone through the ggml library in it."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any, ClassVar

import llama_cpp
import numpy as np

from benchmarks.files import tensors_of
from benchmarks.kinds import KINDS
from benchmarks.peers.base import Array, Measured, Peer, Prepared, Sizes


class Llama(Peer):
    name = "llama.cpp"

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self.special = {
            "decode": self._decode,
            "prefill": self._prefill,
            "quantized": lambda s: _Products(s, threads).prepared(),
        }

    @property
    def version(self) -> str:
        return str(llama_cpp.__version__)

    def _model(self, s: Sizes) -> Any:
        return llama_cpp.Llama(
            s["file"], n_ctx=512, n_batch=512, n_ubatch=512, n_threads=self.threads,
            n_threads_batch=self.threads, verbose=False,
        )  # fmt: skip

    @staticmethod
    def _logits(model: Any) -> Array:
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(pointer, (model.n_vocab(),)).copy()

    def _decode(self, s: Sizes) -> Measured:
        from benchmarks.decoder import tokens_of

        model, tokens = self._model(s), tokens_of(s["tokens"])

        def run() -> float:
            model.reset()
            model.eval([1])
            start = time.perf_counter()
            for t in tokens:
                model.eval([t])
            return (time.perf_counter() - start) / len(tokens)

        return Measured(run, lambda: self._logits(model))

    def _prefill(self, s: Sizes) -> Measured:
        from benchmarks.decoder import tokens_of

        model, tokens = self._model(s), tokens_of(s["tokens"])

        def run() -> float:
            model.reset()
            start = time.perf_counter()
            model.eval(tokens)
            return time.perf_counter() - start

        return Measured(run, lambda: self._logits(model))


class _Products:
    """Products of quantized weights as a graph of ggml (ggml.h, ggml-cpu.h)."""

    TYPES: ClassVar = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14}

    class Init(ctypes.Structure):
        _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("bare", ctypes.c_bool))

    class Plan(ctypes.Structure):
        _fields_ = (
            ("work_size", ctypes.c_size_t), ("work", ctypes.c_void_p), ("threads", ctypes.c_int),
            ("pool", ctypes.c_void_p), ("abort", ctypes.c_void_p), ("data", ctypes.c_void_p),
            ("reference", ctypes.c_bool),
        )  # fmt: skip

    class PoolParams(ctypes.Structure):
        _fields_ = (
            ("cpus", ctypes.c_bool * 512), ("threads", ctypes.c_int), ("priority", ctypes.c_int),
            ("poll", ctypes.c_uint32), ("strict", ctypes.c_bool), ("paused", ctypes.c_bool),
        )  # fmt: skip

    def __init__(self, s: Sizes, threads: int) -> None:
        folder = Path(llama_cpp.__file__).parent / "lib"
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"))
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
        self._declare()
        self.cpu.ggml_cpu_init()
        matrices = tensors_of(s["file"])
        size = sum(t.data.nbytes for t in matrices.values()) + (256 << 20)
        context = self.base.ggml_init(self.Init(size, None, False))
        (x,) = KINDS["quantized"].inputs(s)
        k, n, rows = s["k"], s["n"], s["rows"]
        inputs = self.base.ggml_new_tensor_2d(context, 0, k, rows)
        self._fill(inputs, x.astype(np.float32))
        self.graph = self.base.ggml_new_graph(context)
        self.results = []
        for i in range(s["count"]):
            weight = self.base.ggml_new_tensor_2d(context, self.TYPES[s["type"]], k, n)
            self._fill(weight, matrices[f"w{i}"].data)
            product = self.base.ggml_mul_mat(context, weight, inputs)
            self.base.ggml_build_forward_expand(self.graph, product)
            self.results.append(product)
        params = self.base.ggml_threadpool_params_default(threads)
        self.pool = self.cpu.ggml_threadpool_new(ctypes.byref(params))
        self.plan = self.cpu.ggml_graph_plan(self.graph, threads, self.pool)
        self.work = ctypes.create_string_buffer(self.plan.work_size + 64)
        self.plan.work = ctypes.addressof(self.work)
        self.shape = (rows, n)

    def _declare(self) -> None:
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        for library, name, result, arguments in (
            (self.base, "ggml_init", pointer, [self.Init]),
            (self.base, "ggml_new_tensor_2d", pointer, [pointer, number, size, size]),
            (self.base, "ggml_mul_mat", pointer, [pointer] * 3),
            (self.base, "ggml_new_graph", pointer, [pointer]),
            (self.base, "ggml_build_forward_expand", None, [pointer] * 2),
            (self.base, "ggml_get_data", pointer, [pointer]),
            (self.base, "ggml_threadpool_params_default", self.PoolParams, [number]),
            (self.cpu, "ggml_threadpool_new", pointer, [pointer]),
            (self.cpu, "ggml_graph_plan", self.Plan, [pointer, number, pointer]),
            (self.cpu, "ggml_graph_compute", number, [pointer, pointer]),
            (self.cpu, "ggml_cpu_init", None, []),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments

    def _fill(self, tensor: int, data: Array) -> None:
        data = np.ascontiguousarray(data)
        ctypes.memmove(self.base.ggml_get_data(tensor), data.ctypes.data, data.nbytes)

    def prepared(self) -> Prepared:
        plan = ctypes.byref(self.plan)

        def call() -> None:
            if self.cpu.ggml_graph_compute(self.graph, plan):
                raise RuntimeError("ggml could not compute the graph")

        return Prepared(call, lambda _: np.stack([self._values(r) for r in self.results]))

    def _values(self, tensor: int) -> Array:
        data = self.base.ggml_get_data(tensor)
        count = int(np.prod(self.shape))
        span = (ctypes.c_float * count).from_address(data)
        return np.frombuffer(span, np.float32).reshape(self.shape).copy()
