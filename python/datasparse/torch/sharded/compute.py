"""From jobs on whole tensors to the masks of their shards: all ranks do this at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..._core import ShardSelection, __version__
from ..device.job import Job, Pool
from ..device.operations.arithmetic import dtype_of_sums
from ..device.operations.grid import Grid, order_of
from .counts import Packing
from .layout import Layout, layout_of
from .parts import Part, Parts, Search, Unwritten, parts_for
from .ranks import Call, Description, Ranks
from .rectangle import Blocks, Integers, Rectangle, Shape
from .sample import Sample

KEY_STEPS = {torch.float16: 13, torch.bfloat16: 16}  # bits of a float32 that none of these has

_hints = WeakTensorKeyDictionary()  # of searches, beside the first sharded mask of each


class Prepared(NamedTuple):
    """All that is made before ranks tell each other anything."""

    parts: Parts
    searches: list[Search]
    packing: Packing
    begun: Begun
    description: Description
    sample: Sample


class Begun(NamedTuple):
    """What is asked for next: the sums of numbers, or if there are none, those of a selection."""

    prelude: Integers
    selection: ShardSelection | None

    @staticmethod
    def of(parts: Parts, packing: Packing, sums: Integers | None = None) -> Begun:
        if sums is not None:
            parts.begin(sums)
        prelude = parts.prelude()
        return Begun(prelude, None if prelude.size else parts.selection(packing.most))


def compute(jobs: Sequence[Job], pools: Sequence[Pool]) -> list[Tensor | Unwritten]:
    """The masks of jobs whose tensors are sharded, or plain and the same on all ranks, to the bit
    what the core computes of whole ones: as new tensors, or as what put() will write.

    All ranks that have shards of them call it with the same jobs, in the same order. Where one of
    them fails, or has other jobs, all raise: the one its own error, the others a RankError.
    """
    ranks = ranks_for(jobs)
    call = ranks.call("step()")
    parts, searches, selection = find(
        call, lambda: prepare(jobs, pools, [part_of(job, ranks) for job in jobs], is_sampled=True)
    )
    masks = call.attempt(spread, jobs, parts, selection)
    call.agree()  # from here on nothing fails
    assert masks is not None
    keep_hints(jobs, searches, selection)
    return masks


def find(call: Call, prepare: Callable[[], Prepared]) -> tuple[Parts, list[Search], ShardSelection]:
    """Where searches over ranks stop, and what answers for the parts here."""
    prepared = call.attempt(prepare)
    guesses = call.agree(prepared and prepared.description, prepared and prepared.sample.guesses)
    assert prepared is not None  # else agree() has raised
    parts, searches, packing, (prelude, selection), _, sample = prepared
    while selection is None:
        begun = call.attempt(Begun.of, parts, packing, call.sum(prelude, prelude.size))
        call.agree(begun and [("what is asked for next", str(begun.prelude.size))])
        assert begun is not None
        prelude, selection = begun
    call.attempt(sample.expect, selection, guesses)
    while not selection.done:
        counts = call.attempt(lambda asked: packing.pack(parts.count(asked)), selection)
        sums = call.sum(counts, packing.size(selection.size))
        selection.tell(packing.unpack(sums, selection.size))
    return parts, searches, selection


def ranks_for(jobs: Sequence[Job]) -> Ranks:
    """The ranks that have shards of any of the jobs. TypeError where no mesh has all of them."""
    meshes = [layout_of(job.scores).together for job in jobs if isinstance(job.scores, DTensor)]
    widest = max(meshes, key=lambda ranks: len(ranks.members))
    for ranks in meshes:
        if not set(ranks.members) <= set(widest.members):
            raise TypeError(
                f"what a pool ranks must be on the ranks of one mesh, got some on {ranks}, and "
                f"some on {widest}"
            )
    return widest


def prepare(
    jobs: Sequence[Job], pools: Sequence[Pool], own: Sequence[Part], is_sampled: bool = False
) -> Prepared:
    searches = searches_of(jobs, pools, own)
    parts, packing = parts_for(own, searches), Packing.of(searches, own)
    begun = Begun.of(parts, packing)
    facts = [
        ("who counts", type(parts).__name__),
        ("numbers to begin with", str(begun.prelude.size)),
    ]
    description = [*describe(jobs, searches), *facts]
    sample = Sample.of(own, searches if is_sampled else [])
    return Prepared(parts, searches, packing, begun, description, sample)


# --- what is here -----------------------------------------------------------------------------


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor: its own memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    here: Tensor = tensor.to_local()
    return here


def part_of(job: Job, ranks: Ranks, moves: bool = False) -> Part:
    """ValueError for shards that are no rectangles of the matrix, or that cut blocks.

    moves: the mask moves, so that a part has whole blocks, and gets a new mask.
    """
    shape = tuple(job.scores.shape)
    if isinstance(job.scores, DTensor):
        layout = layout_of(job.scores)
        box, counts = layout.box(shape), layout.counts(ranks)
        if moves:
            return cut(job, *box, counts, local)
        part = cut(job, *box, counts, local, cuts_of(job, layout))
        # The core writes it where it is, unless that is in another order.
        return part if order_of(job) else replace(part, mask=local(job.mask))
    return cut(job, shape, (0,) * len(shape), ranks.rank == ranks.members[0], local)


def cuts_of(job: Job, layout: Layout) -> tuple[int, ...]:
    """The rows at which parts begin within a block, where sums of blocks can be carried from one
    part to the next: of blocks that are pruned as a whole, in the order of memory."""
    grid, shape = Grid.of(job), tuple(job.scores.shape)
    if len(shape) < 2 or grid.height < 2 or grid.zeros < grid.size or order_of(job):
        return ()
    return tuple(row for row in layout.borders(shape, 0) if row % grid.height)


def cut(
    job: Job,
    size: Shape,
    offset: Shape,
    counts: bool,
    here: Callable[[Tensor], Tensor],
    cuts: tuple[int, ...] = (),
) -> Part:
    """The part of a job that has so many elements along each axis, from there on: `here` is what
    gives that part of a tensor."""
    shape, order, grid = tuple(job.scores.shape), order_of(job), Grid.of(job)
    rectangle = Rectangle.of(shape, order, size, offset)

    def seen(tensor: Tensor) -> Tensor:
        return here(tensor).permute(order) if order else here(tensor)

    mask, kept = seen(job.mask), None if job.kept_zeros is None else seen(job.kept_zeros)
    if kept is not None and job.monotone and grid.size > 1:
        # It says nothing of its block, also where an edge leaves one element of that here.
        mask = mask.logical_or(kept)
    part = replace(
        job,
        scores=seen(job.scores),
        mask=mask,
        order=(),
        # Of the whole matrix, which the order has made: where it does not matter, it is gone here.
        block=(max(grid.height, 1), max(grid.width, 1)),
        zeros=grid.zeros,
        kept_zeros=kept,
    )
    blocks = Blocks.of(rectangle, (grid.height, grid.width), shape, may_cut_rows=bool(cuts))
    return Part(part, rectangle, blocks, counts, cuts)


def spread(
    jobs: Sequence[Job], parts: Parts, selection: ShardSelection
) -> list[Tensor | Unwritten]:
    """The masks of the jobs, of those of their parts."""
    contents = parts.contents(selection)
    return [
        mask if isinstance(mask, Unwritten) else spread_one(job, mask)
        for job, mask in zip(jobs, contents, strict=True)
    ]


def spread_one(job: Job, mask: Tensor) -> Tensor:
    own = in_memory(job, mask)
    if not isinstance(job.scores, DTensor):
        return own
    return layout_of(job.scores).spread(own, tuple(job.scores.shape))


def in_memory(job: Job, mask: Tensor) -> Tensor:
    """The mask of a part, its axes in the order of the tensor's."""
    order = order_of(job)
    axes = sorted(range(len(order)), key=order.__getitem__)
    return mask.permute(axes).contiguous() if order else mask


# --- what is searched for ---------------------------------------------------------------------


def searches_of(jobs: Sequence[Job], pools: Sequence[Pool], parts: Sequence[Part]) -> list[Search]:
    """Of the pools, in their order, and of each other job by itself."""
    blocks = [part.blocks.all for part in parts]
    searches = []
    searched: set[int] = set()
    for pool in pools:
        members = [
            member for member in zip(pool.jobs, pool.weights, pool.least, pool.most,
                                     pool.normalize, strict=True)
            if member[1] > 0 and blocks[member[0]] > 0
        ]  # fmt: skip
        if members:
            places, weights, least, most, normalize = zip(*members, strict=True)
            own = Pool(places, weights, least, most, pool.budget, normalize)
            searches.append(search_of(own, jobs))
            searched.update(places)
    pooled = {place for pool in pools for place in pool.jobs}
    for place, job in enumerate(jobs):
        if place not in searched:
            loses = place not in pooled and job.zeros > 0
            pruned = job.pruned if loses else 0
            alone = Pool((place,), (1,), (0,), (blocks[place],), pruned, (False,))
            searches.append(search_of(alone, jobs))
    return searches


def search_of(pool: Pool, jobs: Sequence[Job]) -> Search:
    ranked = [jobs[place] for place in pool.jobs]
    sums = {dtype_of_sums(job.scores.dtype) for job in ranked}
    as_doubles = any(pool.normalize) or len(sums) > 1
    is_wide = as_doubles or torch.float64 in sums
    steps = {KEY_STEPS.get(job.scores.dtype, 0) if is_plain(job) else 0 for job in ranked}
    mask = first_mask(pool.jobs, jobs)
    return Search(
        pool.jobs,
        pool.weights,
        pool.least,
        pool.most,
        pool.budget,
        pool.normalize,
        as_doubles,
        is_wide,
        any(job.norm == "none" for job in ranked),
        0 if is_wide else min(steps),
        None if mask is None else _hints.get(mask),  # type: ignore[no-untyped-call]
    )


def is_plain(job: Job) -> bool:
    """Whether scores are single elements as they are."""
    grid = Grid.of(job)
    return grid.size == 1 and job.norm != "L2"


def keep_hints(jobs: Sequence[Job], searches: Sequence[Search], selection: ShardSelection) -> None:
    for i, search in enumerate(searches):
        mask = first_mask(search.groups, jobs)
        if mask is not None:
            _hints[mask] = selection.hint(i)


def first_mask(places: Sequence[int], jobs: Sequence[Job]) -> Tensor | None:
    """The first one that is sharded, which lives as long as its group."""
    masks = (jobs[place].mask for place in places)
    return next((mask for mask in masks if isinstance(mask, DTensor)), None)


# --- what ranks must agree on -----------------------------------------------------------------


def describe(jobs: Sequence[Job], searches: Sequence[Search]) -> Description:
    """All that masks hang on but the numbers in the tensors."""
    facts = [("datasparse", __version__), ("the number of tensors", str(len(jobs)))]
    for place, job in enumerate(jobs):
        scores = job.scores
        where = str(layout_of(scores).placements) if isinstance(scores, DTensor) else "whole"
        own = (
            f"of shape {tuple(scores.shape)} and {scores.dtype}, {where}, order {job.order}, "
            f"blocks {job.block} with {job.zeros} zeros, {job.pruned} blocks to prune, "
            f"norm {job.norm}, monotone {job.monotone}, "
            f"kept zeros {job.kept_zeros is not None}"
        )
        facts.append((f"tensor {place}", own))
    for number, search in enumerate(searches):
        facts.append((f"search {number}", f"{search}"))
    return facts
