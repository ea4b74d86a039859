"""Which elements of a block are its least ones: N:M."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .grid import Grid
from .keys import new_keys, rank_past
from .select import keep_highest, room_of

FEW = 16  # elements of a block that are held against each other, one by one
PART_LEAST = 1 << 21  # elements


def least_of_blocks(keys: Tensor, dtype: torch.dtype, free: Tensor | None, grid: Grid) -> Tensor:
    """(tensors, rows, columns): True at the `zeros` least elements of each block, the first of
    equal ones.

    keys: of float scores of that dtype, in rows of new_keys(); they may change. free: of the
    matrices, False where an element was pruned before, which ranks first; or nowhere, if there are
    more of these.
    """
    if grid.blocks == 1:
        return grid.matrices(_least(keys, dtype, free, grid.size, grid.zeros))
    matrices = grid.matrices(keys)
    least = torch.empty(matrices.shape, dtype=torch.bool, device=keys.device)
    for region in grid.regions():
        to = region.blocks(least)
        size = region.height * region.width
        zeros = min(grid.zeros, size)
        if zeros in (0, size):
            to.fill_(zeros > 0)
            continue
        # In parts, so that what a selection needs is a part of what the keys take.
        axis = 1 if region.down >= region.across else 2
        step = length = to.shape[axis]
        if to.numel() > PART_LEAST:
            step = -(-length // keys.element_size())
        parts = torch.split(region.blocks(matrices), step, axis)
        past_of: Sequence[Tensor | None] = [None] * len(parts)
        if free is not None:
            past_of = torch.split(region.blocks(free), step, axis)
        for part, some, some_free in zip(torch.split(to, step, axis), parts, past_of, strict=True):
            found = _least(_as_rows(some, dtype), dtype, some_free, size, zeros)
            part.copy_(found[:, :size].view(part.shape))
    return least


def _least(rows: Tensor, dtype: torch.dtype, free: Tensor | None, size: int, zeros: int) -> Tensor:
    """Of rows of so many keys each; free has as many elements."""
    if free is not None:
        past = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        torch.logical_not(free, out=past[:, :size].view(free.shape))
        rank_past(rows, past, zeros, dtype)
        del past
    if size > FEW:
        return keep_highest(rows, zeros).logical_not_()
    before = torch.zeros(rows.shape, dtype=torch.int8, device=rows.device)  # how many come first
    for i in range(size):
        key = rows[:, i : i + 1]
        if i > 0:
            before[:, :i].add_(rows[:, :i] > key)
        if i + 1 < size:
            before[:, i + 1 :].add_(rows[:, i + 1 :] >= key)
    return before < zeros


def _as_rows(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """A row for each block, as selections take them: a view, if that is possible."""
    size = blocks.shape[3] * blocks.shape[4]
    if room_of(size) == size:
        return blocks.reshape(-1, size)
    rows = new_keys(blocks.shape[:3].numel(), size, dtype, blocks.device)
    rows[:, :size].view(blocks.shape).copy_(blocks)
    return rows
