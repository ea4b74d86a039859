"""The answers to a selection's questions by the core: of parts in CPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._core import ShardParts, ShardSelection
from .parts import Part, Search
from .rectangle import Integers


class CoreParts:
    """`Parts` in CPU memory. It takes new masks, and 1% of the data besides."""

    def __init__(self, parts: Sequence[Part], searches: Sequence[Search]) -> None:
        divided = {
            group
            for search in searches
            for group, normalize in zip(search.groups, search.normalize, strict=True)
            if normalize
        }
        self._parts = parts
        # What a monotone mask has pruned is read from the new one.
        self._masks = [part.job.mask.clone(memory_format=torch.contiguous_format) for part in parts]
        jobs = [
            self._as_dict(part, mask, group in divided)
            for group, (part, mask) in enumerate(zip(parts, self._masks, strict=True))
        ]
        self._core = ShardParts(jobs, [search.as_dict(parts) for search in searches])

    def _as_dict(self, part: Part, mask: Tensor, is_divided: bool) -> dict[str, Any]:
        job, rectangle = part.job, part.rectangle
        return {
            "data": job.scores.detach(),
            "mask": mask,
            "order": (),
            "block": job.block,
            "zeros": job.zeros,
            "norm": None if job.norm == "none" else job.norm,
            "monotone": job.monotone,
            "normalize": "l2" if is_divided else None,
            "kept": None if job.kept_zeros is None else job.kept_zeros.contiguous(),
            "shard": (*rectangle.whole, *rectangle.first),
            "counts": part.counts,
        }

    def prelude(self) -> Integers:
        numbers: Integers = self._core.prelude()
        return numbers

    def begin(self, sums: Integers) -> None:
        self._core.begin(sums)

    def selection(self, most: int = 8192) -> ShardSelection:
        selection: ShardSelection = self._core.selection(most)
        return selection

    def count(self, selection: ShardSelection) -> Integers:
        numbers: Integers = self._core.count(selection)
        return numbers

    def contents(self, selection: ShardSelection) -> list[Tensor]:
        self._core.find(selection)
        self._core.write(range(len(self._masks)))
        return self._masks
