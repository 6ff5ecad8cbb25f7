"""What coremltools wrote, read by us: consts, compressed weights, layers of neural networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.testing.models import fetch
from tests.coreml.programs import OPSETS, ct, mb, types

MODELS = ct.models.MLModel
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def their_consts(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The values of consts as coremltools has them."""
    program = model._mil_program
    found = {}
    for op in program.functions["main"].operations:
        if op.op_type == "const" and isinstance(op.outputs[0].val, np.ndarray):
            found[op.outputs[0].name] = op.outputs[0].val
        elif op.op_type.startswith("constexpr_") and len(op.outputs) == 1:
            found[op.outputs[0].name] = op.materialized_val_inference()
    return found


def reopened(path: Path) -> Any:
    return ct.models.MLModel(str(path), skip_model_load=True)


@pytest.mark.parametrize("name", ["basic-pitch", "crepe"])
def test_real_models_have_the_weights_that_coremltools_sees(name: str) -> None:
    path = fetch(name)
    model = tl.load_model(path)
    theirs = ct.optimize.coreml.get_weights_metadata(reopened(path), weight_threshold=16)
    assert set(theirs) <= set(model.names())
    for key, meta in theirs.items():
        entry = model._entries[key]
        mine = entry.view().view(meta.val.dtype).reshape(entry.shape)
        np.testing.assert_array_equal(mine, meta.val)
    assert len(theirs) > 20


def linear(opset: int) -> Any:
    """x [1, 64] @ w.T with w [32, 64] of float16, so that there is something to compress."""
    w = RNG.standard_normal((32, 64)).astype(np.float16)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 64), dtype=types.fp16)], opset_version=OPSETS[opset]
    )
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.const(val=w, name="w"), name="y")

    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=OPSETS[opset],
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


def _optimized(opset: int, kind: str, **options: Any) -> Any:
    tools = ct.optimize.coreml
    classes = {
        "palettize": (tools.OpPalettizerConfig, tools.palettize_weights),
        "quantize": (tools.OpLinearQuantizerConfig, tools.linear_quantize_weights),
        "prune": (tools.OpMagnitudePrunerConfig, tools.prune_weights),
    }
    config, apply = classes[kind]
    given = tools.OptimizationConfig(global_config=config(weight_threshold=0, **options))
    return apply(linear(opset), config=given)


def _joint(first: Callable[[], Any], kind: str, **options: Any) -> Any:
    tools = ct.optimize.coreml
    config, apply = {
        "palettize": (tools.OpPalettizerConfig, tools.palettize_weights),
        "quantize": (tools.OpLinearQuantizerConfig, tools.linear_quantize_weights),
    }[kind]
    given = tools.OptimizationConfig(global_config=config(weight_threshold=0, **options))
    return apply(first(), config=given, joint_compression=True)


COMPRESSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    **{
        f"palettes of {bits} bits, iOS {opset}": (
            lambda bits=bits, opset=opset: _optimized(
                opset, "palettize", mode="uniform", nbits=bits
            ),
            f"lut{bits}",
            "constexpr_lut_to_dense",
        )
        for bits, opset in ((1, 16), (2, 16), (4, 16), (6, 16), (8, 16), (3, 18), (4, 18))
    },
    "palettes of groups of channels": (
        lambda: _optimized(
            18,
            "palettize",
            mode="uniform",
            nbits=4,
            granularity="per_grouped_channel",
            group_size=8,
            channel_axis=0,
        ),
        "lut4",
        "constexpr_lut_to_dense",
    ),
    "int8": (
        lambda: _optimized(16, "quantize", mode="linear_symmetric"),
        "int8",
        "constexpr_affine_dequantize",
    ),
    "uint8 with zero points": (
        lambda: _optimized(16, "quantize", mode="linear", dtype="uint8"),
        "uint8",
        "constexpr_affine_dequantize",
    ),
    "int4 in blocks": (
        lambda: _optimized(
            18,
            "quantize",
            mode="linear_symmetric",
            dtype="int4",
            granularity="per_block",
            block_size=16,
        ),
        "int4",
        "constexpr_blockwise_shift_scale",
    ),
    "uint4 in blocks with offsets": (
        lambda: _optimized(
            18, "quantize", mode="linear", dtype="uint4", granularity="per_block", block_size=32
        ),
        "uint4",
        "constexpr_blockwise_shift_scale",
    ),
    **{
        f"sparse, iOS {opset}": (
            lambda opset=opset: _optimized(opset, "prune", target_sparsity=0.75),
            "sparse",
            "constexpr_sparse_to_dense",
        )
        for opset in (16, 18)
    },
    "sparse palettes": (
        lambda: _joint(
            lambda: _optimized(18, "prune", target_sparsity=0.5),
            "palettize",
            mode="uniform",
            nbits=4,
        ),
        "sparse+lut4",
        "constexpr_lut_to_sparse",
    ),
    "sparse int8": (
        lambda: _joint(
            lambda: _optimized(18, "prune", target_sparsity=0.5),
            "quantize",
            mode="linear_symmetric",
        ),
        "sparse+int8",
        "constexpr_sparse_blockwise_shift_scale",
    ),
}


@pytest.mark.parametrize("case", COMPRESSED)
def test_compressed_weights_are_what_coremltools_decompresses(case: str, tmp_path: Path) -> None:
    make, quantization, op = COMPRESSED[case]
    model = make()
    path = tmp_path / "x.mlpackage"
    model.save(str(path))
    expected = their_consts(model)
    opened = tl.load_model(path)
    assert opened.metadata.quantization == quantization
    program = opened._predictor.package.program if opened._predictor else None
    assert program is not None
    assert op in [o.op for o in program.functions["main"].block.operations]
    (name,) = (n for n in opened.names() if opened[n].shape == (32, 64))
    entry = opened._entries[name]
    assert entry.nbytes < 2 * 32 * 64
    (theirs,) = (v for v in expected.values() if v.shape == (32, 64) and v.dtype == np.float16)
    mine = entry.view().view(np.float16).reshape(32, 64)
    np.testing.assert_array_max_ulp(mine, theirs, 1)


def _network(add: Callable[[Any], None], inputs: tuple[int, ...] = (4,)) -> Any:
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(*inputs))],
        [("y", None)],
        disable_rank5_shape_mapping=True,
    )
    add(builder)
    return builder.spec


def _array(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def _convolution(transposed: bool, **more: Any) -> Callable[[Any], dict[str, Any]]:
    w, b = _array(3, 2, 5, 6), _array(6)

    def add(builder: Any) -> dict[str, Any]:
        builder.add_convolution(
            "a", 5, 6, 3, 2, 1, 1, "valid", 1, w, b, True, transposed, None, "x", "y", **more
        )
        axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
        return {"a.weights": w.transpose(axes), "a.bias": b}

    return add


def _inner(builder: Any) -> dict[str, Any]:
    w, b = _array(3, 4), _array(3)
    builder.add_inner_product("a", w, b, 4, 3, True, "x", "y")
    return {"a.weights": w, "a.bias": b}


def _norms(builder: Any) -> dict[str, Any]:
    four = [_array(4) for _ in range(4)]
    builder.add_batchnorm("a", 4, *four, input_name="x", output_name="h")
    builder.add_layer_normalization("l", "h", "y", [4], *four[:2])
    names = ("a.gamma", "a.beta", "a.mean", "a.variance", "l.gamma", "l.beta")
    return dict(zip(names, [*four, *four[:2]], strict=True))


def _lstms(builder: Any) -> dict[str, Any]:
    gates = ("inputGate", "forgetGate", "outputGate", "blockInput")
    sizes = (((3, 4), 4), ((3, 3), 4), ((3,), 4), ((3,), 3))
    w, r, b, p = ([_array(*s) for _ in range(n)] for s, n in sizes)
    builder.add_bidirlstm(
        "a", r, w, b, r[::-1], w[::-1], b[::-1], 3, 4,
        ["x", "h1", "c1", "h2", "c2"], ["y", "h1o", "c1o", "h2o", "c2o"], peep=p, peep_back=p,
    )  # fmt: skip
    found = {}
    for prefix, each in (("a", (w, r, b)), ("a.backward", (w[::-1], r[::-1], b[::-1]))):
        kinds = ("WeightMatrix", "RecursionMatrix", "BiasVector")
        for kind, arrays in zip(kinds, each, strict=True):
            found |= {f"{prefix}.{g}{kind}": v for g, v in zip(gates, arrays, strict=True)}
        found |= {f"{prefix}.{g}PeepholeVector": v for g, v in zip(gates[:3], p, strict=True)}
    return found


def _recurrent(builder: Any) -> dict[str, Any]:
    w, r, b = ([_array(*s) for _ in range(3)] for s in ((3, 4), (3, 3), (3,)))
    builder.add_gru("g", r, w, b, 3, 4, ["x", "h"], ["t", "ho"])
    builder.add_simple_rnn("s", r[0], w[0], b[0], 3, 4, "TANH", ["x", "h"], ["y", "ho2"])
    found = {"s.weightMatrix": w[0], "s.recursionMatrix": r[0], "s.biasVector": b[0]}
    for k, gate in enumerate(("updateGate", "resetGate", "outputGate")):
        found |= {f"g.{gate}WeightMatrix": w[k], f"g.{gate}RecursionMatrix": r[k]}
        found[f"g.{gate}BiasVector"] = b[k]
    return found


def _others(builder: Any) -> dict[str, Any]:
    table, wide, m = _array(3, 4), _array(5, 4), _array(4, 2)
    builder.add_embedding("e", table.T.copy(), None, 3, 4, False, "x", "e")
    builder.add_embedding_nd("n", "x", "n", 5, 4, wide.T.copy())
    builder.add_scale("s", wide[0], wide[1], True, "x", "s", [4], [4])
    builder.add_bias("b", wide[2], "x", "b", [4])
    builder.add_load_constant_nd("c", "c", table, (3, 4))
    builder.add_batched_mat_mul(
        "m", ["x"], "m", weight_matrix_rows=4, weight_matrix_columns=2, W=m, bias=wide[0][:2]
    )
    builder.add_activation("p", "PRELU", "x", "y", params=wide[3])
    return {
        "e.weights": table.T,
        "n.weights": wide.T,
        "s.scale": wide[0],
        "s.bias": wide[1],
        "b.bias": wide[2],
        "c.data": table,
        "m.weights": m.T,
        "m.bias": wide[0][:2],
        "p.alpha": wide[3],
    }


LAYERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "convolution": _convolution(False),
    "transposed convolution": _convolution(True),
    "inner product": _inner,
    "norms": _norms,
    "lstms of two directions": _lstms,
    "recurrent": _recurrent,
    "others": _others,
}


def _saved(spec: Any, path: Path) -> tl.Model:
    ct.models.utils.save_spec(spec, str(path))
    return tl.load_model(path)


@pytest.mark.parametrize("case", LAYERS)
def test_layers_have_the_weights_they_were_given(case: str, tmp_path: Path) -> None:
    expected: dict[str, Any] = {}
    spec = _network(lambda builder: expected.update(LAYERS[case](builder)))
    model = _saved(spec, tmp_path / "x.mlmodel")
    assert model.metadata["type"] == "neuralNetwork"
    assert set(model.names()) == set(expected)
    for name, value in expected.items():
        entry = model._entries[name]
        mine = entry.view().view(np.float32).reshape(entry.shape)
        np.testing.assert_array_equal(mine, value, err_msg=name)


QUANTIZED = {
    "uint8": ("_linear_quantization", 8),
    "uint4": ("_linear_quantization", 4),
    "uint3": ("_linear_quantization", 3),
    "lut5": ("_lookup_table_quantization_linear", 5),
    None: ("_linear_quantization", 16),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("coding", QUANTIZED)
def test_layers_with_quantized_weights(
    coding: str | None, transposed: bool, tmp_path: Path
) -> None:
    from coremltools.models.neural_network import quantization_utils as utils

    mode, bits = QUANTIZED[coding]
    expected: dict[str, Any] = {}
    spec = _network(lambda builder: expected.update(_convolution(transposed)(builder)))
    utils._quantize_spec_weights(spec, bits, mode)
    model = _saved(spec, tmp_path / "x.mlmodel")
    assert model.metadata.quantization == coding
    entry = model._entries["a.weights"]
    mine = entry.view().view(entry.storage).reshape(entry.shape).astype(np.float32)
    # A step is the range of a channel (some 6) over how many values there are.
    assert np.abs(mine - expected["a.weights"]).max() <= 6 / (1 << min(bits, 10))
    if bits < 16:
        utils._quantize_spec_weights(spec, None, "_dequantize_network")
        theirs = spec.neuralNetwork.layers[0].convolution.weights.floatValue
        np.testing.assert_allclose(mine.reshape(-1), np.array(theirs), rtol=1e-5, atol=1e-6)
