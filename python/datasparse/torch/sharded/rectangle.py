"""The rectangle of a tensor's matrix that lies on a rank, and its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Shape = tuple[int, ...]
Integers = NDArray[np.int64]

KNOWN = 4096  # rectangles that are not worked out anew at each step


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows and columns, of the whole matrix and of what is here.

    The rows of a matrix are the first axis of its order, the columns all others; one axis of N is
    1 x N.
    """

    whole: tuple[int, int]
    first: tuple[int, int]  # row and column
    size: tuple[int, int]

    @staticmethod
    @lru_cache(KNOWN)
    def of(shape: Shape, order: Shape, local: Shape, offset: Shape) -> Rectangle:
        """What is here of a tensor of that shape: so many elements along each axis, from there on.

        `order`: of the axes that make the matrix; () for that of memory. ValueError where what is
        here is no rectangle of the matrix.
        """
        if len(shape) < 2:
            first = 0 if 0 in local else sum(offset)
            return Rectangle((1, prod(shape)), (0, first), (1, prod(local)))
        row, *others = order or range(len(shape))
        whole = (shape[row], prod(shape[axis] for axis in others))
        size = (local[row], prod(local[axis] for axis in others))
        if 0 in size:  # torch says that it begins wherever
            return Rectangle(whole, (0, 0), size)
        split = [axis for axis in others if local[axis] < shape[axis]]
        # What comes before the last axis that is split has one place here.
        before = others[: others.index(split[-1])] if split else []
        if any(local[axis] > 1 for axis in before):
            raise ValueError(
                f"data of shape {shape} must be sharded so that a rank has a rectangle of the "
                f"matrix of its rows, axis {row}, and its columns, axes {tuple(others)}, got "
                f"shards of {local}; shard another axis, or prune single elements: "
                "sparse_block_shape=(1, 1)"
            )
        column = 0
        for axis in others:
            column = column * shape[axis] + offset[axis]
        return Rectangle(whole, (offset[row], column), size)

    @property
    def elements(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a rectangle, within the blocks of the whole matrix."""

    across: int  # how many lie side by side in the whole matrix
    all: int  # how many that has
    first: tuple[int, int]
    size: tuple[int, int]  # rows and columns of blocks

    @staticmethod
    @lru_cache(KNOWN)
    def of(
        rectangle: Rectangle, block: tuple[int, int], shape: Shape, may_cut_rows: bool = False
    ) -> Blocks:
        """ValueError where a block is cut: it names the tensor's shape and what would fit.

        may_cut_rows: not where it is cut between rows. Then a part's blocks are also those of which
        it has only some rows.
        """
        if rectangle.elements == 0:
            first, size = (0, 0), (0, 0)
        else:
            may_cut = (may_cut_rows, False)
            edges = [
                _blocks_along(axis, rectangle, block[axis], shape, may_cut[axis])
                for axis in range(2)
            ]
            first, size = (edges[0][0], edges[1][0]), (edges[0][1], edges[1][1])
        down, across = (
            -(-length // step) if step else 0
            for length, step in zip(rectangle.whole, block, strict=True)
        )
        return Blocks(across, down * across, first, size)

    @property
    def here(self) -> int:
        return self.size[0] * self.size[1]

    def places(self, here: Tensor) -> Tensor:
        """The indices in the whole matrix of blocks by those that they have here."""
        row, column = here // self.size[1], here % self.size[1]
        return (row + self.first[0]) * self.across + column + self.first[1]

    def before(self, positions: Integers) -> Integers:
        """How many of those here come before blocks of the whole matrix, row-major."""
        if self.here == 0:
            return np.zeros_like(positions)
        row, column = np.divmod(positions, self.across)
        row = row - self.first[0]
        rows, columns = self.size
        inside = (row >= 0) & (row < rows)
        rest = np.clip(column - self.first[1], 0, columns)
        return np.clip(row, 0, rows) * columns + np.where(inside, rest, 0)


def _blocks_along(
    axis: int, rectangle: Rectangle, length: int, shape: Shape, may_cut: bool
) -> tuple[int, int]:
    """Where blocks of that length begin along rows or columns, and how many they are."""
    first, end = rectangle.first[axis], rectangle.first[axis] + rectangle.size[axis]
    whole = rectangle.whole[axis]
    length = max(min(length, whole), 1)
    cut = next((at for at in (first, end) if at % length and at != whole), None)
    if cut is not None and not may_cut:
        what = "rows" if axis == 0 else "columns"
        side = ("height", "width")[axis]
        raise ValueError(
            f"blocks of data of shape {shape} must lie on one rank each, got a shard that ends at "
            f"{what[:-1]} {cut}, within a block of {length} {what}; take a block {side} that "
            f"divides {cut}, or shards of a multiple of {length} {what}"
        )
    return first // length, -(-end // length) - first // length
