"""The answers to a selection's questions by the core: of parts in CPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._core import ShardParts, ShardSelection
from .parts import Part, Search, Unwritten
from .rectangle import Integers


class CoreParts:
    """`Parts` in CPU memory: it takes 1% of the data. Masks whose order is another one than that of
    memory are made anew."""

    def __init__(self, parts: Sequence[Part], searches: Sequence[Search]) -> None:
        divided = {group for search in searches for group in search.divided}
        self._parts = parts
        # What a monotone mask has pruned is read from the one that is written in the end.
        self._masks = [
            part.job.mask.clone(memory_format=torch.contiguous_format)
            if part.mask is None
            else part.mask
            for part in parts
        ]
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
            "cuts": part.cuts,
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

    def contents(self, selection: ShardSelection) -> list[Tensor | Unwritten]:
        self._core.find(selection)
        made = [i for i, part in enumerate(self._parts) if part.mask is None]
        self._core.write(made)
        write = self._core.write
        return [
            mask if part.mask is None else Unwritten(write, i)
            for i, (part, mask) in enumerate(zip(self._parts, self._masks, strict=True))
        ]
