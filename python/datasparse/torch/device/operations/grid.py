"""How the tensor of a job becomes a matrix, and the matrix blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..job import Job

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """Blocks of one size: all whole ones, or those cut off at one of the edges."""

    row: int
    column: int
    down: int
    across: int
    height: int
    width: int

    def blocks(self, batch: Tensor) -> Tensor:
        """Its part of (tensors, rows, columns), as a view: tensors, down, across, height, width."""
        rows = slice(self.row, self.row + self.down * self.height)
        columns = slice(self.column, self.column + self.across * self.width)
        part = torch.unflatten(batch[:, rows, columns], 2, (self.across, self.width))
        return torch.unflatten(part, 1, (self.down, self.height)).permute(0, 1, 3, 2, 4)


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix in blocks, which are no larger than the matrix."""

    rows: int
    columns: int
    height: int
    width: int
    zeros: int  # of a block that is pruned

    @staticmethod
    def of(job: Job) -> Grid:
        return _grid(tuple(job.scores.shape), job.order, job.block, job.zeros)

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    @property
    def size(self) -> int:
        """Of a whole block."""
        return self.height * self.width

    @property
    def down(self) -> int:
        return -(-self.rows // self.height) if self.height else 0

    @property
    def across(self) -> int:
        return -(-self.columns // self.width) if self.width else 0

    @property
    def blocks(self) -> int:
        return self.down * self.across

    def matrices(self, rows: Tensor) -> Tensor:
        """(tensors, rows, columns), as a view of the first elements of each row."""
        return torch.unflatten(rows[:, : self.elements], 1, (self.rows, self.columns))

    def regions(self) -> Iterator[Region]:
        for row, down, height in _parts(self.rows, self.height):
            for column, across, width in _parts(self.columns, self.width):
                yield Region(row, column, down, across, height, width)


def _parts(length: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Where pieces of `step` begin, how many there are, and how long they are; and what is left."""
    whole, rest = divmod(length, step)
    if whole:
        yield 0, whole, step
    if rest:
        yield whole * step, 1, rest


@lru_cache(4096)
def _grid(shape: Shape, order: Shape, block: tuple[int, int], zeros: int) -> Grid:
    height, width = _block(shape, order, block)
    if height * width == 0:
        return Grid(0, 0, 0, 0, 0)
    rows, columns = _matrix(shape, _order(shape, order, block))
    # Where nothing depends on rows, matrices of one size are alike, whatever their shape.
    if height == 1 and columns % width == 0:
        rows, columns = 1, rows * columns
    return Grid(rows, columns, height, width, min(zeros, height * width))


def _matrix(shape: Shape, order: Shape) -> tuple[int, int]:
    lengths = [shape[axis] for axis in order or range(len(shape))]
    if len(lengths) < 2:
        return 1, math.prod(lengths)
    return lengths[0], math.prod(lengths[1:])


def _block(shape: Shape, order: Shape, block: tuple[int, int]) -> tuple[int, int]:
    """The height and width of whole blocks."""
    rows, columns = _matrix(shape, order)
    return min(block[0], rows), min(block[1], columns)


def order_of(job: Job) -> Shape:
    """The order of the axes, where it is of account; () for that of memory.

    The core's rule (`layout_matters()`): the order of columns is no matter to single elements, and
    to blocks one column wide or as wide as the matrix where rows are the first axis. Then sums are
    added and ties broken as the data lie.
    """
    return _order(tuple(job.scores.shape), job.order, job.block)


def _order(shape: Shape, order: Shape, block: tuple[int, int]) -> Shape:
    if len(order) < 2:
        return ()
    rows, columns = _matrix(shape, order)
    height, width = _block(shape, order, block)
    long = [axis for axis in order if shape[axis] != 1]
    if (rows == shape[0] and long == sorted(long)) or (height <= 1 and width <= 1):
        return ()
    return order if order[0] != 0 or 1 < width < columns else ()


def in_order(tensor: Tensor, job: Job) -> Tensor:
    """A view of a tensor of the job's shape, its axes as the matrix has them."""
    order = order_of(job)
    return tensor.permute(order) if order else tensor
