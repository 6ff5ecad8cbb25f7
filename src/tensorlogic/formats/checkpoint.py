"""A folder as Hugging Face lays it out: one model.safetensors, or shards and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorlogic.errors import FormatError
from tensorlogic.formats import pickles, safetensors
from tensorlogic.formats.base import Parsed, fault

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
MAX_JSON = 1 << 26


def sniff(head: bytes, path: Path) -> bool:
    return path.is_dir()


def read(path: Path) -> Parsed:
    """Reads the shards that the index names; `metadata["config.json"]` holds the configuration."""
    if (path / SINGLE).is_file():
        parsed = safetensors.read(path / SINGLE)
        entries, metadata = parsed.entries, dict(parsed.metadata)
    elif (path / INDEX).is_file():
        entries, metadata = _shards(path)
    else:
        pickled = next(path.glob("pytorch_model*.bin"), None)
        if pickled is not None:
            return pickles.read(pickled)
        raise FormatError(f"{path}: the folder holds neither {SINGLE} nor {INDEX}")
    architecture = None
    if (path / CONFIG).is_file():
        config = _json(path / CONFIG)
        metadata[CONFIG] = config
        kind = config.get("model_type")
        architecture = kind if isinstance(kind, str) else None
    return Parsed(path, "SafeTensors", entries, metadata, architecture)


def _json(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MAX_JSON:
        raise fault(path, "", f"has {size} bytes; at most {MAX_JSON} are allowed")
    return safetensors.parse_json(path, "", path.read_bytes())


def _shards(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    index = path / INDEX
    claims = _json(index)
    weights = claims.get("weight_map")
    if not isinstance(weights, dict):
        raise fault(index, "weight_map", "is missing or not an object")
    shards: dict[str, Parsed] = {}
    entries = {}
    for name, shard in weights.items():
        where = f"tensor {name!r}"
        if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0"):
            raise fault(index, where, f"names the shard {shard!r:.80}, not a plain file name")
        if shard not in shards:
            if not (path / shard).is_file():
                raise fault(index, where, f"names the shard {shard!r}, which is not in the folder")
            shards[shard] = safetensors.read(path / shard)
        if name not in shards[shard].entries:
            raise fault(index, where, f"is said to be in {shard!r}, which does not hold it")
        entries[name] = shards[shard].entries[name]
    metadata: dict[str, Any] = {}
    for parsed in shards.values():
        metadata |= parsed.metadata
    extra = claims.get("metadata", {})
    return entries, metadata | (extra if isinstance(extra, dict) else {})
