"""Masks on a device by Triton kernels: many tensors in a launch, little memory, nothing read back.

Triton comes with torch's builds for GPUs; it is imported when the first mask is computed. Launches
for all single elements or small blocks of one dtype and norm: a copy of addresses, one that clears
counts, two for each digit of the keys, one that writes and one that puts ties right: 10 for
float32, 8 for 16 bits, 16 for float64, however many tensors. Monotone masks take two more; a pool
with bounds finds its cuts twice; blocks that are large one more to score, one to write, and one
where they lose only some of their elements.

Memory beside the masks: a few hundred bytes a tensor, about a thousandth of a byte an element, for
large blocks at most 5% of the scores. Keys are counted where the mask will be; of a tensor that has
less than 8 Ki elements, in 8 KiB more. Scores that have more than three axes of columns which
cannot be merged, as in most unusual orders, are copied, and so are their masks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from datasparse.torch.device.job import Job, Pool

__all__ = ["compute", "is_available", "takes"]


def is_available(device: torch.device) -> bool:
    """Whether Triton is there, and compiles for the device: "cuda", which ROCm is called, too.

    With TRITON_INTERPRET=1 it computes in CPU memory alone: for tests, a tenth of a second a mask.
    """
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return find_spec("triton") is not None and device.type == ("cpu" if is_interpreted else "cuda")


def takes(jobs: Sequence[Job], pools: Sequence[Pool]) -> bool:
    """Whether `compute()` knows how: not where a pool divides scores by their norm, nor where one
    has float64 scores and others. Then the plain operations must."""
    for pool in pools:
        if any(pool.normalize):
            return False
        if len({jobs[i].scores.dtype == torch.float64 for i in pool.jobs}) > 1:
            return False
    return True


def compute(jobs: Sequence[Job], pools: Sequence[Pool]) -> list[Tensor]:
    """The masks of the jobs, in their order: contiguous bool tensors of the scores' shapes, on
    their device, which must be one. Changes nothing else.

    Runs on the device's current stream, and does not wait for it. The first call of a kind compiles
    kernels, which takes seconds, and keeps tables of the shapes on the device, a few KiB.
    ValueError for what `takes()` does not; RuntimeError where `is_available()` is not, and within a
    CUDA graph that is captured; OutOfMemoryError.
    """
    if not takes(jobs, pools):
        raise ValueError(
            "jobs of a pool must not be normalized, and all or none float64, for Triton kernels; "
            "compute them by plain operations"
        )
    from datasparse.torch.device.kernels.route import compute_masks

    return compute_masks(jobs, pools)
