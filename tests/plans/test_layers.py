"""How many launches a layer of a real model takes, and what of it is stored."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import tensorlogic as tl
from examples import minilm, smollm2
from tensorlogic.codegen.gpu import gpu_launch
from tensorlogic.graph import Node, topological
from tensorlogic.kernels.check import check_kernel
from tensorlogic.kernels.ir import Kernel, Split
from tensorlogic.kernels.spec import Matmul
from tensorlogic.schedule.emit import Step, step_text
from tensorlogic.schedule.fuse import Schedule, schedule
from tensorlogic.schedule.traits import CPU, GPU, Traits
from tensorlogic.settings import Settings
from tests.cuda.checker import check_cuda
from tests.metal.checker import check_metal
from tests.plans import models

DEVICES = {"cpu": CPU, "gpu": GPU}


def caches(layers: int, device: str | None = None) -> list[list[tl.Tensor]]:
    """Caches that were computed here, so that they are written in place."""
    shape = [models.GROUPS, smollm2.CONTEXT, models.HEAD]
    made = [[tl.zeros(shape, device=device) + 0 for _ in range(2)] for _ in range(layers)]
    tl.eval(*itertools.chain.from_iterable(made))
    return made


def decoding(layers: int, tokens: int, traits: Traits) -> Schedule:
    ids = tl.tensor(list(range(tokens)), dtype=tl.int32)
    model = models.decoder(layers, "cpu")
    logits, grown = smollm2.step.__wrapped__(model, ids, 5, caches(layers))
    roots = [t._node for t in (logits, *itertools.chain.from_iterable(grown))]
    return schedule(roots, Settings(), traits)


def encoding(layers: int, tokens: int, monkeypatch: pytest.MonkeyPatch, traits: Traits) -> Schedule:
    monkeypatch.setattr(minilm, "LAYERS", layers)
    ids = tl.tensor(list(range(tokens)), dtype=tl.int32)
    result = minilm.embed.__wrapped__(models.encoder(layers), ids)
    return schedule([result._node], Settings(), traits)


@pytest.mark.parametrize("traits", DEVICES.values(), ids=DEVICES)
def test_an_encoder_layer_takes_nine_launches(
    traits: Traits, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [len(encoding(n, 9, monkeypatch, traits).steps) for n in (1, 2, 3)]
    assert counts[1] - counts[0] == counts[2] - counts[1] == 9


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("traits", DEVICES.values(), ids=DEVICES)
def test_a_decoding_layer_takes_six_launches(traits: Traits, tokens: int) -> None:
    """On a GPU seven: there the parts of a long cache are merged by a launch of its own."""
    traits = replace(traits, fold_rows=4)  # whatever is faster for three
    plans = [decoding(n, tokens, traits) for n in (2, 3)]
    assert len(plans[1].steps) - len(plans[0].steps) == (7 if traits.gpu else 6)


def layer(plan: Schedule) -> list[Step]:
    """The launches of the second of three layers: those between its attention and the last one's,
    in order, beginning with the norm and the products before it."""
    at = [i for i, s in enumerate(plan.steps) if any(_is_attention(n) for n in s.writes)]
    return plan.steps[at[0] + 4 : at[1] + 4]


def _is_attention(n: Node) -> bool:
    return str(n.op) == "attention"


def test_what_a_decoding_layer_stores() -> None:
    steps = layer(decoding(3, 1, CPU))
    stored = [sorted(str(n.op) for n in s.writes) for s in steps]
    assert stored == [
        ["cast", "cast", "update"],  # queries, keys, and values into their cache
        ["cast", "update"],  # turned queries, turned keys into their cache
        ["attention"],
        ["add"],
        ["mul"],
        ["add"],
    ]
    products, hidden = steps[0], steps[4]
    for step in (products, hidden):
        assert isinstance(step.kernel, Kernel)
        (ahead,) = step.kernel.locals  # the normed values
        assert ahead.dtype == "f32"
        assert step.setup > 0
    assert isinstance(products.kernel, Kernel)
    assert isinstance(products.kernel.body[-1], Split)
    assert [old is not None for _, old in products.in_place] == [True]


def test_kernels_of_layers_are_well_formed_on_every_device() -> None:
    for traits in DEVICES.values():
        for step in decoding(2, 1, traits).steps:
            if isinstance(step.kernel, Kernel):
                check_kernel(step.kernel)
    for step in layer(decoding(3, 1, GPU)):
        for dialect, check in (("metal", check_metal), ("cuda", check_cuda)):
            check(gpu_launch(step.kernel, "k", dialect, step.sizes()).source)


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_decoding_in_place_agrees_with_the_reference(tokens: int) -> None:
    found = []
    for device in ("cpu", "reference"):
        model, state = models.decoder(2, device), caches(2, device)
        logits = []
        for at in (0, tokens):
            ids = tl.tensor([3 + at + i for i in range(tokens)], dtype=tl.int32, device=device)
            y, state = smollm2.step(model, ids, at, state)
            tl.eval(y, *itertools.chain.from_iterable(state))
            logits.append(y.numpy())
        found.append([*logits, *(t.numpy() for c in state for t in c)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_encoding_agrees_with_the_reference(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "LAYERS", 2)
    found = []
    for device in ("cpu", "reference"):
        model = models.encoder(2)
        weights = tl.Model({n: model[n].to(device) for n in model})
        ids = tl.tensor(list(range(tokens)), dtype=tl.int32, device=device)
        found.append(minilm.embed.__wrapped__(weights, ids).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=0.02, atol=0.01)


def test_layers_share_their_kernels() -> None:
    few, many = decoding(3, 1, CPU), decoding(8, 1, CPU)
    assert len({id(s.kernel) for s in few.steps}) == len({id(s.kernel) for s in many.steps})
    texts = {step_text(s) for s in many.steps}
    assert len(texts) == len({id(s.kernel) for s in many.steps})


def test_what_is_shared_speaks_of_the_nodes_of_its_own_layer() -> None:
    plan = decoding(4, 1, CPU)
    order = {id(n): i for i, n in enumerate(topological(plan.roots))}
    writes = [id(n) for s in plan.steps for n in s.writes]
    assert len(set(writes)) == len(writes)
    there: set[int] = set()
    for step in plan.steps:
        for n in step.reads:
            assert n.op is None or id(n) in there, "read before it is made"
        named = {id(use[0]) for use in step.buffers if use is not None}
        assert {id(n) for n in (*step.reads, *step.writes)} >= named
        assert all(id(n) in order for n in step.writes)
        there |= {id(n) for n in step.writes}


# ---- quantized weights with many rows ----

BLOCKS = Traits(block_operands=frozenset({"q4_0"}))


def spec_of(y: tl.Tensor, traits: Traits = BLOCKS) -> tuple[Step, Matmul]:
    (step,) = schedule([y._node], Settings(), traits).steps
    assert isinstance(step.kernel, Matmul)
    return step, step.kernel


def test_many_rows_take_quantized_weights_as_blocks() -> None:
    rng = np.random.default_rng(0)
    w = models.quantized(rng.standard_normal((40, 96)), "Q4_0")
    x, bias = tl.ones([7, 96]), tl.ones([40])
    step, spec = spec_of(tl.silu(tl.linear(x, w, bias)))
    assert (spec.b_dtype, spec.b_contiguous) == ("q4_0", "k")
    assert [b.dtype for b in spec.all_buffers[:2]] == ["f16", "u8"]
    assert step.problem == (7, 40, 96)
    sizes = step.sizes()
    assert {n: sizes[n] for n in ("b_n", "b_k", "b_batch")} == {"b_n": 54, "b_k": 0, "b_batch": 0}
    assert step.buffers[1] == (w._node, 0)


def test_rows_of_quantized_weights_may_be_a_slice() -> None:
    w = models.quantized(np.random.default_rng(0).standard_normal((40, 96)), "Q4_0")
    step, _ = spec_of(tl.ones([7, 96]) @ w[8:40:2].T)
    assert step.buffers[1] == (w._node, 8 * 54)
    assert step.sizes()["b_n"] == 2 * 54
    step, _ = spec_of(tl.ones([7, 32]) @ w[:, 64:].T)  # whole blocks of each row
    assert step.buffers[1] == (w._node, 2 * 18)


def test_batches_of_quantized_weights() -> None:
    w = models.quantized(np.random.default_rng(0).standard_normal((80, 64)), "Q4_0")
    step, _ = spec_of(tl.ones([2, 7, 64]) @ w.reshape(2, 40, 64).permute(0, 2, 1))
    assert step.batch == 2
    assert step.sizes()["b_batch"] == 40 * 36


@pytest.mark.parametrize(
    ("case", "traits"),
    [
        ("few rows", BLOCKS),
        ("another type", BLOCKS),
        ("no such device", Traits()),
        ("across", BLOCKS),
    ],
)
def test_other_products_are_folds(case: str, traits: Traits) -> None:
    kind = "Q8_0" if case == "another type" else "Q4_0"
    w = models.quantized(np.random.default_rng(0).standard_normal((64, 64)), kind)
    x = tl.ones([3 if case == "few rows" else 7, 64])
    y = x @ (w if case == "across" else w.T)
    (step,) = schedule([y._node], Settings(), traits).steps
    assert isinstance(step.kernel, Kernel)


def test_a_launch_has_no_more_buffers_than_a_gpu_binds() -> None:
    rng = np.random.default_rng(0)
    x = tl.ones([1, 64])
    weights = [models.quantized(rng.standard_normal((8 * (i + 1), 64)), "Q4_0") for i in range(20)]
    products = [tl.linear(x, w)._node for w in weights]
    steps = schedule(products, Settings(), GPU).steps
    assert len(steps) < 10
    assert all(len(s.buffers) <= 30 for s in steps)


def test_a_launch_is_put_off_for_what_belongs_beside_it() -> None:
    """Values are ready for their cache before the keys are even multiplied."""
    every = Traits(block_operands=frozenset({"q4_0", "q4_1", "q8_0"}))
    stored = [sorted(str(n.op) for n in s.writes) for s in decoding(2, 7, every).steps]
    assert stored.count(["cast", "update", "update"]) == 2
    assert len(stored) == 2 * 11 + 3  # rows of the embedding; the last norm; logits
