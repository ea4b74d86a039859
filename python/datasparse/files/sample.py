"""Where a pool's threshold will be, by a look at few places of its tensors.

It is a hint: the count that follows is exact whatever it says, and reads less where it is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .._sampling import keys_of, nan_of, spread
from . import plan as plans
from .header import FLOATS
from .plan import Plan, Task
from .pools import Blocks, Member, Search

RUN = 4096  # bytes that are read at a time, unless a block has more
LARGEST = 1 << 16  # bytes of a block; greater ones are not looked at
FEWEST = 16  # runs of a tensor

Hint = tuple[int, int, int, float, float]
"""`ShardHint` of the core."""


def hint_of(plan: Plan, search: Search, blocks: Mapping[str, Blocks]) -> Hint | None:
    """Where a search will stop, as far as a sample tells. None where a tensor allows for none.

    Cost: reads of 4 KiB, 4 MiB in all or 16 of each tensor; some four times that in memory.
    """
    elements = sum(plan.tasks[name].tensor.elements for name in search.names)
    samples = []
    for name, member, dtype in zip(search.names, search.members, search.dtypes, strict=True):
        task = plan.tasks[name]
        share = plans.SAMPLED * task.tensor.elements / elements
        scores = sampled(plan, task, blocks[name], FLOATS[dtype].itemsize, share)
        if scores is None:
            return None
        samples.append(Sample(scores, member, search.is_wide))
    return Samples(samples, search).hint()


def sampled(
    plan: Plan, task: Task, blocks: Blocks, item: int, share: float
) -> NDArray[np.float64] | None:
    """The scores of some blocks of a tensor: those that follow each other are a row of the result.

    They are from one place of each of many equal parts, and always from the same ones. None where
    blocks are too large for that, or lie too far apart.
    """
    found = in_file(task.tensor.shape, blocks)
    if found is None:
        return None
    (rows, columns), (height, width) = found
    if height * width * item > LARGEST:
        return None
    across = min(max(RUN // (height * width * item), 1), columns // width)
    size = across * width  # elements of a run in one row
    runs = max(int(share / (size * height * item)), FEWEST)
    number = np.arange(runs)
    down = rows // height
    row = ((number + spread(number, 0)) / runs * down).astype(np.int64).clip(max=down - 1)
    column = (spread(number, 1) * (columns // width - across + 1)).astype(np.int64) * width
    first = (row[:, None] * height + np.arange(height)) * columns + column[:, None]
    values = plan.scores.some(plan.checkpoint, task.tensor, first.reshape(-1), size)
    values = values.reshape(runs, height, across, width).swapaxes(1, 2)
    scores = score_of(values.reshape(runs, across, height * width), task.config["norm"])
    if task.config.get("normalize"):
        whole = (rows // height) * (columns // width)
        norm = math.sqrt(float(np.square(scores[np.isfinite(scores)]).mean()) * whole)
        scores /= norm if norm > 0 and math.isfinite(norm) else 1
    return scores


def in_file(
    shape: tuple[int, ...], blocks: Blocks
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The matrix as it lies in a file, and a block of it; None where a block lies scattered."""
    height, width = blocks.height, blocks.width
    if height * width == 1:
        return (1, math.prod(shape)), (1, 1)
    if not blocks.order:
        return blocks.matrix(shape), (height, width)
    return ((shape[0], shape[1]), (width, height)) if len(shape) == 2 else None


def score_of(values: NDArray[np.float64], norm: str | None) -> NDArray[np.float64]:
    """Of blocks along the last axis, up to the last bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        if norm == "L2":
            values = values * values
        mean: NDArray[np.float64] = (values if norm is None else np.abs(values)).mean(axis=-1)
    return mean


class Sample:
    """The keys of some blocks of one tensor, in runs."""

    def __init__(self, scores: NDArray[np.float64], member: Member, is_wide: bool) -> None:
        self.blocks, self.weight, self.least, self.most = member
        self._runs = keys_of(scores, is_wide)
        self._sorted = np.sort(self._runs, axis=None)

    def cost(self, key: int) -> float:
        """Of what lies below a key: in blocks times their weight, within the tensor's bounds."""
        share = np.searchsorted(self._sorted, self._sorted.dtype.type(key)) / len(self._sorted)
        return self.weight * min(max(self.blocks * float(share), self.least), self.most)

    def error(self, key: int) -> float:
        """How far off that is, as a standard deviation, by how far runs differ."""
        shares = (self._runs < self._runs.dtype.type(key)).mean(axis=1)
        return float(self.weight * self.blocks * shares.std() / math.sqrt(len(shares)))


class Samples:
    """Those of all tensors that a search is of."""

    def __init__(self, samples: list[Sample], search: Search) -> None:
        self._samples, self._search = samples, search
        self._blocks = sum(sample.blocks for sample in samples)
        self._total = sum(sample.blocks * sample.weight for sample in samples)

    def hint(self) -> Hint:
        budget = self._search.pool.budget
        key = self._stop(budget)
        below, up_to = self._cost(key), self._cost(key + 1)
        error = math.hypot(*(sample.error(key) for sample in self._samples))
        share = min(max((budget - below) / (up_to - below), 0.0), 1.0) if up_to > below else 0.0
        beside = max(error, self._total / 500)
        keys = self._stop(budget + beside) - self._stop(budget - beside)
        step = 1 << self._search.key_step
        keys_per_block = max(keys / (2 * beside), step / max(up_to - below, 1.0))
        return key, int(share * (self._blocks - 1)), budget, float(keys_per_block), error

    def _cost(self, key: int) -> float:
        return sum(sample.cost(key) for sample in self._samples)

    def _stop(self, budget: float) -> int:
        """The greatest key that the budget pays for: what lies below it costs no more."""
        first, end = 0, nan_of(self._search.is_wide) + 1
        while end - first > 1:
            middle = (first + end) // 2
            if self._cost(middle) <= budget:
                first = middle
            else:
                end = middle
        return first
