"""Weights as torch.save() writes them, which are refused with the call that converts them."""

from __future__ import annotations

from pathlib import Path

from .header import MOST_HEADER, PREFIX

ENDS = (".bin", ".pt", ".pth", ".ckpt")  # of their names
# What they begin with, a zip or a pickle, is the length of no header.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"


def refuse_pickle(path: Path, prefix: bytes) -> None:
    """ValueError for a file that begins with these eight bytes."""
    is_header = len(prefix) < PREFIX or int.from_bytes(prefix, "little") <= MOST_HEADER
    is_numpy = path.name.endswith(".npz")  # a zip too
    if not is_header and not is_numpy and prefix.startswith((ZIP, PICKLE)):
        refuse(path)


def refuse_pickles(folder: Path) -> None:
    """ValueError for a folder that has such files in the place of others."""
    for path in sorted(folder.iterdir()):
        if path.name.endswith(ENDS):
            refuse(path)


def refuse(path: Path) -> None:
    raise ValueError(
        f"{path} is a pickle, and no safetensors file: convert it by "
        f'safetensors.torch.save_file(torch.load("{path}", weights_only=True), '
        '"model.safetensors")'
    )
