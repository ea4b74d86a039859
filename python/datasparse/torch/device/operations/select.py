"""The lowest of the keys in each row of a matrix, without a value read back.

Rows are at most TILE keys long, or whole tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

TILE = 1024
# Where topk() is known to be exact, and is fast, up to this length of a row. Elsewhere, MPS among
# it, comparing and counting are all that a cut asks for.
TOPK = {"cpu", "cuda"}
TOPK_MOST = 2**31 - 1

Numbers: TypeAlias = int | Tensor
"""One for all rows, or one for each on the device: (rows, 1), of int64."""


def numbers(
    values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """One a row, (rows, 1), without a copy to the device: numbers go with the launches."""
    if len(set(values)) == 1:
        return torch.full((len(values), 1), values[0], dtype=dtype, device=device)
    column = torch.zeros((len(values), 1), dtype=dtype, device=device)
    torch._foreach_add_(list(column.unbind()), list(values))
    return column


def as_numbers(values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    return values if isinstance(values, Tensor) else numbers(values, device)


def room_of(length: int) -> int:
    """How long a row for so many keys is."""
    return length if length <= TILE else -(-length // TILE) * TILE


def count(flags: Tensor) -> Tensor:
    """How many are set in each row, (rows, 1)."""
    if flags.shape[-1] <= TILE:
        return flags.sum(-1, keepdim=True, dtype=torch.int16)
    return _count_by_tile(flags).sum(-1, keepdim=True)


def _count_by_tile(flags: Tensor) -> Tensor:
    # Flags are bytes of 0 or 1. Eight at a time are added as one integer: no byte of it overflows.
    # sum() of flags would first make an integer of 8 bytes of each.
    words = torch.unflatten(flags.view(torch.int64), 1, (-1, TILE // 8)).sum(-1)
    return torch.unflatten(words.view(torch.uint8), 1, (-1, 8)).sum(-1)


def first_of(flags: Tensor, number: Tensor) -> Tensor:
    """The first `number` flags of each row, (rows, 1), of which there are as many. May change
    `flags`."""
    if flags.shape[-1] <= TILE:
        place = flags.cumsum(-1, dtype=torch.int16)
        return (place <= number.to(torch.int16)).logical_and_(flags)
    by_tile = torch.unflatten(flags, 1, (-1, TILE))
    counts = _count_by_tile(flags)
    left = number - counts.cumsum(-1)
    whole = left >= 0
    # The tile in which they run out is the only one that is looked at again.
    tile = whole[:, :-1].sum(-1, keepdim=True)
    at = tile.unsqueeze(-1).expand(-1, -1, TILE)
    last = first_of(by_tile.gather(1, at).squeeze(1), left.add_(counts).gather(1, tile))
    by_tile.logical_and_(whole.unsqueeze(-1)).scatter_(1, at, last.unsqueeze(1))
    return flags


def keep_highest(
    keys: Tensor, pruned: int | Sequence[int] | Tensor, threshold: Tensor | None = None
) -> Tensor:
    """False for the lowest `pruned` keys of each row, the first of equal ones, else True.

    pruned: at least 1 and less than all, or on the device, (rows, 1), any number.
    threshold: a key below which no more lie, and up to which no less, if one is known.
    """
    if isinstance(pruned, Sequence):
        pruned = pruned[0] if len(set(pruned)) == 1 else list(pruned)
    if threshold is None:
        threshold = _cut(keys, pruned)
    if isinstance(pruned, list):
        pruned = numbers(pruned, keys.device)
    keep = keys >= threshold
    ties = count(keep) + (pruned - keys.shape[-1])  # how many of the equal ones go
    return keep.logical_xor_(first_of(keys == threshold, ties))


def _cut(keys: Tensor, pruned: int | list[int] | Tensor) -> Tensor:
    """The highest of the `pruned` lowest keys in each row, (rows, 1)."""
    length = keys.shape[-1]
    if not isinstance(pruned, Tensor) and not (keys.device.type in TOPK and length <= TOPK_MOST):
        pruned = numbers([pruned] * len(keys) if isinstance(pruned, int) else pruned, keys.device)
    if isinstance(pruned, Tensor):
        wanted = pruned
        return greatest(lambda key: count(keys < key) <= wanted, keys[:, :1])
    most, least = (pruned, pruned) if isinstance(pruned, int) else (max(pruned), min(pruned))
    from_below = most <= length - least + 1
    some = most if from_below else length - least + 1
    if isinstance(pruned, int):
        found = keys.topk(some, largest=not from_below, sorted=False).values
        return found.amax(-1, keepdim=True) if from_below else found.amin(-1, keepdim=True)
    found = keys.topk(some, largest=not from_below).values
    places = [n - 1 if from_below else length - n for n in pruned]
    return found.gather(1, numbers(places, keys.device))


def greatest(holds: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The greatest integer of a dtype for which something holds that holds for the lowest, and up
    to some point: one for each element of the shape of `like`, bit by bit."""
    bits = torch.iinfo(like.dtype).bits
    candidate = torch.zeros_like(like)
    key = candidate.where(holds(candidate), torch.full_like(like, torch.iinfo(like.dtype).min))
    for bit in reversed(range(bits - 1)):
        candidate = key + (1 << bit)
        key = candidate.where(holds(candidate), key)
    return key
