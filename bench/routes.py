"""The ways in which a device computes masks, each forced in its turn."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from bench.cases import Case
from bench.place import Place

ROUTE = "DATASPARSE_DEVICE_ROUTE"

Compute = Callable[[Sequence[Any], Sequence[Any]], list[torch.Tensor]]


def routes_of(place: Place) -> list[str]:
    """What can be forced there."""
    has_triton = place.is_cuda and importlib.util.find_spec("triton") is not None
    return ["operations", "triton"] if has_triton else ["operations"]


@contextmanager
def forced(route: str) -> Iterator[None]:
    """Within it, a step computes masks on a device that way."""
    before = os.environ.get(ROUTE)
    os.environ[ROUTE] = route
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROUTE]
        else:
            os.environ[ROUTE] = before


def jobs_of(tensors: Sequence[torch.Tensor], case: Case, norm: str = "L1") -> list[Any]:
    """What a step would ask a device for, to mask these matrices."""
    from datasparse.torch.device.job import Job

    height, width = case.block

    def job(scores: torch.Tensor) -> Job:
        down, across = -(-scores.shape[0] // height), -(-scores.shape[1] // width)
        return Job(
            scores=scores,
            mask=torch.ones_like(scores, dtype=torch.bool),
            order=(),
            block=case.block,
            zeros=height * width if case.zeros_per_block is None else case.zeros_per_block,
            pruned=case.pruned(down * across, case.level),
            norm=norm,
            monotone=False,
            kept_zeros=None,
        )

    return [job(tensor) for tensor in tensors]


def compute_by(route: str) -> Compute:
    """From jobs and pools to masks, on any device, also on the CPU."""
    from datasparse.torch.device import kernels, operations

    def by_triton(jobs: Sequence[Any], pools: Sequence[Any]) -> list[torch.Tensor]:
        """As in a step, what the kernels do not know goes to the operations."""
        way = kernels if kernels.takes(jobs, pools) else operations
        return way.compute(jobs, pools)

    return {"operations": operations.compute, "triton": by_triton}[route]
