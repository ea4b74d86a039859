"""What kernels read beside the data, on its way to the device and kept there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from datasparse.torch.device.kernels.geometry import Geometry

Parts = tuple[int, tuple[tuple[int, int], ...]]
"""So many items in a tile, and (member, its items): the tiles of a launch."""


def upload(numbers: Iterable[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy that nobody waits for.

    From pinned memory, which torch's allocator does not hand out again before the copy is done.
    Addresses change from call to call, as masks are fresh and parameters move: those of all tensors
    go by one such copy. As arguments of kernels they would bound the tensors of a launch.
    """
    if device.type == "cpu":
        return torch.tensor(list(numbers), dtype=dtype, device="cpu")
    host = torch.tensor(list(numbers), dtype=dtype, device="cpu", pin_memory=True)
    return host.to(device, non_blocking=True)


def stream_of(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def kept_geometries(device: torch.device, geometries: tuple[Geometry, ...]) -> Tensor:
    return _geometries(device, stream_of(device), geometries)


def kept_tiles(device: torch.device, parts: Parts) -> Tensor:
    return _tiles(device, stream_of(device), parts)


# By stream: on another one, a copy might not be done, and memory be given away too early.


@lru_cache(maxsize=64)
def _geometries(device: torch.device, stream: int, geometries: tuple[Geometry, ...]) -> Tensor:
    return upload((n for one in geometries for n in one.numbers()), torch.int64, device)


@lru_cache(maxsize=256)
def _tiles(device: torch.device, stream: int, parts: Parts) -> Tensor:
    """(member, number) of all tiles; those of a member follow each other."""
    numbers = [
        number
        for member, items in parts[1]
        for tile in range(-(-items // parts[0]))
        for number in (member, tile)
    ]
    return upload(numbers, torch.int32, device).view(-1, 2)
