"""Masks of tensors that are sharded over ranks: DTensors, as fully_shard(), HSDP and tensor
parallelism make them.

Each rank ranks and masks its own shards; what ranks send each other are counts, a few tens of
kilobytes a step. The masks are those of whole tensors on one machine, bit for bit.
"""

from .layout import Layout, layout_of
from .ranks import RankError, Ranks, Traffic
from .state import ShardedState

__all__ = ["Layout", "RankError", "Ranks", "ShardedState", "Traffic", "layout_of"]
