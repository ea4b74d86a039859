"""Checkpoints of tensors in files, read and written as streams: `datasparse prune` and its kin."""

from .packed import Packed, load_packed
from .packing import Packing, pack, unpack

__all__ = ["Packed", "Packing", "load_packed", "pack", "unpack"]
