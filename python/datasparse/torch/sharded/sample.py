"""Where searches that have no hint will stop, as far as a few weights of each rank tell.

It is a wish that goes along with the first agreement: counting is exact whatever it says, and takes
a round less where it is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..._core import ShardSelection
from ..._sampling import keys_of, spread
from ..device.job import Job
from .parts import Part, Search
from .ranks import NUMBERS
from .rectangle import Integers

SEARCHES = NUMBERS // 3  # of which ranks tell each other: the first ones that are large
LARGE = 1 << 20  # blocks
SAMPLED = 1 << 14  # weights of a search, on each rank
FEWEST = 16  # of a tensor
DEVIATIONS = 3  # of a sample, between its guess and what it tells
UNIT = 1 << 20  # of how far apart keys lie
NOTHING = -(1 << 62)  # from a rank that knows nothing

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What this rank has seen of some searches."""

    budgets: dict[int, int]  # by search
    guesses: Integers

    @staticmethod
    def of(parts: Sequence[Part], searches: Sequence[Search]) -> Sample:
        """What this rank tells: of each search the highest key at which it may stop, the lowest one
        by its negative, and how far apart keys lie there. Of each, ranks learn the maximum."""
        # Which searches: by what is the same on all ranks.
        chosen = [i for i, search in enumerate(searches) if is_sampled(parts, search)][:SEARCHES]
        own = np.full((SEARCHES, 3), NOTHING)
        for row, i in enumerate(chosen):
            own[row] = guess_of(parts, searches[i])
        return Sample({i: searches[i].budget for i in chosen}, own.ravel())

    def expect(self, selection: ShardSelection, maxima: Integers) -> None:
        """Begins the searches where ranks have guessed that they stop."""
        rows = maxima.reshape(-1, 3).tolist()
        for (i, budget), (high, low, apart) in zip(self.budgets.items(), rows, strict=False):
            if high > NOTHING:
                keys_per_block = apart / UNIT
                error = (high + low) / (2 * DEVIATIONS) / keys_per_block
                selection.expect(i, ((high - low) // 2, 0, budget, keys_per_block, error))


def is_sampled(parts: Sequence[Part], search: Search) -> bool:
    """Whether it is of many single elements, as they are, of which a part is pruned."""
    if search.hint is not None or search.is_wide or any(search.least):
        return False
    blocks = [parts[group].blocks.all for group in search.groups]
    return (
        sum(blocks) >= LARGE
        and tuple(blocks) == search.most
        and all(is_single(parts[group].job) for group in search.groups)
        and 0 < search.budget < search.cost(parts)
    )


def is_single(job: Job) -> bool:
    """Of a part, whose block is that of the whole tensor: another rank may have one row of it."""
    return job.block == (1, 1) and job.zeros == 1 and job.norm != "L2"


def guess_of(parts: Sequence[Part], search: Search) -> tuple[int, int, int]:
    """By a sample of what is here."""
    keys, costs = sample_of(parts, search)
    if keys.size == 0:
        return NOTHING, NOTHING, NOTHING
    order = np.argsort(keys)
    keys, paid = keys[order], np.cumsum(costs[order])
    total = search.cost(parts)
    paid *= total / paid[-1]  # tensors of which nothing is here are as the others
    share = search.budget / total
    error = np.sqrt(share * (1 - share) * np.square(costs / costs.sum()).sum()) * total
    beside = max(error, total / 500)

    def stop(budget: float) -> int:
        return int(keys[min(int(np.searchsorted(paid, budget)), len(keys) - 1)])

    keys_per_block = (stop(search.budget + beside) - stop(search.budget - beside)) / (2 * beside)
    keys_per_block = max(keys_per_block, 1 / UNIT)
    reach = DEVIATIONS * int(error * keys_per_block + 1)
    middle = stop(search.budget)
    return middle + reach, reach - middle, int(keys_per_block * UNIT)


def sample_of(parts: Sequence[Part], search: Search) -> tuple[Integers, Numbers]:
    """The keys of some weights that are here, and for how much of all each of them stands."""
    here = [parts[group].job.scores for group in search.groups]
    elements = sum(scores.numel() for scores in here)
    values, costs = [], []
    for group, weight, scores in zip(search.groups, search.weights, here, strict=True):
        if scores.numel() == 0:
            continue
        number = min(max(SAMPLED * scores.numel() // elements, FEWEST), scores.numel())
        places = (spread(np.arange(number), 0) * scores.numel()).astype(np.int64)
        some = torch.take(scores.detach(), torch.from_numpy(places).to(scores.device))
        values.append(some.float() if parts[group].job.norm == "none" else some.float().abs())
        costs.append(np.full(number, parts[group].blocks.all * weight / number))
    if not values:
        return np.empty(0, np.int64), np.empty(0)
    keys = keys_of(torch.cat(values).cpu().numpy(), is_wide=False)
    return keys.astype(np.int64), np.concatenate(costs)
