"""Checkpoints of tensors in files, read and written as streams: `datasparse prune` and its kin."""

from .inspection import Inspection, TensorFound, inspect
from .packed import Packed, load_packed
from .packing import Packing, pack, unpack

__all__ = [
    "Inspection",
    "Packed",
    "Packing",
    "TensorFound",
    "inspect",
    "load_packed",
    "pack",
    "unpack",
]
