"""`save_model`: what other programs read back, all or nothing, over the file that is mapped."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from builders import Gguf

import tensorlogic as tl
from tensorlogic.dtypes import DTYPES
from tensorlogic.errors import FormatError, RangeError


def test_the_safetensors_package_reads_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    w = tl.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    arrays = {
        "w": w,
        "transposed": w.T,
        "sum": w + 1,
        "empty": tl.zeros([0, 3]),
        "number": tl.tensor(2.5),
        "strided": np.arange(10, dtype=np.int64)[::2],
        "mask": np.array([True, False]),
        "größe": np.array([1.0], np.float32),
    }
    tl.save_model(arrays, path, metadata={"made by": "a test"})
    loaded = safetensors.numpy.load_file(path)
    assert set(loaded) == set(arrays)
    for name, value in arrays.items():
        expected = np.asarray(value)
        assert loaded[name].dtype == expected.dtype
        np.testing.assert_array_equal(loaded[name], expected)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"made by": "a test"}
    model = tl.load_model(path)
    np.testing.assert_array_equal(model["transposed"].numpy(), w.numpy().T)


def test_pytorch_reads_what_was_saved_and_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    w = tl.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    tl.save_model({"w": w.T, "index": np.arange(3)}, ours)
    loaded = load_file(ours)
    assert loaded["w"].dtype == torch.float16
    assert loaded["w"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert loaded["index"].tolist() == [0, 1, 2]
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        save_file({"w": torch.tensor([[0.5, -2.0]], dtype=dtype)}, theirs)
        tensor = tl.load_model(theirs).get_tensor("w")
        assert tensor.dtype is tl.float16
        assert tensor.tolist() == [[0.5, -2.0]]


def test_every_storage_dtype_comes_back_byte_for_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, dtype in DTYPES.items():
        raw = rng.integers(0, 2 if name == "bool" else 256, 6 * dtype.itemsize, dtype=np.uint8)
        arrays[name] = raw.view(dtype.numpy).reshape(2, 3)
    path = tmp_path / "x.safetensors"
    tl.save_model(arrays, path)
    parsed = tl.load_model(path)._entries
    for name, array in arrays.items():
        assert parsed[name].storage == name
        assert parsed[name].view().tobytes() == array.tobytes()
        assert parsed[name].start % DTYPES[name].itemsize == 0


def test_gated_and_quantized_tensors_are_saved_as_float16(tmp_path: Path) -> None:
    source, path = tmp_path / "x.gguf", tmp_path / "x.safetensors"
    f = Gguf()
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
    floats = np.arange(6, dtype=np.float32)
    f.data = floats.tobytes().ljust(32, b"\0") + blocks.tobytes().ljust(64, b"\0") + bytes(8)
    source.write_bytes(f.build())
    tl.save_model(tl.load_model(source), path)
    loaded = safetensors.numpy.load_file(path)
    assert {a.dtype.name for a in loaded.values()} == {"float16"}
    assert loaded["a.weight"].tolist() == floats.reshape(2, 3).tolist()
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(loaded["b.weight"], expected.astype(np.float16))


def test_saving_over_the_mapped_file_corrupts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    before = {"a": np.arange(5000, dtype=np.float16), "b": np.arange(64, dtype=np.float32)}
    safetensors.numpy.save_file(before, path)
    model = tl.load_model(path)
    a, view = model["a"], model["a"].numpy()
    tl.save_model({"a": a * 0 + 1, "b": model["b"], "c": a}, path)
    np.testing.assert_array_equal(view, before["a"])
    np.testing.assert_array_equal(a.numpy(), before["a"])
    again = tl.load_model(path)
    assert again["a"].numpy().tolist() == [1.0] * 5000
    np.testing.assert_array_equal(again["b"].numpy(), before["b"].astype(np.float16))
    np.testing.assert_array_equal(again["c"].numpy(), before["a"])


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tl.save_model({"a": tl.ones([2])}, path)
    before = path.read_bytes()
    wide = tmp_path / "wide.safetensors"
    safetensors.numpy.save_file({"big": np.array([1e6], np.float32)}, wide)
    with pytest.raises(RangeError, match="`big`"):
        tl.save_model(tl.load_model(wide), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wide.safetensors", "x.safetensors"]
    with pytest.raises(FileNotFoundError):
        tl.save_model({"a": tl.ones([2])}, tmp_path / "missing" / "x.safetensors")


def test_the_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if folder else "sync file")
        if not folder:
            (temporary,) = tmp_path.iterdir()
            assert temporary.stat().st_size == os.fstat(descriptor).st_size > 8
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        assert old.parent == new.parent == tmp_path
        steps.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    tl.save_model({"a": tl.ones([2])}, path)
    assert steps == ["sync file", "rename", "sync folder"]


def test_permissions_are_the_ordinary_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    script = (
        "import os, sys; os.umask(0o027); import tensorlogic as tl;"
        "tl.save_model({'a': tl.ones([2])}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "x.safetensors", tmp_path / "x.safetensors"
    link.symlink_to(target)
    tl.save_model({"a": tl.ones([2])}, link)
    assert link.is_symlink()
    assert target.is_file()
    assert os.listdir(tmp_path / "real") == ["x.safetensors"]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": tl.ones([2]), "a": tl.zeros([3]), "i": np.arange(2)}
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    tl.save_model(tensors, one)
    tl.save_model(dict(reversed(tensors.items())), two)
    assert one.read_bytes() == two.read_bytes()
    assert tl.load_model(one).names() == ["i", "a", "b"]


def test_metadata_is_kept_or_says_pt(tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    tl.save_model({"a": tl.ones([2])}, one)
    assert dict(tl.load_model(one).metadata) == {"format": "pt"}
    tl.save_model({"a": tl.ones([2])}, one, metadata={"k": "v"})
    tl.save_model(tl.load_model(one), two)
    assert dict(tl.load_model(two).metadata) == {"k": "v"}
    tl.save_model(tl.load_model(one), two, metadata={})
    assert dict(tl.load_model(two).metadata) == {}


@pytest.mark.parametrize(
    ("name", "tensors", "metadata", "expected"),
    [
        ("x.gguf", {"a": 1}, None, r"saved as \.safetensors, not as '\.gguf'"),
        ("x", {"a": 1}, None, "not as ''"),
        ("x.safetensors", {"a": 1}, {"epoch": 3}, "metadata 'epoch': is 3; SafeTensors holds"),
        ("x.safetensors", {"__metadata__": 1}, None, "keeps this name for itself"),
        ("x.safetensors", {"a\n": 1}, None, "control characters"),
    ],
)
def test_what_cannot_be_saved(
    name: str, tensors: dict[str, int], metadata: dict[str, str], expected: str, tmp_path: Path
) -> None:
    model = {key: tl.ones([2]) for key in tensors}
    with pytest.raises(FormatError, match=expected):
        tl.save_model(model, tmp_path / name, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_before_each_tensor(tmp_path: Path) -> None:
    told: list[str] = []
    tensors = {"b": tl.ones([2]), "a": tl.zeros([3])}
    tl.save_model(tensors, tmp_path / "x.safetensors", progress=told.append)
    assert told == ["a", "b"]


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    source, path = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    arrays = {f"w{k}": np.full(1 << 20, k, np.float32) for k in range(24)}
    safetensors.numpy.save_file(arrays, source)
    model = tl.load_model(source)
    tracemalloc.start()
    tl.save_model(model, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # together they take 48 MiB in float16
    assert tl.load_model(path)["w7"].numpy()[-1] == 7
