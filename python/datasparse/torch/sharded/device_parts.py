"""The answers to a selection's questions by torch's operations, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._core import ShardSelection
from ..device import routes
from ..device.job import Job
from ..device.operations.arithmetic import dtype_of_sums, exact_arithmetic, require_exact
from ..device.operations.batch import Batch
from ..device.operations.grid import Grid
from ..device.operations.keys import integer_of, make_keys
from ..device.operations.pool import to_doubles
from ..device.operations.select import count
from ..device.operations.squares import digits_of, roots_of
from .parts import Part, Search
from .rectangle import Blocks, Integers

Order: TypeAlias = tuple[bool, bool]
"""`ShardOrder` of the core: whether blocks come back, and whether they are ranked by own keys."""


class DeviceParts:
    """`Parts` of any devices. It sorts the keys of each part once: memory of 16 bytes a block."""

    def __init__(self, parts: Sequence[Part], searches: Sequence[Search]) -> None:
        self._parts = parts
        self._searches = searches
        self._search_of = {group: search for search in searches for group in search.groups}
        self._monotone = [group for group in self._search_of if parts[group].job.monotone]
        self._divided = [group for search in searches for group in search.divided]
        self._is_prelude_told = False
        self._past: dict[int, int] = {}  # blocks that masks before have pruned, of all parts
        self._norms: dict[int, Tensor] = {}
        self._sorted: dict[tuple[int, Order], Sorted] = {}

    def prelude(self) -> Integers:
        numbers = [np.zeros(0, np.int64)]
        if not self._is_prelude_told:
            with self._exactly():
                numbers += [self._count_past(group) for group in self._monotone]
                numbers += [self._squares(group) for group in self._divided]
        return np.concatenate(numbers)

    def begin(self, sums: Integers) -> None:
        self._is_prelude_told = True
        at = len(self._monotone)
        self._past = dict(zip(self._monotone, sums[:at].tolist(), strict=True))
        for group in self._divided:
            dtype = dtype_of_sums(self._parts[group].job.scores.dtype)
            digits = sums[at : at + digits_in(dtype)]
            self._norms[group] = roots_of(torch.from_numpy(digits.copy())[None], dtype)
            at += len(digits)

    def selection(self, most: int = 8192) -> ShardSelection:
        return ShardSelection([self._begun(search) for search in self._searches], most)

    def count(self, selection: ShardSelection) -> Integers:
        numbers = np.zeros(selection.size, np.int64)
        asked = zip(selection.questions, selection.orders, strict=True)
        for i, ((groups, first, keys, positions), order) in enumerate(asked):
            for member, group in enumerate(groups):
                if self._parts[group].counts:
                    below = self._before(group, order, keys, positions - first[member])
                    total = self._parts[group].blocks.here
                    selection.add(i, member, np.append(below, total), numbers)
        return numbers

    def contents(self, selection: ShardSelection) -> list[Tensor]:
        masks: list[Tensor | None] = [None] * len(self._parts)
        by_device: dict[torch.device, list[int]] = {}
        for group, part in enumerate(self._parts):
            by_device.setdefault(part.job.scores.device, []).append(group)
        for groups in by_device.values():
            jobs = [
                replace(self._parts[group].job, pruned=self._pruned(group, selection))
                for group in groups
            ]
            for group, mask in zip(groups, routes.compute(jobs, []), strict=True):
                masks[group] = mask
        return [mask for mask in masks if mask is not None]

    def _pruned(self, group: int, selection: ShardSelection) -> int:
        """How many of the lowest blocks here go."""
        key, position = selection.stop(group)
        keys, positions = np.array([key], np.uint64), np.array([position])
        return int(self._before(group, selection.order(group), keys, positions)[0])

    def _begun(self, search: Search) -> dict[str, Any]:
        """A search, with what begin() was told."""
        # Only what is divided in its own type may become equal, where it was not.
        finer = [
            normalize and dtype_of_sums(self._parts[group].job.scores.dtype) == torch.float64
            for group, normalize in zip(search.groups, search.normalize, strict=True)
        ]
        past = [self._past.get(group, 0) for group in search.groups]
        return search.as_dict(self._parts) | {"past": past, "finer": finer}

    def _before(
        self, group: int, order: Order, keys: NDArray[np.uint64], positions: Integers
    ) -> Integers:
        """How many of the blocks of a part come before places."""
        if (group, order) not in self._sorted:
            with self._exactly():
                self._sorted[group, order] = self._sort(group, order)
        return self._sorted[group, order].before(keys, positions)

    def _sort(self, group: int, order: Order) -> Sorted:
        part, is_wide = self._parts[group], self._search_of[group].is_wide
        is_returning, by_own_keys = order
        if part.blocks.here == 0:
            return Sorted.of(torch.zeros(0, dtype=torch.int64), None, part, is_wide)
        keys = self._keys(group, by_own_keys)
        if not part.job.monotone:
            ranked = torch.zeros_like(keys, dtype=torch.bool) if is_returning else None
            return Sorted.of(keys, ranked, part, is_wide)
        batch = batch_of(part.job)
        past = batch.past_blocks(batch.free())[0, : batch.grid.blocks]
        if is_returning:
            return Sorted.of(keys, past, part, is_wide)
        return Sorted.of(keys, past.logical_not(), part, is_wide, int(past.sum()))

    def _keys(self, group: int, by_own_keys: bool) -> Tensor:
        """Of the blocks of a part, in the order of the core's, that of the score 0 at 0."""
        batch = batch_of(self._parts[group].job)
        blocks, dtype = batch.grid.blocks, batch.dtype
        bits = batch.block_scores(batch.element_scores())
        if self._search_of[group].as_doubles:
            norms = None if by_own_keys else self._norms.get(group)
            bits = to_doubles(batch, bits, None if norms is None else norms.to(batch.device))
            dtype = torch.float64
        make_keys(bits[:, :blocks], dtype, batch.norm)
        return bits[0, :blocks].to(torch.int64)

    def _count_past(self, group: int) -> Integers:
        part, batch = self._parts[group], batch_of(self._parts[group].job)
        if not part.counts or part.blocks.here == 0:
            return np.zeros(1, np.int64)
        past = count(batch.past_blocks(batch.free()))
        return np.array([int(past)], np.int64)

    def _squares(self, group: int) -> Integers:
        part, batch = self._parts[group], batch_of(self._parts[group].job)
        if not part.counts or part.blocks.here == 0:
            return np.zeros(digits_in(batch.dtype), np.int64)
        scores = batch.block_scores(batch.element_scores())
        digits: Integers = digits_of(scores[:, : batch.grid.blocks], batch.dtype)[0].cpu().numpy()
        return digits

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        with torch.inference_mode(False), ExitStack() as exact:
            for device in {part.job.scores.device for part in self._parts}:
                exact.enter_context(exact_arithmetic(device))
            yield


@dataclass(frozen=True, eq=False, slots=True)
class Sorted:
    """The keys of blocks of a part, lowest first, and in what order these lie."""

    keys: Tensor
    places: Tensor
    first: int  # blocks that come before all of these
    blocks: Blocks
    is_wide: bool

    @staticmethod
    def of(
        keys: Tensor, ranked: Tensor | None, part: Part, is_wide: bool, first: int = 0
    ) -> Sorted:
        """ranked: which blocks these are; None for all of them."""
        if ranked is None:
            return Sorted(*keys.sort(stable=True), first, part.blocks, is_wide)
        places = ranked.nonzero()[:, 0]
        own, order = keys[places].sort(stable=True)
        return Sorted(own, places[order], first, part.blocks, is_wide)

    def before(self, keys: NDArray[np.uint64], positions: Integers) -> Integers:
        """How many of the blocks come before places: of a lesser key, or of the same one and before
        that position in the whole tensor."""
        wanted = torch.from_numpy(signed(keys, self.is_wide)).to(self.keys.device)
        counts: Integers = torch.searchsorted(self.keys, wanted).cpu().numpy()
        positions = np.clip(positions, 0, self.blocks.all)
        within = np.flatnonzero(positions > 0)
        if within.size == 0:
            return counts + self.first
        some = wanted[torch.from_numpy(within).to(wanted.device)]
        ends = torch.searchsorted(self.keys, some, right=True).tolist()
        indices = self.blocks.before(positions[within]).tolist()
        for place, end, index in zip(within.tolist(), ends, indices, strict=True):
            ties = self.places[counts[place] : end]
            if len(ties):
                counts[place] += int(torch.searchsorted(ties, index))
        return counts + self.first


def batch_of(job: Job) -> Batch:
    dtype = dtype_of_sums(job.scores.dtype)
    require_exact(job.scores.device, dtype)
    return Batch([0], [job], Grid.of(job), dtype, job.scores.device)


def signed(keys: NDArray[np.uint64], is_wide: bool) -> Integers:
    """Keys of the core as those of torch's operations: that of the score 0 is 0."""
    if is_wide:
        return (keys ^ np.uint64(1 << 63)).view(np.int64)
    return keys.astype(np.int64) - (1 << 31)


def digits_in(dtype: torch.dtype) -> int:
    """The length of a sum of squares."""
    zero = torch.zeros((1, 1), dtype=integer_of(dtype))
    return digits_of(zero, dtype).shape[1]
