"""Where the shards of a tensor lie: what a DTensor and its mask have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._utils import (
    _compute_local_shape_and_global_offset,
    compute_local_shape_and_global_offset,
)
from torch.distributed.tensor.placement_types import Placement, Replicate, Shard, _StridedShard

from .ranks import Ranks
from .rectangle import Shape


@dataclass(frozen=True, slots=True)
class Layout:
    """A mesh of ranks, and what each of its axes does to a tensor. Two that are equal are one."""

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    device: torch.device  # where this rank has its part
    _boxes: dict[Shape, tuple[Shape, Shape]] = field(default_factory=dict, compare=False)

    @property
    def together(self) -> Ranks:
        """Those who compute masks together: the ranks of the mesh."""
        return Ranks.of_mesh(self.mesh)

    def box(self, shape: Shape) -> tuple[Shape, Shape]:
        """The lengths of what this rank has of a tensor, and where it begins in each axis."""
        box = self._boxes.get(shape)
        if box is None:
            # Torch's own order of ranks is that of rows only where no axis is sharded twice.
            box = compute_local_shape_and_global_offset(shape, self.mesh, self.placements)
            self._boxes[shape] = box
        return box

    def borders(self, shape: Shape, axis: int) -> tuple[int, ...]:
        """Where the parts of all ranks begin along an axis, ascending."""
        sizes = self.mesh.mesh.shape
        boxes = (
            _compute_local_shape_and_global_offset(shape, sizes, list(place), self.placements)
            for place in product(*map(range, sizes))
        )
        return tuple(sorted({offset[axis] for size, offset in boxes if 0 not in size}))

    def counts(self, ranks: Ranks) -> bool:
        """Whether what this rank has is counted here: of several copies, one is."""
        coordinate = self.mesh.get_coordinate()
        assert coordinate is not None  # a rank outside of the mesh has no such tensor
        # A mesh beside others of the same ranks is a copy as a whole.
        return ranks.members[0] in Ranks.of_mesh(self.mesh).members and not any(
            isinstance(placement, Replicate) and place > 0
            for placement, place in zip(self.placements, coordinate, strict=True)
        )

    def spread(self, local: Tensor, shape: Shape) -> DTensor:
        """The tensor of a shape that has that part here. No rank waits for another one."""
        stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        meta = TensorMeta(torch.Size(shape), stride, local.dtype)
        # from_local() would move what is offloaded to the device of the mesh.
        spec = DTensorSpec(self.mesh, self.placements, meta)
        return DTensor(local, spec, requires_grad=False)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        placements = ", ".join(map(str, self.placements))
        return f"{self.device} of ranks {self.mesh.mesh.tolist()}, {placements}"


def layout_of(tensor: DTensor) -> Layout:
    """TypeError for placements that are no shards and no copies of the numbers of a tensor."""
    return _layout(tensor.device_mesh, tuple(tensor.placements), tensor.device)


@lru_cache(1024)
def _layout(mesh: DeviceMesh, placements: tuple[Placement, ...], device: torch.device) -> Layout:
    for axis, placement in enumerate(placements):
        if isinstance(placement, _StridedShard):
            refuse_in_pieces(mesh, placements, axis, placement)
        elif not isinstance(placement, (Shard, Replicate)):
            raise TypeError(
                "data must be sharded or replicated along each axis of their mesh, got "
                f"{placement}, of which no rank has the numbers; redistribute() the DTensor"
            )
    return Layout(mesh, placements, device)


def refuse_in_pieces(
    mesh: DeviceMesh, placements: tuple[Placement, ...], axis: int, placement: _StridedShard
) -> None:
    """TypeError unless the shards of later axes make one piece of what would be several."""
    inner = prod(
        mesh.size(later)
        for later, other in enumerate(placements)
        if later > axis and isinstance(other, Shard) and other.dim == placement.dim
    )
    if inner != placement.split_factor:
        raise TypeError(
            f"data must lie in one piece on each rank, got {placement} in {placements}, which "
            "takes every so many rows; redistribute() the DTensor to Shard"
        )
