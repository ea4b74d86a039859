"""Masks of tensors that are not in CPU memory, computed where they lie.

The core calls these functions: for one device at a time, holding the sparsifier's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from . import memory, operations, routes, sums
from .job import Job, Move, Moved, MovePool, Pool

__all__ = [
    "Job",
    "Move",
    "MovePool",
    "Moved",
    "Pool",
    "add_samples",
    "compute",
    "copy",
    "move",
    "ones",
    "pack",
    "prune",
    "put",
    "score_terms",
    "unpack",
    "zero",
    "zero_grown",
    "zeros_in",
]

P = ParamSpec("P")
R = TypeVar("R")


def _plainly(work: Callable[P, R]) -> Callable[P, R]:
    """The same, whatever modes of autograd the caller is in: what is made is a plain tensor."""

    @wraps(work)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.no_grad():
            return work(*args, **kwargs)

    return plain


@_plainly
def compute(jobs: Sequence[Job], pools: Sequence[Pool]) -> list[Tensor]:
    """The masks of jobs, as new tensors: of some on one device, and of others that share pools with
    these."""
    return routes.compute(jobs, pools)


@_plainly
def move(moves: Sequence[Move], pools: Sequence[MovePool]) -> list[Moved]:
    """What masks become that move on one device: by plain operations, since they do so seldom."""
    return operations.move(moves, pools)


ones = _plainly(memory.ones)
copy = _plainly(memory.copy)
put = _plainly(memory.put)
prune = _plainly(memory.prune)
pack = _plainly(memory.pack)
unpack = _plainly(memory.unpack)
zero = _plainly(memory.zero)
zero_grown = _plainly(memory.zero_grown)
zeros_in = _plainly(memory.zeros_in)
score_terms = _plainly(sums.score_terms)
add_samples = _plainly(sums.add_samples)
