"""How many blocks each member of a pool loses, found on the device: `PoolSearch` of the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..job import MovePool, Pool
from .arithmetic import require_exact
from .batch import Batch
from .keys import integer_of, make_keys, new_keys, put_past
from .select import count, greatest, numbers
from .squares import norms_of


def prune_pool(
    pool: Pool, batches: Sequence[Batch], normalize: Sequence[bool], room: int
) -> tuple[list[Tensor], Tensor | None]:
    """How many blocks each job of each batch loses, (jobs, 1); and the key at which the pool stops,
    (1, 1), where the keys of all are those of the batches, and it is the cut of each.

    The batches have the members that lose anything. Counts are summed on the device of the first
    that is not on the CPU; where members are elsewhere, small tensors of counts and keys go there
    and back, which waits for the CPU's. The keys of `room` elements may be kept; where
    there are more, they are made anew for each question.
    """
    if not batches:
        return [], None
    plan = _Plan(pool, batches)
    # Scores of several types, or divided ones, are compared as doubles.
    as_doubles = any(normalize) or len({batch.dtype for batch in batches}) > 1
    if as_doubles:
        for batch in batches:
            require_exact(batch.device, torch.float64)
    members = [_Members(batch, as_doubles, divided)
               for batch, divided in zip(batches, normalize, strict=True)]  # fmt: skip
    # What monotone masks have pruned comes first. Where that is more than the pool prunes, some of
    # it comes back, and no other block is pruned.
    returning = None
    if any(batch.is_monotone for batch in batches):
        past = plan.in_order([some.count_past() for some in members])
        returning = plan.cost(past) > plan.budget
    kept = None
    if sum(len(batch.jobs) * batch.grid.elements for batch in batches) <= room:
        kept = [some.keys(returning) for some in members]

    def counts(compare: Callable[[Tensor, Tensor], Tensor], key: Tensor) -> Tensor:
        def among(keys: Tensor) -> Tensor:
            return count(compare(keys, key.to(keys.device)))

        if kept is not None:
            return plan.in_order([among(keys) for keys in kept])
        return plan.in_order([among(some.keys(returning)) for some in members])

    like = torch.empty((1, 1), dtype=integer_of(members[0].dtype), device=plan.device)
    stop = greatest(lambda key: plan.cost(counts(torch.lt, key)) <= plan.budget, like)
    pruned = plan.prune(counts(torch.lt, stop), counts(torch.le, stop))
    is_cut = not as_doubles and returning is None and not plan.is_bounded
    return plan.by_batch(pruned), stop if is_cut else None


def common_keys(batches: Sequence[Batch], normalize: Sequence[bool]) -> list[Tensor]:
    """The keys of all blocks of each batch, in the order that all have in common."""
    as_doubles = any(normalize) or len({batch.dtype for batch in batches}) > 1
    if as_doubles:
        require_exact(batches[0].device, torch.float64)
    return [_Members(batch, as_doubles, divided).keys(None)
            for batch, divided in zip(batches, normalize, strict=True)]  # fmt: skip


def share_out(
    pool: MovePool, batches: Sequence[Batch], keys: Sequence[Tensor], budget: Tensor
) -> list[Tensor]:
    """How many of its lowest blocks each job of each batch has to offer for a budget, (1, 1), on
    the device: (jobs, 1). Blocks whose keys are the highest there are come last."""
    blocks = {place: batch.grid.blocks for batch in batches for place in batch.places}
    most = tuple(blocks[place] for place in pool.moves)
    least = (0,) * len(most)
    plan = _Plan(Pool(pool.moves, pool.weights, least, most, 0, pool.normalize), batches)
    plan.budget = budget

    def counts(flags_of: Callable[[Tensor], Tensor]) -> Tensor:
        return plan.in_order([count(flags_of(own)) for own in keys])

    like = torch.empty((1, 1), dtype=keys[0].dtype, device=plan.device)
    stop = greatest(lambda key: plan.cost(counts(lambda keys: keys < key)) <= plan.budget, like)
    pruned = plan.prune(counts(lambda keys: keys < stop), counts(lambda keys: keys <= stop))
    return plan.by_batch(pruned)


class _Plan:
    """`PoolPlan` of the core. Numbers have a row for each member, in the order of the pool."""

    def __init__(self, pool: Pool, batches: Sequence[Batch]) -> None:
        places = [batch.device for batch in batches]
        self.device = next((place for place in places if place.type != "cpu"), places[0])
        self.budget: int | Tensor = pool.budget
        self._batches = batches
        self._at = {place: i for i, place in enumerate(p for b in batches for p in b.places)}
        own = [i for i, place in enumerate(pool.jobs) if place in self._at]
        self._members = {pool.jobs[i]: member for member, i in enumerate(own)}
        blocks = {place: batch.grid.blocks for batch in batches for place in batch.places}
        self.is_bounded = any(pool.least[i] > 0 or pool.most[i] < blocks[pool.jobs[i]] for i in own)
        self._weights = numbers([pool.weights[i] for i in own], self.device)
        self._least = numbers([pool.least[i] for i in own], self.device)
        self._most = numbers([pool.most[i] for i in own], self.device)
        self._order = numbers([self._at[place] for place in self._members], self.device).view(-1)

    def in_order(self, by_batch: Sequence[Tensor]) -> Tensor:
        """(members, 1), of a number for each job of each batch."""
        here = [some.to(self.device, torch.int64) for some in by_batch]
        return torch.cat(here).index_select(0, self._order)

    def by_batch(self, by_member: Tensor) -> list[Tensor]:
        members = numbers([self._members[place] for place in self._at], self.device).view(-1)
        sizes = [len(batch.jobs) for batch in self._batches]
        parts = torch.split(by_member.index_select(0, members), sizes)
        return [part.to(batch.device) for part, batch in zip(parts, self._batches, strict=True)]

    def cost(self, pruned: Tensor) -> Tensor:
        """`PoolPlan::cost()`: (1, 1)."""
        return (self._bounded(pruned) * self._weights).sum(0, keepdim=True)

    def prune(self, below: Tensor, up_to: Tensor) -> Tensor:
        """`PoolPlan::prune()`: ties are paid for in the order of members, up to the first one that
        costs too much; then what is left is negative."""
        pruned = self._bounded(below)
        wanted = self._bounded(up_to) - pruned
        price = wanted * self._weights
        left = self.budget - self.cost(below) - (price.cumsum(0) - price)
        paid = left.div(self._weights, rounding_mode="floor").clamp_(min=0).minimum(wanted)
        return pruned + paid

    def _bounded(self, pruned: Tensor) -> Tensor:
        return pruned.clamp(self._least, self._most)


class _Members:
    """The keys of a batch in the order that all members have in common."""

    def __init__(self, batch: Batch, as_doubles: bool, divided: bool) -> None:
        self._batch = batch
        self._as_doubles = as_doubles
        self.dtype = torch.float64 if as_doubles else batch.dtype
        self._norms: Tensor | None = None
        if divided:
            scores = batch.block_scores(batch.element_scores())
            self._norms = norms_of(scores[:, : batch.grid.blocks], batch.dtype)

    def count_past(self) -> Tensor:
        batch = self._batch
        if batch.is_monotone:
            return count(batch.past_blocks(batch.free()))
        return numbers([0] * len(batch.jobs), batch.device)

    def keys(self, returning: Tensor | None) -> Tensor:
        """returning: where a member is monotone, whether only what masks have pruned is ranked."""
        batch = self._batch
        keys = batch.block_scores(batch.element_scores())
        if self._as_doubles:
            keys = to_doubles(batch, keys, self._norms)
        make_keys(keys[:, : batch.grid.blocks], self.dtype, batch.norm)
        if returning is not None:
            past = batch.past_blocks(batch.free()) if batch.is_monotone else None
            put_past(keys, past, returning.to(batch.device), self.dtype)
        return keys


def to_doubles(batch: Batch, bits: Tensor, norms: Tensor | None) -> Tensor:
    """The bits of block scores as those of doubles, divided by norms, (jobs, 1), if there are any.
    Infinite ones stay so, even where the norm is: that is where squares of doubles overflow."""
    blocks = batch.grid.blocks
    if batch.dtype != torch.float64:
        wide = new_keys(len(batch.jobs), blocks, torch.float64, batch.device)
        scores = wide.view(torch.float64)[:, :blocks]
        scores.copy_(bits.view(batch.dtype)[:, :blocks])
        if norms is not None:
            scores.div_(norms)
        return wide
    if norms is not None:
        scores = bits.view(torch.float64)[:, :blocks]
        infinite = float("inf")
        highest, lowest = scores == infinite, scores == -infinite
        scores.div_(norms)
        scores.masked_fill_(highest, infinite).masked_fill_(lowest, -infinite)
    return bits
