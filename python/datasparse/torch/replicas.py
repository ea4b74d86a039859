"""What replicas of a model learn of batches, of which each sees its own: sums over their ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from warnings import warn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .dtensors import is_sharded
from .weights import Weight

Group = Any  # a torch.distributed.ProcessGroup, or None: this rank alone

Sums = Mapping[str, Any]  # arrays or tensors, by name

T = TypeVar("T")


def warn_of_own_batches(group: Group) -> None:
    """UserWarning where there are other ranks, and nobody says that they see batches, too."""
    if group is None and dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size()
        if ranks > 1:
            warn(
                f"these are the batches of one rank of {ranks}, and replicas would have different "
                "masks: pass group=torch.distributed.group.WORLD, on all of its ranks",
                UserWarning,
                stacklevel=3,
            )


def refuse_shards(weights: Mapping[str, Weight], call: str) -> None:
    """ValueError for a weight of which this rank has a part."""
    for name, weight in weights.items():
        if is_sharded(weight.tensor()):
            raise ValueError(
                f"{name!r} is sharded, and {call} needs whole weights: call it before "
                "fully_shard(), write the zeros, and attach(..., keep_zeros=True) the shards"
            )


def summed(
    group: Group, call: str, work: Callable[[], tuple[Sums, int]]
) -> tuple[dict[str, Any], list[int]]:
    """Sums by name, and of how many batches: `work()` says those of this rank. They are added up
    over the ranks of a group, which all call this at the same time; the counts are listed.

    A name that a rank lacks has nothing to add there. RankError where another rank has failed.
    """
    if group is None:
        sums, count = work()
        return dict(sums), [count]
    together, (sums, count) = agreed(group, call, work)
    here = {
        name: (tuple(each.shape), str(each.dtype).removeprefix("torch."))
        for name, each in sums.items()
    }
    everybody = together.gather((here, count))
    kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    for shapes, _ in everybody:
        for name, kind in shapes.items():
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(
                    f"{name!r} must be alike on all ranks, got {kinds[name]} and {kind} in {call}"
                )
    total: dict[str, Any] = {}
    for shapes, _ in everybody:
        for name, (shape, dtype) in shapes.items():
            if name not in total:
                own = sums[name] if name in sums else zeros_beside(sums, shape, dtype)
                summed_up = together.add_up(torch.as_tensor(own).contiguous())
                on_device = isinstance(own, Tensor)
                total[name] = summed_up.to(own.device) if on_device else summed_up.cpu().numpy()
    return total, [count for _, count in everybody]


def agreed(group: Any, call: str, work: Callable[[], T]) -> tuple[Any, T]:
    """What the work returns, once it is done on all ranks, and their call. RankError where it has
    failed on another one, which has its own error."""
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a process group of torch.distributed, got {group!r}")
    from .sharded.ranks import Ranks

    together = Ranks.of_group(group).call(call)
    made = together.attempt(lambda: (work(),))
    together.agree()
    assert made is not None  # or agree() has raised
    return together, made[0]


def by_one(group: Group, call: str, work: Callable[[], None]) -> None:
    """Does what one rank does for all, as to write a file: all of them succeed, or none."""
    if group is None:
        work()
    else:
        agreed(group, call, lambda: work() if dist.get_rank(group) == 0 else None)


def zeros_beside(sums: Sums, shape: tuple[int, ...], dtype: str) -> Any:
    """An array, or a tensor where the sums of this rank are tensors, which lie on a device."""
    some = next(iter(sums.values()), None)
    if isinstance(some, Tensor):
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=some.device)
    return np.zeros(shape, dtype)
