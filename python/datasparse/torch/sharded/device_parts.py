"""The answers to a selection's questions by torch's operations, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..device import routes
from ..device.operations.arithmetic import exact_arithmetic, require_exact
from ..device.operations.batch import Batch
from ..device.operations.grid import Grid
from ..device.operations.keys import INTEGERS, make_keys, put_past
from ..device.operations.pool import to_doubles
from ..device.operations.select import count
from ..device.operations.squares import digits_of, roots_of
from .parts import Part, Search, dtype_of_sums
from .rectangle import Integers

if TYPE_CHECKING:
    from ..._core import ShardSelection


class DeviceParts:
    """`Parts` of any devices. It sorts the keys of each part once: memory of 16 bytes a block."""

    def __init__(self, parts: Sequence[Part], searches: Sequence[Search]) -> None:
        self._parts = parts
        self._searches = searches
        self._of_group = {
            group: (search, member)
            for search in searches
            for member, group in enumerate(search.groups)
        }
        self._norms: dict[int, Tensor] = {}
        self._past: dict[int, int] = {}  # blocks that monotone masks have pruned, all parts together
        self._sorted: dict[tuple[int, bool], _Sorted] = {}

    def prelude(self) -> Integers:
        with self._exactly():
            numbers = [np.zeros(0, np.int64)]
            for group in self._of_group:
                numbers.extend(self._prelude_of(group))
            return np.concatenate(numbers)

    def begin(self, sums: Integers) -> None:
        at = 0
        for group in self._of_group:
            if self._is_monotone(group):
                self._past[group] = int(sums[at])
                at += 1
            if self._is_divided(group):
                dtype = dtype_of_sums(self._parts[group].job)
                length = digits_in(dtype)
                digits = torch.from_numpy(sums[at : at + length].copy())[None]
                self._norms[group] = roots_of(digits, dtype)
                at += length

    def count(self, selection: ShardSelection) -> Integers:
        numbers = np.zeros(selection.size, np.int64)
        with self._exactly():
            for i, question in enumerate(selection.questions):
                groups, first, keys, positions, budget = question
                for member, group in enumerate(groups):
                    if not self._parts[group].counts:
                        continue
                    part = self._sorted_of(group, len(groups), budget)
                    below = part.below(keys, positions - first[member])
                    total = self._parts[group].blocks.here
                    selection.add(i, member, np.append(below, total), numbers)
        return numbers

    def contents(self, selection: ShardSelection) -> list[Tensor]:
        jobs = []
        with self._exactly():
            for group, part in enumerate(self._parts):
                jobs.append(replace(part.job, pruned=self._pruned(group, part, selection)))
        return routes.compute(jobs, [])

    # --- what is asked for ------------------------------------------------------------------------

    def _pruned(self, group: int, part: Part, selection: ShardSelection) -> int:
        """How many of the lowest blocks here go."""
        if group not in self._of_group:
            return part.blocks.here if part.job.pruned else 0
        key, position, groups, budget = selection.stop(group)
        keys = np.array([key], np.uint64)
        place = self._sorted_of(group, groups, budget).below(keys, np.array([position]))
        return int(place[0])

    def _sorted_of(self, group: int, groups: int, budget: int) -> _Sorted:
        """The keys of a part, for a search of so many groups with that budget: where monotone masks
        have pruned more, nothing else is ranked."""
        search, member = self._of_group[group]
        if groups == len(search.groups):
            pairs = zip(search.groups, search.weights, search.least, search.most, strict=True)
            pruned = sum(
                weight * min(max(self._past.get(other, 0), least), most)
                for other, weight, least, most in pairs
            )
        else:  # a member at a bound goes on by itself
            pruned = self._past.get(group, 0)
        returning = pruned > budget
        found = self._sorted.get((group, returning))
        if found is None:
            keys = self._keys(group, search, returning)
            found = self._sorted[group, returning] = _Sorted(
                keys, self._parts[group], search.is_wide
            )
        return found

    def _keys(self, group: int, search: Search, returning: bool) -> Tensor:
        batch = self._batch(group)
        bits = batch.block_scores(batch.element_scores())
        dtype = batch.dtype
        if search.is_wide:
            norms = self._norms.get(group)
            bits = to_doubles(batch, bits, None if norms is None else norms.to(batch.device))
            dtype = torch.float64
        make_keys(bits[:, : batch.grid.blocks], dtype, batch.norm)
        if self._past:
            past = batch.past_blocks(batch.free()) if batch.is_monotone else None
            flag = torch.full((1, 1), returning, dtype=torch.bool, device=batch.device)
            if past is not None or returning:
                put_past(bits, past, flag, dtype)
        return bits[0, : batch.grid.blocks].to(torch.int64)

    def _prelude_of(self, group: int) -> Iterator[Integers]:
        part, batch = self._parts[group], self._batch(group)
        is_empty = part.blocks.here == 0 or not part.counts
        if self._is_monotone(group):
            past = 0 if is_empty else int(count(batch.past_blocks(batch.free())))
            yield np.array([past], np.int64)
        if self._is_divided(group):
            if is_empty:
                yield np.zeros(digits_in(batch.dtype), np.int64)
                return
            scores = batch.block_scores(batch.element_scores())
            yield digits_of(scores[:, : batch.grid.blocks], batch.dtype)[0].cpu().numpy()

    def _is_monotone(self, group: int) -> bool:
        return self._parts[group].job.monotone

    def _is_divided(self, group: int) -> bool:
        search, member = self._of_group[group]
        return search.normalize[member]

    def _batch(self, group: int) -> Batch:
        job = self._parts[group].job
        dtype = dtype_of_sums(job)
        require_exact(job.scores.device, dtype)
        return Batch([0], [job], Grid.of(job), dtype, job.scores.device)

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        with torch.inference_mode(False), ExitStack() as exact:
            for device in {part.job.scores.device for part in self._parts}:
                exact.enter_context(exact_arithmetic(device))
            yield


class _Sorted:
    """The keys of the blocks of a part, lowest first, and in what order they lie."""

    def __init__(self, keys: Tensor, part: Part, is_wide: bool) -> None:
        self._keys, self._places = keys.sort(stable=True)
        self._blocks = part.blocks
        self._is_wide = is_wide

    def below(self, keys: NDArray[np.uint64], positions: Integers) -> Integers:
        """How many of the blocks come before each place: of a lesser key, or of the same one before
        that position in the whole tensor."""
        wanted = torch.from_numpy(signed(keys, self._is_wide)).to(self._keys.device)
        lower = torch.searchsorted(self._keys, wanted).cpu().numpy()
        positions = np.clip(positions, 0, self._blocks.all)
        within = np.flatnonzero(positions > 0)
        if within.size == 0:
            return lower
        upper = torch.searchsorted(self._keys, wanted[torch.from_numpy(within)], right=True)
        for key, end in zip(within, upper.tolist(), strict=True):
            begin = int(lower[key])
            if end > begin:
                before = int(self._blocks.before(positions[key : key + 1])[0])
                ties = self._places[begin:end]
                lower[key] += int((ties < before).sum())
        return lower


def signed(keys: NDArray[np.uint64], is_wide: bool) -> Integers:
    """Keys of the core as those of torch's operations: those of zero are 0."""
    if is_wide:
        return (keys ^ np.uint64(1 << 63)).view(np.int64)
    return keys.astype(np.int64) - (1 << 31)


def digits_in(dtype: torch.dtype) -> int:
    """The length of a sum of squares."""
    return digits_of(torch.zeros((1, 1), dtype=INTEGERS[dtype.itemsize]), dtype).shape[1]
