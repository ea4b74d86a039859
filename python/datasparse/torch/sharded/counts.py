"""Counts as ranks send them: two in one integer of 64 bits, where no sum has more than 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .parts import Part, Search
from .rectangle import Integers

ROUND = 8192  # integers of a round: 64 KiB, with one that tells of errors


@dataclass(frozen=True, slots=True)
class Packing:
    """How many numbers of a selection make one integer: 1 or 2.

    More places are asked about in a round of the same size then, and fewer rounds do.
    """

    numbers: int

    @staticmethod
    def of(searches: Sequence[Search], parts: Sequence[Part]) -> Packing:
        """By the greatest sums that there may be: the same on all ranks."""
        greatest = max((search.cost(parts) for search in searches), default=0)
        return Packing(2 if greatest < 1 << 32 else 1)

    @property
    def most(self) -> int:
        """How many numbers a round may have."""
        return self.numbers * (ROUND - 1)

    def size(self, numbers: int) -> int:
        """Of so many numbers, in integers."""
        return -(-numbers // self.numbers)

    def pack(self, numbers: Integers) -> Integers:
        """None is below 0."""
        if self.numbers == 1:
            return numbers
        packed = np.zeros(self.size(len(numbers)), np.int64)
        packed.view(np.uint32)[: len(numbers)] = numbers
        return packed

    def unpack(self, sums: Integers, numbers: int) -> Integers:
        """So many, of sums of what pack() has made."""
        if self.numbers == 1:
            return sums
        return sums.view(np.uint32)[:numbers].astype(np.int64)
