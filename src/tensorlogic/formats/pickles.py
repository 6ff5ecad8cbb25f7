"""Pickled checkpoints (.pt, .bin, .ckpt): refused, because to read one is to run what it says."""

from __future__ import annotations

from pathlib import Path

from tensorlogic.errors import FormatError
from tensorlogic.formats.base import Parsed


def sniff(head: bytes, path: Path) -> bool:
    """torch.save writes a zip whose first member is data.pkl; before 1.6 it wrote bare pickles."""
    if head.startswith(b"PK\x03\x04"):
        return b"data.pkl" in head
    return head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[4:9] != b"\0\0\0\0{"


def read(path: Path) -> Parsed:
    raise FormatError(
        f"{path}: a pickle can run any program when it is read, so it is not read; "
        "convert it once, where you trust it:\n\n" + conversion(path)
    )


def conversion(path: Path) -> str:
    """The Python lines that turn a pickled checkpoint into a SafeTensors file."""
    return f"""\
    import torch
    from safetensors.torch import save_file

    tensors = torch.load({str(path)!r}, map_location="cpu", weights_only=True)
    tensors = tensors.get("state_dict", tensors)
    tensors = {{k: v.clone().contiguous() for k, v in tensors.items() if torch.is_tensor(v)}}
    save_file(tensors, {str(path.with_suffix(".safetensors"))!r}, metadata={{"format": "pt"}})
"""
