"""Masks as a file that `datasparse.load()` takes, written tensor by tensor as they are made.

docs/checkpoints.md describes the file: one bit per element, and a header with a checksum of each
mask. A checksum has always as many digits, so the header is as long before it is known: its place
is left free, and it is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import _checksum
from .header import Header, make_header
from .plan import Plan, Task

UNKNOWN = "0" * 16  # a checksum that is not there yet
VERSION = "2"  # of the format


def packed(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """One bit per element in C order, the first in the lowest bit of a byte."""
    return np.packbits(mask.reshape(-1), bitorder="little")


def checksum_of(bits: NDArray[np.uint8]) -> str:
    return _checksum(bits)


def mask_header(plan: Plan, checksums: Mapping[str, str] | None = None) -> Header:
    """The header of the masks of a plan, with their checksums, or with as many zeros for each."""
    # Scores were ranked as they are. A training has weights, whose sign says nothing.
    norm = {} if plan.options.scores is None else {"norm": "L1"}
    groups = [
        group_entry(name, task, {**task.config, **norm}, checksums)
        for name, task in plan.tasks.items()
    ]
    state = as_json(
        {
            "step_count": 1,
            "enable_mask_update": True,
            "defaults": config_entry({**plan.rules.defaults, **norm}),
            "attributes": {},
            "groups": groups,
            "schedulers": [],
        }
    )
    metadata = {
        "format": "datasparse checkpoint",
        "version": VERSION,
        "state": state,
        "xxh64": _checksum(state.encode()),
    }
    bits = {name: (task.tensor.elements + 7) // 8 for name, task in plan.tasks.items()}
    return make_header([(f"mask.{name}", "U8", (size,)) for name, size in bits.items()], metadata)


def group_entry(
    name: str, task: Task, config: Mapping[str, Any], checksums: Mapping[str, str] | None
) -> dict[str, Any]:
    return {
        "name": name,
        "shape": task.tensor.shape,
        "xxh64": UNKNOWN if checksums is None else checksums[name],
        "squashed": False,
        "config": config_entry(config),
        "state": {},
        "layout": task.layout,
        "kept_zeros": None,
        "update": True,
    }


def config_entry(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {"$tuple": value} if isinstance(value, tuple) else value
        for key, value in config.items()
    }


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
