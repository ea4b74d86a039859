"""Jobs that are alike, computed together: their scores, keys, and masks.

Everything of a batch has a row for each job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..job import Job
from .grid import Grid, in_order
from .keys import magnitude_of, make_keys, new_keys, rank_past
from .select import as_numbers, keep_highest, room_of
from .within import least_of_blocks


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Jobs of one grid, dtype and norm, all monotone or none, with zeros that stay or without."""

    places: Sequence[int]  # of the jobs in their call
    jobs: Sequence[Job]
    grid: Grid
    dtype: torch.dtype  # that scores are in
    device: torch.device

    @property
    def norm(self) -> str:
        return self.jobs[0].norm

    @property
    def is_monotone(self) -> bool:
        return self.jobs[0].monotone

    # --- masks ------------------------------------------------------------------------------------

    def keep_all(self, value: bool) -> Tensor:
        """(jobs, rows, columns), all of them alike but for the zeros that stay."""
        shape = (len(self.jobs), self.grid.rows, self.grid.columns)
        return self._without_kept(torch.full(shape, value, dtype=torch.bool, device=self.device))

    def keep(
        self, pruned: Sequence[int] | Tensor | None, threshold: Tensor | None = None
    ) -> Tensor:
        """(jobs, rows, columns): False where an element is pruned.

        pruned: how many blocks of each job, at least 1 and less than all; or on the device,
        (jobs, 1); None for all, some elements of each. threshold: that of keep_highest().
        """
        grid = self.grid
        free = self.free() if self.is_monotone else None
        elements = self.element_scores()
        keys = others = None
        if pruned is not None:
            keys = self.block_scores(elements)
            make_keys(keys[:, : grid.blocks], self.dtype, self.norm)
            if free is not None:
                number = as_numbers(pruned, self.device)
                rank_past(keys, self.past_blocks(free), number, self.dtype)
        if grid.zeros < grid.size:
            make_keys(elements[:, : grid.elements], self.dtype, self.norm)
            others = least_of_blocks(elements, self.dtype, free, grid).logical_not_()
        del elements, free  # a selection takes as much memory
        if keys is not None and pruned is not None:
            keep = self._of_elements(keep_highest(keys, pruned, threshold))
            others = keep if others is None else others.logical_or_(keep)
        assert others is not None
        return self._without_kept(others)

    def _of_elements(self, keep: Tensor) -> Tensor:
        """(jobs, rows, columns), of blocks in rows."""
        grid = self.grid
        keep = self._as_blocks(keep)
        if grid.size == 1:
            return keep
        shape = (len(keep), grid.down, grid.height, grid.across, grid.width)
        elements = torch.empty(shape, dtype=torch.bool, device=self.device)
        elements.copy_(keep[:, :, None, :, None])
        return elements.flatten(3).flatten(1, 2)[:, : grid.rows, : grid.columns]

    def _without_kept(self, keep: Tensor) -> Tensor:
        return keep if self.jobs[0].kept_zeros is None else keep.masked_fill_(self._kept(), False)

    # --- scores -----------------------------------------------------------------------------------

    def element_scores(self) -> Tensor:
        """The bits of |x|, x·x or x, as rows of new_keys()."""
        bits = new_keys(len(self.jobs), self.grid.elements, self.dtype, self.device)
        inside = bits[:, : self.grid.elements]
        only = in_order(self.jobs[0].scores.detach(), self.jobs[0])
        if len(self.jobs) == 1 and self.norm == "L1" and only.dtype == self.dtype:
            own = only.view(bits.dtype)  # the first of two passes less
            torch.bitwise_and(own, magnitude_of(bits.dtype), out=inside.view(own.shape))
            return bits
        scores = self.grid.matrices(bits.view(self.dtype))
        self._gather([job.scores for job in self.jobs], scores)
        if self.norm == "L2":
            scores.mul_(scores)
        if self.norm != "none":
            inside.bitwise_and_(magnitude_of(bits.dtype))
        return bits

    def block_scores(self, elements: Tensor) -> Tensor:
        """The bits of the means of blocks, as rows of new_keys(), from those of the elements, which
        they are where blocks are single ones.

        Sums are added one position after the other: the order of additions is part of the rule,
        and that of sum(), mean() or cumsum() is another one.
        """
        grid = self.grid
        if grid.size == 1:
            return elements
        scores = grid.matrices(elements.view(self.dtype))
        bits = new_keys(len(self.jobs), grid.blocks, self.dtype, self.device)
        sums = self._as_blocks(bits.view(self.dtype))
        sums.copy_(scores[:, :: grid.height, :: grid.width])
        for i in range(grid.height):
            for j in range(grid.width):
                if i + j > 0:
                    more = scores[:, i :: grid.height, j :: grid.width]
                    sums[:, : more.shape[1], : more.shape[2]].add_(more)
        for region in grid.regions():
            down, across = region.row // grid.height, region.column // grid.width
            part = sums[:, down : down + region.down, across : across + region.across]
            # By a tensor: some devices divide by a host's number by way of its reciprocal.
            size = region.height * region.width
            part.div_(torch.full((), size, dtype=self.dtype, device=self.device))
        return bits

    # --- what the masks before have pruned --------------------------------------------------------

    def free(self) -> Tensor:
        """(jobs, down · height, across · width): False where the rule has pruned an element. A zero
        that stays says nothing of its block; one that is a block by itself is pruned."""
        grid = self.grid
        shape = (len(self.jobs), grid.down * grid.height, grid.across * grid.width)
        free = torch.ones(shape, dtype=torch.bool, device=self.device)
        inside = free[:, : grid.rows, : grid.columns]
        self._gather([job.mask for job in self.jobs], inside)
        if self.jobs[0].kept_zeros is not None and grid.size > 1:
            inside.logical_or_(self._kept())
        return free

    def past_blocks(self, free: Tensor) -> Tensor:
        """Blocks that have an element which is not free, in rows as those of new_keys()."""
        grid = self.grid
        shape = (len(self.jobs), room_of(grid.blocks))
        past = torch.ones(shape, dtype=torch.bool, device=self.device)
        if grid.size > 1:
            free = torch.unflatten(free, 2, (grid.across, grid.width)).all(3)
            free = torch.unflatten(free, 1, (grid.down, grid.height)).all(2)
        self._as_blocks(past).copy_(free)
        return past.logical_not_()

    # --- tensors of the jobs, in the order of their matrices --------------------------------------

    def _gather(self, tensors: Sequence[Tensor], to: Tensor) -> None:
        """Copies one tensor of each job into (jobs, rows, columns), of any dtype."""
        views = [in_order(t.detach(), job) for t, job in zip(tensors, self.jobs, strict=True)]
        torch._foreach_copy_(_shaped(to, views), views)

    def _kept(self) -> Tensor:
        shape = (len(self.jobs), self.grid.rows, self.grid.columns)
        kept = torch.empty(shape, dtype=torch.bool, device=self.device)
        self._gather([job.kept_zeros for job in self.jobs if job.kept_zeros is not None], kept)
        return kept

    def deliver(self, keep: Tensor, masks: list[Tensor | None]) -> None:
        """Makes the jobs' masks, in the order of their own axes, of (jobs, rows, columns)."""
        new = [torch.empty(job.mask.shape, dtype=torch.bool, device=self.device)
               for job in self.jobs]  # fmt: skip
        views = [in_order(mask, job) for mask, job in zip(new, self.jobs, strict=True)]
        torch._foreach_copy_(views, _shaped(keep, views))
        for place, mask in zip(self.places, new, strict=True):
            masks[place] = mask

    def _as_blocks(self, rows: Tensor) -> Tensor:
        """(jobs, down, across), of the first blocks of each row."""
        grid = self.grid
        return torch.unflatten(rows[:, : grid.blocks], 1, (grid.down, grid.across))


def _shaped(batch: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """One of a batch for each, as a view of its shape."""
    return [one.view(tensor.shape) for one, tensor in zip(batch.unbind(), like, strict=True)]
