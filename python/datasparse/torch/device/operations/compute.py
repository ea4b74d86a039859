"""From jobs to masks: in batches, of which each takes a fixed number of operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ..job import Job, Pool
from .arithmetic import dtype_of_sums, exact_arithmetic, require_exact
from .batch import Batch
from .grid import Grid
from .pool import prune_pool

# Jobs go together as long as a batch has no more elements than the largest tensor, or than this:
# what it takes in memory is up to 16 bytes for each.
BATCH_LEAST = 1 << 22


@dataclass(frozen=True, slots=True)
class _Kind:
    """What jobs of one batch have in common."""

    grid: Grid
    device: torch.device
    dtype: torch.dtype
    norm: str
    monotone: bool
    keeps_zeros: bool
    pool: int  # -1 for none
    normalize: bool
    share: str  # of the blocks that are pruned: "none", "some" or "all"; "some" in a pool


_Batches: TypeAlias = list[tuple[_Kind, Batch]]


def compute(jobs: Sequence[Job], pools: Sequence[Pool]) -> list[Tensor]:
    """The masks of jobs, each on the device of its tensors: fresh bool tensors of their shapes,
    contiguous, equal to the bit to what the core computes on the CPU. Changes nothing else.

    Nothing is read back, and nothing but launches goes to the device. ValueError where the device
    cannot give the same bits: without float64 for a pool that needs it, or where scores are
    computed and it rounds in another way, or flushes denormals (require_exact()).

    Cost: jobs of one size, dtype and config take about 30 operations together, and one more for
    each position of a block that has a score: 4,112 where a block is a row of 4,096. A pool takes
    about 10 for each bit of a key, and 5 more for each size; where members are bounded, monotone or
    compared as doubles, as many again. Memory besides the masks: up to 16 bytes an element of the
    largest tensor, or 64 MiB.
    """
    if not jobs:
        return []
    most = max(BATCH_LEAST, *(job.scores.numel() for job in jobs))
    alone, pooled = _batches(jobs, pools, most)
    masks: list[Tensor | None] = [None] * len(jobs)
    with torch.inference_mode(False), ExitStack() as exact:
        for device in {job.scores.device for job in jobs}:
            exact.enter_context(exact_arithmetic(device))
        for kind, batch in alone:
            batch.deliver(_keep(kind, batch), masks)
        for pool, members in zip(pools, pooled, strict=True):
            batches = [batch for _, batch in members]
            normalize = [kind.normalize for kind, _ in members]
            pruned, threshold = prune_pool(pool, batches, normalize, most)
            for batch, number in zip(batches, pruned, strict=True):
                cut = None if threshold is None else threshold.to(batch.device)
                batch.deliver(batch.keep(number, cut), masks)
    return [mask for mask in masks if mask is not None]


def _keep(kind: _Kind, batch: Batch) -> Tensor:
    if kind.share == "none":
        return batch.keep_all(True)
    if kind.share == "some":
        return batch.keep([job.pruned for job in batch.jobs])
    return batch.keep(None) if kind.grid.zeros < kind.grid.size else batch.keep_all(False)


def _batches(
    jobs: Sequence[Job], pools: Sequence[Pool], most: int
) -> tuple[_Batches, list[_Batches]]:
    """Those of jobs by themselves, and those of each pool, of at most so many elements each, or of
    one job. Members of a pool that lose nothing are by themselves."""
    kinds = [_kind_of(job) for job in jobs]
    for number, pool in enumerate(pools):
        _join(number, pool, jobs, kinds)
    places: dict[_Kind, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    alone: _Batches = []
    pooled: list[_Batches] = [[] for _ in pools]
    for kind, own in places.items():
        if _is_computed(jobs[own[0]], kind):
            require_exact(kind.device, kind.dtype)
        step = max(most // max(kind.grid.elements, 1), 1)
        for first in range(0, len(own), step):
            some = own[first : first + step]
            batch = Batch(some, [jobs[i] for i in some], kind.grid, kind.dtype, kind.device)
            (alone if kind.pool < 0 else pooled[kind.pool]).append((kind, batch))
    return alone, pooled


def _kind_of(job: Job) -> _Kind:
    grid = Grid.of(job)
    share = "some" if job.pruned < grid.blocks else "all"
    if grid.zeros == 0 or job.pruned == 0:
        share = "none"
    kept = job.kept_zeros is not None
    scores = job.scores
    kind = _Kind(grid, scores.device, scores.dtype, job.norm, job.monotone, kept, -1, False, share)
    return replace(kind, dtype=dtype_of_sums(scores.dtype)) if _is_computed(job, kind) else kind


def _is_computed(job: Job, kind: _Kind) -> bool:
    """Whether scores are other numbers than the elements, or of another type."""
    if kind.share == "none" or (kind.share == "all" and kind.grid.zeros == kind.grid.size):
        return False
    has_sums = kind.share == "some" and kind.grid.size > 1
    return job.norm == "L2" or has_sums or kind.dtype != job.scores.dtype


def _join(number: int, pool: Pool, jobs: Sequence[Job], kinds: list[_Kind]) -> None:
    """Makes the kinds of a pool's members those of members. Keys of one type are compared as they
    are."""
    members = []
    for place, weight, normalize in zip(pool.jobs, pool.weights, pool.normalize, strict=True):
        kind = replace(_kind_of(replace(jobs[place], pruned=1)), share="none")
        if weight > 0 and kind.grid.blocks > 0:
            kind = replace(kind, pool=number, normalize=normalize, share="some")
            if _is_computed(jobs[place], kind):
                kind = replace(kind, dtype=dtype_of_sums(jobs[place].scores.dtype))
            members.append(place)
        kinds[place] = kind
    if len({kinds[place].dtype for place in members}) > 1 or any(
        kinds[place].normalize for place in members
    ):
        for place in members:
            kinds[place] = replace(kinds[place], dtype=dtype_of_sums(jobs[place].scores.dtype))
