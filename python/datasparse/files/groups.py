"""Groups and blocks of zeros: which N:M hold, and how many blocks are wholly zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 16  # the longest group of an N:M
FACTOR = {size: next(p for p in range(2, MOST + 1) if size % p == 0) for size in range(2, MOST + 1)}


class Patterns:
    """The N:M that hold so far, over parts of a tensor that come one after another.

    length: of the axis that groups run along. A group begins at a multiple of M from the axis's
        beginning, and M divides the length: where it does not, M:M would end in a partial group,
        which no hardware takes, and M is left out.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.fewest = {size: size for size in range(2, MOST + 1) if length and length % size == 0}

    def add(self, zero: NDArray[np.bool_]) -> None:
        """Take a part: a contiguous array of whole rows of `length` elements. Cost: O(n).

        An M is dropped once a group of it has no zero, so that dense parts cost next to nothing.
        """
        # Of most tensors the first rows tell that nothing holds.
        rows = zero.reshape(-1, self.length)
        head = max(1, len(rows) // 16)
        for part in (rows[:head], rows[head:]):
            if part.size and self.fewest:
                counts = _Counts(part)
                found = {m: min(n, int(counts.of(m).min())) for m, n in self.fewest.items()}
                self.fewest = {m: n for m, n in found.items() if n}

    def holding(self) -> dict[int, int]:
        """N by M: each group of M has at least N zeros, and one of them has no more. N >= 1."""
        return dict(self.fewest)


class _Counts:
    """Zeros of each group of M: those of 12 are sums of those of 6, and so on down."""

    def __init__(self, zero: NDArray[np.bool_]) -> None:
        self.made: dict[int, NDArray[np.uint8]] = {1: zero.view(np.uint8).reshape(-1)}

    def of(self, size: int) -> NDArray[np.uint8]:
        if size not in self.made:
            parts = self.of(size // FACTOR[size]).reshape(-1, FACTOR[size])
            # Column by column: NumPy's sum over a short last axis takes ten times as long.
            total = parts[:, 0] + parts[:, 1]
            for column in range(2, FACTOR[size]):
                total += parts[:, column]
            self.made[size] = total
        return self.made[size]


def zero_blocks(zero: NDArray[np.bool_], block: tuple[int, int]) -> int:
    """How many blocks of a matrix are wholly zero; partial ones at its edges count as blocks."""
    height, width = block
    return int(np.count_nonzero(_all_of(_all_of(zero, height).T, width)))


def _all_of(zero: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Whether all of so many rows are zero. Row by row: `reduceat` takes ten times as long."""
    whole = zero[::size].copy()
    for row in range(1, min(size, len(zero))):
        rows = zero[row::size]
        whole[: len(rows)] &= rows
    return whole


def strongest(holding: dict[int, int]) -> tuple[int, int] | None:
    """The N:M with the greatest share of zeros, as (N, M); of equals the shortest."""
    return max(
        ((n, m) for m, n in holding.items()), key=lambda nm: (nm[0] / nm[1], -nm[1]), default=None
    )
