"""How a job's tensors lie in memory, seen as the matrix that blocks are cut from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from datasparse.torch.device.job import Job
from datasparse.torch.device.operations.grid import Grid, order_of

Axis = tuple[int, int, int]  # its length, and the strides of scores and mask, in elements

NOTHING: Axis = (1, 0, 0)
COLUMN_AXES = 3  # that the kernels take apart


@dataclass(frozen=True)
class Geometry:
    """A matrix in blocks, and where its elements lie. A value: tables of it are kept by it."""

    rows: Axis
    columns: tuple[Axis, ...]  # innermost last, merged where their strides allow
    block: tuple[int, int]  # cut off at the matrix
    zeros: int

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.rows[0], math.prod(axis[0] for axis in self.columns)

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def block_size(self) -> int:
        return math.prod(self.block)

    @cached_property
    def per_band(self) -> int:
        return -(-self.shape[1] // self.block[1])

    @cached_property
    def blocks(self) -> int:
        return -(-self.shape[0] // self.block[0]) * self.per_band

    @cached_property
    def is_flat(self) -> bool:
        """Whether it is one row, evenly spaced."""
        return self.shape[0] == 1 and len(self.columns) == 1

    @cached_property
    def reach(self) -> int:
        """No index is greater, into the matrix, the scores or the mask."""
        axes = [self.rows, *self.columns]
        reaches = (sum((axis[0] - 1) * axis[of] for axis in axes) for of in (1, 2))
        return max(self.size, *reaches)

    def numbers(self) -> list[int]:
        """In the order of `fields.py`."""
        outer = [NOTHING] * (COLUMN_AXES - len(self.columns))
        return [
            *self.shape,
            *self.block,
            self.per_band,
            self.blocks,
            self.zeros,
            *self.rows[1:],
            *(number for axis in reversed([*outer, *self.columns]) for number in axis),
        ]


def flat(size: int) -> Geometry:
    """So many single elements without a gap."""
    return Geometry(NOTHING, ((size, 1, 1),), (1, 1), 1)


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The same elements in the same order by fewer axes."""
    result: list[Axis] = []
    for axis in axes:
        length, *strides = axis
        if length == 1:
            continue
        if result and list(result[-1][1:]) == [length * stride for stride in strides]:
            result[-1] = (result[-1][0] * length, *axis[1:])
        else:
            result.append(axis)
    return result or [NOTHING]


def geometry_of(job: Job) -> Geometry:
    """Of a job that has elements. It may have more axes than the kernels take."""
    grid, scores = Grid.of(job), job.scores
    order = order_of(job) or tuple(range(scores.dim()))
    block = (grid.height, grid.width)
    return _geometry(tuple(scores.shape), scores.stride(), order, block, grid.zeros)


@lru_cache(maxsize=4096)
def _geometry(shape: tuple[int, ...], strides: tuple[int, ...], order: tuple[int, ...],
              block: tuple[int, int], zeros: int) -> Geometry:  # fmt: skip
    of_mask = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axes = [(shape[axis], strides[axis], of_mask[axis]) for axis in order]
    rows = axes.pop(0) if len(axes) > 1 else NOTHING
    columns = merged(axes)
    length = math.prod(axis[0] for axis in columns)
    # Where nothing depends on the rows, they are one behind the other.
    if block[0] == 1 and length % block[1] == 0:
        one = merged([rows, *columns])
        if len(one) == 1:
            rows, columns = NOTHING, one
    return Geometry(rows, tuple(columns), block, zeros)
