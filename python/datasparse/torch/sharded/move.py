"""Masks of shards that move: what is dropped and what grows are searched for over all ranks.

A drop is a search among what is active, all else being pruned before. A growth is one among what
may grow: all of that is pruned before, and the highest of it come back. Where elements go and come
within blocks, N:M, the drop alone is searched for: the rest concerns blocks, which lie on one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..device.job import Job, Move, Moved, MovePool, Pool
from ..device.operations.arithmetic import exact_arithmetic, require_exact
from ..device.operations.draw import drawn_keys
from ..device.operations.grid import in_order
from ..device.operations.move import is_computed, kind_of
from ..device.operations.moving import Moving
from .compute import find, local, part_of, prepare, ranks_for, spread_one
from .parts import Part
from .ranks import Call, Description, Ranks
from .rectangle import Blocks, Integers, Rectangle

SINGLE: dict[str, Any] = {"order": (), "block": (1, 1), "zeros": 1}


def move(moves: Sequence[Move], pools: Sequence[MovePool]) -> list[Moved]:
    """What masks become whose tensors are sharded: to the bit what the core makes of whole ones.
    Changes nothing.

    All ranks call it as they call compute(), with the same moves. It sends what compute() sends,
    for the drop and for the growth, without hints, and two numbers a tensor. With what is returned,
    it takes up to 9 bytes an element of the shards.
    """
    ranks = ranks_for([move.job for move in moves])
    call = ranks.call("step()")
    shards = call.attempt(lambda: [shard_of(move, ranks) for move in moves])
    call.agree(describe(moves, pools))
    assert shards is not None  # else agree() has raised
    moved = move_shards(call, shards, pools)
    made = call.attempt(lambda: [
        Moved(*(spread_one(move.job, own) for own in (new.mask, new.ever_active, new.grown)))
        for move, new in zip(moves, moved or (), strict=True)
    ])  # fmt: skip
    call.agree()  # from here on nothing fails
    assert made is not None
    return made


def describe(moves: Sequence[Move], pools: Sequence[MovePool]) -> Description:
    """What says how many are dropped, and what is drawn. Searches say the rest."""
    facts = [("the number of masks that move", str(len(moves)))]
    for place, one in enumerate(moves):
        grows = "by chance" if one.gradient is None else f"by a gradient of {one.gradient.dtype}"
        own = (
            f"drops {one.fraction} of what is active and prunes {one.job.pruned} blocks, grows "
            f"{grows}, draws from {one.stream}"
        )
        facts.append((f"move {place}", own))
    return [*facts, ("pools", str(list(pools)))]


def move_shards(
    call: Call, shards: Sequence[Shard], pools: Sequence[MovePool]
) -> list[Moved] | None:
    """Those of the shards; None where something has failed, which the next agreement raises."""
    pools = with_those_alone(shards, pools)
    blocks = np.array([one.units.all for one in shards])
    active, dead = totals(call, shards, lambda one: one.active, lambda one: one.number_dead)
    dropping = []
    for pool in pools:
        past = weigh(pool, blocks - active)
        dropping.append(pool_of(pool, blocks, past + number_dropped(pool, shards, active, past)))
    search(call, shards, dropping, Shard.dropping, Shard.drop_all_but)
    places = [place for place, one in enumerate(shards) if not one.kind.is_within]
    growing = []
    for pool in pools:
        if pool.moves[0] in places:
            # Where this is more than may grow, as where blocks weigh differently, nothing does.
            staying = max(pool.pruned - weigh(pool, dead), 0)
            growing.append(pool_of(among(places, pool, shards), blocks[places], staying))
    if growing:
        some = [shards[place] for place in places]
        search(call, some, growing, Shard.growing, Shard.grow_where)
    return call.attempt(lambda: [one.moved() for one in shards])


def search(
    call: Call,
    shards: Sequence[Shard],
    pools: Sequence[Pool],
    ranked: Callable[[Shard], Ranked],
    put: Callable[[Shard, Tensor], None],
) -> None:
    """Has each shard take the mask that a search over all ranks finds for its part."""

    def begin() -> Any:
        some = [ranked(shard) for shard in shards]
        return prepare([one.job for one in some], pools, [one.part for one in some])

    parts, _, selection = find(call, begin)

    def end() -> None:
        for shard, mask in zip(shards, parts.contents(selection), strict=True):
            assert isinstance(mask, Tensor)  # parts of moves have no mask to be written
            put(shard, mask)

    call.attempt(end)


# --- numbers ----------------------------------------------------------------------------------


def totals(
    call: Call, shards: Sequence[Shard], *numbers: Callable[[Shard], Tensor]
) -> list[Integers]:
    """Numbers of what is here, summed over all ranks: for each kind of them, one of each shard."""

    def here() -> Integers:
        own = [[int(of(one)) if one.part.counts else 0 for one in shards] for of in numbers]
        return np.array(own, np.int64).ravel()

    sums = call.sum(call.attempt(here), len(numbers) * len(shards))
    return list(sums.reshape(len(numbers), len(shards)))


def with_those_alone(shards: Sequence[Shard], pools: Sequence[MovePool]) -> list[MovePool]:
    """And each other one as a pool of itself."""
    pooled = {place for pool in pools for place in pool.moves}
    alone = [
        MovePool((place,), (1,), one.whole.job.pruned, (False,))
        for place, one in enumerate(shards)
        if place not in pooled
    ]
    return [*pools, *alone]


def pool_of(pool: MovePool, blocks: Integers, budget: int) -> Pool:
    """The same, of which so much is pruned."""
    most = tuple(int(blocks[place]) for place in pool.moves)
    return Pool(pool.moves, pool.weights, (0,) * len(most), most, budget, pool.normalize)


def among(places: Sequence[int], pool: MovePool, shards: Sequence[Shard]) -> MovePool:
    """The same among these places alone, by what grows."""
    moves = tuple(places.index(place) for place in pool.moves)
    if shards[pool.moves[0]].by_gradients is not None:
        return replace(pool, moves=moves)
    return replace(pool, moves=moves, normalize=(False,) * len(moves))  # keys that are drawn


def weigh(pool: MovePool, numbers: Integers) -> int:
    """So much of all members."""
    pairs = zip(pool.moves, pool.weights, strict=True)
    return sum(int(numbers[place]) * weight for place, weight in pairs)


def number_dropped(pool: MovePool, shards: Sequence[Shard], active: Integers, pruned: int) -> int:
    """The weight of what is dropped where so much is pruned: of one product where all members have
    the same fraction, else of a sum in the order of members."""
    fractions = [shards[place].whole.fraction for place in pool.moves]
    if len(set(fractions)) == 1:
        dropped = floor(float(weigh(pool, active)) * fractions[0])
    else:
        total = 0.0
        for place, weight, fraction in zip(pool.moves, pool.weights, fractions, strict=True):
            total += float(int(active[place]) * weight) * fraction
        dropped = floor(total)
    if not shards[pool.moves[0]].kind.is_within:
        dropped = max(dropped, pool.pruned - pruned)
    return min(max(dropped, 0), weigh(pool, active))


# --- what is here -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Ranked:
    """What a search is of: a job, of whole tensors, and its part here."""

    job: Job
    part: Part


class Shard(Moving):
    """What is here of one move, between one choice and the next."""

    def __init__(self, whole: Move, part: Part, here: Callable[[Tensor], Tensor]) -> None:
        """`here` gives what is here of a tensor, its axes in the order of the matrix."""
        own = replace(
            whole,
            job=part.job,
            gradient=None if whole.gradient is None else here(whole.gradient),
            weight=here(whole.weight),
            ever_active=here(whole.ever_active),
        )
        kind = kind_of(own)
        for dtype in (kind.weights, kind.gradients):
            if dtype is not None and is_computed(kind):
                require_exact(own.weight.device, dtype)
        super().__init__(kind, [0], [own])
        self.whole = whole
        self.part = part
        shape = tuple(whole.job.scores.shape)
        self.units = Blocks.of(part.rectangle, (1, 1), shape) if kind.is_within else part.blocks

    def dropping(self) -> Ranked:
        """All units, those that are not active being pruned before."""
        job, part = self._past(self.whole.job, self.part.job, self.was_active)
        if self.kind.is_within:
            job, part = replace(job, **SINGLE), replace(part, **SINGLE)
        return Ranked(job, Part(part, self.part.rectangle, self.units, self.part.counts))

    def drop_all_but(self, mask: Tensor) -> None:
        self.survives = self._units_in(mask).logical_and_(self.was_active)
        if not self.kind.is_within:
            return
        if self.units.here == 0:
            self.grown = self.may_grow()  # nothing
            return
        with exact_arithmetic(self.device):
            self.drop_excess()
            self.grow_within()

    def growing(self) -> Ranked:
        """All blocks, those that may grow being pruned before: the highest of these come back."""
        (own,) = self.moves
        stays = self.may_grow().logical_not_()
        if own.gradient is not None and self.whole.gradient is not None:
            job = replace(self.whole.job, scores=self.whole.gradient)
            job, part = self._past(job, replace(own.job, scores=own.gradient), stays)
            return Ranked(job, replace(self.part, job=part))
        blocks = self.units
        keys = self.draw_keys()[0, : blocks.here].view(torch.float32)
        flags = stays[0, : blocks.here]
        down = blocks.all // blocks.across
        rectangle = Rectangle((down, blocks.across), blocks.first, blocks.size)
        part = replace(
            own.job,
            scores=keys.view(blocks.size),
            mask=flags.view(blocks.size),
            kept_zeros=None,
            norm="L1",
            monotone=True,
            **SINGLE,
        )
        # Of the whole, nothing but the shape is asked for.
        job = replace(part, scores=torch.empty(rectangle.whole, device="meta"))
        return Ranked(job, Part(part, rectangle, blocks, self.part.counts))

    def grow_where(self, mask: Tensor) -> None:
        if self.by_gradients is not None:
            kept = self._units_in(mask)
        else:
            kept = torch.zeros_like(self.survives)
            kept[0, : self.units.here] = mask.flatten()
        self.grown = kept.logical_and_(self.may_grow())

    def draw_keys(self) -> Tensor:
        """By the places of units in the whole tensor."""
        (own,) = self.moves
        return drawn_keys([own.stream], self.units.here, self.device, self.units.places)

    def moved(self) -> Moved:
        made: list[Moved | None] = [None]
        self.deliver(made)
        assert made[0] is not None
        return made[0]

    def _past(self, whole: Job, here: Job, flags: Tensor) -> tuple[Job, Job]:
        """Both, where what is not flagged was pruned before."""
        masks: list[Tensor | None] = [None]
        self.by_weights.deliver(self.by_weights._of_elements(flags), masks)
        assert masks[0] is not None
        # A search keeps its hints beside sharded masks: those of prunings are not for these.
        new: dict[str, Any] = {"mask": masks[0], "kept_zeros": None, "monotone": True}
        return replace(whole, **new), replace(here, **new)

    def _units_in(self, mask: Tensor) -> Tensor:
        """Units all of whose elements are kept by a mask of what is here."""
        units = self.kind.units
        return self._units_of(self.by_weights.free(), mask.view(1, units.rows, units.columns))


def shard_of(move: Move, ranks: Ranks) -> Shard:
    part = part_of(move.job, ranks, moves=True)
    return Shard(move, part, lambda tensor: in_order(local(tensor), move.job))
