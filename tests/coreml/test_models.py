"""PyTorch modules, converted by coremltools to float16 programs, against PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.coreml import modules
from tests.coreml.programs import Array, converted, ct, package, program, quiet, runner


def _kmeans_free(weights: Any) -> Any:
    """Compression of all weights, however small they are."""
    with quiet():
        from coremltools.optimize import coreml as optimize

    def compress(model: Any) -> Any:
        kind, change, options = weights
        config = optimize.OptimizationConfig(
            global_config=getattr(optimize, kind)(weight_threshold=8, **options)
        )
        return getattr(optimize, change)(model, config)

    return compress


PALETTE = ("OpPalettizerConfig", "palettize_weights", {"mode": "uniform", "nbits": 6})
INT8 = ("OpLinearQuantizerConfig", "linear_quantize_weights", {"mode": "linear_symmetric"})
UINT8 = ("OpLinearQuantizerConfig", "linear_quantize_weights", {"mode": "linear"})
SPARSE = (
    "OpThresholdPrunerConfig",
    "prune_weights",
    {"threshold": 0.1, "minimum_sparsity_percentile": 0.1},
)
BLOCKS = (
    "OpLinearQuantizerConfig",
    "linear_quantize_weights",
    {"mode": "linear_symmetric", "dtype": "int8", "granularity": "per_block", "block_size": 8},
)
GROUPS = (
    "OpPalettizerConfig",
    "palettize_weights",
    {"mode": "uniform", "nbits": 8, "granularity": "per_grouped_channel", "group_size": 8},
)


def _pruned() -> nn.Module:
    """A module without the weights that pruning takes away."""
    module = modules.Perceptron()
    for p in module.parameters():
        p.data[p.data.abs() < 0.11] = 0
    return module


@dataclass(frozen=True)
class Model:
    """`loose`: by how much compression may change results, relative to the largest."""

    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    opset: int = 16
    whole: bool = False
    compress: Any = None
    loose: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "perceptron": Model(modules.Perceptron, (3, 16)),
    "convolutions, batch norm, pools": Model(modules.Convolutional, (2, 3, 16, 20)),
    "depthwise convolutions": Model(modules.Separable, (1, 6, 9, 9)),
    "transposed convolutions": Model(modules.Decoder, (1, 4, 5, 6)),
    "signal": Model(modules.Audio, (2, 200)),
    "lstm": Model(lambda: modules.Recurrent(nn.LSTM), (2, 7, 6)),
    "lstm, two ways, two layers": Model(
        lambda: modules.Recurrent(nn.LSTM, bidirectional=True, num_layers=2), (1, 5, 6), 17
    ),
    "gru": Model(lambda: modules.Recurrent(nn.GRU), (1, 6, 6)),
    "rnn": Model(lambda: modules.Recurrent(nn.RNN), (2, 6, 6)),
    "encoder": Model(modules.Encoder, (2, 9), whole=True),
    "encoder, ios18": Model(modules.Encoder, (2, 9), 18, whole=True),
    "palettized": Model(modules.Perceptron, (3, 16), compress=PALETTE, loose=0.05),
    "int8": Model(modules.Perceptron, (3, 16), compress=INT8, loose=0.02),
    "uint8": Model(modules.Convolutional, (2, 3, 16, 20), compress=UINT8, loose=0.02),
    "sparse": Model(_pruned, (3, 16), compress=SPARSE),
    "int8 in blocks": Model(modules.Perceptron, (3, 16), 18, compress=BLOCKS, loose=0.02),
    "palettes of groups": Model(modules.Perceptron, (3, 16), 18, compress=GROUPS, loose=0.05),
}


def sample(shape: tuple[int, ...], whole: bool) -> Array:
    rng = np.random.default_rng(5)
    if whole:
        return rng.integers(0, 50, shape).astype(np.int32)
    return rng.standard_normal(shape).astype(np.float32)


def close(found: Array, wanted: Array, loose: float = 0.0) -> None:
    """Within float16 tolerance: some roundings of the largest value, and what was allowed."""
    assert found.shape == wanted.shape
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=(8 * 2**-10 + loose) * max(scale, 0.1))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    torch.manual_seed(3)
    module = model.module().eval()
    x = sample(model.shape, model.whole)
    kind = ct.TensorType("x", model.shape, dtype=np.int32 if model.whole else np.float32)
    compress = _kmeans_free(model.compress) if model.compress else None
    opened = converted(module, tmp_path, model.opset, compress, inputs=[kind])
    assert opened.program is not None
    used = {o.op for o in opened.program.functions["main"].block.operations}
    assert bool(model.compress) == any(op.startswith("constexpr_") for op in used)
    (found,) = runner(opened).predict({"x": x}).values()
    for device in ("metal", "cuda"):
        assert found.explain("source", device=device)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    close(found.numpy().astype(np.float32), wanted, model.loose)


def test_sizes_of_images_bind_at_the_call(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = modules.Everywhere().eval()
    side = ct.RangeDim(4, 64, default=8)
    shape = ct.Shape((1, 3, side, side))
    opened = converted(module, tmp_path, inputs=[ct.TensorType("x", shape)])
    model = runner(opened)
    for size in ((8, 8), (12, 6), (8, 8)):
        x = sample((1, 3, *size), False)
        (found,) = model.predict({"x": x}).values()
        with torch.no_grad():
            close(found.numpy(), module(torch.from_numpy(x)).numpy())
    assert len(model._graphs) == 2


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_pixels_have_the_models_scale_and_bias(colour: str, tmp_path: Path) -> None:
    kind = ct.ImageType(
        "x", (1, 3, 6, 7), scale=1 / 127.5, bias=[-1.0, -0.9, -0.8],
        color_layout=getattr(ct.colorlayout, colour),
    )  # fmt: skip
    opened = converted(modules.Pictures(), tmp_path, inputs=[kind])
    image = np.random.default_rng(2).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    planes = (image[:, :, ::-1] if colour == "BGR" else image).transpose(2, 0, 1)[None]
    scaled = planes.astype(np.float32) / 127.5 + np.float32([-1.0, -0.9, -0.8]).reshape(3, 1, 1)
    (found,) = runner(opened).predict({"x": image}).values()
    close(found.numpy().astype(np.float32), modules.Pictures()(torch.from_numpy(scaled)).numpy())


def test_a_wrong_result_is_not_close() -> None:
    right = sample((3, 4), False)
    close(right + 1e-3, right)
    for wrong in (right * 1.1, right[:2], right * np.nan):
        with pytest.raises(AssertionError):
            close(wrong, right)


def test_a_program_of_ten_layers_of_one_kind_compiles_no_more_than_of_two(tmp_path: Path) -> None:
    """Layers that are alike are alike for the compiler, too."""
    from tensorlogic.devices.base import REGISTRY
    from tests.coreml.programs import mb

    cpu = REGISTRY.get("cpu")

    def build(count: int) -> Callable[..., Any]:
        def layers(x: Any) -> Any:
            for i in range(count):
                weight = np.full((13, 13), i / 100, np.float32)
                x = mb.softsign(x=mb.linear(x=x, weight=weight, bias=np.ones(13, np.float32)))
            return x

        return layers

    x, compiled = sample((5, 13), False), []
    for count in (2, 10):
        folder = tmp_path / str(count)
        folder.mkdir()
        model = runner(package(program(build(count), {"x": x}, 16), 16, folder))
        before = cpu.compiled
        (found,) = model.predict({"x": x}).values()
        found.numpy()
        compiled.append(cpu.compiled - before)
    assert compiled[1] == 0
