"""Functions saved as Core ML packages: what coremltools and tensorlogic read back and run."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.coreml.package import open_package
from tensorlogic.errors import FormatError
from tests.coreml.programs import ct, quiet

RNG = np.random.default_rng(0)


def tensor(*shape: int, scale: float = 0.3) -> tl.Tensor:
    return tl.tensor(RNG.standard_normal(shape) * scale)


def named(result: Any) -> dict[str, tl.Tensor]:
    if isinstance(result, tl.Tensor):
        return {"output": result}
    return result if isinstance(result, dict) else dict(zip(OUTPUTS, result, strict=False))


OUTPUTS = [f"output_{k}" for k in range(8)]


def check(
    folder: Path, fn: Callable[..., Any], inputs: Mapping[str, Any], ulps: int = 2, **values: Any
) -> Counter[str]:
    """Saves a function, runs the package on the CPU, compares, and counts its operations."""
    path = folder / "saved.mlpackage"
    tl.save_model(fn, path, inputs=inputs)
    given = {
        n: values[n] if n in values else tl.tensor(RNG.standard_normal(t.dims))
        for n, t in inputs.items()
    }
    model = tl.load_model(path)
    mine, expected = model.predict(given, device="cpu"), named(fn(**given))
    assert [f.name for f in model.outputs] == list(mine) == list(expected)
    for name, value in expected.items():
        result = mine[name].numpy()
        assert result.dtype == value.numpy().dtype
        assert result.shape == value.shape
        if result.dtype.kind == "f":
            finite = value.numpy()[np.isfinite(value.numpy())]
            limit = ulps * np.spacing(np.abs(finite).max(initial=0).astype(result.dtype))
            np.testing.assert_allclose(result, value.numpy(), rtol=2e-3, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(result, value.numpy(), err_msg=name)
    program = open_package(path).program
    assert program is not None
    return Counter(o.op for o in program.functions["main"].block.operations if o.op != "const")


LAYERS = [{"w": tensor(32, 64), "b": tensor(32)}, {"w": tensor(16, 32), "b": tensor(16)}]


def mlp(x: tl.Tensor) -> tl.Tensor:
    for layer in LAYERS:
        x = tl.relu(tl.linear(x, layer["w"], layer["b"]))
    return tl.softmax(x)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "mlp.mlpackage"
    metadata = {"author": "Ada", "license": "MIT", "version": "2", "task": "größe"}
    tl.save_model(mlp, path, inputs={"x": tl.float16[3, 64]}, metadata=metadata)
    return path


def test_names_and_weights_are_ours(saved: Path) -> None:
    model = tl.load_model(saved)
    assert model.names() == ["LAYERS.0.w", "LAYERS.0.b", "LAYERS.1.w", "LAYERS.1.b"]
    for k, layer in enumerate(LAYERS):
        for key, value in layer.items():
            np.testing.assert_array_equal(model[f"LAYERS.{k}.{key}"].numpy(), value.numpy())
            assert model._entries[f"LAYERS.{k}.{key}"].storage == "float16"
    assert model.metadata["author"] == "Ada"
    assert model.metadata["license"] == "MIT"
    assert model.metadata["version"] == "2"
    assert model.metadata["task"] == "größe"
    assert "tensorlogic.names" not in model.metadata
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.dtype, x.shape) == ("x", "float16", (3, 64))
    assert (y.name, y.dtype, y.shape) == ("output", "float16", (3, 16))


def test_coremltools_reopens_it_with_equal_weights(saved: Path) -> None:
    with quiet():
        model = ct.models.MLModel(str(saved), skip_model_load=True)
        weights = ct.optimize.coreml.get_weights_metadata(model, weight_threshold=0)
    assert model.author == "Ada"
    assert model.user_defined_metadata["task"] == "größe"
    for k, layer in enumerate(LAYERS):
        for key, value in layer.items():
            np.testing.assert_array_equal(weights[f"LAYERS_{k}_{key}"].val, value.numpy())
    program = model.get_spec().mlProgram.functions["main"]
    kinds = {
        o.outputs[0].type.tensorType.dataType
        for o in program.block_specializations[program.opset].operations
        if o.type != "const"
    }
    assert kinds == {10}  # float16 and nothing else


def test_what_functions_become(tmp_path: Path) -> None:
    ops = check(tmp_path, mlp, {"x": tl.float16[3, 64]})
    assert ops == {"linear": 2, "relu": 2, "softmax": 1, "identity": 1}


def test_a_transformer_block(tmp_path: Path) -> None:
    g, b, w, up, down = tensor(64), tensor(64), tensor(192, 64), tensor(128, 64), tensor(64, 128)

    def block(x: tl.Tensor) -> dict[str, tl.Tensor]:
        q, k, v = tl.split(tl.linear(tl.layer_norm(x, g, b), w), 3, axis=-1)
        heads = [t.reshape(2, 8, 4, 16).permute(0, 2, 1, 3) for t in (q, k, v)]
        a = tl.scaled_dot_product_attention(*heads, causal=True)
        h = x + a.permute(0, 2, 1, 3).reshape(2, 8, 64)
        y = h + tl.linear(tl.gelu(tl.linear(h, up)), down)
        return {"y": y, "pooled": y.mean(axis=1), "logits": y @ w.T}

    ops = check(tmp_path, block, {"x": tl.float16[2, 8, 64]}, ulps=4)
    assert ops["layer_norm"] == ops["softmax"] == ops["gelu"] == ops["reduce_mean"] == 1
    assert ops["cast"] == 0
    model = tl.load_model(tmp_path / "saved.mlpackage")
    assert set(model.names()) == {"g", "b", "w", "up", "down"}
    np.testing.assert_array_equal(model["w"].numpy(), w.numpy())


def test_convolutions_and_pools(tmp_path: Path) -> None:
    w, b, up = tensor(8, 3, 3, 3), tensor(8), tensor(8, 4, 2, 2)
    deep, stats = tensor(8, 1, 3, 3), [tensor(8), tl.ones([8])]

    def net(x: tl.Tensor) -> tuple[tl.Tensor, ...]:
        h = tl.relu(tl.batch_norm(tl.conv2d(x, w, b, padding=1, stride=2), *stats))
        d = tl.conv2d(h, deep, padding="same", groups=8)
        t = tl.conv_transpose2d(h, up, stride=2, padding=1, output_padding=1)
        return (
            tl.max_pool2d(d, 2),
            tl.avg_pool2d(d, 3, 1, 1),
            tl.avg_pool2d(d, 3, 1, 1, count_include_pad=False),
            t,
        )

    ops = check(tmp_path, net, {"x": tl.float16[1, 3, 16, 16]}, ulps=4)
    assert (ops["conv"], ops["conv_transpose"], ops["batch_norm"]) == (2, 1, 1)
    assert (ops["max_pool"], ops["avg_pool"], ops["gather"]) == (1, 2, 0)


def test_convolutions_along_one_axis(tmp_path: Path) -> None:
    w, up = tensor(4, 3, 5), tensor(4, 2, 3)

    def net(x: tl.Tensor) -> tuple[tl.Tensor, ...]:
        h = tl.conv1d(x, w, padding=(4, 0), dilation=1)
        return tl.avg_pool1d(h, 2), tl.max_pool1d(h, 3, 2, 1), tl.conv_transpose1d(h, up, stride=3)

    ops = check(tmp_path, net, {"x": tl.float16[2, 3, 20]}, ulps=4)
    assert (ops["conv"], ops["conv_transpose"], ops["avg_pool"], ops["max_pool"]) == (1, 1, 1, 1)


UNARY = "exp sqrt rsqrt sin cos tanh erf sigmoid relu silu gelu abs log expm1 log1p neg"
WHOLE = "sign floor ceil trunc round isnan isinf isfinite"
BINARY = "add sub mul div minimum maximum pow mod floordiv"
COMPARED = "equal not_equal less less_equal greater greater_equal"


def _call(name: str, *args: tl.Tensor) -> tl.Tensor:
    return getattr(tl, name)(*args)


GROUPS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "of one value": (
        lambda x: {n: _call(n, x) for n in UNARY.split()},
        {"x": tl.float16[3, 5]},
        {"x": tl.tensor(RNG.uniform(0.01, 3, (3, 5)))},
    ),
    "whole numbers": (
        lambda x: {n: _call(n, x).to(tl.float32) for n in WHOLE.split()},
        {"x": tl.float16[6]},
        {"x": tl.tensor([-2.5, 1.5, 0.0, float("nan"), float("inf"), 0.4])},
    ),
    "of two values": (
        lambda x, y: {n: _call(n, x, y) for n in BINARY.split()},
        {"x": tl.float16[3, 1], "y": tl.float16[4]},
        {"x": tl.tensor([[0.5], [2.0], [3.25]]), "y": tl.tensor([0.5, 1.5, 2.0, 3.0])},
    ),
    "of int32": (
        lambda x, y: {n: _call(n, x, y) for n in (*BINARY.split()[:3], "mod", "floordiv")},
        {"x": tl.int32[4], "y": tl.int32[4]},
        {"x": tl.tensor([7, -7, 8, 0], "int32"), "y": tl.tensor([2, 2, -3, 5], "int32")},
    ),
    "compared": (
        lambda x, y: {
            **{n: _call(n, x, y).to(tl.int32) for n in COMPARED.split()},
            "both": ((x > 1) & ~(y < 2)).to(tl.float16),
            "chosen": tl.where((x > 0) ^ (y > 0), x, 0.5),
            "same": ((x > 1) == (y > 1)).to(tl.int32),
        },
        {"x": tl.float16[3, 1], "y": tl.float16[4]},
        {"x": tl.tensor([[0.5], [2.0], [3.0]]), "y": tl.tensor([0.5, -1.5, 2.0, 3.0])},
    ),
    "reduced": (
        lambda x: {
            "total": x.sum(axis=(0, 2)),
            "all": x.sum(axis=(0, 1), keepdims=True),
            "product": x.prod(axis=1),
            "top": x.max(axis=-1),
            "low": x.min(axis=0, keepdims=True),
            "at": x.argmax(axis=1),
            "least": x.argmin(axis=-1),
            "count": (x > 0).sum(axis=0),
            "spread": x.var(axis=-1),
            "log": tl.logsumexp(x, axis=1),
            "logs": tl.log_softmax(x, axis=1),
            "sums": x.cumsum(axis=1),
        },
        {"x": tl.float16[2, 3, 4]},
        {},
    ),
    "moved": (
        lambda x: {
            "turned": x.permute(2, 0, 1),
            "wide": x[:, :1].expand(2, 3, 4),
            "cut": x[:, ::2, 1:3],
            "back": x[0, -1, ::-1],
            "diagonal": tl.diagonal(x, axis1=0, axis2=1),
            "windows": tl.window(x, 2, 2, 1, 2),
            "bordered": tl.pad(x, [(0, 0), (1, 0), (0, 2)], 1.5),
            "joined": tl.concat([x, x * 2], axis=1),
            "stacked": tl.stack([x[0], x[1]], axis=1),
            "flat": x.reshape(-1),
            "lone": x.reshape(1, 2, 12),
            "triangle": tl.tril(x),
            "mask": tl.pad((x > 0)[0], [(1, 0), (0, 0)], True).to(tl.int32),
        },
        {"x": tl.float16[2, 3, 4]},
        {},
    ),
    "looked up": (
        lambda x, i: {
            "rows": tl.embedding(i, x),
            "picked": tl.gather(x, tl.tensor([[0, 1, -1]] * 3, "int32"), 0)[:2],
            "put": tl.scatter(x, tl.tensor([[2, 0, 0]], "int32"), tl.ones([1, 3]), 0, reduce="add"),
            "order": tl.argsort(x, axis=0),
            "sorted": tl.sort(x, descending=True),
        },
        {"x": tl.float16[4, 3], "i": tl.int32[2, 2]},
        {"i": tl.tensor([[0, 3], [-1, 2]], "int32")},
    ),
    "products": (
        lambda x, y: {
            "matrix": x @ y,
            "batched": x.reshape(1, 3, 4) @ y.reshape(1, 4, 2),
            "vector": x @ y[:, 0],
            "einsum": tl.einsum("ij,jk->ki", x, y),
            "linear": tl.linear(x, y.T),
        },
        {"x": tl.float16[3, 4], "y": tl.float16[4, 2]},
        {},
    ),
    "wide": (
        lambda x: {"y": (x.to(tl.float32) * 1e5).to(tl.float32), "z": tl.rms_norm(x)},
        {"x": tl.float16[3, 4]},
        {},
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_primitives(group: str, tmp_path: Path) -> None:
    fn, inputs, values = GROUPS[group]
    check(tmp_path, fn, inputs, ulps=3, **values)


def test_attention_with_masks_and_groups_of_heads(tmp_path: Path) -> None:
    def fn(q: tl.Tensor, k: tl.Tensor, v: tl.Tensor, seen: tl.Tensor) -> dict[str, tl.Tensor]:
        return {
            "masked": tl.scaled_dot_product_attention(q, k, v, mask=seen > 0),
            "added": tl.scaled_dot_product_attention(q, k, v, mask=seen, scale=0.3),
        }

    kinds = {"q": tl.float16[4, 3, 8], "k": tl.float16[2, 5, 8], "v": tl.float16[2, 5, 6]}
    seen = np.ones((3, 5)) * [1, -1, 1, 1, 1]
    seen[1] = -1  # a row with nothing to see
    check(tmp_path, fn, {**kinds, "seen": tl.float16[3, 5]}, ulps=4, seen=tl.tensor(seen))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("at", [0, 3])
def test_a_cache_goes_in_and_comes_out(causal: bool, at: int, tmp_path: Path) -> None:
    def step(q: tl.Tensor, k: tl.Tensor, new: tl.Tensor, p: tl.Tensor) -> dict[str, tl.Tensor]:
        cache = k.update(p[0], new, axis=1)
        y = tl.scaled_dot_product_attention(q, cache, cache, causal=causal, length=p[0] + 2)
        return {"y": y, "cache": cache}

    kinds = {"q": tl.float16[4, 2, 8], "k": tl.float16[2, 6, 8], "new": tl.float16[2, 2, 8]}
    values = {n: RNG.standard_normal(t.dims).astype(np.float16) for n, t in kinds.items()}
    path = tmp_path / "x.mlpackage"
    tl.save_model(step, path, inputs={**kinds, "p": tl.int32[1]})
    p = np.array([at], np.int32)
    mine = tl.load_model(path).predict({**values, "p": p}, device="cpu")
    expected = step(**{n: tl.tensor(v) for n, v in values.items()}, p=tl.tensor(p, "int32"))
    for name, value in expected.items():
        np.testing.assert_allclose(mine[name].numpy(), value.numpy(), rtol=2e-3, atol=2e-3)


def test_tensors_of_files_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tl.save_model({"fc.weight": RNG.standard_normal((3, 4)).astype(np.float32)}, path)
    model = tl.load_model(path)

    class Net:
        def __init__(self) -> None:
            self.weight = model["fc.weight"]

        def __call__(self, x: tl.Tensor) -> tl.Tensor:
            return tl.linear(x, self.weight)

    net = Net()
    for fn in (net, net.__call__, tl.function(lambda x: x @ net.weight.T)):
        check(tmp_path, fn, {"x": tl.float16[2, 4]})
        saved = tl.load_model(tmp_path / "saved.mlpackage")
        assert saved.names() == ["fc.weight"]
        assert saved["fc.weight"].dtype is tl.float16
        np.testing.assert_array_equal(saved["fc.weight"].numpy(), model["fc.weight"].numpy())


def test_names_never_meet_those_of_operations(tmp_path: Path) -> None:
    softmax_0, output, op_1 = tensor(4, 4), tensor(4), tensor(4)

    def fn(x: tl.Tensor) -> tl.Tensor:
        return tl.softmax(tl.softmax(x @ softmax_0) + output) * op_1

    check(tmp_path, fn, {"x": tl.float16[2, 4]})
    names = tl.load_model(tmp_path / "saved.mlpackage").names()
    assert set(names) == {"softmax_0", "output", "op_1"}


def test_inputs_and_constants_as_results(tmp_path: Path) -> None:
    w = tensor(2, 3)
    check(tmp_path, lambda x: {"same": x, "w": w, "both": x + w}, {"x": tl.float16[2, 3]})


CUBE = tl.zeros([2])
REFUSED: dict[str, tuple[Callable[..., Any], Mapping[str, Any], type[Exception], str]] = {
    "cumprod": (
        lambda x: tl.cumprod(x),
        {"x": tl.float16[2]},
        FormatError,
        r"cumprod can't be said in an ML program: it has sums",
    ),
    "numbers of a seed that is an input": (
        lambda x, s: x + tl.random.uniform([2], seed=s[0]),
        {"x": tl.float16[2], "s": tl.int32[1]},
        FormatError,
        r"random can't be said in an ML program: it draws no numbers from a seed",
    ),
    "a dilated pool": (
        lambda x: tl.max_pool2d(x, 2, dilation=2),
        {"x": tl.float16[1, 1, 8, 8]},
        FormatError,
        r"slice gives 6 axes",
    ),
    "six axes": (
        lambda x: x.reshape(1, 1, 1, 1, 1, 2) + 1,
        {"x": tl.float16[2]},
        FormatError,
        r"reshape gives 6 axes; Core ML's tensors have at most 5",
    ),
    "an output named as an input": (
        lambda x: {"x": x + 1},
        {"x": tl.float16[2]},
        FormatError,
        r"'x' is the name of an input and of an output",
    ),
    "no tensor": (lambda x: 3, {"x": tl.float16[2]}, TypeError, r"returns int"),
    "a named size": (
        lambda x: x,
        {"x": tl.float16["N"]},
        TypeError,
        r"'x' is Tensor\[float16, N\]; each of its sizes is a number",
    ),
    "no type": (lambda x: x, {"x": 3}, TypeError, r"'x' is 3, not a tensor type such as"),
    "an unknown parameter": (
        lambda x: x,
        {"y": tl.float16[2]},
        TypeError,
        r"<lambda>\(\): missing a required argument: 'x'; inputs= names",
    ),
    "a bool output": (
        lambda x: {"y": x, "mask": x > 0},
        {"x": tl.float16[2]},
        FormatError,
        r"'mask' is bool \[2\]; outputs of Core ML are float16, float32 or int32",
    ),
    "a number as output": (
        lambda x: x.sum(),
        {"x": tl.float16[2]},
        FormatError,
        r"'output' is float16 \[\]; .* with at least one axis",
    ),
    "a bool input": (
        lambda x: x,
        {"x": tl.bool[2]},
        FormatError,
        r"'x' is bool \[2\]; inputs of Core ML are float16, float32 or int32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_said_is_named(case: str, tmp_path: Path) -> None:
    fn, inputs, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        tl.save_model(fn, tmp_path / "x.mlpackage", inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_tensors_alone_are_no_program(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    with pytest.raises(TypeError, match=r"holds a program: give the function .* not Model"):
        tl.save_model(tl.Model({"w": tl.ones([2])}), path)
    with pytest.raises(TypeError, match=r"inputs= says what the function takes"):
        tl.save_model(lambda x: x, path)
    with pytest.raises(FileNotFoundError):
        tl.save_model(lambda x: x, tmp_path / "no" / "x.mlpackage", inputs={"x": tl.float16[1]})
    with pytest.raises(FormatError, match=r"metadata 'k': is 1; Core ML holds strings"):
        tl.save_model(lambda x: x, path, {"k": 1}, inputs={"x": tl.float16[1]})  # type: ignore


def test_a_package_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    w = tensor(4, 16)
    tl.save_model(lambda x: tl.linear(x, w), path, inputs={"x": tl.float16[1, 16]})
    before = tl.load_model(path)
    held = before["w"].numpy()
    v = tensor(4, 16)
    tl.save_model(lambda x: tl.linear(x, v), path, inputs={"x": tl.float16[1, 16]})
    assert os.listdir(tmp_path) == ["x.mlpackage"]
    assert tl.load_model(path).names() == ["v"]
    np.testing.assert_array_equal(held, w.numpy())


def test_a_failure_leaves_the_old_package_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mlpackage"
    w = tensor(4, 16)
    tl.save_model(lambda x: tl.linear(x, w), path, inputs={"x": tl.float16[1, 16]})
    rename = os.rename

    def fails(old: str | Path, new: str | Path) -> None:
        if str(new) == str(path) and str(old).endswith(".mlpackage"):
            raise OSError("no space left")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no space left"):
        tl.save_model(lambda x: x + 1, path, inputs={"x": tl.float16[1, 16]})
    assert os.listdir(tmp_path) == ["x.mlpackage"]
    assert tl.load_model(path).names() == ["w"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_the_ordinary_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    old = os.umask(0o027)
    try:
        tl.save_model(lambda x: x + 1, path, inputs={"x": tl.float16[1, 16]})
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in path.rglob("*") if p.is_file()}
    assert modes == {0o640}
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_without_coremltools_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ImportError, match=r"pip install 'tensorlogic\[coreml\]'"):
        tl.save_model(lambda x: x, tmp_path / "x.mlpackage", inputs={"x": tl.float16[1]})
