"""Tensors that may be sharded over ranks. What is not imported yet, no model has: nothing is
imported here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor: of which each rank has a part."""
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(tensor, getattr(known, "DTensor", ()))


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor: mostly all of it. The memory is the tensor's own."""
    if not is_sharded(tensor):
        return tensor
    own: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return own.detach()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, which all ranks that have parts of it gather at the same time."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def reshard(root: nn.Module, path: Sequence[str]) -> bool:
    """Has the module at a path, or the one around it that fully_shard() was called for, show its
    shards again. False where there is none.

    Between a forward and a backward pass such a module shows whole parameters in their place. What
    is written to these is lost, and what is written to the shards is not seen before they are put
    together again.
    """
    kind: Any = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if kind is None:
        return False
    module: nn.Module | None = root
    around = root if isinstance(root, kind) else None
    for part in path:
        module = None if module is None else module._modules.get(part)
        if isinstance(module, kind):
            around = module
    if around is None:
        return False
    around.reshard()
    return True


def count_nonzero(tensor: Tensor) -> int:
    """Of the whole tensor: all ranks that have parts of it ask at the same time."""
    if not is_sharded(tensor):
        return int(torch.count_nonzero(tensor))
    from .sharded.whole import count_nonzero

    return count_nonzero(tensor)  # type: ignore[arg-type]


def zero_where_pruned(tensor: Tensor, mask: Tensor) -> None:
    """Write zeros into a tensor of the shape of a mask. A whole tensor needs the whole mask, which
    all ranks gather at the same time."""
    if is_sharded(mask) and not is_sharded(tensor):
        mask = whole(mask)
    elif is_sharded(tensor) and not has_layout_of(tensor, mask):
        raise ValueError(
            f"a tensor that is sharded otherwise than its mask cannot be zeroed, got {tensor} "
            "beside the mask of the attached weight; redistribute() it"
        )
    pruned = local(mask).logical_not()
    local(tensor).masked_fill_(pruned.to(local(tensor).device), 0)


def has_layout_of(tensor: Any, mask: Any) -> bool:
    return (
        is_sharded(mask)
        and tensor.device_mesh == mask.device_mesh
        and tensor.placements == mask.placements
    )
