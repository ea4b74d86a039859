"""Which of two ways computes masks on a device: plain torch operations, or Triton kernels.

`DATASPARSE_DEVICE_ROUTE` chooses: "operations", "triton", or "auto", the default. Auto takes the
kernels on CUDA, where Triton is there and knows how, after it has seen once that they make the
masks that the operations make.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import kernels, operations
from .job import Job, Pool

Route = Callable[[Sequence[Job], Sequence[Pool]], list[Tensor]]

VARIABLE = "DATASPARSE_DEVICE_ROUTE"
CHOICES = ("auto", "operations", "triton")


def wanted() -> str:
    """What the environment asks for. ValueError for anything but `CHOICES`."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {choice!r}")
    return choice


def compute(jobs: Sequence[Job], pools: Sequence[Pool]) -> list[Tensor]:
    """The masks of jobs: of pools that span devices by operations, of all others by their route."""
    spanning = [pool for pool in pools if len({jobs[i].scores.device for i in pool.jobs}) > 1]
    if not spanning:
        return route_for(jobs, pools)(jobs, pools)
    together = {i for pool in spanning for i in pool.jobs}
    masks: dict[int, Tensor] = {}
    for places, some in (
        (sorted(together), spanning),
        ([i for i in range(len(jobs)) if i not in together],
         [pool for pool in pools if pool not in spanning]),
    ):  # fmt: skip
        own = [jobs[i] for i in places]
        at = {place: i for i, place in enumerate(places)}
        moved = [replace(pool, jobs=tuple(at[i] for i in pool.jobs)) for pool in some]
        route = operations.compute if some is spanning else route_for(own, moved)
        masks.update(zip(places, route(own, moved), strict=True))
    return [masks[i] for i in range(len(jobs))]


def route_for(jobs: Sequence[Job], pools: Sequence[Pool]) -> Route:
    """RuntimeError where "triton" is wanted and is not there."""
    choice = wanted()
    if choice == "operations" or not jobs:
        return operations.compute
    device = jobs[0].scores.device
    if choice == "triton":
        if not kernels.is_available(device):
            raise RuntimeError(
                f"{VARIABLE}=triton needs Triton, which comes with torch's builds for CUDA, and a "
                f"device that it compiles for, got {device}; unset the variable"
            )
        return kernels.compute if kernels.takes(jobs, pools) else operations.compute
    if not kernels.is_available(device) or not kernels.takes(jobs, pools):
        return operations.compute
    is_trusted = all(_is_trusted(kind, device) for kind in {_Kind.of(job) for job in jobs})
    return kernels.compute if is_trusted else operations.compute


@dataclass(frozen=True, slots=True)
class _Kind:
    """What decides which kernels are compiled for a job, and how."""

    dtype: torch.dtype
    norm: str
    block: tuple[int, int]
    loses_all: bool  # of a pruned block
    monotone: bool

    @staticmethod
    def of(job: Job) -> _Kind:
        height, width = (min(length, MOST) for length in job.block)
        loses_all = job.zeros >= job.block[0] * job.block[1]
        return _Kind(job.scores.dtype, job.norm, (height, width), loses_all, job.monotone)


MOST = 16  # along each axis of a block in a comparison
_trusted: dict[tuple[_Kind, torch.device], bool] = {}


def _is_trusted(kind: _Kind, device: torch.device) -> bool:
    """Whether both routes make the same masks of a kind: compared once, which waits for the device.

    A driver, a compiler or a GPU that nobody has tried shall not prune other weights than it says.
    """
    known = _trusted.get((kind, device))
    if known is None:
        jobs = _examples(kind, device)
        made = zip(kernels.compute(jobs, []), operations.compute(jobs, []), strict=True)
        known = _trusted[kind, device] = all(torch.equal(one, other) for one, other in made)
        if not known:
            warnings.warn(
                f"Triton's kernels make other masks on {device} than plain operations do, of "
                f"{kind.dtype} in blocks of {kind.block}: the operations are used in their place, "
                f"which are slower. Please report it. {VARIABLE}=operations silences this",
                stacklevel=2,
            )
    return known


def _examples(kind: _Kind, device: torch.device) -> list[Job]:
    """Small jobs with many ties, and partial blocks."""
    height, width = kind.block
    shape = (7 * height + height // 2, 37 * width + width // 2)
    steps = torch.arange(shape[0] * shape[1], device=device).view(shape)
    few = (steps * 7919 % 23 - 11).to(kind.dtype)
    many = ((steps * 104729 % 8191 - 4095).to(torch.float32) / few.new_full((), 10)).to(kind.dtype)
    mask = steps % 3 > 0 if kind.monotone else torch.ones(shape, dtype=torch.bool, device=device)
    blocks = -(-shape[0] // height) * -(-shape[1] // width)
    zeros = height * width if kind.loses_all else max(height * width // 2, 1)
    first = Job(few, mask, (), kind.block, zeros, blocks // 2, kind.norm, kind.monotone, None)
    second = replace(first, scores=many, pruned=blocks // 3)
    return [first, second, replace(second, pruned=blocks)]
