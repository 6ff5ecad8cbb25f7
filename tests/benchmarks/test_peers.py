"""Our own work in the table, and that of peers that the tests have, agree with the oracles."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import files
from benchmarks.kinds import KINDS, error, picks
from benchmarks.peers.base import Measured
from benchmarks.peers.numpy_peer import Numpy
from benchmarks.peers.tensorlogic_peer import Tensorlogic
from benchmarks.peers.torch_peer import Torch
from benchmarks.rows import Row, cpu_rows, gpu_rows

ROWS = {f"{r.group} {r.name}": r for r in (*cpu_rows(True), *gpu_rows(True))}
CHECKED = [n for n, r in ROWS.items() if KINDS[r.kind].expected is not None]
PEERS = {"tensorlogic": Tensorlogic, "numpy": Numpy, "torch": Torch}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARKS_FOLDER", str(tmp_path_factory.mktemp("files")))
        yield


@pytest.fixture(scope="module")
def peers():
    return {name: make("cpu", 2) for name, make in PEERS.items()}


def expected_of(row: Row) -> tuple[dict, np.ndarray]:
    sizes = files.prepare(row.as_dict())["sizes"]
    kind = KINDS[row.kind]
    rows = picks(kind.length(sizes))
    return sizes, kind.expected(sizes, kind.inputs(sizes), rows)


@pytest.mark.parametrize("name", CHECKED)
def test_results_agree_with_the_oracle(name, peers):
    row = ROWS[name]
    sizes, expected = expected_of(row)
    done = []
    for peer in peers.values():
        if row.kind not in {**peer.functions, **peer.special}:
            continue
        if peer.name == "torch" and (row.kind == "quantized" and not sizes["decoded"]):
            continue
        work = peer.prepare(row.kind, sizes)
        found = work.result(work.call())
        assert error(found[picks(len(found))], expected) <= row.tolerance
        done.append(peer.name)
    assert "tensorlogic" in done


def test_the_oracle_of_convolution_is_pytorchs():
    sizes = {"batch": 2, "channels": 6, "size": 9, "out": 4, "taps": 3, "stride": 2, "groups": 2}
    kind = KINDS["convolution"]
    inputs = kind.inputs(sizes)
    expected = kind.expected(sizes, inputs, np.arange(2))
    import torch

    x, w = (torch.from_numpy(a).double() for a in inputs)
    assert np.allclose(torch.conv2d(x, w, None, 2, 1, 1, 2).numpy(), expected)


@pytest.mark.parametrize("type_", [t for t in files.BLOCKS if t != "F16"])
def test_random_blocks_are_weights_of_the_deviation_asked_for(type_):
    path = files.products_file(type_, 256, 512, 2)
    weights = files.decoded(path)
    assert weights.shape == (256, 512)
    assert np.isfinite(weights).all()
    assert 0.8 < weights.std() * 512**0.5 < 1.25
    assert abs(weights.mean()) < 0.2 * weights.std()
    both = files.tensors_of(path)
    assert not np.array_equal(both["w0"].data, both["w1"].data)


@pytest.mark.parametrize("type_", ["F16", "Q4_0", "Q4_K"])
def test_the_decoder_gives_the_same_logits_for_a_prompt_at_once_and_token_by_token(type_):
    from benchmarks import decoder

    path = files.decoder_file(files.Shape.small(), type_)
    tokens = decoder.tokens_of(6)
    whole = decoder.Decoder(path).step(tokens).numpy()
    single = decoder.Decoder(path)
    for t in tokens:
        last = single.step([t]).numpy()
    assert whole.shape == (512,)
    assert error(last, whole) < 2e-2


def test_rows_of_a_decoder_give_their_logits(peers):
    row = next(r for r in ROWS.values() if r.kind == "prefill")
    work = peers["tensorlogic"].prepare(row.kind, files.prepare(row.as_dict())["sizes"])
    assert isinstance(work, Measured)
    assert work.measure() > 0
    assert work.result().shape == (512,)


def test_each_new_function_is_new(peers):
    compiled = _compiled()
    work = peers["tensorlogic"].prepare("first_call", {})
    for _ in range(3):
        assert work.measure() > 0
    assert _compiled() == compiled + 3


def _compiled() -> int:
    from tensorlogic.devices.base import open_device

    return open_device("cpu").compiled


def test_what_the_machine_can_do_at_best():
    from benchmarks import ceilings

    for threads in (1, 2):
        assert ceilings.fma(threads).measure() > 0
        assert ceilings.read(threads, 1 << 20).measure() > 0
    assert ceilings.fma_flops(2, 8) == 2 * ceilings.fma_flops(1, 8)
