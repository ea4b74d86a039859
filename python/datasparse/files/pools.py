"""Tensors in files that share one threshold: what they lose together, and how one looks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._core import _pool_plan
from .dtypes import TORCH
from .header import Tensor

Member = tuple[int, int, int, int]  # blocks, weight of one, least and most that are pruned
Group = tuple[Tensor, tuple[int, ...] | None, Mapping[str, Any]]  # layout and config
Zeros = tuple[int, int]  # the fewest and the most

KEY_STEPS = {"F16": 13, "BF16": 16}  # lowest bits of a float32 that none of these has
# What says how many of its blocks a tensor loses. All other keys say which.
HOW_MANY = ("sparsity_level", "pool", "min_level", "max_level", "normalize", "min_kept")


@dataclass(frozen=True)
class Pool:
    """Tensors with one threshold: `PoolPlan` of the core.

    names: of its tensors, sorted. members: what the core says of each of these.
    budget: what they lose together, in blocks times their weight.
    zeros: what that is in elements; where blocks are partial, it depends on the data.
    """

    name: str
    names: tuple[str, ...]
    members: tuple[Member, ...]
    budget: int
    zeros: Zeros


@dataclass(frozen=True)
class Blocks:
    """What blocks a tensor is cut into.

    order: of the axes that make the matrix, rows first; () for those of memory.
    height, width: of a block, within the matrix.
    zeros: the elements of a pruned block that are zeroed, if it is whole.
    """

    order: tuple[int, ...]
    height: int
    width: int
    zeros: int

    def matrix(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns."""
        elements = math.prod(shape)
        if len(shape) < 2:
            return 1, elements
        rows = shape[self.order[0] if self.order else 0]
        return rows, elements // rows


def pools_of(groups: Mapping[str, Group]) -> tuple[list[Pool], dict[str, Zeros]]:
    """The pools of groups that are sorted by name, and the zeros of each group, without its data.

    ValueError where a pool's level leaves the range that `max_level` of its groups allows.
    """
    names = list(groups)
    _, zeros, pools = _pool_plan(as_asked(groups))
    made = [
        Pool(name, tuple(names[place] for place in places), tuple(members), budget, of_all)
        for name, places, members, budget, of_all in pools
    ]
    return made, dict(zip(names, zeros, strict=True))


def blocks_of(groups: Mapping[str, Group]) -> dict[str, Blocks]:
    blocks, _, _ = _pool_plan(as_asked(groups))
    return {name: Blocks(*one) for name, one in zip(groups, blocks, strict=True)}


def as_asked(groups: Mapping[str, Group]) -> list[tuple[Any, Any, dict[str, Any]]]:
    return [(tensor.shape, layout, dict(config)) for tensor, layout, config in groups.values()]


def level_of(pruned: int, blocks: int) -> float:
    """The level at which so many of a tensor's blocks are pruned.

    level * blocks is rounded to the nearest integer, and the quotient is off by less than 2 ** -53
    of it: that is the count again for less than 2 ** 52 blocks.
    """
    return pruned / blocks if blocks else 0.0


def alone(config: Mapping[str, Any], level: float) -> dict[str, Any]:
    """The config of a tensor by itself that prunes what its pool prunes of it."""
    rule = {key: value for key, value in config.items() if key not in HOW_MANY}
    return {**rule, "sparsity_level": level}


@dataclass(frozen=True)
class Search:
    """A pool's tensors that lose something, and in what order their keys are: `ShardSearch`.

    dtypes: of what ranks them, as the format of files names them.
    is_wide: whether keys are those of doubles, since a tensor is of these or is normalized.
    """

    pool: Pool
    names: tuple[str, ...]
    members: tuple[Member, ...]
    dtypes: tuple[str, ...]
    is_wide: bool
    has_sign: bool
    key_step: int

    def as_dict(self, first: int, hint: object) -> dict[str, Any]:
        """As the core takes it, where the pool's groups begin at that place."""
        return {
            "groups": tuple(range(first, first + len(self.names))),
            "members": self.members,
            "budget": self.pool.budget,
            "wide": self.is_wide,
            "has_sign": self.has_sign,
            "key_step": self.key_step,
            "hint": None if hint is None else (hint,),
        }


def search_of(
    pool: Pool,
    groups: Mapping[str, Group],
    blocks: Mapping[str, Blocks],
    dtypes: Mapping[str, str],
) -> Search:
    some = [
        (name, member)
        for name, member in zip(pool.names, pool.members, strict=True)
        if member[0] and member[1]
    ]
    names = tuple(name for name, _ in some)
    kinds = tuple(dtypes[name] for name in names)
    configs = [groups[name][2] for name in names]
    is_wide = "F64" in kinds or any(config.get("normalize") for config in configs)
    plain = [
        blocks[name].height * blocks[name].width == 1 and config["norm"] != "L2"
        for name, config in zip(names, configs, strict=True)
    ]
    steps = [KEY_STEPS.get(kind, 0) if one else 0 for kind, one in zip(kinds, plain, strict=True)]
    return Search(
        pool,
        names,
        tuple(member for _, member in some),
        kinds,
        is_wide,
        any(config["norm"] is None for config in configs),
        0 if is_wide else min(steps, default=0),
    )


def job_of(group: Group, blocks: Blocks, dtype: str, load: Any) -> dict[str, Any]:
    """What `ShardParts` is told of a tensor, all of which lies here."""
    tensor, _, config = group
    return {
        "load": load,
        "shape": tensor.shape,
        "dtype": TORCH[dtype],
        "order": blocks.order,
        "block": (blocks.height, blocks.width),
        "zeros": blocks.zeros,
        "norm": config["norm"],
        "monotone": False,
        "normalize": config.get("normalize"),
        "kept": None,
        "shard": (*blocks.matrix(tensor.shape), 0, 0),
        "counts": True,
    }
