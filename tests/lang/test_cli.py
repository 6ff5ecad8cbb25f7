"""The command `tensorlogic`."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import tensorlogic as tl
from tensorlogic.explain import STAGES
from tensorlogic.gate import ON_OVERFLOW
from tensorlogic.lang import cli, commands


def quantized_gguf(path: Path) -> None:
    """A GGUF file with a weight in Q4_0 and a bias in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    weight = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("w", gguf.quantize(weight, q4_0), raw_dtype=q4_0)
    writer.add_tensor("b", np.arange(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tensorlogic", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)


def test_run(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text('print("shape:", ones([2, 3]).shape)\n')
    done = _command("run", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "shape: [2, 3]\n", "")


def test_run_reads_standard_input() -> None:
    assert _command("run", "-", stdin="print(6 * 7)").stdout == "42\n"


def test_set_gives_the_program_strings(capsys: pytest.CaptureFixture[str]) -> None:
    done = _command("run", "-", "--set", "a=b=c", "--set", "n=", stdin="print([a, n])")
    assert done.stdout == '["b=c", ""]\n'
    for wrong in ("a", "=a", "1a=b"):
        with pytest.raises(SystemExit):
            cli.main(["run", "-", "--set", wrong])
        assert f"argument --set: '{wrong}' is not NAME=TEXT" in capsys.readouterr().err


def test_errors_go_to_stderr_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(1)\nprint(ones(2) @ ones(3))\n")
    done = _command("run", str(file))
    assert done.returncode == 1
    assert done.stdout == "1\n"
    assert done.stderr == (
        f"error: {file}:2:15: ShapeError: matmul: [2] @ [3]: the inner sizes 2 and 3 differ\n"
        "  2 | print(ones(2) @ ones(3))\n"
        "    |               ^\n"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(ones(2) @ ones(3))\n")
    done = _command("run", "--debug", str(file))
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "tensorlogic.errors.ShapeError: matmul" in done.stderr


def test_missing_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "missing.tl"]) == 1
    assert capsys.readouterr().err == "error: missing.tl: No such file or directory\n"
    assert cli.main(["info", "missing.gguf"]) == 1
    assert capsys.readouterr().err == "error: missing.gguf: No such file or directory\n"


def test_a_fault_of_ours_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: str, **_: object) -> None:
        raise ValueError("oops")

    monkeypatch.setattr("tensorlogic.lang.run_file", broken)
    assert cli.main(["run", "x.tl"]) == 1
    assert capsys.readouterr().err == (
        "error: ValueError: oops; this is a fault of tensorlogic: `--debug` shows it\n"
    )
    with pytest.raises(ValueError, match="oops"):
        cli.main(["run", "--debug", "x.tl"])


def test_warnings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warns(path: str, **_: object) -> None:
        import warnings

        warnings.warn("mind the gap", stacklevel=2)

    monkeypatch.setattr("tensorlogic.lang.run_file", warns)
    assert cli.main(["run", "x.tl"]) == 0
    assert capsys.readouterr().err == "warning: mind the gap\n"


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.safetensors"
    model = tl.Model({"w": tl.ones([2, 3]), "big": tl.full([1], 1e6, dtype=tl.float32)})
    tl.save_model(model, path, {"note": "[bold]\x1b[31m two\nlines", "long": "x" * 500})
    assert cli.main(["info", str(path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    head, rest = lines[: lines.index("tensors")], lines[lines.index("tensors") + 1 :]
    assert head[:3] == [f"{path}: SafeTensors", "", "metadata"]
    assert "note  [bold]\\x1b[31m two\\nlines" in head
    assert f"long  {'x' * 119}…" in head
    assert rest == tl.load_model(path).summary().splitlines()
    assert cli.main(["info", "--check", str(path)]) == 0
    assert "beyond ±65504" in capsys.readouterr().out


PROGRAM = """
fn forward(x: float16[N, D], w: float16[D, M]) -> float16[N, M] { return softmax(x @ w) }
let y = forward(ones([8, 3]), ones([3, 2]))
print("y is", y)
save_model(load_model(path), path)
let z = relu(take(y, [99])) + 1
print(z)
let after = 1
"""


def test_explain_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = tmp_path / "program.tl", tmp_path / "m.safetensors"
    file.write_text(PROGRAM)
    tl.save_model({"w": tl.ones([2])}, path)
    path.chmod(0o444)
    before = path.stat().st_mtime_ns, path.stat().st_size
    explain = ["explain", str(file), "--set", f"path={path}"]
    assert cli.main([*explain, "--stage", "graph"]) == 0  # `z` could not be computed
    graph = capsys.readouterr().out
    assert "take(" in graph
    assert "relu(" in graph
    assert "y is" not in graph
    assert (path.stat().st_mtime_ns, path.stat().st_size) == before
    assert cli.main([*explain, "--stage", "graph", "--value", "y"]) == 0
    assert "relu(" not in capsys.readouterr().out
    for device, word in [("metal", "kernel"), ("cuda", "__global__"), ("cpu", "define")]:
        assert cli.main([*explain, "--stage", "source", "--device", device]) == 0
        assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "program", "message"),
    [
        ([], "let x = 1", "<stdin>: the program has no tensor"),
        (["--value", "x"], "let x = 1", "<stdin>: `x` is an int, not a tensor"),
        (
            ["--value", "wieght"],
            "weight = 1",
            "<stdin>: `wieght` is not defined; did you mean `weight`?",
        ),
        (
            ["--device", "tpu"],
            "ones([2]) + 1",
            "unknown device 'tpu'; the devices are cpu, reference, metal, cuda, gpu",
        ),
    ],
)
def test_what_cannot_be_explained(
    options: list[str],
    program: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(program))
    assert cli.main(["explain", "-", *options]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_choices_are_those_of_the_library() -> None:
    assert commands.STAGES == STAGES
    assert commands.ON_OVERFLOW == ON_OVERFLOW


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "m.gguf", tmp_path / "m.safetensors"
    quantized_gguf(source)
    assert cli.main(["convert", str(source), str(target)]) == 0
    size = target.stat().st_size
    assert capsys.readouterr() == (f"{target}: 2 tensors, {size} bytes\n", "")
    model, converted = tl.load_model(source), tl.load_model(target)
    assert model["w"].storage == "q4_0"
    assert converted["w"].storage == "float16"
    assert converted["w"].tolist() == model["w"].tolist()
    assert cli.main(["convert", str(target), str(target)]) == 0
    assert tl.load_model(target)["b"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_convert_and_values_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, target = tmp_path / "wide.safetensors", tmp_path / "out.safetensors"
    tl.save_model({"big": tl.full([1], 1e6, dtype=tl.float32), "w": tl.ones([2])}, wide)
    assert cli.main(["convert", str(wide), str(target)]) == 1
    assert "tensor `big` has 1 value beyond ±65504" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wide.safetensors"]
    assert cli.main(["convert", str(wide), str(target), "--on-overflow", "saturate"]) == 0
    assert tl.load_model(target)["big"].tolist() == [65504.0]
    assert cli.main(["convert", str(wide), str(target), "--on-overflow", "float32"]) == 0
    assert tl.load_model(target, on_overflow="float32")["big"].tolist() == [1e6]
    capsys.readouterr()
    assert cli.main(["convert", str(wide), str(tmp_path / "out.gguf")]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'out.gguf'}: models are saved as .safetensors, not as '.gguf'\n"
    )


def test_convert_shows_how_far_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "m.gguf", tmp_path / "m.safetensors"
    quantized_gguf(source)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "tensorlogic", "convert", str(source), str(target)]
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run(command, check=True, stderr=follower, env=environment, timeout=60)
    os.close(follower)
    assert b"2/2" in os.read(leader, 1 << 16)
    os.close(leader)


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["device", "here", "what", "it", "is", "why", "not"]
    assert [row.split()[:2] for row in rows] == [
        [d.name, "yes" if d.available else "no"] for d in tl.devices()
    ]


def test_version_and_usage() -> None:
    assert _command("--version").stdout == f"tensorlogic {tl.__version__}\n"
    wrong = _command("bogus")
    assert wrong.returncode == 2
    assert "invalid choice: 'bogus'" in wrong.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "program.tl"
    file.write_text("print(1)\n" * 20_000)
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "tensorlogic", "run", str(file)]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")


def test_the_command_starts_without_numpy_lark_or_rich() -> None:
    code = (
        "import sys; from tensorlogic.lang import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'lark', 'rich', 'llvmlite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
