"""Which of the two ways a device computes masks: plain torch operations, or Triton kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from torch import Tensor

from . import operations
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


def route_for(jobs: Sequence[Job], pools: Sequence[Pool]) -> Route:
    return operations.compute
